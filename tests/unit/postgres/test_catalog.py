"""What the target's definitions say about masked columns: which derive from them, and which are compared with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidegate.policy.config import ApprovalConfig, ColumnMatch, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy
from sidegate.policy.engine import Engine, decide_session
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import ColumnRef, RelationRef
from sidegate.postgres.catalog import Catalog, MaskedView, Relation
from sidegate.postgres.effects import Hold
from tests.support.session import (
    ADA,
    NOW,
    Bench,
    asked,
    complete,
    config_of,
    error_of,
    policy,
    query,
    ready,
    target_error,
)

USERS, CONTACT, BOX, PLAIN, COMPUTED, FILTERED, OVER, JOINED, STARS, UNION, ORDERS = range(20000, 20011)
MASKS = Masks(
    columns=(ColumnMask(frozenset({"ssn"}), None, None, MaskStrategy.REDACT, ColumnUse.REFUSED, PolicyRule("ns", "p", "r")),)
)
RELATIONS = {
    USERS: ("users", "r", ("id", "name", "ssn")),
    CONTACT: ("contact_t", "c", ("phone", "ssn")),
    BOX: ("boxes", "r", ("id", "inside", "size")),
    PLAIN: ("plain_v", "v", ("id", "tax_id")),
    COMPUTED: ("computed_v", "v", ("id", "label")),
    FILTERED: ("filtered_v", "v", ("id",)),
    OVER: ("over_v", "v", ("key", "again")),
    JOINED: ("joined_v", "v", ("id", "who", "name")),
    STARS: ("stars_v", "v", ("id", "whole")),
    UNION: ("union_v", "v", ("id", "value")),
    ORDERS: ("orders", "r", ("id", "owner", "total")),
}
VIEWS = {
    PLAIN: "SELECT users.id, users.ssn AS tax_id FROM public.users;",
    COMPUTED: "SELECT users.id, upper(users.ssn) AS label FROM public.users;",
    FILTERED: "SELECT users.id FROM public.users WHERE (users.ssn ~~ '1%'::text);",
    OVER: "SELECT plain_v.id AS key, plain_v.tax_id AS again FROM public.plain_v;",
    JOINED: "SELECT o.id, u.ssn AS who, u.name FROM (public.orders o JOIN public.users u ON ((u.id = o.owner)));",
    STARS: "SELECT u.id, u.* AS whole FROM public.users u;",
    UNION: "SELECT users.id, users.ssn AS value FROM public.users UNION ALL SELECT orders.id, orders.total FROM public.orders;",
}


def b(*values: object) -> tuple[bytes, ...]:
    return tuple(str(value).encode() for value in values)


@pytest.fixture
def catalog() -> Catalog:
    columns = [
        b(oid, "public", name, kind, number, column)
        for oid, (name, kind, names) in RELATIONS.items()
        for number, column in enumerate(names, 1)
    ]
    definitions = [b(oid, text) for oid, text in VIEWS.items()]
    composites = [b(BOX, 2, CONTACT)]
    tells = [b(USERS, 1, USERS, 1), b(USERS, 3, USERS, 3), b(ORDERS, 2, USERS, 1), b(BOX, 3, USERS, 3)]
    return Catalog.decode(columns, definitions, [], 1, composites, tells, [b(ORDERS, 4 | 1), b(USERS, 16)])


@pytest.fixture
def view(catalog: Catalog) -> MaskedView:
    return catalog.masked_view(MASKS)


def column(relation: str, name: str) -> ColumnRef:
    return ColumnRef(name, RelationRef(relation, frozenset({"public"})))


@pytest.mark.parametrize(
    ("oid", "tainted"),
    [
        (PLAIN, [False, True]),
        (OVER, [False, True]),
        (JOINED, [False, True, False]),
        (COMPUTED, [False, True]),
        (FILTERED, [True]),
        (STARS, [True, True]),
        (UNION, [False, True]),
        (BOX, [False, True, False]),
    ],
)
def test_a_view_that_only_passes_columns_on_is_tainted_where_it_shows_a_masked_one(
    view: MaskedView, oid: int, tainted: list[bool]
) -> None:
    assert [view.is_tainted(oid, number) for number in range(1, len(tainted) + 1)] == tainted


@pytest.mark.parametrize(
    ("oid", "own"),
    [
        (USERS, [False, False, True]),
        (PLAIN, [False, True]),
        (OVER, [False, True]),
        (JOINED, [False, True, False]),
        (COMPUTED, [False, False]),
        (FILTERED, [False]),
        (STARS, [False, False]),
        (UNION, [False, False]),
        (BOX, [False, False, False]),
        (CONTACT, [False, True]),
    ],
)
def test_a_masked_column_is_its_own_where_a_table_holds_it_or_a_view_only_passes_it_on(
    view: MaskedView, oid: int, own: list[bool]
) -> None:
    assert [view.is_own(oid, number) for number in range(1, len(own) + 1)] == own
    assert not view.is_own(oid, 99)
    assert not view.is_own(1, 1)


@pytest.mark.parametrize(
    ("sql", "is_refused"),
    [
        ("INSERT INTO users VALUES (9)", True),
        ("INSERT INTO users DEFAULT VALUES", True),
        ("COPY users FROM STDIN", True),
        ("UPDATE plain_v SET tax_id = '1' WHERE id = 9", True),
        ("UPDATE boxes SET inside = '(1,2)' WHERE id = 9", True),
        ("INSERT INTO nowhere VALUES (9)", True),
        ("INSERT INTO orders VALUES (9)", False),
        ("INSERT INTO users (id, name) VALUES (9, 'n')", False),
    ],
)
def test_no_write_reaches_a_column_with_pseudonyms_by_another_name(catalog: Catalog, sql: str, is_refused: bool) -> None:
    masked = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),), strategy=MaskStrategy.PSEUDONYM)
    catalog = Catalog({oid: replace(catalog.find(oid) or Relation(0, "", ""), tells={}) for oid in RELATIONS}, 2)
    bench = Bench(policy(rules=(masked,)), catalog=catalog)
    sent = bench.client(query(sql))
    if is_refused:
        assert "MaskNotProvable" in error_of(bench.target(target_error(), ready()))["D"]
    else:
        assert sent[-1] == ("Q", sql.encode() + b"\0")


def test_a_generated_column_is_not_its_own() -> None:
    """What it is made of may be anybody's to write."""
    columns = [b(USERS, "public", "users", "r", number, name) for number, name in enumerate(("raw", "ssn"), 1)]
    catalog = Catalog.decode(columns, [], [b(USERS, 2, "lower(raw)")], 1)
    assert not catalog.masked_view(MASKS).is_own(USERS, 2)


def test_what_derives_from_a_masked_column_may_not_steer_and_its_neighbours_may(view: MaskedView) -> None:
    assert view.derives(column("over_v", "again"))
    assert view.derives(column("joined_v", "who"))
    assert view.derives(column("boxes", "inside"))
    assert view.derives(column("boxes", "*"))
    assert not view.derives(column("over_v", "key"))
    assert not view.derives(column("joined_v", "name"))
    assert not view.derives(column("boxes", "id"))


def test_a_write_that_a_unique_index_or_foreign_key_compares_with_a_masked_column_tells_its_values(view: MaskedView) -> None:
    assert view.tells(column("users", "ssn")) == "users.ssn"
    assert view.tells(column("users", "*")) == "users.ssn"
    assert view.tells(column("boxes", "size")) == "users.ssn"
    assert view.tells(column("plain_v", "tax_id")) == "users.ssn"
    assert view.tells(column("users", "id")) is None
    assert view.tells(column("orders", "owner")) is None
    assert view.tells(column("boxes", "id")) is None


@pytest.mark.parametrize(
    ("sql", "is_refused"),
    [
        ("INSERT INTO users (id, ssn) VALUES (9, '123-45-6789')", True),
        ("INSERT INTO users VALUES (9, 'n', '123-45-6789')", True),
        ("UPDATE users SET ssn = '123-45-6789' WHERE id = 9", True),
        ("INSERT INTO plain_v (tax_id) VALUES ('123-45-6789')", True),
        ("COPY users FROM STDIN", True),
        ("INSERT INTO users (id, name) VALUES (9, 'n')", False),
        ("SELECT id FROM plain_v ORDER BY id", False),
        ("SELECT id FROM plain_v WHERE tax_id > '5'", True),
    ],
)
def test_a_session_refuses_what_would_tell_whether_a_masked_value_exists(catalog: Catalog, sql: str, is_refused: bool) -> None:
    masked = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
    bench = Bench(policy(rules=(masked,)), catalog=catalog)
    sent = bench.client(query(sql))
    if is_refused:
        assert "MaskedColumnSteers" in error_of(bench.target(target_error(), ready()))["D"]
    else:
        assert sent[-1] == ("Q", sql.encode() + b"\0")


MASKED = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
BIG_DELETES = RuleConfig(
    "big-deletes", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",), rows_more_than=100),
    approval=ApprovalConfig(approver_groups=("dba",)),
)  # fmt: skip


class TestDeletionsThatFollow:
    """`orders` has a trigger on INSERT, `users` a rule on UPDATE."""

    def run(self, bench: Bench, sql: str, tag: str) -> None:
        assert asked(bench.client(query(sql))) == "BEGIN"
        bench.answer_ask(tag="BEGIN", status="T")
        assert bench.answer_ask(tag="SELECT 0", status="T") == [("Q", sql.encode() + b"\0")]
        bench.target(complete(tag), ready("T"))
        bench.sent()

    def test_what_a_trigger_deletes_counts_against_the_limit(self, catalog: Catalog) -> None:
        bench = Bench(policy([MASKED, BIG_DELETES]), catalog=catalog)
        self.run(bench, "insert into orders values (1)", "INSERT 0 1")
        rows = ((b"public.orders", b"1", b"0", b"0"), (b"public.bulk", b"0", b"0", b"400"))
        assert asked(bench.answer_ask(*rows, status="T")) == "ROLLBACK"
        bench.answer_ask(tag="ROLLBACK")
        (hold,) = [action for action in bench.actions if isinstance(action, Hold)]
        assert hold.request.impact is not None
        assert hold.request.impact.rows_affected == 400

    def test_what_it_inserts_itself_does_not(self, catalog: Catalog) -> None:
        bench = Bench(policy([MASKED, BIG_DELETES]), catalog=catalog)
        self.run(bench, "insert into orders select from generate_series(1, 500)", "INSERT 0 500")
        assert asked(bench.answer_ask((b"public.orders", b"500", b"0", b"0"), status="T")) == "COMMIT"
        bench.answer_ask(tag="COMMIT")
        assert bench.session.judge.rows_so_far == 0

    @pytest.mark.parametrize(
        "sql", ["insert into users (id) values (1)", "update orders set total = 1", "select 1", "update boxes set id = 1"]
    )
    def test_what_runs_no_trigger_is_not_measured(self, catalog: Catalog, sql: str) -> None:
        bench = Bench(policy([MASKED, BIG_DELETES]), catalog=catalog)
        assert bench.client(query(sql)) == [("Q", sql.encode() + b"\0")]

    def test_changes_through_a_view_run_the_triggers_of_its_table(self, catalog: Catalog) -> None:
        bench = Bench(policy([MASKED, BIG_DELETES]), catalog=catalog)
        assert asked(bench.client(query("update plain_v set id = 1"))) == "BEGIN"

    def test_where_deletes_are_not_granted_a_limit_on_them_holds_nothing_up(self, catalog: Catalog) -> None:
        bench = Bench(policy([MASKED, BIG_DELETES], kinds=("Insert",)), catalog=catalog)
        assert bench.client(query("insert into orders values (1)")) == [("Q", b"insert into orders values (1)\0")]

    def test_a_copy_that_may_delete_cannot_be_taken_back_and_is_refused(self, catalog: Catalog) -> None:
        bench = Bench(policy([MASKED, BIG_DELETES]), catalog=catalog)
        bench.client(query("copy orders from stdin"))
        assert "ImpactNotMeasurable" in error_of(bench.target(target_error(), ready()))["D"]

    def test_a_limit_on_deleted_rows_needs_no_mask_to_count_what_triggers_delete(self, catalog: Catalog) -> None:
        bench = Bench(policy([BIG_DELETES]), catalog=catalog)
        self.run(bench, "insert into orders values (1)", "INSERT 0 1")
        rows = ((b"public.orders", b"1", b"0", b"0"), (b"public.bulk", b"0", b"0", b"400"))
        assert asked(bench.answer_ask(*rows, status="T")) == "ROLLBACK"

    @pytest.mark.parametrize(
        ("rules", "is_needed"),
        [
            ([], False),
            ([RuleConfig("many", RuleAction.DENY, StatementMatch(kinds=("Update",), rows_more_than=1))], False),
            ([RuleConfig("no-deletes", RuleAction.DENY, StatementMatch(kinds=("Delete",)))], False),
            ([RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))], False),
            ([BIG_DELETES], True),
            ([RuleConfig("many", RuleAction.DENY, StatementMatch(kinds=("Delete",), rows_more_than=1))], True),
            ([MASKED], True),
        ],
    )
    def test_only_column_masks_and_limits_on_deleted_rows_need_the_definitions(
        self, rules: list[RuleConfig], is_needed: bool
    ) -> None:
        bench = Bench(policy(rules))
        bench.client(query("select 1"))
        assert (bench.session.judge.catalog is not None) is is_needed

    def test_a_limit_that_comes_with_a_new_revision_needs_the_definitions(self, catalog: Catalog) -> None:
        bench = Bench(policy(), catalog=catalog)
        bench.client(query("select 1"))
        fresh = config_of(policy([BIG_DELETES]))
        bench.take(bench.session.config_changed(fresh, Engine(fresh), decide_session(fresh, ADA, "shop", NOW), NOW))
        bench.target(complete("SELECT 1"), ready())
        assert asked(bench.client(query("insert into orders values (1)"))) == "BEGIN"

    def test_without_the_definitions_a_limit_on_deleted_rows_ends_the_session(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        bench.take(bench.session.catalog_refreshed(None, NOW))
        assert "ImpactNotMeasurable" in error_of(bench.seen())["D"]
