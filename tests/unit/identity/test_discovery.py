"""Discovery documents: the issuer must be itself, and every endpoint one that may be used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidegate.identity.discovery import DiscoveryError, discovery_url, is_loopback_host, parse_discovery

ISSUER = "https://issuer.example/tenant"


def document(**changes: Any) -> bytes:
    members = {"issuer": ISSUER, "jwks_uri": "https://keys.example/jwks", **changes}
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://issuer.example", "https://issuer.example/.well-known/openid-configuration"),
        ("https://issuer.example/", "https://issuer.example/.well-known/openid-configuration"),
        ("https://issuer.example/realms/a", "https://issuer.example/realms/a/.well-known/openid-configuration"),
        ("http://127.0.0.1:8790", "http://127.0.0.1:8790/.well-known/openid-configuration"),
        ("http://[::1]:8790", "http://[::1]:8790/.well-known/openid-configuration"),
        ("http://localhost:8790", "http://localhost:8790/.well-known/openid-configuration"),
    ],
)
def test_the_document_is_at_the_well_known_path(issuer: str, url: str) -> None:
    assert discovery_url(issuer) == url


@pytest.mark.parametrize(
    "issuer",
    [
        "",
        "issuer.example",
        "http://issuer.example",
        "https://issuer.example?x=1",
        "https://issuer.example?",
        "https://issuer.example#",
    ],
)
def test_an_issuer_that_is_no_https_url_is_refused(issuer: str) -> None:
    with pytest.raises(DiscoveryError):
        discovery_url(issuer)


def test_reads_the_endpoints() -> None:
    metadata = parse_discovery(
        document(
            token_endpoint="https://issuer.example/token",
            device_authorization_endpoint="https://issuer.example/device",
            token_endpoint_auth_methods_supported=["client_secret_post", 7],
        ),
        ISSUER,
    )
    assert metadata.jwks_url == "https://keys.example/jwks"
    assert metadata.token_url == "https://issuer.example/token"
    assert metadata.device_authorization_url == "https://issuer.example/device"
    assert metadata.token_auth_methods == ("client_secret_post",)
    assert parse_discovery(document(), ISSUER).token_url is None


@pytest.mark.parametrize("issuer", [ISSUER + "/", ISSUER.upper(), "https://issuer.example", "", None, 7, [ISSUER]])
def test_a_document_of_another_issuer_is_refused(issuer: Any) -> None:
    with pytest.raises(DiscoveryError, match="is of issuer"):
        parse_discovery(document(issuer=issuer), ISSUER)


@pytest.mark.parametrize(
    "url",
    [
        "http://keys.example/jwks",
        "http://127.0.0.1:9000/jwks",
        "http://localhost/jwks",
        "file:///etc/passwd",
        "jwks",
        7,
        None,
        "",
    ],
)
def test_a_key_set_anywhere_but_https_is_refused(url: Any) -> None:
    with pytest.raises(DiscoveryError):
        parse_discovery(document(jwks_uri=url), ISSUER)


def test_a_token_endpoint_anywhere_but_https_is_refused() -> None:
    with pytest.raises(DiscoveryError):
        parse_discovery(document(token_endpoint="http://127.0.0.1/token"), ISSUER)


def test_an_issuer_on_loopback_may_keep_its_keys_on_loopback() -> None:
    local = "http://127.0.0.1:8790"
    assert parse_discovery(document(issuer=local, jwks_uri=local + "/jwks"), local).jwks_url == local + "/jwks"
    with pytest.raises(DiscoveryError):
        parse_discovery(document(issuer=local, jwks_uri="http://169.254.169.254/jwks"), local)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"<html>", b'{"issuer": "a", "issuer": "https://issuer.example/tenant"}', b"\xff"]
)
def test_a_document_that_isnt_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(DiscoveryError):
        parse_discovery(body, ISSUER)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("0.0.0.0", False),
        ("0x7f000001", False),
        ("2130706433", False),
        ("::ffff:127.0.0.1", False),
        ("", False),
    ],
)
def test_tells_loopback_by_address_and_not_by_looks(host: str, is_loopback: bool) -> None:
    assert is_loopback_host(host) == is_loopback
