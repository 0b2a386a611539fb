"""A certified identity provider of another make: its discovery, its keys, its tokens, and their rotation."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sidegate.identity.claims import principal_from_token
from sidegate.identity.keys import IssuerKeys, fetch_metadata
from sidegate.identity.login import Login, LoginError, LoginRequest
from sidegate.identity.problem import IdentityCause, IdentityProblem
from sidegate.identity.token import TokenVerifier, VerifiedToken
from sidegate.identity.transport import HttpTransport
from sidegate.policy.config import IdentityConfig, IssuerConfig
from sidegate.policy.principal import Principal
from tests.support.oidc_provider.provider import OidcProvider

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as running:
        yield running


def now() -> float:
    return time.time()  # noqa: TID251 - the provider has a clock of its own, and it is the machine's


def config(provider: OidcProvider, audience: str, **changes: object) -> IdentityConfig:
    return IdentityConfig(issuers=(IssuerConfig(**({"url": provider.issuer, "audiences": (audience,)} | changes)),))  # type: ignore[arg-type]


async def new_token(provider: OidcProvider, resource: str | None, secret: str | None = None) -> str:
    transport = HttpTransport()
    metadata = await fetch_metadata(transport, provider.issuer)
    # No `openid` in the scope: the client credentials grant has no user whose identity it could tell.
    request = LoginRequest(provider.issuer, provider.client_id, secret or provider.client_secret, scope="read", resource=resource)
    return (await Login(transport, metadata, request).client_credentials()).access_token


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "PS256"])
async def test_its_tokens_open_a_session(provider: OidcProvider, algorithm: str) -> None:
    audience = f"urn:sidegate:{algorithm.lower()}"
    identity = config(provider, audience, algorithms=(algorithm,))
    token = await new_token(provider, audience)
    verified = await TokenVerifier(identity, IssuerKeys(HttpTransport())).verify(token, now())
    assert isinstance(verified, VerifiedToken), verified
    principal = principal_from_token(verified, identity, "unix")
    assert isinstance(principal, Principal), principal
    assert principal.username == "reports@example.com"
    assert principal.groups == {"reporting", "ai-assistants"}
    assert principal.agent == "reports"
    assert principal.subject == "reports"
    assert 500 < verified.expires_at - now() <= 600


async def test_its_token_for_another_resource_doesnt(provider: OidcProvider) -> None:
    token = await new_token(provider, "urn:sidegate:es256")
    problem = await TokenVerifier(config(provider, "urn:sidegate:rs256"), IssuerKeys(HttpTransport())).verify(token, now())
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.WRONG_AUDIENCE


async def test_its_token_doesnt_once_it_has_expired(provider: OidcProvider) -> None:
    token = await new_token(provider, "urn:sidegate:rs256")
    problem = await TokenVerifier(config(provider, "urn:sidegate:rs256"), IssuerKeys(HttpTransport())).verify(token, now() + 700)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.EXPIRED


async def test_its_opaque_token_is_told_as_such(provider: OidcProvider) -> None:
    token = await new_token(provider, None)
    problem = await TokenVerifier(config(provider, "urn:sidegate:rs256"), IssuerKeys(HttpTransport())).verify(token, now())
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.MALFORMED
    assert "opaque" in problem.way_forward


async def test_it_refuses_a_wrong_secret_and_we_tell(provider: OidcProvider) -> None:
    with pytest.raises(LoginError, match="invalid_client"):
        await new_token(provider, "urn:sidegate:rs256", "wrong")


async def test_after_its_keys_were_exchanged_old_tokens_end_and_new_ones_open(provider: OidcProvider) -> None:
    audience = "urn:sidegate:es256"
    verifier = TokenVerifier(config(provider, audience), IssuerKeys(HttpTransport()))
    at = now()
    old = await new_token(provider, audience)
    assert isinstance(await verifier.verify(old, at), VerifiedToken)
    provider.rotate()
    new = await new_token(provider, audience)
    too_soon = await verifier.verify(new, at + 1)
    assert isinstance(too_soon, IdentityProblem)
    assert too_soon.cause == IdentityCause.UNKNOWN_KEY
    assert isinstance(await verifier.verify(new, at + 31), VerifiedToken)
    ended = await verifier.verify(old, at + 32)
    assert isinstance(ended, IdentityProblem)
    assert ended.cause == IdentityCause.UNKNOWN_KEY
