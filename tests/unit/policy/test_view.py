"""What a view remembers is bounded, is forgotten in time, and never answers for another statement, database or role."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest

from sidegate.policy.config import (
    AddressConfig,
    GateConfig,
    GrantConfig,
    PolicyConfig,
    Protocol,
    RuleAction,
    RuleConfig,
    StatementMatch,
    SubjectConfig,
    TargetConfig,
    ValidityConfig,
)
from sidegate.policy.decision import Allow, Decision, Deny, Measure, Permit
from sidegate.policy.engine import Engine, decide, static_key
from sidegate.policy.prepared import MAX_PREPARED, _recent, prepare
from sidegate.policy.principal import Principal
from sidegate.policy.source import Builtin
from sidegate.policy.statement import (
    Cascade,
    Impact,
    OutputColumn,
    RelationRef,
    SqlStatement,
    StatementContext,
    StatementKind,
    TransactionEnd,
)
from sidegate.policy.view import MAX_KEY_PARTS, MAX_REMEMBERED, MAX_TEXT_CHARACTERS

TARGET = TargetConfig("shop", "shop-db", Protocol.POSTGRES, "production", AddressConfig("127.0.0.1", 5432), 5432)
ADA = Principal("https://issuer.example", "1", "ada", frozenset({"ai"}))
CONTEXT = StatementContext("shop", "reader")
READ = SqlStatement("select 1", frozenset({StatementKind.READ}), schemas=frozenset({"app"}))
DELETE = SqlStatement(
    "delete", frozenset({StatementKind.DELETE}), writes=frozenset({RelationRef("t", frozenset({"app"}))}), affects_rows=True
)
CONFIG = GateConfig.sealed(
    TARGET,
    (
        PolicyConfig(
            "shop",
            "p",
            subjects=(SubjectConfig(groups=("ai",)),),
            validity=ValidityConfig(not_before=0.0, not_after=1000.0),
            grants=(GrantConfig(("shop",), "reader", ("Read", "Delete"), ("app",)),),
            rules=(RuleConfig("rows", RuleAction.DENY, statements=StatementMatch(("Delete",), rows_more_than=10)),),
        ),
    ),
)


def test_the_second_answer_is_the_first() -> None:
    view = Engine(CONFIG).for_principal(ADA, "shop", "reader")
    view.decide(READ, CONTEXT, 1.0)
    first = view.decide(READ, CONTEXT, 1.0)
    assert view.decide(READ, CONTEXT, 2.0) is first
    assert view.decide(replace(READ, text="select 2"), CONTEXT, 2.0) is first


def test_time_that_crosses_an_edge_changes_the_answer_in_both_directions() -> None:
    view = Engine(CONFIG).for_principal(ADA, "shop", "reader")
    answers: list[type[Decision]] = [
        type(view.decide(READ, CONTEXT, now)) for now in (-1.0, 0.0, 5.0, 999.9, 1000.0, 5.0, -1.0, 5.0)
    ]
    assert answers == [Deny, Allow, Allow, Allow, Deny, Allow, Deny, Allow]


def test_a_view_says_until_when_it_stands() -> None:
    view = Engine(CONFIG).for_principal(ADA, "shop", "reader")
    view.decide(READ, CONTEXT, 1.0)
    assert view.valid_until == 1000.0


def test_an_answer_with_an_impact_or_an_approval_is_never_remembered() -> None:
    view = Engine(CONFIG).for_principal(ADA, "shop", "reader")
    for _ in range(2):
        assert isinstance(view.decide(DELETE, CONTEXT, 1.0), Measure)
        assert isinstance(view.decide(DELETE, CONTEXT, 1.0, Impact(5)), Allow)
        assert isinstance(view.decide(DELETE, CONTEXT, 1.0, Impact(11)), Deny)
        assert isinstance(view.decide(DELETE, replace(CONTEXT, rows_so_far=6), 1.0, Impact(5)), Deny)


def test_another_database_or_role_is_judged_for_itself() -> None:
    view = Engine(CONFIG).for_principal(ADA, "shop", "reader")
    for _ in range(3):
        assert isinstance(view.decide(READ, CONTEXT, 1.0), Allow)
        assert isinstance(view.decide(READ, StatementContext("other", "reader"), 1.0), Deny)
        assert isinstance(view.decide(READ, StatementContext("shop", "owner"), 1.0), Deny)


def test_statements_that_differ_in_any_field_have_keys_of_their_own() -> None:
    fields = [name for name in SqlStatement.__dataclass_fields__ if name not in {"text", "normalised"}]
    assert len(static_key(READ) or ()) == len(fields)
    empty_drop = replace(READ, drops_tables=frozenset())
    assert static_key(empty_drop) != static_key(READ)
    others: dict[str, object] = {"ends_transaction": TransactionEnd.COMMIT, "cascade": Cascade(None, None)}
    for name in fields:
        other = others.get(name) or _another(getattr(empty_drop, name))
        assert static_key(replace(empty_drop, **{name: other})) != static_key(empty_drop)


def _another(value: object) -> object:
    match value:
        case bool():
            return not value
        case frozenset():
            return value | {"another"}
        case tuple():
            return (*value, OutputColumn("another", frozenset()))
        case _:
            return "another"


def test_memory_is_bounded_in_entries_text_and_width() -> None:
    view = Engine(CONFIG).for_principal(ADA, "shop", "reader")
    view.decide(READ, CONTEXT, 1.0)
    for number in range(3 * MAX_REMEMBERED):
        view.decide(replace(READ, reads=frozenset({RelationRef(f"t{number}")})), CONTEXT, 1.0)
        assert len(view._by_identity) <= MAX_REMEMBERED
        assert len(view._by_key) <= MAX_REMEMBERED
    long = replace(READ, text="x" * (MAX_TEXT_CHARACTERS + 1))
    assert isinstance(view.decide(long, CONTEXT, 1.0), Allow)
    assert id(long) not in view._by_identity
    wide = replace(READ, reads=frozenset(RelationRef(f"t{number}") for number in range(MAX_KEY_PARTS + 1)))
    assert static_key(wide) is None
    assert isinstance(view.decide(wide, CONTEXT, 1.0), Allow)
    assert id(wide) not in view._by_identity


def test_an_address_that_is_used_again_never_brings_back_an_old_answer() -> None:
    view = Engine(CONFIG).for_principal(ADA, "shop", "reader")
    for number in range(2000):
        kind = StatementKind.READ if number % 2 else StatementKind.DDL
        decision = view.decide(SqlStatement("x", frozenset({kind}), schemas=frozenset({"app"})), CONTEXT, 1.0)
        assert isinstance(decision, Allow) is (kind is StatementKind.READ)
        if number % 500 == 0:
            gc.collect()


def test_prepared_configs_are_bounded_and_found_by_identity() -> None:
    assert prepare(CONFIG) is prepare(CONFIG)
    for _ in range(3 * MAX_PREPARED):
        prepare(GateConfig.sealed(TARGET, ()))
        assert len(_recent) <= MAX_PREPARED
    assert isinstance(decide(CONFIG, ADA, READ, CONTEXT, 1.0), Allow)


def test_a_permit_comes_from_the_engine_and_from_nowhere_else() -> None:
    with pytest.raises(PermissionError):
        Permit(object(), "everything", Builtin("me"), "r")
