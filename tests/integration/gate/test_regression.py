"""`sidegate policy test` over what a real gate recorded in front of a real PostgreSQL: the policies change, the command says what that does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.config import PolicyConfig
from tests.integration.gate.conftest import connect, run_sidegate, running
from tests.support.gate import gate_config
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

TARGET: dict[str, Any] = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "ProtectedTarget",
    "metadata": {"name": "shop-db", "namespace": "shop"},
    "spec": {
        "protocol": "Postgres",
        "environment": "production",
        "endpoint": {"host": "127.0.0.1", "port": 5433},
        "port": 5432,
        "tls": {"client": {"plainText": "LoopbackOnly"}, "target": {"mode": "Loopback"}},
        "identity": {"issuers": [{"url": "https://issuer.example", "audiences": ["shop-db"]}]},
        "credentials": [{"role": "readwrite", "secretRef": {"name": "readwrite", "key": "password"}}],
    },
}
CARDS = {"name": "cards", "action": "Mask", "match": {"columns": ["card"]}}
NO_INSERTS = {"name": "no-inserts", "action": "Deny", "match": {"statements": {"kinds": ["Insert"]}}}
NO_SETTINGS = {"name": "no-settings", "action": "Deny", "match": {"statements": {"tables": ["prod.settings"]}}}
DBA = {"approvers": {"groups": ["dba"]}}


def big(rows: int) -> dict[str, Any]:
    """Deletes of more rows are held."""
    match = {"statements": {"kinds": ["Delete"], "rowsAffected": {"moreThan": rows}}}
    return {"name": "big", "action": "RequireApproval", "match": match, "approval": DBA}


def policy(*rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": "writers", "namespace": "shop"},
        "spec": {
            "targets": {"names": ["shop-db"]},
            "subjects": [{"groups": ["readwrite"]}],
            "grants": [
                {
                    "postgres": {
                        "databases": ["*"],
                        "role": "readwrite",
                        "allow": ["Read", "Insert", "Update", "Delete"],
                        "schemas": ["public", "prod"],
                    }
                }
            ],
            **({"rules": list(rules)} if rules else {}),
        },
    }


BEFORE = (CARDS, NO_INSERTS, big(100))


def compiled(document: dict[str, Any]) -> PolicyConfig:
    found = compile_target(ProtectedTarget.from_wire(TARGET), [AccessPolicy.from_wire(document)], Placement("/secrets"))
    assert found.config is not None, found.findings
    return found.config.policies[0]


@pytest.fixture
def recordings(postgres: PostgresServer, issuer: Issuer, fresh_database: str) -> Iterator[Path]:
    """One session: reads, a small delete that cascades, a refused insert, the extended protocol, a refusal that came of a view."""
    config = gate_config(postgres, issuer, policies=[compiled(policy(*BEFORE))])
    with running(config) as gate:
        with connect(gate, issuer, fresh_database) as connection:
            connection.execute("SELECT id, card FROM customers WHERE id = %s", (1,))
            connection.execute("SELECT payment FROM customer_contacts LIMIT 1")
            connection.execute("SELECT value FROM prod.settings")
            connection.execute("DELETE FROM customers WHERE id = 2")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("INSERT INTO accounts VALUES (9001, 'eve')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT id FROM customer_contacts WHERE payment LIKE '4%'")
        yield gate.state / "recordings"


class Proposed:
    """Manifests that somebody wants to apply."""

    def __init__(self, recordings: Path, directory: Path, *rules: dict[str, Any]) -> None:
        self.recordings, self.manifests = recordings, directory / "proposed"
        self.manifests.mkdir(exist_ok=True)
        (self.manifests / "all.yaml").write_text(yaml.safe_dump_all([TARGET, policy(*rules)], sort_keys=False))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        places = ("--recordings", self.recordings, "--manifests", self.manifests)
        return run_sidegate("policy", "test", *places, *arguments, check=False)

    def changes(self) -> dict[str, list[str]]:
        """Statements by group, and what can't be told."""
        document = json.loads(self.run("-o", "json").stdout)
        found: dict[str, list[str]] = {}
        for change in document["changes"]:
            found.setdefault(change["group"], []).extend([change["statement"]] * change["count"])
        if document["untold"]:
            found["untold"] = [each["why"] for each in document["untold"]]
        return found


def test_what_policies_would_change_of_a_real_session(recordings: Path, tmp_path: Path) -> None:
    same = Proposed(recordings, tmp_path, *BEFORE)
    assert same.changes() == {}
    quiet = same.run()
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout == "6 statements in 1 recording: 6 unchanged\n"

    stricter = Proposed(recordings, tmp_path, *BEFORE, NO_SETTINGS)
    assert stricter.changes() == {"denied": ["SELECT value FROM prod.settings"]}
    assert stricter.run().returncode == 1
    assert stricter.run("--fail-on", "allowed,unmasked").returncode == 0
    assert "NEWLY DENIED (1 statement)" in stricter.run().stdout

    held = Proposed(recordings, tmp_path, CARDS, NO_INSERTS, big(0))
    assert held.changes() == {"held": ["DELETE FROM customers WHERE id = $1"]}
    assert held.run("--fail-on", "held").returncode == 1

    # Without the mask the view shows what it masked, and what the catalog refused is refused no more
    unmasked = Proposed(recordings, tmp_path, NO_INSERTS, big(100))
    assert unmasked.changes() == {
        "allowed": ["SELECT id FROM customer_contacts WHERE payment LIKE $1"],
        "unmasked": ["SELECT id, card FROM customers WHERE id = $1", "SELECT payment FROM customer_contacts LIMIT $1"],
    }
    assert unmasked.run("--fail-on", "unmasked").returncode == 1

    opened = Proposed(recordings, tmp_path, CARDS, big(100))
    assert opened.changes() == {"allowed": ["INSERT INTO accounts VALUES ($1, $2)"]}

    other_columns = {"name": "cards", "action": "Mask", "match": {"columns": ["ssn"]}}
    (why,) = Proposed(recordings, tmp_path, other_columns, NO_INSERTS, big(100)).changes()["untold"]
    assert "the target's catalog" in why


def test_the_cascade_of_a_recorded_delete_counts_against_a_new_limit(recordings: Path, tmp_path: Path) -> None:
    """The command's tag says one row; orders of the customer went with it."""
    assert Proposed(recordings, tmp_path, CARDS, NO_INSERTS, big(1)).changes() == {
        "held": ["DELETE FROM customers WHERE id = $1"]
    }


def test_a_session_that_goes_on_is_tested_too(postgres: PostgresServer, issuer: Issuer, shop: str, tmp_path: Path) -> None:
    config = gate_config(postgres, issuer, policies=[compiled(policy(*BEFORE))])
    with running(config) as gate, connect(gate, issuer, shop) as connection:
        connection.execute("SELECT value FROM prod.settings")
        proposed = Proposed(gate.state / "recordings", tmp_path, *BEFORE, NO_SETTINGS)
        assert proposed.changes() == {"denied": ["SELECT value FROM prod.settings"]}
