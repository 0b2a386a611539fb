"""Claims become a `Principal`: who it is, which groups, which agent acts for them, which environment they call from.

Rules it keeps: a claim that is there and can't be read refuses the login, it never counts as absent, because a lost group can lose a deny
rule; a group list that the issuer cut short is refused for the same reason; names with control characters are refused. Pure.
Left out: whether the claims are genuine (`token`), what the principal may do (`policy`).
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
from collections.abc import Mapping
from typing import Final, TypeAlias

from sidegate.identity.problem import IdentityCause, IdentityProblem, quoted
from sidegate.identity.token import VerifiedToken
from sidegate.policy.config import ClaimsConfig, IdentityConfig
from sidegate.policy.principal import Json, Principal

MAX_GROUPS: Final = 2000
MAX_NAME: Final = 512

# Where issuers put the client that holds the token, when the manifest names no claim: the acting party of a delegation (RFC 8693,
# section 4.1), the authorised party (OpenID Connect Core, section 2), the client of an access token (RFC 9068; Okta; Entra ID v1).
AGENT_CLAIMS: Final = ("act.sub", "azp", "client_id", "cid", "appid")

# A string of names with spaces between, by definition (RFC 8693, section 4.2). No other string is ever split: `Domain Admins` would
# become a member of `Admins`.
_SPACE_SEPARATED: Final = frozenset({"scope", "scp"})
_SEPARATOR: Final = re.compile(r"[\s,;]")

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class _RefusedError(Exception):
    def __init__(self, problem: IdentityProblem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def principal_from_token(token: VerifiedToken, config: IdentityConfig, source_address: str) -> Principal | IdentityProblem:
    """The principal that a verified token stands for. `source_address` is the client's IP address, or `unix`."""
    names = token.issuer.claims
    try:
        return Principal(
            issuer=token.issuer.url,
            subject=_required_name(token.claims, "sub"),
            username=_username(token.claims, names.username),
            groups=_groups(token.claims, names.groups),
            agent=_agent(token.claims, names),
            environment=_environment(token.claims, names, config, source_address),
            source_address=source_address,
            expires_at=token.expires_at,
            claims=token.claims,
        )
    except _RefusedError as refused:
        return refused.problem


def read_claim(claims: Mapping[str, Json], name: str) -> Json:
    """The claim's value, None when it isn't there. Dots lead into objects; a name that is a URL is taken whole."""
    if "://" in name:
        return claims.get(name)
    value: Json = dict(claims)
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _username(claims: Mapping[str, Json], name: str) -> str:
    username = _required_name(claims, name)
    # An address that the issuer says it didn't verify is what somebody typed, not who they are.
    if name == "email" and claims.get("email_verified") not in (None, True, "true"):
        raise _refused(
            IdentityCause.CLAIM_REFUSED,
            "token's `email` isn't verified",
            "verify the address at the issuer, or have the target take usernames from another claim",
        )
    return username


def _groups(claims: Mapping[str, Json], name: str) -> frozenset[str]:
    if _is_cut_short(claims, name):
        raise _refused(
            IdentityCause.GROUPS_INCOMPLETE,
            f"token leaves out its groups (`{name}`): there are too many of them for a token",
            "have the issuer send only the groups assigned to this application",
        )
    value = read_claim(claims, name)
    if value is None:
        return frozenset()
    if isinstance(value, str):
        if name.rpartition(".")[2] in _SPACE_SEPARATED:
            value = [*value.split()]
        elif _SEPARATOR.search(value):
            raise _refused(
                IdentityCause.CLAIM_REFUSED,
                f"token claim `{name}` is one string that may be several groups",
                "have the issuer send the groups as a JSON list",
            )
        else:
            value = [value]
    if not isinstance(value, list) or len(value) > MAX_GROUPS:
        raise _refused(
            IdentityCause.CLAIM_REFUSED,
            f"token claim `{name}` must be a list of at most {MAX_GROUPS} group names",
            "have the issuer send the groups as a JSON list of strings",
        )
    return frozenset(_name(group, name) for group in value)


def _is_cut_short(claims: Mapping[str, Json], name: str) -> bool:
    """Whether the issuer says that the groups are elsewhere (OpenID Connect Core, section 5.6.2; Entra ID's overage claims)."""
    elsewhere = claims.get("_claim_names")
    if isinstance(elsewhere, dict) and (name in elsewhere or name.partition(".")[0] in elsewhere):
        return True
    return name == "groups" and claims.get("hasgroups") in (True, "true")


def _agent(claims: Mapping[str, Json], names: ClaimsConfig) -> str | None:
    for name in (names.agent,) if names.agent is not None else AGENT_CLAIMS:
        value = read_claim(claims, name)
        if value is not None:
            return _name(value, name)
    return None


def _environment(claims: Mapping[str, Json], names: ClaimsConfig, config: IdentityConfig, source_address: str) -> str | None:
    if names.environment is not None:
        value = read_claim(claims, names.environment)
        if value is not None:
            return _name(value, names.environment)
    return _environment_of_address(config, source_address)


def _environment_of_address(config: IdentityConfig, source_address: str) -> str | None:
    """The environment of the narrowest network around the address. Two equally narrow ones that disagree: none."""
    if source_address == "unix":
        found = {(0, caller.environment) for caller in config.caller_networks if "unix" in caller.networks}
    else:
        address = _address(source_address)
        found = {
            (network.prefixlen, caller.environment)
            for caller in config.caller_networks
            for text in caller.networks
            if text != "unix" and (network := _network(text)).version == address.version and address in network
        }
    narrowest = max((length for length, _ in found), default=0)
    environments = {environment for length, environment in found if length == narrowest}
    return environments.pop() if len(environments) == 1 else None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _refused(
            IdentityCause.MISCONFIGURED,
            f"the client's address {quoted(text)} isn't an IP address",
            "report it as a defect of the gate",
        ) from None
    # A dual-stack listener shows IPv4 clients as ::ffff:a.b.c.d; networks are written in IPv4.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@functools.lru_cache(maxsize=1024)
def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise _refused(
            IdentityCause.MISCONFIGURED,
            f"the caller network {quoted(text)} isn't a network",
            "write it in CIDR form without host bits, for example `10.0.0.0/8`",
        ) from None


def _required_name(claims: Mapping[str, Json], name: str) -> str:
    value = read_claim(claims, name)
    if value is None:
        raise _refused(
            IdentityCause.MISSING_CLAIM,
            f"token has no claim `{name}`",
            "have the issuer put it in, or name the claim to use in the target's identity section",
        )
    return _name(value, name)


def _name(value: Json, claim: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        problem = f"token claim `{claim}` must hold names of 1 to {MAX_NAME} characters"
    # Control and format characters, line separators: they would forge lines in logs or hide who it is from an approver.
    elif any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in value):
        problem = f"token claim `{claim}` has invisible characters"
    else:
        return value
    raise _refused(IdentityCause.CLAIM_REFUSED, problem, "have the issuer send plain names")


def _refused(cause: IdentityCause, message: str, way_forward: str) -> _RefusedError:
    return _RefusedError(IdentityProblem(cause, message, way_forward))
