"""Resources become a gate config: everything written out, nothing secret, the same whatever the order."""

from __future__ import annotations

import pytest

from sidegate.policy.compile import Placement, binds, compile_target
from sidegate.policy.config import (
    AddressConfig,
    ApprovalConfig,
    CallerMatch,
    ColumnMatch,
    GateConfig,
    GrantConfig,
    PolicyMode,
    StatementMatch,
    WindowConfig,
    decode_config,
    encode_config,
)
from sidegate.policy.decision import ColumnUse, MaskStrategy
from tests.unit.policy.resources import policy, target

PLACEMENT = Placement("/secrets/")


def compiled(*policies: object, **spec: object) -> GateConfig:
    result = compile_target(target(**spec), policies, PLACEMENT)  # type: ignore[arg-type]
    assert result.config is not None, result.findings
    return result.config


def test_secrets_become_names_of_files() -> None:
    config = compiled(policy()).target
    assert config.client_tls.cert_file == "/secrets/gate-tls/tls.crt"
    assert config.client_tls.key_file == "/secrets/gate-tls/tls.key"
    assert config.target_tls.ca_file == "/secrets/db-ca/ca.crt"
    assert [(each.role, each.username, each.password_file) for each in config.credentials] == [
        ("readonly", "readonly", "/secrets/readonly/password"),
        ("readwrite", "rw", "/secrets/readwrite/password"),
    ]


def test_a_placement_overrides_address_and_files() -> None:
    placement = Placement("/secrets", AddressConfig("/run/postgresql", 5432), "/c.pem", "/k.pem", "/ca.pem")
    config = compile_target(target(), [policy()], placement).config
    assert config is not None
    assert (config.target.address, config.target.port) == (AddressConfig("/run/postgresql", 5432), 5432)
    assert (config.target.client_tls.cert_file, config.target.client_tls.key_file) == ("/c.pem", "/k.pem")
    assert config.target.target_tls.ca_file == "/ca.pem"


def test_a_target_gated_from_inside_listens_on_loopback() -> None:
    config = compiled(policy(), endpoint=None, selector={"matchLabels": {"app": "db"}})
    assert config.target.address == AddressConfig("127.0.0.1", 5432)


def test_a_policy_is_carried_over_whole() -> None:
    config = compiled(
        policy(
            mode="Observe",
            subjects=[{"groups": ["ai"], "agents": ["cursor"], "expression": "claims.x == 1"}, {"users": ["ada"]}],
            validity={
                "notBefore": "2026-11-01T00:00:00+01:00",
                "windows": [{"days": ["Fri-Mon", "Sat"], "from": "22:00", "to": "06:00", "timeZone": "Europe/Berlin"}],
            },
            grants=[
                {
                    "postgres": {
                        "databases": ["Shop-*"],
                        "role": "readwrite",
                        "allow": ["Read", "Call"],
                        "schemas": ["App", '"Odd Name"', "x_*"],
                        "functions": ["App.Total_*"],
                    }
                }
            ],
            rules=[
                {
                    "name": "hold",
                    "action": "RequireApproval",
                    "match": {
                        "statements": {
                            "kinds": ["Delete"], "databases": ["Shop"], "schemas": ["Prod"], "tables": ["Prod.Orders", "users"],
                            "functions": ["f"], "rowsAffected": {"moreThan": 7},
                        },
                        "caller": {"notEnvironments": ["office"]},
                    },
                    "approval": {"approvers": {"groups": ["dba"], "users": ["eve"]}, "required": 2, "expiresAfter": "2h"},
                    "message": "ask first",
                },
                {
                    "name": "pii",
                    "action": "Mask",
                    "match": {"columns": ["SSN", "Users.Email", 'App.Users."Odd"']},
                    "mask": {"strategy": "Hash", "use": "Allowed"},
                },
                {"name": "cards", "action": "Mask", "match": {"values": {"detectors": ["payment-card"]}}},
            ],
        )
    ).policies[0]  # fmt: skip
    assert config.mode is PolicyMode.OBSERVE
    assert [(each.groups, each.users, each.agents, each.expression) for each in config.subjects] == [
        (("ai",), (), ("cursor",), "claims.x == 1"),
        ((), ("ada",), (), None),
    ]
    assert config.validity.not_before == 1793487600.0
    assert config.validity.windows == (WindowConfig((0, 4, 5, 6), 1320, 360, "Europe/Berlin"),)
    assert config.grants == (
        GrantConfig(("Shop-*",), "readwrite", ("Read", "Call"), ("app", "Odd Name", "x_*"), ("app.total_*",)),
    )
    hold, pii, cards = config.rules
    assert hold.statements == StatementMatch(("Delete",), ("Shop",), ("prod",), ("prod.orders", "users"), ("f",), 7)
    assert hold.caller == CallerMatch((), ("office",))
    assert hold.approval == ApprovalConfig(("dba",), ("eve",), 2, 7200.0)
    assert hold.message == "ask first"
    assert pii.columns == (ColumnMatch("ssn"), ColumnMatch("email", "users"), ColumnMatch("Odd", "users", "app"))
    assert (pii.strategy, pii.use) == (MaskStrategy.HASH, ColumnUse.ALLOWED)
    assert (cards.detectors, cards.strategy, cards.use) == (("payment-card",), MaskStrategy.REDACT, ColumnUse.REFUSED)


def test_the_same_resources_give_the_same_bytes_in_any_order() -> None:
    first, second = policy("a"), policy("b", subjects=[{"users": ["ada"]}])
    assert encode_config(compiled(first, second)) == encode_config(compiled(second, first))


def test_a_compiled_config_is_what_a_gate_reads() -> None:
    config = compiled(policy())
    assert decode_config(encode_config(config)) == config


@pytest.mark.parametrize(
    ("targets", "is_bound"),
    [
        ({"names": ["shop-db"]}, True),
        ({"names": ["other"]}, False),
        ({"environments": ["production"]}, True),
        ({"environments": ["test"]}, False),
        ({"selector": {"matchLabels": {"tier": "gold"}}}, True),
        ({"selector": {"matchLabels": {"tier": "tin"}}}, False),
        ({"names": ["shop-db"], "environments": ["test"]}, False),
        ({"names": ["shop-db"], "selector": {"matchLabels": {"tier": "tin"}}}, False),
    ],
)
def test_everything_that_targets_gives_must_match(targets: dict[str, object], is_bound: bool) -> None:
    assert binds(policy(targets=targets), target()) is is_bound
    assert bool(compiled(policy(targets=targets)).policies) is is_bound


def test_a_policy_of_another_namespace_is_not_bound() -> None:
    stranger = policy()
    stranger = stranger.model_copy(update={"metadata": stranger.metadata.model_copy(update={"namespace": "elsewhere"})})
    assert not binds(stranger, target())
