"""What a classifier that says too little, or a config that is malformed, leads to: less, never more. Cases in SQL are in tests/conformance/engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidegate.policy.config import (
    AddressConfig,
    CallerMatch,
    ColumnMatch,
    GateConfig,
    GrantConfig,
    PolicyConfig,
    Protocol,
    RuleAction,
    RuleConfig,
    StatementMatch,
    SubjectConfig,
    TargetConfig,
)
from sidegate.policy.decision import Allow, Decision, Deny, RequireApproval
from sidegate.policy.engine import decide
from sidegate.policy.principal import Principal
from sidegate.policy.reason import Reason
from sidegate.policy.statement import ColumnRef, FunctionRef, RelationRef, SqlStatement, StatementContext, StatementKind

K = StatementKind
TARGET = TargetConfig("shop", "shop-db", Protocol.POSTGRES, "production", AddressConfig("127.0.0.1", 5432), 5432)
ADA = Principal("https://issuer.example", "1", "ada", frozenset({"ai"}))
CONTEXT = StatementContext("shop", "reader")
AI = SubjectConfig(groups=("ai",))
APP = frozenset({"app"})


def grant(*kinds: str, schemas: tuple[str, ...] = (), functions: tuple[str, ...] = ()) -> GrantConfig:
    return GrantConfig(("shop",), "reader", kinds, schemas, functions)


def ask(
    statement: SqlStatement, grants: tuple[GrantConfig, ...], *rules: RuleConfig, subjects: tuple[SubjectConfig, ...] = (AI,)
) -> Decision:
    limits = PolicyConfig("shop", "limits", subjects=subjects, rules=rules)
    return decide(
        GateConfig.sealed(TARGET, (PolicyConfig("shop", "grants", subjects=(AI,), grants=grants), limits)),
        ADA,
        statement,
        CONTEXT,
        0.0,
    )


def reason(decision: Decision) -> Reason | None:
    return decision.reason if isinstance(decision, Deny) else None


def read(**fields: object) -> SqlStatement:
    return SqlStatement("select", frozenset({K.READ}), **fields)  # type: ignore[arg-type]


def test_a_statement_of_no_kind_is_unknown() -> None:
    assert reason(ask(SqlStatement("?", frozenset()), (grant(*K),))) is Reason.STATEMENT_UNKNOWN


def test_unknown_is_never_granted_even_by_a_config_that_says_so() -> None:
    assert reason(ask(SqlStatement("?", frozenset({K.UNKNOWN, K.READ})), (grant(*K),))) is Reason.STATEMENT_UNKNOWN


def test_a_danger_in_the_catalogs_takes_away_what_comes_with_reading() -> None:
    catalog = read(schemas=frozenset({"pg_catalog"}))
    grants = (grant("Read", "Server", schemas=("app",)),)
    assert isinstance(ask(catalog, grants), Allow)
    assert reason(ask(replace(catalog, dangers=("reads `pg_authid`",)), grants)) is Reason.NO_GRANT


def test_a_call_of_nothing_that_is_named_is_not_covered_by_names() -> None:
    call = SqlStatement("call", frozenset({K.CALL}), schemas=APP)
    grants = (grant("Read", functions=("app.*",)),)
    assert reason(ask(call, grants)) is Reason.NO_GRANT
    assert isinstance(ask(replace(call, functions=frozenset({FunctionRef("f", APP)})), grants), Allow)


def test_a_call_of_nothing_that_is_named_may_be_what_a_rule_is_about() -> None:
    call = SqlStatement("call", frozenset({K.CALL}), schemas=APP)
    deny = RuleConfig("no-ddl", RuleAction.DENY, statements=StatementMatch(("DDL",)))
    assert reason(ask(call, (grant("Call"),), deny)) is Reason.DENIED_BY_RULE


def test_writing_where_nobody_knows_needs_a_grant_for_everywhere() -> None:
    insert = SqlStatement("insert", frozenset({K.INSERT}), writes=frozenset({RelationRef("t")}), schemas=APP, affects_rows=True)
    for vague in (insert, replace(insert, writes=frozenset({RelationRef("t", frozenset())}))):
        assert reason(ask(vague, (grant("Insert", schemas=("app",)),))) is Reason.NO_GRANT
        assert isinstance(ask(vague, (grant("Insert"),)), Allow)


def test_an_approval_of_everything_holds_no_transaction_control() -> None:
    hold = RuleConfig("outside", RuleAction.REQUIRE_APPROVAL, caller=CallerMatch((), ("office",)))
    for kinds in ({K.TRANSACTION}, {K.SESSION}, {K.CURSOR, K.SESSION}):
        assert isinstance(ask(SqlStatement("begin", frozenset(kinds)), (grant("Read"),), hold), Allow)
    assert isinstance(ask(read(), (grant("Read"),), hold), RequireApproval)
    assert isinstance(ask(read(), (grant("Read"),), replace_action(hold)), Deny)


def replace_action(rule: RuleConfig) -> RuleConfig:
    return RuleConfig(rule.name, RuleAction.DENY, caller=rule.caller)


def test_an_approval_without_terms_can_be_given_by_nobody() -> None:
    held = ask(read(), (grant("Read"),), RuleConfig("hold", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(("Read",))))
    assert isinstance(held, RequireApproval)
    assert (held.terms.approver_groups, held.terms.approver_users) == (frozenset(), frozenset())
    assert held.terms.required == 1


@pytest.mark.parametrize("subjects", [(), (SubjectConfig(),)])
def test_a_policy_that_names_nobody_grants_nothing_and_limits_everybody(subjects: tuple[SubjectConfig, ...]) -> None:
    granting = PolicyConfig("shop", "p", subjects=subjects, grants=(grant("Read"),))
    assert reason(decide(GateConfig.sealed(TARGET, (granting,)), ADA, read(), CONTEXT, 0.0)) is Reason.NO_GRANT
    deny = RuleConfig("deny", RuleAction.DENY, statements=StatementMatch(("Read",)))
    assert reason(ask(read(), (grant("Read"),), deny, subjects=subjects)) is Reason.DENIED_BY_RULE


def test_a_kind_from_a_newer_version_gives_nothing_and_takes_everything() -> None:
    assert reason(ask(read(), (grant("Teleport"),))) is Reason.NO_GRANT
    deny = RuleConfig("deny", RuleAction.DENY, statements=StatementMatch(("Teleport",)))
    assert reason(ask(read(), (grant("Read"),), deny)) is Reason.DENIED_BY_RULE


def test_a_mask_with_conditions_masks_all_the_same() -> None:
    mask = RuleConfig(
        "pii",
        RuleAction.MASK,
        columns=(ColumnMatch("ssn"),),
        statements=StatementMatch(("Delete",), ("other",)),
        caller=CallerMatch(("lab",)),
    )
    allowed = ask(read(), (grant("Read"),), mask)
    assert isinstance(allowed, Allow)
    assert [sorted(each.names) for each in allowed.masks.columns] == [["ssn"]]


def test_what_a_new_table_takes_from_the_output_is_a_copy() -> None:
    copy = SqlStatement(
        "create",
        frozenset({K.DDL, K.READ}),
        creates=frozenset({RelationRef("copy", APP)}),
        schemas=APP,
        columns_output=frozenset({ColumnRef("ssn")}),
    )
    mask = RuleConfig("pii", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
    assert reason(ask(copy, (grant("Read", "DDL"),), mask)) is Reason.MASKED_COLUMN_COPIED


def test_a_denial_says_the_owners_words_and_otherwise_the_reasons() -> None:
    own = RuleConfig("deny", RuleAction.DENY, statements=StatementMatch(("Read",)), message="ask Eve")
    plain = RuleConfig("deny", RuleAction.DENY, statements=StatementMatch(("Read",)))
    for rule, hint in ((own, "ask Eve"), (plain, Reason.DENIED_BY_RULE.way_forward)):
        denied = ask(read(), (grant("Read"),), rule)
        assert isinstance(denied, Deny)
        assert denied.hint == hint
