"""A gate logs in with what `sidegate setup postgres` made, and nobody else does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psycopg
import pytest
import yaml
from click.testing import CliRunner

from sidegate.cli.main import main
from sidegate.policy.config import CredentialConfig, TargetConfig
from tests.support.gate import GateProcess, gate_config
from tests.support.host_rules import host_rules
from tests.support.issuer import Issuer
from tests.support.postgres_server import SUPERUSER, PostgresServer

ROLE = "readonly"  # what policies grant; the target calls it otherwise
USERNAME = "gate-reader"


@pytest.mark.parametrize("to_target", ["tcp", "unix"])
def test_a_gate_logs_in_with_the_verifier_that_was_made(issuer: Issuer, tmp_path: Path, to_target: str) -> None:
    secret = tmp_path / "secrets" / "reader" / "password"
    secret.parent.mkdir(parents=True)
    secret.write_text("pässword of\u00a0the gate\n")  # a blank that SASLprep maps
    spec = {
        "protocol": "Postgres",
        "environment": "production",
        "endpoint": {"host": "127.0.0.1", "port": 5432},
        "port": 6432,
        "tls": {"client": {"plainText": "LoopbackOnly"}},
        "identity": {"issuers": [{"url": "https://id.example", "audiences": ["sidegate"]}]},
        "credentials": [{"role": ROLE, "username": USERNAME, "secretRef": {"name": "reader", "key": "password"}}],
    }
    manifest = {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "ProtectedTarget",
        "metadata": {"name": "shop-db", "namespace": "shop"},
        "spec": spec,
    }
    (tmp_path / "target.yaml").write_text(yaml.safe_dump(manifest))

    def renamed(target: TargetConfig) -> TargetConfig:
        return msgspec.structs.replace(target, credentials=(CredentialConfig(ROLE, USERNAME, str(secret)),))

    with PostgresServer() as server, host_rules(server, ["host all all all scram-sha-256", "local all all scram-sha-256"]) as hba:
        url = f"host={server.directory} port={server.port} user={SUPERUSER} dbname=postgres"
        command = ["setup", "postgres", "--manifests", str(tmp_path / "target.yaml"), "--secrets", str(tmp_path / "secrets")]
        done = CliRunner().invoke(main, [*command, "--url", url, "--hba-file", str(hba), "--apply"])
        assert done.exit_code == 0, done.output
        config = gate_config(server, issuer, to_target="tcp" if to_target == "tcp" else "unix", change=renamed)
        with GateProcess(config) as gate, psycopg.connect(gate.endpoint(issuer).dsn(ROLE, "postgres")) as client:
            assert client.execute("SELECT session_user").fetchone() == (USERNAME,)
