"""Who may open a session, as what, and who may pass without OIDC.

Rules it keeps:
- A session needs a grant that counts now, and the credential of that grant's role. When several roles are granted and the client asked for
  none, it gets the one with the fewest kinds of statement: an ambiguity never widens.
- A rule that denies whatever the caller asks denies the session too.
- Passthrough is by exact role and source network. An address that can't be read passes nobody.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sidegate.policy.config import CredentialConfig, GateConfig, PassthroughConfig
from sidegate.policy.decision import ENGINE_SEAL, Deny, Masks, Permit
from sidegate.policy.facts import applicable, gather
from sidegate.policy.prepared import Grant, prepare
from sidegate.policy.principal import Principal
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin
from sidegate.policy.statement import StatementKind
from sidegate.policy.trace import Trace
from sidegate.policy.walk import DEFAULT_DENY

UNIX_SOCKET: Final = "unix"
_CREDENTIALS: Final = Builtin("credentials")
_TOKEN_LIFE: Final = Builtin("token-life")


@dataclass(frozen=True, slots=True)
class SessionGrant:
    """The right to log in to the target. `masks` hold for what belongs to no statement: errors, notices, parameter status.
    `limits_deletions`: a rule limits how many rows may be deleted, by whatever deletes them. `holds_at_commit`: a rule holds
    transactions at their end.
    """

    permit: Permit
    role: str
    credential: CredentialConfig
    revision: str
    masks: Masks
    limits_deletions: bool
    holds_at_commit: bool = False


def decide_session(
    config: GateConfig,
    principal: Principal,
    database: str,
    now: float,
    requested_role: str | None = None,
    *,
    trace: Trace | None = None,
) -> SessionGrant | Deny:
    """Whether the principal may have a session on the database now, and as which role."""
    revision = config.revision
    identity = config.target.identity
    if principal.expires_at is not None and now >= principal.expires_at + identity.clock_skew_s + identity.session_grace_s:
        return Deny(Reason.SESSION_ENDED, _TOKEN_LIFE, revision, "the token has expired")
    prepared = prepare(config)
    policies = applicable(prepared, principal, now, trace)
    if not policies:
        return Deny(Reason.NO_POLICY, DEFAULT_DENY, revision, "no policy of this target names you")
    valid: list[Grant] = []
    lapsed: list[Grant] = []
    for entry in policies:
        if entry.may_grant:
            for grant in entry.policy.grants:
                if grant.databases.matches(database) and (requested_role is None or grant.role == requested_role):
                    (valid if entry.is_valid else lapsed).append(grant)
    wanted = f"database `{database}`" + (f" as role `{requested_role}`" if requested_role is not None else "")
    if not valid and lapsed:
        return Deny(
            Reason.OUTSIDE_VALIDITY, lapsed[0].source, revision, f"the policy that grants {wanted} isn't valid at this time"
        )
    if not valid:
        return Deny(Reason.NO_GRANT, DEFAULT_DENY, revision, f"no grant gives {wanted}")
    role = _narrowest_role(valid)
    facts = gather(prepared, principal, database, role, now)
    for rule in facts.enforced.deny:
        if not rule.limits_statements:
            return Deny(
                Reason.DENIED_BY_RULE,
                rule.source,
                revision,
                "the rule holds for whatever you ask from where you are",
                rule.message,
            )
    credential = next((entry for entry in config.target.credentials if entry.role == role), None)
    if credential is None:
        return Deny(Reason.CONFIG_MISSING, _CREDENTIALS, revision, f"the target has no credential for role `{role}`")
    source = facts.grants[0].source
    if trace is not None:
        trace.add("session", f"opens as role `{role}`", source)
    return SessionGrant(
        Permit(ENGINE_SEAL, f"session as {role} on {database}", source, revision), role, credential, revision, facts.masks,
        limits_deletions=any(StatementKind.DELETE in rule.kinds for rule in facts.enforced.limit_rows),
        holds_at_commit=any(rule.holds_at_commit for rule in facts.enforced.approve),
    )  # fmt: skip


def _narrowest_role(grants: list[Grant]) -> str:
    kinds: dict[str, set[str]] = {}
    for grant in grants:
        kinds.setdefault(grant.role, set()).update(grant.kinds)
    return min(kinds, key=lambda role: (len(kinds[role]), role))


def decide_passthrough(config: GateConfig, role: str, source_address: str) -> PassthroughConfig | None:
    """The first entry that lets `role` pass from `source_address` (an IP address, or `unix`) without OIDC; None when none does."""
    address = _address(source_address)
    for entry in config.target.passthrough:
        if role not in entry.roles:
            continue
        for network in entry.networks:
            if network == UNIX_SOCKET:
                if source_address == UNIX_SOCKET:
                    return entry
                continue
            parsed = _network(network)
            if parsed is not None and address is not None and address.version == parsed.version and address in parsed:
                return entry
    return None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4 address that came through an IPv6 socket is the IPv4 address (RFC 4291, 2.5.5.2); a zone id names no network."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=256)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
