"""Tokens: what is accepted, and every kind that must not be."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.identity.jwks import parse_jwks
from sidegate.identity.keys import IssuerKeys, KeyAnswer
from sidegate.identity.problem import IdentityCause, IdentityProblem
from sidegate.identity.token import TokenVerifier, VerifiedToken
from sidegate.identity.transport import HttpTransport
from sidegate.policy.config import IdentityConfig, IssuerConfig
from tests.support.issuer import NOW, Issuer, b64, nested

with Issuer() as _issuer:
    BAD_TOKENS = sorted(_issuer.bad_tokens())


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


@pytest.fixture(scope="module")
def bad_tokens(issuer: Issuer) -> dict[str, tuple[str, IdentityCause]]:
    return dict(issuer.bad_tokens())


def verifier(issuer: Issuer, **changes: object) -> TokenVerifier:
    return TokenVerifier(IdentityConfig(issuers=(issuer.config(**changes),)), IssuerKeys(HttpTransport()))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_accepts_a_genuine_token(issuer: Issuer, algorithm: str) -> None:
    verified = await verifier(issuer).verify(issuer.token(algorithm=algorithm), NOW)
    assert isinstance(verified, VerifiedToken)
    assert verified.claims["email"] == "ada@example.com"
    assert verified.expires_at == NOW + 3600
    assert verified.issuer.url == issuer.url


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_refuses_a_bad_token(issuer: Issuer, bad_tokens: dict[str, tuple[str, IdentityCause]], name: str) -> None:
    token, cause = bad_tokens[name]
    problem = await verifier(issuer).verify(token, NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == cause, problem
    assert problem.way_forward


@pytest.mark.parametrize("name", [name for name in BAD_TOKENS if name != "empty"])
async def test_says_nothing_of_a_token_it_refuses(
    issuer: Issuer, bad_tokens: dict[str, tuple[str, IdentityCause]], name: str
) -> None:
    token, _ = bad_tokens[name]
    problem = await verifier(issuer).verify(token, NOW)
    assert isinstance(problem, IdentityProblem)
    said = str(problem)
    assert token not in said
    assert not [part for part in token.split(".") if len(part) > 8 and part[:24] in said]
    assert "\n" not in said
    assert len(said) < 600
    assert said.isascii()
    assert said.isprintable()


async def test_a_config_that_lists_hs256_still_refuses_a_token_signed_with_the_public_key(issuer: Issuer) -> None:
    problem = await verifier(issuer, algorithms=("HS256", "none", "RS256")).verify(issuer.forged_hs256(), NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.ALGORITHM_REFUSED
    problem = await verifier(issuer, algorithms=("HS256", "none", "RS256")).verify(issuer.forged_none(), NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.ALGORITHM_REFUSED


async def test_an_algorithm_left_out_of_the_list_is_refused_though_the_issuer_has_a_key_for_it(issuer: Issuer) -> None:
    problem = await verifier(issuer, algorithms=("ES256",)).verify(issuer.token(), NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.ALGORITHM_REFUSED
    assert "ES256" in problem.way_forward


async def test_other_algorithms_of_the_same_key_are_refused_when_the_key_names_its_own(issuer: Issuer) -> None:
    token = issuer.mint(issuer.claims(), algorithm="PS256", key=issuer.core.current["RS256"])
    problem = await verifier(issuer, algorithms=("RS256", "PS256")).verify(token, NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.UNKNOWN_KEY


@pytest.mark.parametrize(
    ("at", "accepted"),
    [(NOW + 3599, True), (NOW + 3600 + 29, True), (NOW + 3600 + 30, False), (NOW - 30, True), (NOW - 31, False)],
)
async def test_time_is_the_callers_and_skew_counts_both_ways(issuer: Issuer, at: float, accepted: bool) -> None:
    result = await verifier(issuer).verify(issuer.token(), at)
    assert isinstance(result, VerifiedToken) == accepted


async def test_without_skew_a_token_ends_at_its_expiry(issuer: Issuer) -> None:
    config = IdentityConfig(issuers=(issuer.config(),), clock_skew_s=0)
    keys = IssuerKeys(HttpTransport())
    assert isinstance(await TokenVerifier(config, keys).verify(issuer.token(), NOW + 3599.9), VerifiedToken)
    problem = await TokenVerifier(config, keys).verify(issuer.token(), NOW + 3600)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.EXPIRED


async def test_one_of_several_audiences_is_enough(issuer: Issuer) -> None:
    result = await verifier(issuer).verify(issuer.token(aud=["other", issuer.audience]), NOW)
    assert isinstance(result, VerifiedToken)


async def test_an_issuer_without_audiences_accepts_nothing(issuer: Issuer) -> None:
    problem = await verifier(issuer, audiences=()).verify(issuer.token(), NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.WRONG_AUDIENCE


async def test_a_gate_without_issuers_accepts_nothing(issuer: Issuer) -> None:
    problem = await TokenVerifier(IdentityConfig(), IssuerKeys(HttpTransport())).verify(issuer.token(), NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.UNKNOWN_ISSUER


async def test_an_issuer_listed_twice_is_chosen_by_audience(issuer: Issuer) -> None:
    config = IdentityConfig(issuers=(issuer.config(audiences=("first",)), issuer.config(audiences=("second",))))
    result = await TokenVerifier(config, IssuerKeys(HttpTransport())).verify(issuer.token(aud="second"), NOW)
    assert isinstance(result, VerifiedToken)
    assert result.issuer.audiences == ("second",)


async def test_one_issuer_cant_speak_for_another(issuer: Issuer) -> None:
    with Issuer() as other:
        config = IdentityConfig(issuers=(issuer.config(), other.config()))
        problem = await TokenVerifier(config, IssuerKeys(HttpTransport())).verify(other.token(iss=issuer.url), NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.UNKNOWN_KEY


async def test_a_token_without_key_id_is_accepted_when_one_key_fits(issuer: Issuer) -> None:
    token = issuer.mint(issuer.claims(), header={"kid": None})
    assert isinstance(await verifier(issuer).verify(token, NOW), VerifiedToken)


async def test_a_token_without_key_id_is_refused_when_several_keys_fit() -> None:
    with Issuer() as issuer:
        issuer.rotate()
        problem = await verifier(issuer).verify(issuer.mint(issuer.claims(), header={"kid": None}), NOW)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.UNKNOWN_KEY
    assert "names no key" in problem.message


async def test_claims_nested_as_deep_as_anybody_needs_are_read(issuer: Issuer) -> None:
    assert isinstance(await verifier(issuer).verify(issuer.token(deep=nested(25)), NOW), VerifiedToken)


async def test_repr_of_a_verified_token_holds_no_claims(issuer: Issuer) -> None:
    verified = await verifier(issuer).verify(issuer.token(), NOW)
    assert "ada" not in repr(verified)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
async def test_any_change_of_a_single_character_is_refused(issuer: Issuer, data: st.DataObject) -> None:
    token = issuer.token()
    at = data.draw(st.integers(0, len(token) - 1))
    replaced = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0é"))
    changed = token[:at] + replaced + token[at + 1 :]
    source = _Inline(issuer)
    result = await TokenVerifier(IdentityConfig(issuers=(issuer.config(),)), source).verify(changed, NOW)
    assert isinstance(result, VerifiedToken) == (changed == token)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text() | st.binary().map(b64) | st.tuples(st.binary(), st.binary(), st.binary()).map(lambda t: ".".join(map(b64, t)))
)
async def test_no_text_makes_it_raise(issuer: Issuer, text: str) -> None:
    result = await TokenVerifier(IdentityConfig(issuers=(issuer.config(),)), _Inline(issuer)).verify(text, NOW)
    assert isinstance(result, IdentityProblem)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "events", "email", "groups"]), _json, min_size=1
    )
)
async def test_claims_of_any_type_are_accepted_or_refused_and_never_raise(issuer: Issuer, changes: dict[str, object]) -> None:
    token = issuer.mint(issuer.claims() | changes)
    result = await TokenVerifier(IdentityConfig(issuers=(issuer.config(),)), _Inline(issuer)).verify(token, NOW)
    assert isinstance(result, IdentityProblem | VerifiedToken)
    if isinstance(result, VerifiedToken):
        assert result.claims["iss"] == issuer.url
        assert isinstance(result.claims["sub"], str)
        assert result.expires_at > NOW - 30


class _Inline:
    """The issuer's keys without a network, through the real parser."""

    def __init__(self, issuer: Issuer) -> None:
        self._keys = parse_jwks(json.dumps(issuer.core.jwks()).encode())

    async def find(self, issuer: IssuerConfig, key_id: str | None, algorithm: str, now: float) -> KeyAnswer:
        found = self._keys.candidates(key_id, algorithm)
        return found or IdentityProblem(IdentityCause.UNKNOWN_KEY, "unknown", "none")
