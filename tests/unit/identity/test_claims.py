"""From claims to a principal: names, groups, agent and environment."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.identity.claims import MAX_GROUPS, MAX_NAME, principal_from_token, read_claim
from sidegate.identity.problem import IdentityCause, IdentityProblem
from sidegate.identity.token import VerifiedToken
from sidegate.policy.config import CallerNetwork, ClaimsConfig, IdentityConfig, IssuerConfig
from sidegate.policy.principal import Principal

EXPIRES = 1_800_003_600.0


def outcome(
    claims: dict[str, Any],
    names: ClaimsConfig | None = None,
    networks: tuple[CallerNetwork, ...] = (),
    source_address: str = "unix",
) -> Principal | IdentityProblem:
    issuer = IssuerConfig(url="https://issuer.example", audiences=("gate",), claims=names or ClaimsConfig())
    token = VerifiedToken(issuer, {"sub": "u-1", "email": "ada@example.com", **claims}, EXPIRES)
    return principal_from_token(token, IdentityConfig(issuers=(issuer,), caller_networks=networks), source_address)


def principal(claims: dict[str, Any], names: ClaimsConfig | None = None, **more: Any) -> Principal:
    found = outcome(claims, names, **more)
    assert isinstance(found, Principal), found
    return found


def cause(claims: dict[str, Any], names: ClaimsConfig | None = None, **more: Any) -> IdentityCause:
    found = outcome(claims, names, **more)
    assert isinstance(found, IdentityProblem), found
    assert found.way_forward
    return found.cause


def test_makes_a_principal() -> None:
    found = principal({"groups": ["dba", "ai-assistants"], "azp": "cursor"}, source_address="10.1.2.3")
    assert found.issuer == "https://issuer.example"
    assert found.subject == "u-1"
    assert found.username == "ada@example.com"
    assert found.groups == {"dba", "ai-assistants"}
    assert found.agent == "cursor"
    assert found.source_address == "10.1.2.3"
    assert found.expires_at == EXPIRES
    assert found.claims["email"] == "ada@example.com"


# Names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upn", "ada"),
        ("a.b.c", "deep"),
        ("https://example.com/claims/user", "by URL"),
        ("https://example.com/claims.v2/user", "with a dot"),
    ],
)
def test_takes_the_username_from_the_claim_named(name: str, value: str) -> None:
    claims = {
        "upn": "ada",
        "a": {"b": {"c": "deep"}},
        "https://example.com/claims/user": "by URL",
        "https://example.com/claims.v2/user": "with a dot",
    }
    assert principal(claims, ClaimsConfig(username=name)).username == value


def test_a_dotted_name_is_a_path_even_when_a_claim_is_spelled_like_it() -> None:
    assert read_claim({"a.b": "whole", "a": {"b": "path"}}, "a.b") == "path"
    assert read_claim({"a.b": "whole"}, "a.b") is None
    assert read_claim({"a": "no object"}, "a.b") is None


def test_a_missing_username_is_refused() -> None:
    assert cause({}, ClaimsConfig(username="upn")) == IdentityCause.MISSING_CLAIM
    assert cause({"email": None}) == IdentityCause.MISSING_CLAIM


BAD_NAMES = [
    "",
    7,
    True,
    ["ada"],
    {"name": "ada"},
    "a" * (MAX_NAME + 1),
    "ada\n",
    "ada\0",
    "a\u202eda",
    "a\u200bda",
    "a\u2028b",
    "\x7f",
]


@pytest.mark.parametrize("value", BAD_NAMES)
def test_a_name_that_isnt_plain_text_is_refused_everywhere(value: Any) -> None:
    names = ClaimsConfig(username="user", agent="agent", environment="env")
    good = {"user": "ada", "agent": "cursor", "env": "prod"}
    assert principal(good, names).agent == "cursor"
    for claim in good:
        assert cause(good | {claim: value}, names) == IdentityCause.CLAIM_REFUSED
    assert cause(good | {"groups": ["dba", value]}, names) == IdentityCause.CLAIM_REFUSED
    assert cause(good | {"sub": value}, names) == IdentityCause.CLAIM_REFUSED


@pytest.mark.parametrize("verified", [False, "false", 0, "no", []])
def test_an_address_that_the_issuer_didnt_verify_is_no_username(verified: Any) -> None:
    assert cause({"email_verified": verified}) == IdentityCause.CLAIM_REFUSED
    assert principal({"email_verified": verified, "upn": "ada"}, ClaimsConfig(username="upn")).username == "ada"


@pytest.mark.parametrize("verified", [True, "true"])
def test_a_verified_address_is(verified: Any) -> None:
    assert principal({"email_verified": verified}).username == "ada@example.com"


# Groups


@pytest.mark.parametrize(
    ("claims", "name", "groups"),
    [
        ({}, "groups", set()),
        ({"groups": None}, "groups", set()),
        ({"groups": []}, "groups", set()),
        ({"groups": ["a", "a", "b"]}, "groups", {"a", "b"}),
        ({"groups": "dba"}, "groups", {"dba"}),
        ({"groups": ["Domain Admins", "a,b"]}, "groups", {"Domain Admins", "a,b"}),
        ({"realm_access": {"roles": ["dba"]}}, "realm_access.roles", {"dba"}),
        ({"https://example.com/groups": ["dba"]}, "https://example.com/groups", {"dba"}),
        ({"scope": "openid db.read db.write"}, "scope", {"openid", "db.read", "db.write"}),
        ({"scp": "db.read"}, "scp", {"db.read"}),
        ({"scope": ""}, "scope", set()),
        ({"scp": ["db.read", "db.write"]}, "scp", {"db.read", "db.write"}),
    ],
)
def test_reads_groups(claims: dict[str, Any], name: str, groups: set[str]) -> None:
    assert principal(claims, ClaimsConfig(groups=name)).groups == groups


@pytest.mark.parametrize(
    "value",
    ["Domain Admins", "a,b", "a;b", "a\tb", 7, True, {"a": 1}, {"dba": True}, [["dba"]], [{"name": "dba"}], [None], ["dba", 7]],
)
def test_groups_that_cant_be_read_for_sure_refuse_the_login(value: Any) -> None:
    assert cause({"groups": value}) == IdentityCause.CLAIM_REFUSED


def test_too_many_groups_refuse_the_login() -> None:
    assert len(principal({"groups": [f"g{n}" for n in range(MAX_GROUPS)]}).groups) == MAX_GROUPS
    assert cause({"groups": [f"g{n}" for n in range(MAX_GROUPS + 1)]}) == IdentityCause.CLAIM_REFUSED


@pytest.mark.parametrize(
    "claims",
    [
        {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.example"}}},
        {"_claim_names": {"groups": "src1"}, "groups": ["a-few-of-them"]},
        {"hasgroups": True},
        {"hasgroups": "true"},
    ],
)
def test_groups_that_the_issuer_left_out_refuse_the_login(claims: dict[str, Any]) -> None:
    assert cause(claims) == IdentityCause.GROUPS_INCOMPLETE


def test_other_claims_left_out_dont() -> None:
    assert principal({"_claim_names": {"photo": "src1"}, "hasgroups": False}).groups == set()
    assert principal({"_claim_names": {"groups": "src1"}, "roles": ["dba"]}, ClaimsConfig(groups="roles")).groups == {"dba"}


# Agent


@pytest.mark.parametrize(
    ("claims", "configured", "agent"),
    [
        ({}, None, None),
        ({"azp": "cursor"}, None, "cursor"),
        ({"client_id": "cursor"}, None, "cursor"),
        ({"cid": "cursor"}, None, "cursor"),
        ({"appid": "cursor"}, None, "cursor"),
        ({"azp": "front", "client_id": "back"}, None, "front"),
        ({"azp": "front", "act": {"sub": "cursor", "act": {"sub": "before"}}}, None, "cursor"),
        ({"azp": "front", "act": {"client_id": "cursor"}}, "act.client_id", "cursor"),
        ({"azp": "cursor"}, "agent", None),
    ],
)
def test_finds_the_agent(claims: dict[str, Any], configured: str | None, agent: str | None) -> None:
    assert principal(claims, ClaimsConfig(agent=configured)).agent == agent


@pytest.mark.parametrize("claims", [{"azp": 7}, {"azp": ""}, {"act": {"sub": ["cursor"]}, "azp": "other"}])
def test_an_agent_that_cant_be_read_refuses_the_login(claims: dict[str, Any]) -> None:
    assert cause(claims) == IdentityCause.CLAIM_REFUSED


# Environment

NETWORKS = (
    CallerNetwork("corporate", ("10.0.0.0/8", "2001:db8::/32")),
    CallerNetwork("production", ("10.20.0.0/16", "fd00::/8")),
    CallerNetwork("local", ("unix", "127.0.0.0/8")),
    CallerNetwork("left", ("172.16.0.0/16",)),
    CallerNetwork("right", ("172.16.0.0/16",)),
)


@pytest.mark.parametrize(
    ("address", "environment"),
    [
        ("10.1.2.3", "corporate"),
        ("10.20.0.1", "production"),
        ("10.21.0.1", "corporate"),
        ("::ffff:10.20.0.1", "production"),
        ("2001:db8::1", "corporate"),
        ("fd00::1", "production"),
        ("192.0.2.1", None),
        ("::1", None),
        ("127.0.0.1", "local"),
        ("unix", "local"),
        ("172.16.0.1", None),  # two networks, equally narrow, that disagree
    ],
)
def test_finds_the_environment_by_the_narrowest_network(address: str, environment: str | None) -> None:
    assert principal({}, networks=NETWORKS, source_address=address).environment == environment


def test_a_claim_names_the_environment_before_any_network() -> None:
    names = ClaimsConfig(environment="env")
    assert principal({"env": "staging"}, names, networks=NETWORKS, source_address="10.20.0.1").environment == "staging"
    assert principal({}, names, networks=NETWORKS, source_address="10.20.0.1").environment == "production"
    assert principal({"env": "staging"}, None, networks=NETWORKS, source_address="10.20.0.1").environment == "production"


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "corporate", ""])
def test_a_network_that_cant_be_read_refuses_every_login(network: str) -> None:
    networks = (CallerNetwork("corporate", (network,)),)
    assert cause({}, networks=networks, source_address="10.0.0.1") == IdentityCause.MISCONFIGURED
    assert cause({}, networks=networks, source_address="10.0.0.1") == IdentityCause.MISCONFIGURED


@pytest.mark.parametrize("address", ["", "localhost", "10.0.0.1:5432", "10.0.0", "10.0.0.1\n"])
def test_an_address_that_is_none_refuses_the_login(address: str) -> None:
    assert cause({}, networks=NETWORKS, source_address=address) == IdentityCause.MISCONFIGURED


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["email", "groups", "azp", "act", "env", "_claim_names", "hasgroups", "email_verified"]), _json
    )
)
def test_claims_of_any_type_make_a_principal_or_a_problem(claims: dict[str, Any]) -> None:
    found = outcome(claims, ClaimsConfig(environment="env"), NETWORKS, "10.0.0.1")
    if isinstance(found, Principal):
        names = [found.username, *found.groups, found.agent or "-", found.environment or "-"]
        assert all(names)
        assert not {unicodedata.category(c) for name in names for c in name} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    else:
        assert str(found).isprintable()
