"""docs/identity.md is true: its manifests are accepted, its tokens open sessions, its causes are all there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from sidegate.api.issuer import Identity
from sidegate.api.protected_target import ProtectedTarget
from sidegate.identity.claims import principal_from_token
from sidegate.identity.keys import IssuerKeys
from sidegate.identity.problem import IdentityCause
from sidegate.identity.token import TokenVerifier, VerifiedToken
from sidegate.identity.transport import HttpTransport
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.config import IdentityConfig
from sidegate.policy.principal import Principal
from tests.support.issuer import NOW, Issuer

DOC = (Path(__file__).parents[3] / "docs" / "identity.md").read_text("utf-8")
PROVIDERS = ("Okta", "Microsoft Entra ID", "Google", "Keycloak", "Dex")
TARGET = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "ProtectedTarget",
    "metadata": {"name": "shop-db", "namespace": "shop"},
    "spec": {
        "protocol": "Postgres",
        "environment": "production",
        "endpoint": {"host": "127.0.0.1", "port": 5432},
        "port": 6432,
        "tls": {"client": {"plainText": "LoopbackOnly"}},
    },
}


class Block(NamedTuple):
    language: str
    text: str


def section(title: str) -> list[Block]:
    match = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL)
    assert match is not None, title
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", match[1], re.MULTILINE | re.DOTALL)]


def yaml_block(title: str, key: str) -> Any:
    found = [value for block in section(title) if block.language == "yaml" and key in (value := yaml.safe_load(block.text))]
    assert len(found) == 1, title
    return found[0][key]


def compiled(identity: dict[str, Any], jwks: str | None = None) -> IdentityConfig:
    """As the gate gets it: through the API's types and the compiler; with keys that the test has."""
    if jwks is not None:
        identity = identity | {"issuers": [identity["issuers"][0] | {"jwks": jwks}]}
    manifest = TARGET | {"spec": {**TARGET["spec"], "identity": identity}}  # type: ignore[dict-item]
    target = ProtectedTarget.model_validate(manifest)
    config = compile_target(target, [], Placement("secrets")).config
    assert config is not None
    return config.target.identity


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_providers_token_becomes_the_principal_that_the_page_says(provider: str) -> None:
    with Issuer() as issuer:
        identity = compiled(yaml_block(provider, "identity"), json.dumps(issuer.core.jwks()))
        (claims,) = (json.loads(block.text) for block in section(provider) if block.language == "json")
        token = issuer.mint(claims, header={"typ": "JWT"})
        assert len(json.dumps(claims)) + 3000 >= 3000  # the sample is there
        verified = await TokenVerifier(identity, IssuerKeys(HttpTransport())).verify(token, NOW)
    assert isinstance(verified, VerifiedToken), verified
    principal = principal_from_token(verified, identity, "10.0.0.1")
    assert isinstance(principal, Principal), principal
    expected = yaml_block(provider, "principal")
    assert {
        "username": principal.username,
        "subject": principal.subject,
        "groups": sorted(principal.groups),
        "agent": principal.agent,
    } == expected


def test_every_manifest_on_the_page_is_accepted() -> None:
    blocks = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)]
    manifests = [block["identity"] for block in blocks if "identity" in block]
    assert len(manifests) == len(PROVIDERS) + 1
    for manifest in manifests:
        assert str(Identity.model_validate(manifest).issuers[0].url) == manifest["issuers"][0]["url"]
        assert compiled(manifest).issuers[0].url == manifest["issuers"][0]["url"]


def test_every_cause_is_explained_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOC.partition("## When a token is refused")[2], re.MULTILINE)
    assert sorted(rows) == sorted(cause.value for cause in IdentityCause)


def test_limits_on_the_page_are_those_of_the_code() -> None:
    from sidegate.identity.compact import MAX_TOKEN_BYTES
    from sidegate.identity.keys import KeyCacheLimits
    from sidegate.policy.config import IssuerConfig

    limits = KeyCacheLimits()
    assert (limits.fresh_s, limits.stale_s, limits.unknown_key_s) == (600, 3600, 30)
    assert "ten minutes" in DOC
    assert "an hour old" in DOC
    assert "every thirty seconds" in DOC
    assert MAX_TOKEN_BYTES == 32 * 1024
    assert "at most 32 KiB" in DOC
    assert IssuerConfig(url="", audiences=()).algorithms == ("RS256", "ES256")
    assert IdentityConfig().clock_skew_s == 30
