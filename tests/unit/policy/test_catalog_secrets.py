"""Who sees what the target's catalogs keep secret: masked for whoever isn't granted `Server` everywhere, and beside every other mask."""

from __future__ import annotations

import pytest

from sidegate.policy.catalog_secrets import SOURCE, without_catalog_masks
from sidegate.policy.config import (
    AddressConfig,
    ColumnMatch,
    GateConfig,
    GrantConfig,
    PolicyConfig,
    PolicyMode,
    Protocol,
    RuleAction,
    RuleConfig,
    SubjectConfig,
    TargetConfig,
)
from sidegate.policy.decision import Allow, Masks
from sidegate.policy.engine import Engine, decide, decide_all
from sidegate.policy.principal import Principal
from sidegate.policy.statement import ColumnRef, RelationRef, SqlStatement, StatementContext, StatementKind

TARGET = TargetConfig("shop", "shop-db", Protocol.POSTGRES, "production", AddressConfig("127.0.0.1", 5432), 5432)
ADA = Principal("https://issuer.example", "1", "ada", frozenset({"ai"}))
CONTEXT = StatementContext("shop", "reader")
SUBSCRIPTIONS = RelationRef("pg_subscription", frozenset({"pg_catalog"}))
READ = SqlStatement("select", frozenset({StatementKind.READ}))
SECRET = SqlStatement(
    "select subconninfo",
    frozenset({StatementKind.READ}),
    reads=frozenset({SUBSCRIPTIONS}),
    schemas=frozenset({"pg_catalog"}),
    secrets_output=frozenset({ColumnRef("subconninfo", SUBSCRIPTIONS)}),
)
SSN = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))


def config(
    *kinds: str, schemas: tuple[str, ...] = (), rules: tuple[RuleConfig, ...] = (), mode: PolicyMode = PolicyMode.ENFORCE
) -> GateConfig:
    grants = (GrantConfig(("shop",), "reader", ("Read",)), GrantConfig(("shop",), "reader", kinds, schemas))
    policy = PolicyConfig("shop", "one", mode=mode, subjects=(SubjectConfig(groups=("ai",)),), grants=grants, rules=rules)
    return GateConfig.sealed(TARGET, (policy,))


def masks_of(given: GateConfig, *statements: SqlStatement) -> Masks:
    decision = decide_all(given, ADA, statements, CONTEXT, 0.0)
    assert isinstance(decision, Allow)
    view = Engine(given).for_principal(ADA, "shop", "reader")
    assert view.decide_all(statements, CONTEXT, 0.0) == view.decide_all(statements, CONTEXT, 0.0)
    remembered = view.decide_all(statements, CONTEXT, 0.0)
    assert isinstance(remembered, Allow)
    assert remembered.masks == decision.masks
    if len(statements) == 1:
        alone = decide(given, ADA, statements[0], CONTEXT, 0.0)
        assert isinstance(alone, Allow)
        assert alone.masks == decision.masks
    return decision.masks


def names(masks: Masks) -> list[str]:
    return [name for mask in masks.columns for name in sorted(mask.names)]


@pytest.mark.parametrize("statements", [(SECRET,), (READ, SECRET), (SECRET, READ)])
def test_without_server_it_is_masked_wherever_it_stands_in_a_string(statements: tuple[SqlStatement, ...]) -> None:
    masks = masks_of(config("Read"), *statements)
    assert names(masks) == ["subconninfo"]
    (mask,) = masks.columns
    assert (mask.schemas, mask.tables, mask.source) == ({"pg_catalog"}, {"pg_subscription"}, SOURCE)


def test_other_statements_have_no_more_masks_than_the_policies_give() -> None:
    assert not masks_of(config("Read"), READ)


def test_it_stands_beside_the_policies_masks() -> None:
    masks = masks_of(config("Read", rules=(SSN,)), SECRET)
    assert names(masks) == ["ssn", "subconninfo"]
    assert names(without_catalog_masks(masks)) == ["ssn"]


def test_whoever_is_granted_server_everywhere_sees_it() -> None:
    assert not masks_of(config("Server"), SECRET)
    assert names(masks_of(config("Server", schemas=("app",)), SECRET)) == ["subconninfo"]


def test_a_policy_that_only_observes_masks_nothing() -> None:
    assert not masks_of(config("Read", mode=PolicyMode.OBSERVE), SECRET)
