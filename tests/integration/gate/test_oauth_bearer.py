"""OAUTHBEARER (RFC 7628): by hand, well and badly framed, and by libpq 18 itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sidegate.policy.config import ClientAuth, TargetConfig
from tests.integration.gate.conftest import replace, running, wait_for_event
from tests.support import wire_messages as m
from tests.support.gate import GateProcess, gate_config, token_for
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

LIBPQ_STEPS = Path(__file__).with_name("libpq_oauth_steps.py")


def by_oauth_bearer(target: TargetConfig) -> TargetConfig:
    return replace(target, identity=msgspec.structs.replace(target.identity, client_auth=ClientAuth.OAUTH_BEARER))


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(gate_config(postgres, issuer, change=by_oauth_bearer)) as gate:
        yield gate


def begin(client: WireClient, database: str) -> None:
    client.send(m.startup({"user": "readonly", "database": database}))
    asked = client.receive()
    assert isinstance(asked, m.Authentication)
    assert (asked.code, asked.mechanisms) == (10, ["OAUTHBEARER"])


def bearer(token: str, header: bytes = b"n,,") -> bytes:
    return header + b"\x01auth=Bearer " + token.encode() + b"\x01\x01"


@pytest.mark.parametrize("header", [b"n,,", b"y,,"])
def test_a_token_in_the_initial_response_lets_in(gate: GateProcess, issuer: Issuer, shop: str, header: bytes) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        begin(client, shop)
        client.send(m.sasl_initial_response("OAUTHBEARER", bearer(token_for(issuer, "readonly"), header)))
        replies = client.receive_until_ready()
        assert m.Authentication(0, b"") in replies
        assert client.rows("SELECT current_user") == [(b"readonly",)]


def test_a_client_without_a_token_is_told_where_to_get_one(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        begin(client, shop)
        client.send(m.sasl_initial_response("OAUTHBEARER", b"n,,\x01auth=\x01\x01"))
        told = client.receive()
        assert isinstance(told, m.Authentication)
        assert told.code == 11
        found = json.loads(told.data)
        assert found["status"] == "invalid_token"
        assert found["openid-configuration"] == f"{issuer.url}/.well-known/openid-configuration"
        assert found["scope"]
        client.send(m.sasl_response(b"\x01"))
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert (error.severity, error.sqlstate) == ("FATAL", "28000")
        assert client.is_closed_by_peer()


def test_a_bad_token_is_refused_and_not_shown(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    for name in ("expired", "wrong audience", "algorithm none", "unknown key", "algorithm HS256 with the public key"):
        token = issuer.bad_tokens()[name].token
        with WireClient.tcp("127.0.0.1", gate.port) as client:
            begin(client, shop)
            client.send(m.sasl_initial_response("OAUTHBEARER", bearer(token)))
            error = client.receive()
            assert isinstance(error, m.ErrorResponse), name
            assert (error.severity, error.sqlstate) == ("FATAL", "28000"), name
            assert token[-40:] not in "".join(error.fields.values()) + gate.read_log() + gate.audit.read_text()
            assert client.is_closed_by_peer()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(m.sasl_initial_response("OAUTHBEARER", None), id="no initial response"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b""), id="an empty one"),
        pytest.param(m.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x"), id="another mechanism"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"p=tls-exporter,,\x01auth=Bearer x\x01\x01"), id="channel binding"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"n,a=root,\x01auth=Bearer x\x01\x01"), id="another identity"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"n,,\x01auth=Basic eDp5\x01\x01"), id="another scheme"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"n,,\x01auth=Bearer \x01\x01"), id="a scheme alone"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"n,,\x01host=x\x01auth=Bearer x\x01\x01"), id="another key"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01"), id="auth twice"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"n,,\x01auth=Bearer x\x01"), id="without its end"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"n,,"), id="a header alone"),
        pytest.param(m.message(b"p", b"OAUTHBEARER\0\0\0\0\x09abc"), id="a length that isn't its own"),
        pytest.param(m.message(b"p", b"OAUTHBEARER"), id="a name without its end"),
        pytest.param(m.sasl_initial_response("OAUTHBEARER", b"n,,\x01auth=Bearer " + b"x" * 71_000 + b"\x01\x01"), id="70 kB"),
        pytest.param(m.password("secret"), id="a password"),
    ],
)
def test_what_is_no_oauthbearer_message_is_refused(gate: GateProcess, shop: str, data: bytes) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        begin(client, shop)
        client.send(data)
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert error.severity == "FATAL"
        assert error.sqlstate in {"28000", "08P01"}
        assert error.fields["H"]
        assert client.is_closed_by_peer()


def test_libpq_finds_the_issuer_and_logs_in(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    """libpq's own OAuth client, with a hook that brings the token: what an application with a token of its own does."""
    done = subprocess.run(
        [sys.executable, str(LIBPQ_STEPS), str(gate.port), shop, issuer.url, token_for(issuer, "readonly")],
        env={**os.environ, "PGOAUTHDEBUG": "UNSAFE"},  # an issuer at plain http, on loopback
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"user": "readonly", "asked": f"{issuer.url}/.well-known/openid-configuration", "times": 1}
    wait_for_event(gate, "SessionClosed")
