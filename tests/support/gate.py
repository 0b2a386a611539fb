"""A running gate for tests: a gate config in a file, `sidegate gate` as a process, clients' ways in, reload, and a look at what it left.

    with Issuer(now=None) as issuer, GateProcess(gate_config(server, issuer)) as gate:
        psycopg.connect(gate.endpoint(issuer).dsn("readonly", database))
        gate.reload(gate_config(server, issuer, policies=[]))

`gate_config` without policies of the test's own gives each role of the server to whoever is in the group of its name, with every kind of
statement: a gate that lets through what the target would. Whoever tests a rule says which policies stand. Tokens come from
tests/support/issuer.py with the machine's clock. Leaving `with` stops the gate and fails when it left a traceback in its log or
didn't end cleanly.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from sidegate.policy.config import (
    AddressConfig,
    ClientTlsConfig,
    CredentialConfig,
    GateConfig,
    GrantConfig,
    IdentityConfig,
    PolicyConfig,
    Protocol,
    RuleConfig,
    SubjectConfig,
    TargetConfig,
    encode_config,
)
from sidegate.policy.statement import StatementKind
from tests.support import processes
from tests.support.endpoint import Endpoint, Transport
from tests.support.issuer import Issuer
from tests.support.postgres_server import ROLES, PostgresServer, password_of

EVERY_KIND: Final = tuple(kind.value for kind in StatementKind if kind is not StatementKind.UNKNOWN)
START_TIMEOUT_S: Final = 30.0
NAMESPACE: Final = "shop"
# What a healthy gate never writes: an error nobody caught, a task or coroutine that got lost.
SIGNS_OF_TROUBLE: Final = ("Traceback", "was never retrieved", "was never awaited", "ResourceWarning", "Exception ignored")


class GateError(Exception):
    """The gate didn't start or stop as it should; the message ends with its log."""


def open_policy(role: str, *, rules: Sequence[RuleConfig] = (), kinds: Sequence[str] = EVERY_KIND) -> PolicyConfig:
    """Everything for the group that is named like the role, less what `rules` take away."""
    return PolicyConfig(
        namespace=NAMESPACE,
        name=f"open-{role}",
        subjects=(SubjectConfig(groups=(role,)),),
        grants=(GrantConfig(databases=("*",), role=role, allow=tuple(kinds)),),
        rules=tuple(rules),
    )


def gate_config(
    server: PostgresServer,
    issuer: Issuer,
    *,
    policies: Sequence[PolicyConfig] | None = None,
    to_target: Transport = "unix",
    change: Callable[[TargetConfig], TargetConfig] = lambda target: target,
) -> GateConfig:
    """Plain text on loopback, keys by discovery, SCRAM to the target over its socket. `change` has the last word over the target."""
    target = TargetConfig(
        namespace=NAMESPACE,
        name="shop-db",
        protocol=Protocol.POSTGRES,
        environment="production",
        address=AddressConfig(str(server.directory) if to_target == "unix" else "127.0.0.1", server.port),
        port=5432,
        client_tls=ClientTlsConfig(may_use_plain_text_on_loopback=True),
        identity=IdentityConfig(issuers=(issuer.config(),)),
        credentials=tuple(CredentialConfig(role, role, str(_password_file(server, role))) for role in ROLES),
    )
    chosen = [open_policy(role) for role in ROLES] if policies is None else policies
    return GateConfig.sealed(change(target), tuple(chosen))


def with_tls(target: TargetConfig, certificate: Path, key: Path) -> TargetConfig:
    tls = ClientTlsConfig(
        str(certificate), str(key), may_use_plain_text_on_loopback=target.client_tls.may_use_plain_text_on_loopback
    )
    return msgspec.structs.replace(target, client_tls=tls)


def _password_file(server: PostgresServer, role: str) -> Path:
    path = server.directory / f"{role}.password"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(password_of(role))
    return path


def token_for(issuer: Issuer, role: str) -> str:
    """A token of whoever `open_policy(role)` is for."""
    return issuer.token("ada", groups=[role])


class GateProcess:
    """One gate. `port` is the client port on loopback, the same for the socket in `directory`; `metrics_port` has health and metrics."""

    def __init__(
        self, config: GateConfig, *, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """Write the config and start; returns when the gate says it is ready.

        Raises:
            GateError: it ended, or wasn't ready in time.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="sidegate-gate-"))
        self.config_file = self.directory / "config.json"
        self.state = self.directory / "state"
        self.state.mkdir()
        self.log = self.directory / "log"
        self.audit = self.directory / "audit.jsonl"
        self.port = processes.free_port()
        self.metrics_port = processes.free_port()
        self._config = config
        self._arguments = tuple(arguments)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.started_in_s = 0.0
        try:
            self.start()
        except BaseException:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            print(f"log of the gate:\n{self.read_log()}", file=sys.stderr)
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            self.close()

    # Life

    @property
    def config(self) -> GateConfig:
        return self._config

    def _write_config(self, config: GateConfig) -> None:
        self._config = config
        fresh = self.config_file.with_suffix(".new")
        fresh.write_bytes(encode_config(config))
        fresh.replace(self.config_file)

    def start(self) -> None:
        target = msgspec.structs.replace(self._config.target, port=self.port)
        self._write_config(GateConfig.sealed(target, self._config.policies))
        command = [
            *(sys.executable, "-m", "sidegate.cli.main", "gate"),
            *("--config", str(self.config_file), "--state", str(self.state)),
            *("--listen", f"127.0.0.1:{self.port}", "--listen", f"unix:{self.directory}"),
            *("--metrics", f"127.0.0.1:{self.metrics_port}", "--audit", str(self.audit), "--finish", "0.2"),
            *self._arguments,
        ]
        began = time.monotonic()
        self._process = processes.start(command, self.log, environment={**os.environ, **self._environment})
        try:
            processes.wait_until(self._has_settled, "the gate to be ready", START_TIMEOUT_S, interval_s=0.005)
        except TimeoutError as error:
            raise GateError(f"{error}: {self.read_log()}") from error
        self.started_in_s = time.monotonic() - began
        if self._process.poll() is not None:
            raise GateError(f"the gate ended with {self._process.returncode}: {self.read_log()}")

    def _has_settled(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            return True
        try:
            self.page("/ready")
        except (urllib.error.URLError, OSError):
            return False
        return True

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProcessLookupError("the gate is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def reload(self, config: GateConfig) -> None:
        """Rewrite the config file and wait until the gate says it enforces it."""
        target = msgspec.structs.replace(config.target, port=self.port)
        self._write_config(GateConfig.sealed(target, config.policies))
        os.kill(self.pid, signal.SIGHUP)
        processes.wait_until(lambda: self._config.revision in self.page("/metrics"), f"revision {self._config.revision}")

    def stop(self) -> None:
        """SIGTERM, and it ends with 0.

        Raises:
            GateError: it ended otherwise, or its log has signs of trouble.
        """
        if self._process is not None:
            process, self._process = self._process, None
            code = processes.stop(process, timeout_s=20)
            if code != 0:
                raise GateError(f"the gate ended with {code}: {self.read_log()}")
        self.assert_no_trouble()

    def kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()

    def close(self) -> None:
        try:
            self.stop()
        finally:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    # A look at it

    def read_log(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def assert_no_trouble(self, since: int = 0) -> None:
        """`since`: how long the log was when the time in question began."""
        log = self.read_log()[since:]
        found = [sign for sign in SIGNS_OF_TROUBLE if sign in log]
        if found:
            raise GateError(f"the gate's log has {', '.join(found)}: {log}")

    def page(self, path: str) -> str:
        """A page of health or metrics. Raises HTTPError for what isn't 200."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def audit_events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    # Ways in

    def endpoint(self, issuer: Issuer) -> Endpoint:
        """Clients that log in with a fresh token for the role they name."""
        return Endpoint("gate", self.port, self.directory, lambda role: token_for(issuer, role))

    def endpoint_with(self, token: str) -> Endpoint:
        """Clients that all log in with this token."""
        return Endpoint("gate", self.port, self.directory, lambda role: token)
