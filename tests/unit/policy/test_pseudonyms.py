"""Definitions that could bring chosen values to where they are shown as pseudonyms."""

from __future__ import annotations

import pytest

from sidegate.policy.decision import ColumnMask, ColumnUse, MaskStrategy
from sidegate.policy.pseudonyms import pseudonym_refusal
from sidegate.policy.source import PolicyRule
from sidegate.sql import Analysis, analyse

SOURCE = PolicyRule("ns", "policy", "ids")
IN_SCHEMA = ColumnMask(frozenset({"ssn"}), frozenset({"ids"}), None, MaskStrategy.PSEUDONYM, ColumnUse.REFUSED, SOURCE)


def is_refused(text: str, path: tuple[str, ...] | None = ("ids",)) -> bool:
    analysis = analyse(text, path)
    assert isinstance(analysis, Analysis)
    return any(pseudonym_refusal((IN_SCHEMA,), statement) is not None for statement in analysis.statements)


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE scratch.other SET SCHEMA ids",
        'ALTER TABLE scratch.other SET SCHEMA "IDS"',
        "ALTER TABLE parent ATTACH PARTITION scratch.other FOR VALUES IN (7)",
        "ALTER TABLE scratch.other INHERIT people",
        "CREATE TABLE ids.taken AS TABLE scratch.other",
        "SELECT * INTO taken FROM scratch.other",
        "CREATE TABLE ids.taken () INHERITS (scratch.other)",
        "CREATE MATERIALIZED VIEW ids.taken AS TABLE scratch.other",
    ],
)
def test_no_table_comes_from_another_schema_to_where_columns_are_shown_as_pseudonyms(text: str) -> None:
    assert is_refused(text)


def test_without_a_search_path_a_table_could_come_from_anywhere() -> None:
    assert is_refused("ALTER TABLE other INHERIT people", None)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE INDEX i ON people (id)",
        "ALTER TABLE ids.people ADD COLUMN note pg_catalog.text",
        "CREATE TABLE scratch.taken AS TABLE scratch.other",
        "DROP TABLE ids.old CASCADE",
    ],
)
def test_definitions_within_one_schema_are_let_through(text: str) -> None:
    assert not is_refused(text)
