"""What a principal with masked columns may not do, by what the classifier says of a statement. Cases in SQL are in tests/conformance/engine."""

from __future__ import annotations

import pytest

from sidegate.policy.decision import ColumnMask, ColumnUse, MaskStrategy
from sidegate.policy.masked import LEAKY_CATALOGS, mask_refusal
from sidegate.policy.reason import Reason
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import ColumnRef, RelationRef, SqlStatement, StatementKind

SOURCE = PolicyRule("shop", "p", "pii")
USERS = RelationRef("users", frozenset({"app"}))


def mask(*names: str, table: str | None = None, schema: str | None = None, use: ColumnUse = ColumnUse.REFUSED) -> ColumnMask:
    schemas = frozenset({schema}) if schema is not None else None
    tables = frozenset({table}) if table is not None else None
    return ColumnMask(frozenset(names), schemas, tables, MaskStrategy.REDACT, use, SOURCE)


def ddl(**fields: object) -> SqlStatement:
    return SqlStatement("alter", frozenset({StatementKind.DDL}), writes=frozenset({USERS}), **fields)  # type: ignore[arg-type]


def reason(masks: ColumnMask, statement: SqlStatement) -> Reason | None:
    refusal = mask_refusal((masks,), statement, None)
    return refusal.reason if refusal is not None else None


@pytest.mark.parametrize("use", list(ColumnUse))
def test_stored_code_is_refused_whatever_the_use(use: ColumnUse) -> None:
    assert reason(mask("ssn", use=use), ddl(stores_code="a trigger")) is Reason.MASK_NOT_PROVABLE
    assert reason(mask("ssn", use=use), ddl()) is None


@pytest.mark.parametrize("use", list(ColumnUse))
def test_a_masked_column_keeps_its_name_and_type(use: ColumnUse) -> None:
    assert reason(mask("ssn", use=use), ddl(columns_changed=frozenset({ColumnRef("ssn", USERS)}))) is Reason.MASKED_COLUMN_COPIED
    assert reason(mask("ssn", use=use), ddl(columns_changed=frozenset({ColumnRef("note", USERS)}))) is None


def test_a_table_keeps_its_name_where_a_mask_knows_it_by_that() -> None:
    renamed = ddl(columns_changed=frozenset({ColumnRef("*", USERS)}))
    assert reason(mask("ssn", table="users"), renamed) is Reason.MASKED_COLUMN_COPIED
    assert reason(mask("ssn", table="users", schema="app"), renamed) is Reason.MASKED_COLUMN_COPIED
    assert reason(mask("ssn", table="orders"), renamed) is None
    assert reason(mask("ssn"), renamed) is None


@pytest.mark.parametrize(
    ("column", "is_refused"),
    [
        (ColumnRef("ssn"), True),
        (ColumnRef("SSN", USERS), True),
        (ColumnRef("*", USERS), True),
        (ColumnRef("*"), True),
        (ColumnRef("ssn", RelationRef("Users", None)), True),
        (ColumnRef("ssn", RelationRef("users", frozenset())), True),
        (ColumnRef("ssn", RelationRef("users", frozenset({"app", "other"}))), True),
        (ColumnRef("ssn", RelationRef("users", frozenset({"other"}))), False),
        (ColumnRef("ssn", RelationRef("orders", None)), False),
        (ColumnRef("*", RelationRef("orders", None)), False),
        (ColumnRef("id", USERS), False),
    ],
)
def test_a_column_that_may_be_the_masked_one_may_not_steer(column: ColumnRef, is_refused: bool) -> None:
    statement = SqlStatement("select", frozenset({StatementKind.READ}), columns_steering=frozenset({column}))
    assert (reason(mask("ssn", table="users", schema="app"), statement) is Reason.MASKED_COLUMN_STEERS) is is_refused


@pytest.mark.parametrize("name", sorted(LEAKY_CATALOGS))
def test_catalogs_that_hold_values_are_refused(name: str) -> None:
    for schemas in (None, frozenset({"pg_catalog"}), frozenset({"pg_catalog", "app"})):
        statement = SqlStatement("select", frozenset({StatementKind.READ}), reads=frozenset({RelationRef(name, schemas)}))
        assert reason(mask("ssn"), statement) is Reason.MASK_NOT_PROVABLE


def test_somebodys_own_table_of_a_catalogs_name_is_no_catalog() -> None:
    reads = frozenset({RelationRef("pg_stats", frozenset({"app"}))})
    assert reason(mask("ssn"), SqlStatement("select", frozenset({StatementKind.READ}), reads=reads)) is None


def test_a_table_made_of_a_prepared_statement_is_refused() -> None:
    creates = frozenset({RelationRef("copy", frozenset({"app"}))})
    statement = SqlStatement("create", frozenset({StatementKind.DDL, StatementKind.SESSION}), creates=creates, executes="p")
    assert reason(mask("ssn"), statement) is Reason.MASKED_COLUMN_COPIED


def test_without_masked_columns_nothing_is_refused() -> None:
    statement = SqlStatement("do", frozenset({StatementKind.DO}), stores_code="a function")
    assert mask_refusal((), statement, "the anonymous code block") is None
