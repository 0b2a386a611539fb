"""A real gate before a real PostgreSQL, with a pod's own token, at the real gateway: what befalls the API server while psql waits, and
whose token isn't good. In each refusal, what a person reads in psql.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from sidegate.policy.config import ApprovalConfig, PolicyConfig, RuleAction, RuleConfig, StatementMatch, TargetConfig
from sidegate_operator.plan.gate_container import AUDIENCE
from tests.cluster.gateway.conftest import VERSION, Gateways, Replica, gate_pod, start_replica, wait_until_serving
from tests.cluster.gateway.test_holds import decide
from tests.support.admission import REGISTRATION, plain_pod, target
from tests.support.gate import GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer, embedded_installation
from tests.support.processes import wait_until

STATEMENT: Final = "CREATE TABLE ledger (id integer)"
DDL: Final = RuleConfig(
    "ddl",
    RuleAction.REQUIRE_APPROVAL,
    statements=StatementMatch(kinds=("DDL",)),
    approval=ApprovalConfig(approver_groups=("dba",), approver_users=("chief",), expires_after_s=7200),
)


@dataclass
class RealGate:
    """`token_file` and what stands beside it is read anew for each request."""

    gateways: Gateways
    namespace: str
    gate: GateProcess
    postgres: PostgresServer
    issuer: Issuer
    database: str
    token_file: Path

    def start_psql(self, statement: str = STATEMENT) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment |= self.gate.endpoint(self.issuer).environment("owner", self.database)
        command = [str(embedded_installation().program("psql")), "-X", "-A", "-t", "-c", statement]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @contextlib.contextmanager
    def held(self) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        """The request's name, and the psql that waits for it."""
        with self.start_psql() as psql:
            try:
                assert psql.stderr is not None
                said = ""
                while (found := re.search(r"approval request (ar-[-a-z0-9]+)", said)) is None:
                    line = psql.stderr.readline()
                    assert line, said
                    said += line
                yield found[1], psql
            finally:
                psql.kill()

    def refusal(self) -> str:
        with self.start_psql() as psql:
            out, err = psql.communicate(timeout=60)
        assert (psql.returncode, out) == (1, ""), out + err
        assert not self.has_table()
        return err

    def has_table(self) -> bool:
        with self.postgres.admin(self.database) as admin:
            row = admin.execute("SELECT to_regclass('ledger') IS NOT NULL").fetchone()
        assert row is not None
        return bool(row[0])

    def phase(self, name: str) -> str:
        found = self.gateways.api.admin.get(VERSION, "ApprovalRequest", name, namespace=self.namespace)
        return str(found["status"]["phase"])


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer(now=None) as running:
        yield running


@pytest.fixture
def real(
    gateways: Gateways, shop: str, pod: dict[str, Any], postgres: PostgresServer, issuer: Issuer, tmp_path: Path
) -> Iterator[RealGate]:
    """The rule is the one that is published for the target; where it listens and what it dials is this machine's."""
    token_file, authority = tmp_path / "token", tmp_path / "ca.crt"
    token_file.write_text(gateways.token(pod))
    authority.write_text(gateways.authority())
    policy = msgspec.structs.replace(open_policy("owner", rules=(DDL,)), namespace=shop, name="assistants")
    follows = next(each for each in gateways.replicas if each.operator.metric("sidegate_operator_leader") == 0)
    url = f"https://127.0.0.1:{follows.port}"  # one that leads ends when it can't renew its Lease, and comes back on another port here
    arguments = ("--gateway", url, "--gateway-token", str(token_file), "--gateway-ca", str(authority))
    with GateProcess(_config(postgres, issuer, shop, policy), arguments=arguments) as gate:
        yield RealGate(gateways, shop, gate, postgres, issuer, postgres.create_database(), token_file)


def _config(postgres: PostgresServer, issuer: Issuer, namespace: str, policy: PolicyConfig) -> Any:
    def change(found: TargetConfig) -> TargetConfig:
        return msgspec.structs.replace(found, namespace=namespace, name="shop-db")

    return gate_config(postgres, issuer, policies=[policy], change=change)


@pytest.fixture
def restarted(gateways: Gateways) -> Iterator[None]:
    """Other tests find the operator and admission as they were before: what ended is started again, as the kubelet does."""
    yield
    gateways.admission.wait_until_enforced()
    wait_until(
        lambda: any(not each.operator.is_running or _leads(each) for each in gateways.replicas), "one to lead or to end", 60
    )
    for number, each in enumerate(gateways.replicas):
        if not each.operator.is_running:
            gateways.replicas[number] = start_replica(gateways.admission, each.operator.account)
        wait_until_serving(gateways.replicas[number])


def _leads(replica: Replica) -> bool:
    with contextlib.suppress(OSError):  # it may end just now
        return replica.operator.metric("sidegate_operator_leader") == 1
    return False


def test_an_approval_releases_what_waits(real: RealGate) -> None:
    with real.held() as (name, psql):
        decide(real.gateways, real.namespace, name)
        out, err = psql.communicate(timeout=60)
    assert (psql.returncode, out) == (0, "CREATE TABLE\n"), err
    assert real.has_table()


def test_what_waits_outlasts_a_restart_of_the_api_server(real: RealGate, restarted: None) -> None:
    with real.held() as (name, psql):
        real.gateways.api.restart()
        assert psql.poll() is None  # it waits on
        assert real.phase(name) == "Pending"
        real.gateways.admission.wait_until_enforced()
        decide(real.gateways, real.namespace, name)
        out, err = psql.communicate(timeout=60)
    assert (psql.returncode, out) == (0, "CREATE TABLE\n"), err
    wait_until(lambda: real.phase(name) == "Executed", "the request to say that it was executed", 30)


def test_while_the_api_server_is_down_a_statement_that_needs_approval_is_refused(real: RealGate, restarted: None) -> None:
    real.gateways.api.stop()
    try:
        said = real.refusal()
        assert "approval can't be asked for" in said or "the operator's gateway" in said
        assert "HINT" in said
    finally:
        real.gateways.api.start()


def test_with_the_token_of_a_pod_without_a_gate_nothing_can_be_held(real: RealGate) -> None:
    bare = real.gateways.api.admin.create(plain_pod(real.namespace, "bare"))
    real.token_file.write_text(real.gateways.token(bare))
    said = real.refusal()
    assert f"pod `{real.namespace}/bare` has no container `sidegate-gate`" in said
    assert "`sidegate why POD`" in said


def test_with_the_token_of_another_targets_gate_nothing_can_be_held(real: RealGate) -> None:
    other = target(real.namespace, selector={"matchLabels": {"app": "other-db"}}, port=5433)
    other["metadata"] = {"name": "other-db", "namespace": real.namespace}
    real.gateways.api.admin.create(other)
    theirs = real.gateways.api.admin.create(gate_pod(real.namespace, "other-db-0", "other-db"))
    real.token_file.write_text(real.gateways.token(theirs))
    said = real.refusal()
    assert f"pod `{real.namespace}/other-db-0` is no pod of the target `shop-db`" in said


def test_with_a_token_for_somebody_else_nothing_can_be_held(real: RealGate, pod: dict[str, Any]) -> None:
    real.token_file.write_text(real.gateways.token(pod, audience="https://kubernetes.default.svc"))
    said = real.refusal()
    assert AUDIENCE in said


def test_without_a_guard_nothing_is_held_and_psql_is_told_which(real: RealGate) -> None:
    real.gateways.api.admin.delete(REGISTRATION, "ValidatingAdmissionPolicy", "sidegate-decisions")
    try:
        for each in real.gateways.replicas:  # the gate asks whichever answers
            wait_until(lambda each=each: each.operator.metric("sidegate_operator_guarded") == 0, "the replica to notice", 15)  # type: ignore[misc]
        assert "sidegate-decisions" in real.refusal()
    finally:
        real.gateways.admission.apply_objects()
        for each in real.gateways.replicas:
            wait_until(lambda each=each: each.operator.metric("sidegate_operator_guarded") == 1, "decisions to be guarded", 15)  # type: ignore[misc]
