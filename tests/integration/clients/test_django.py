"""Django's ORM: introspection of a schema it didn't make, migrations, and models, the same through a gate as without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.integration.clients.conftest import Run
from tests.support.endpoint import Endpoint
from tests.support.postgres_server import PostgresServer

STEPS = Path(__file__).with_name("django_steps.py")


def steps(run: Run, endpoint: Endpoint, database: str) -> dict[str, dict[str, object]]:
    parameters = endpoint.parameters("owner", database)
    arguments = (str(STEPS), parameters["host"], parameters["port"], "owner", database)
    done = run(sys.executable, *arguments, environment={"PGPASSWORD": parameters["password"]})
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


def test_introspection_and_models_work_as_on_the_target(
    run: Run, endpoint: Endpoint, postgres: PostgresServer, database: str
) -> None:
    control = postgres.create_database()
    expected = steps(run, postgres.endpoint, control)
    postgres.drop_database(control)
    found = steps(run, endpoint, database)
    assert found == expected
    assert "class Customers(models.Model):" in str(found["inspected"]["inspectdb"])
    assert found["models"]["left"] == 300 - 111
    assert found["models"]["searched"] == ["U0@X.example", "U29@X.example", *(f"U{n}@X.example" for n in range(290, 300))]
