"""Definitions that a session changes itself: what it may not change under masks, and what counts until its transaction is over."""

from __future__ import annotations

import pytest

from sidegate.policy.config import ApprovalConfig, ColumnMatch, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.statement import StatementKind
from sidegate.postgres.catalog import Catalog
from sidegate.sql import Analysis, analyse
from tests.support.session import Bench, asked, complete, error_of, policy, query, ready, target_error

USERS, CONTACT, BOX, DIGITS, REQUESTS, SHOWN, SETTINGS = range(20000, 20007)
PG_CLASS, PG_SETTINGS = 1259, 12100
RELATIONS = {
    USERS: ("public", "users", "r", ("id", "name", "ssn")),
    CONTACT: ("public", "contact_t", "c", ("phone", "ssn")),
    BOX: ("public", "boxes", "r", ("id", "inside")),
    DIGITS: ("public", "generated", "r", ("id", "ssn", "digits")),
    REQUESTS: ("public", "requests", "r", ("id",)),
    SHOWN: ("public", "tables_v", "v", ("oid", "relname")),
    SETTINGS: ("public", "over_v", "v", ("oid",)),
    PG_CLASS: ("pg_catalog", "pg_class", "r", ("oid", "relname")),
}
VIEWS = {SHOWN: "SELECT pg_class.oid, pg_class.relname FROM pg_class;", SETTINGS: "SELECT tables_v.oid FROM public.tables_v;"}
MASKED = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
BIG_DELETES = RuleConfig(
    "big-deletes", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",), rows_more_than=100),
    approval=ApprovalConfig(approver_groups=("dba",)),
)  # fmt: skip


def b(*values: object) -> tuple[bytes, ...]:
    return tuple(str(value).encode() for value in values)


@pytest.fixture
def catalog() -> Catalog:
    columns = [
        b(oid, schema, name, kind, number, column)
        for oid, (schema, name, kind, names) in RELATIONS.items()
        for number, column in enumerate(names, 1)
    ]
    generated = [b(DIGITS, 3, "replace(ssn, '-'::text, ''::text)")]
    return Catalog.decode(columns, [b(*each) for each in VIEWS.items()], generated, 1, [b(BOX, 2, CONTACT)], [], [b(REQUESTS, 4)])


def refused(bench: Bench, sql: str) -> str | None:
    """The reason, or None when it went to the target."""
    sent = bench.client(query(sql))
    if sent[-1] == ("Q", sql.encode() + b"\0"):
        return None
    return error_of(bench.target(target_error(), ready()))["D"]


class TestMaskedColumnsStayWhatTheyAre:
    @pytest.mark.parametrize(
        "sql",
        [
            "alter table generated alter column digits drop expression",
            "alter table boxes alter column inside type text",
            "alter table boxes rename column inside to other",
            "alter table parent attach partition generated for values in ('guess')",
            "alter table generated inherit parent",
            "cluster users using users_ssn",
            "cluster users",
            "cluster",
        ],
    )
    def test_what_would_show_a_masked_column_by_another_name_or_by_the_order_of_rows_is_refused(
        self, catalog: Catalog, sql: str
    ) -> None:
        assert "MaskedColumnCopied" in (refused(Bench(policy([MASKED]), catalog=catalog), sql) or "")

    @pytest.mark.parametrize(
        "sql",
        [
            "alter table users rename to people",
            "alter table generated set schema other",
            "alter table boxes rename column id to number",
            "alter table users alter column name type varchar(10)",
            "alter table parent attach partition requests default",
            "cluster requests using requests_pkey",
        ],
    )
    def test_what_shows_nothing_of_them_passes(self, catalog: Catalog, sql: str) -> None:
        assert refused(Bench(policy([MASKED]), catalog=catalog), sql) is None

    @pytest.mark.parametrize(
        "sql",
        [
            "alter table generated rename to renamed; select digits > '5' from renamed",
            "alter table generated rename to renamed; select id from renamed order by digits",
            "alter table generated set schema other; select digits > '5' from other.generated",
            "alter table generated rename to once; alter table once rename to twice; select digits > '5' from twice",
            "alter table generated rename to renamed; alter table renamed alter column digits drop expression",
            "alter table users rename to users2; alter table generated rename to users; select digits > '5' from users",
            "create table pp (id int) partition by list (id); alter table generated rename to z; alter table pp attach partition z default",
        ],
    )
    def test_a_name_given_in_the_same_string_stands_for_what_it_was_before(self, catalog: Catalog, sql: str) -> None:
        assert "MaskedColumn" in (refused(Bench(policy([MASKED]), catalog=catalog), sql) or "")

    @pytest.mark.parametrize(
        "sql",
        [
            "alter table requests rename to asked; select max(id) from asked",
            "create table p (i int) partition by list (i); create table p1 (i int); alter table p attach partition p1 default",
            "alter schema one rename to two",
            "alter table requests rename to asked; alter table asked rename column id to number",
        ],
    )
    def test_a_name_given_to_what_holds_nothing_masked_is_as_good_as_another(self, catalog: Catalog, sql: str) -> None:
        assert refused(Bench(policy([MASKED]), catalog=catalog), sql) is None


class TestSystemCatalogs:
    @pytest.mark.parametrize("name", ["tables_v", "over_v"])
    def test_a_view_of_them_may_not_be_written_through(self, catalog: Catalog, name: str) -> None:
        changes = policy([BIG_DELETES], kinds=("Read", "Update", "Delete"))
        assert "NoGrant" in (refused(Bench(changes, catalog=catalog), f"update {name} set oid = 1") or "")
        assert refused(Bench(changes, catalog=catalog), f"select oid from {name}") is None
        assert refused(Bench(changes, catalog=catalog), "update users set id = 1") is None

    @pytest.mark.parametrize(
        ("sql", "is_dangerous"),
        [
            ("create view v as select name, setting from pg_settings", True),
            ("create or replace view v as select attname from pg_catalog.pg_attribute where attnum > 0 order by 1", True),
            ("create schema s create view v as select relname from pg_class", True),
            ("create view v as select relkind, count(*) from pg_class group by 1", False),
            ("create view v as select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace", False),
            ("create view v as select id from users", False),
        ],
    )
    def test_a_view_that_would_pass_changes_on_to_them_needs_a_grant_of_server(self, sql: str, is_dangerous: bool) -> None:
        analysis = analyse(sql, ("public",))
        assert isinstance(analysis, Analysis)
        assert (StatementKind.SERVER in analysis.statements[0].kinds) is is_dangerous

    @pytest.mark.parametrize(
        "sql",
        [
            "alter function pg_catalog.query_to_xml(text, bool, bool, text) rename to harmless",
            "alter function query_to_xml(text, bool, bool, text) rename to lower",
            "alter function mine(int) rename to upper",
            "alter aggregate mine(int) rename to count",
            "alter function mine(int) set schema pg_catalog",
            "alter table orders set schema pg_catalog",
            "alter table orders set schema information_schema",
            'alter collation pg_catalog."C" rename to other',
            "create function upper(int) returns text language sql return 'x'",
        ],
    )
    def test_nothing_is_made_to_pass_as_their_own(self, sql: str) -> None:
        analysis = analyse(sql, ("public",))
        assert isinstance(analysis, Analysis)
        assert StatementKind.SERVER in analysis.statements[0].kinds

    def test_a_routine_by_another_name_is_stored_code(self) -> None:
        analysis = analyse("alter function mine(int) rename to other", ("public",))
        assert isinstance(analysis, Analysis)
        assert analysis.statements[0].stores_code is not None
        assert StatementKind.SERVER not in analysis.statements[0].kinds


class TestTriggersThatTheCatalogDoesNotKnowYet:
    """`requests` has a trigger on INSERT, and nothing else has."""

    def begun(self, catalog: Catalog, definition: str) -> Bench:
        bench = Bench(policy([BIG_DELETES]), catalog=catalog)
        for sql, tag in (("begin", "BEGIN"), (definition, "ALTER TABLE")):
            assert refused(bench, sql) is None
            bench.target(complete(tag), ready("T"))
        bench.take(bench.session.catalog_refreshed(catalog, bench.session.now))  # which sees nothing of an open transaction
        return bench

    @pytest.mark.parametrize(
        ("definition", "insert"),
        [
            ("alter table requests rename to harmless", "insert into harmless values (1)"),
            ("alter table requests rename to users", "insert into users (id) values (1)"),
            ("alter table requests set schema other", "insert into other.requests values (1)"),
            ("alter table parent attach partition requests default", "insert into parent values (1)"),
            ("create view v as select id from requests", "insert into v values (1)"),
            (
                "create table part partition of parent default",
                "merge into part using users on false when not matched then do nothing",
            ),
        ],
    )
    def test_a_change_by_a_name_that_moved_in_the_open_transaction_is_measured(
        self, catalog: Catalog, definition: str, insert: str
    ) -> None:
        bench = self.begun(catalog, definition)
        assert asked(bench.client(query(insert))).startswith("SAVEPOINT")

    def test_a_new_table_alone_moves_nothing(self, catalog: Catalog) -> None:
        bench = self.begun(catalog, "create table fresh (id int)")
        assert bench.client(query("insert into fresh values (1)")) == [("Q", b"insert into fresh values (1)\0")]

    def test_the_definitions_are_read_again_when_the_transaction_is_over(self, catalog: Catalog) -> None:
        bench = self.begun(catalog, "alter table requests rename to harmless")
        assert not bench.session.judge.catalog_is_stale
        assert refused(bench, "commit") is None
        bench.target(complete("COMMIT"), ready())
        assert bench.session.judge.catalog_is_stale

    def test_several_in_one_string_count_in_their_order(self, catalog: Catalog) -> None:
        bench = Bench(policy([BIG_DELETES]), catalog=catalog)
        why = refused(bench, "alter table requests rename to harmless; insert into harmless values (1)")
        assert "ImpactNotMeasurable" in (why or "")
