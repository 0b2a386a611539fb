"""Real programs against PostgreSQL itself and against a gate in front of it: the direct run is the control of the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.endpoint import Endpoint
from tests.support.gate import GateProcess, gate_config
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """An issuer with the machine's clock: programs can't be given another."""
    with Issuer(now=None, lifetime_s=24 * 3600) as running:
        yield running


@pytest.fixture(scope="session")
def open_gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    """A gate before `postgres` that grants each role everything, and records. Don't stop it, don't reload it."""
    with GateProcess(gate_config(postgres, issuer)) as gate:
        yield gate


@pytest.fixture(params=["direct", "gate"])
def endpoint(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[Endpoint]:
    """Where the client of this test connects: first PostgreSQL, then the gate. The gate must come out of it without a traceback."""
    if request.param == "direct":
        yield postgres.endpoint
        return
    gate: GateProcess = request.getfixturevalue("open_gate")
    log_before = len(gate.read_log())
    yield gate.endpoint(request.getfixturevalue("issuer"))
    assert gate.is_running, gate.read_log()
    gate.assert_no_trouble(since=log_before)
