"""Who gets a session, as which role, and who passes without a token."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from sidegate.policy.config import (
    AddressConfig,
    CallerMatch,
    ColumnMatch,
    CredentialConfig,
    GateConfig,
    GrantConfig,
    IdentityConfig,
    PassthroughConfig,
    PolicyConfig,
    Protocol,
    RuleAction,
    RuleConfig,
    StatementMatch,
    SubjectConfig,
    TargetConfig,
    ValidityConfig,
)
from sidegate.policy.decision import Deny
from sidegate.policy.engine import SessionGrant, decide_passthrough, decide_session
from sidegate.policy.principal import Principal
from sidegate.policy.reason import Reason

TARGET = TargetConfig(
    "shop", "shop-db", Protocol.POSTGRES, "production", AddressConfig("127.0.0.1", 5432), 5432,
    identity=IdentityConfig(clock_skew_s=30, session_grace_s=60),
    credentials=(CredentialConfig("readonly", "ro", "/s/ro"), CredentialConfig("readwrite", "rw", "/s/rw")),
    passthrough=(
        PassthroughConfig("app", ("shop_app", "shop_job"), ("unix", "10.0.0.0/8")),
        PassthroughConfig("replica", ("replicator",), ("fd00::/8", "192.0.2.7/32"), may_replicate=True),
        PassthroughConfig("broken", ("odd",), ("nonsense", "10.0.0.1/8")),
    ),
)  # fmt: skip
ADA = Principal("https://issuer.example", "1", "ada", frozenset({"ai"}))
NARROW = GrantConfig(("shop",), "readonly", ("Read",))
ALWAYS = ValidityConfig()
WIDE = GrantConfig(("shop", "stock"), "readwrite", ("Read", "Insert", "Delete"))


def config(*grants: GrantConfig, rules: tuple[RuleConfig, ...] = (), validity: ValidityConfig = ALWAYS) -> GateConfig:
    policy = PolicyConfig("shop", "p", subjects=(SubjectConfig(groups=("ai",)),), validity=validity, grants=grants, rules=rules)
    return GateConfig.sealed(TARGET, (policy,))


def test_a_session_logs_in_with_the_credential_of_the_granted_role() -> None:
    session = decide_session(config(NARROW), ADA, "shop", 0.0)
    assert isinstance(session, SessionGrant)
    assert (session.role, session.credential.username, session.credential.password_file) == ("readonly", "ro", "/s/ro")
    assert repr(session.permit).startswith("Permit(session as readonly on shop by shop/p#grants[0]")


def test_without_a_wish_the_role_with_the_fewest_kinds_is_given() -> None:
    for grants in ((WIDE, NARROW), (NARROW, WIDE)):
        session = decide_session(config(*grants), ADA, "shop", 0.0)
        assert isinstance(session, SessionGrant)
        assert session.role == "readonly"


def test_a_wish_is_granted_or_refused_but_never_replaced() -> None:
    wide = decide_session(config(NARROW, WIDE), ADA, "shop", 0.0, "readwrite")
    assert isinstance(wide, SessionGrant)
    assert wide.role == "readwrite"
    refused = decide_session(config(NARROW), ADA, "shop", 0.0, "readwrite")
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.NO_GRANT
    assert "role `readwrite`" in refused.detail


@pytest.mark.parametrize(
    ("principal", "database", "now", "reason"),
    [
        (replace(ADA, groups=frozenset()), "shop", 0.0, Reason.NO_POLICY),
        (ADA, "stock", 0.0, Reason.NO_GRANT),
        (ADA, "Shop", 0.0, Reason.NO_GRANT),
        (ADA, "shop", 100.0, Reason.OUTSIDE_VALIDITY),
        (replace(ADA, expires_at=-91.0), "shop", 0.0, Reason.SESSION_ENDED),
        (replace(ADA, expires_at=-90.0), "shop", 0.0, Reason.SESSION_ENDED),
    ],
)
def test_a_session_is_refused_with_its_reason(principal: Principal, database: str, now: float, reason: Reason) -> None:
    answer = decide_session(config(NARROW, validity=ValidityConfig(not_after=100.0)), principal, database, now)
    assert isinstance(answer, Deny)
    assert answer.reason is reason
    assert answer.detail
    assert answer.hint


def test_a_session_may_outlive_its_token_by_skew_and_grace_only() -> None:
    assert isinstance(decide_session(config(NARROW), replace(ADA, expires_at=-89.0), "shop", 0.0), SessionGrant)


def test_a_role_without_credential_opens_nothing() -> None:
    answer = decide_session(config(GrantConfig(("shop",), "owner", ("Read",))), ADA, "shop", 0.0)
    assert isinstance(answer, Deny)
    assert answer.reason is Reason.CONFIG_MISSING


def test_a_denial_of_the_caller_refuses_the_session_itself() -> None:
    outside = RuleConfig("outside", RuleAction.DENY, caller=CallerMatch((), ("office",)), message="come to the office")
    answer = decide_session(config(NARROW, rules=(outside,)), ADA, "shop", 0.0)
    assert isinstance(answer, Deny)
    assert (answer.reason, str(answer.source), answer.hint) == (Reason.DENIED_BY_RULE, "shop/p#outside", "come to the office")
    assert isinstance(
        decide_session(config(NARROW, rules=(outside,)), replace(ADA, environment="office"), "shop", 0.0), SessionGrant
    )


def test_a_session_carries_every_mask_even_of_policies_that_grant_nothing_now() -> None:
    masks = (
        RuleConfig("pii", RuleAction.MASK, columns=(ColumnMatch("ssn"),)),
        RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",), statements=StatementMatch(kinds=("Delete",))),
    )
    other = PolicyConfig(
        "shop",
        "expired",
        subjects=(SubjectConfig(expression="claims.missing"),),
        validity=ValidityConfig(not_after=-5.0),
        rules=masks,
    )
    base = config(NARROW)
    session = decide_session(GateConfig.sealed(TARGET, (*base.policies, other)), ADA, "shop", 0.0)
    assert isinstance(session, SessionGrant)
    assert [sorted(mask.names) for mask in session.masks.columns] == [["ssn"]]
    assert [sorted(mask.detectors) for mask in session.masks.values] == [["payment-card"]]


@pytest.mark.parametrize(
    ("role", "address", "name"),
    [
        ("shop_app", "unix", "app"),
        ("shop_job", "10.255.0.1", "app"),
        ("shop_app", "::ffff:10.1.2.3", "app"),  # IPv4 through an IPv6 socket
        ("shop_app", "11.0.0.1", None),
        ("shop_app", "fd00::1", None),
        ("shop_app", "::ffff:11.0.0.1", None),
        ("SHOP_APP", "unix", None),
        ("shop_app ", "unix", None),
        ("", "unix", None),
        ("postgres", "unix", None),
        ("shop_app", "", None),
        ("shop_app", "UNIX", None),
        ("shop_app", "10.1.2.3/8", None),
        ("shop_app", "10.1.2", None),
        ("replicator", "fd00::1", "replica"),
        ("replicator", "fd00::1%eth0", "replica"),
        ("replicator", "192.0.2.7", "replica"),
        ("replicator", "192.0.2.8", None),
        ("replicator", "unix", None),
        ("odd", "10.0.0.1", None),  # a network with host bits is no network
    ],
)
def test_passthrough_is_by_exact_role_and_network(role: str, address: str, name: str | None) -> None:
    entry = decide_passthrough(config(NARROW), role, address)
    assert (entry.name if entry is not None else None) == name


def test_a_config_without_passthrough_passes_nobody() -> None:
    bare = GateConfig.sealed(msgspec.structs.replace(TARGET, passthrough=()), ())
    assert decide_passthrough(bare, "shop_app", "unix") is None
