"""Recorded statements under other policies: what changes, what doesn't, and what can't be told. Recordings are made by a session core and
the real recorder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from sidegate.audit.events import SessionFields
from sidegate.policy.compared import Fate, Group
from sidegate.policy.config import (
    ApprovalConfig,
    ColumnMatch,
    GateConfig,
    GrantConfig,
    HoldAt,
    PassthroughConfig,
    PolicyConfig,
    PolicyMode,
    RuleAction,
    RuleConfig,
    StatementMatch,
    SubjectConfig,
    ValidityConfig,
)
from sidegate.policy.decision import ColumnUse, MaskStrategy
from sidegate.policy.engine import Engine
from sidegate.policy.reason import Reason
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.redecide import Redecided, Resession, Untold
from sidegate.record.asked import AskedStatement, read_asked
from sidegate.record.entries import OpenedRecord
from sidegate.record.reader import RecordingProblem, read_recording
from sidegate.sql import StatementCache
from tests.support.recorded import RecordedBench
from tests.support.session import (
    BIND_COMPLETE,
    EVERY_KIND,
    NOW,
    PARSE_COMPLETE,
    SYNC,
    bind,
    complete,
    config_of,
    data_row,
    execute,
    parse,
    policy,
    query,
    ready,
    row_description,
    target_error,
)

DBA = ApprovalConfig(approver_groups=("dba",))
NO_DELETES = RuleConfig("no-deletes", RuleAction.DENY, statements=StatementMatch(kinds=("Delete",)))
HOLD_DELETES = RuleConfig("ask", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Delete",)), approval=DBA)
AT_COMMIT = RuleConfig(
    "ask",
    RuleAction.REQUIRE_APPROVAL,
    statements=StatementMatch(kinds=("Delete",)),
    approval=ApprovalConfig(approver_groups=("dba",), hold_at=HoldAt.COMMIT),
)
BIG_DELETES = RuleConfig(
    "big", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Delete",), rows_more_than=100), approval=DBA
)
SSN = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
SSN_HASHED = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),), strategy=MaskStrategy.HASH)
SSN_USABLE = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),), use=ColumnUse.ALLOWED)
CARDS = RuleConfig("cards", RuleAction.MASK, columns=(ColumnMatch("card"),))
# users(id, ssn, card), and people, a view that calls ssn `number`
CATALOG = Catalog.decode(
    [
        (b"20000", b"public", b"users", b"r", b"1", b"id"),
        (b"20000", b"public", b"users", b"r", b"2", b"ssn"),
        (b"20000", b"public", b"users", b"r", b"3", b"card"),
        (b"20002", b"public", b"people", b"v", b"1", b"id"),
        (b"20002", b"public", b"people", b"v", b"2", b"number"),
    ],
    [(b"20002", b"SELECT users.id, users.ssn AS number FROM public.users")],
    [],
    1,
)
UNCHANGED: frozenset[Group] = frozenset()


def redecided(path: Path, *policies: PolicyConfig) -> list[Redecided | Untold]:
    """Each statement of the recording under these policies."""
    found: list[Redecided | Untold] = []
    session: Resession | None = None
    for item in read_asked(read_recording(path)):
        assert not isinstance(item, RecordingProblem), item
        if isinstance(item, OpenedRecord):
            session = Resession(Engine(config_of(*policies)), item.session, StatementCache(100))
        else:
            assert session is not None
            found.append(session.decide(item))
    return found


def groups(found: Sequence[Redecided | Untold]) -> list[object]:
    return [each.comparison.groups if isinstance(each, Redecided) else "untold" for each in found]


def only(found: Sequence[Redecided | Untold]) -> Redecided:
    (one,) = found
    assert isinstance(one, Redecided), one
    return one


def why(found: Sequence[Redecided | Untold]) -> str:
    (one,) = found
    assert isinstance(one, Untold), one
    return one.why


class TestOutcomes:
    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ((), (), UNCHANGED),
            ((), (NO_DELETES,), {Group.DENIED}),
            ((), (HOLD_DELETES,), {Group.HELD}),
            ((NO_DELETES,), (), {Group.ALLOWED}),
            ((NO_DELETES,), (NO_DELETES,), UNCHANGED),
            ((NO_DELETES,), (HOLD_DELETES,), {Group.HELD}),
            ((HOLD_DELETES,), (), {Group.ALLOWED}),
            ((HOLD_DELETES,), (HOLD_DELETES,), UNCHANGED),
            ((HOLD_DELETES,), (NO_DELETES,), {Group.DENIED}),
            ((NO_DELETES,), (BIG_DELETES,), {Group.ALLOWED}),
            ((NO_DELETES,), (RuleConfig("other", RuleAction.DENY, statements=StatementMatch(kinds=("Delete",))),), {Group.RULE}),
        ],
    )
    def test_what_the_rules_change_is_told(
        self, tmp_path: Path, before: tuple[RuleConfig, ...], after: tuple[RuleConfig, ...], expected: set[Group]
    ) -> None:
        with RecordedBench(tmp_path, policy(before)) as bench:
            bench.ask("select id from users")
            bench.ask("delete from orders where id = 7", tag="DELETE 1")
        assert groups(redecided(bench.path, policy(after))) == [UNCHANGED, frozenset(expected)]

    @pytest.mark.parametrize(
        ("after", "expected"),
        [((AT_COMMIT,), UNCHANGED), ((), {Group.ALLOWED}), ((NO_DELETES,), {Group.DENIED}), ((HOLD_DELETES,), {Group.RULE})],
    )
    def test_of_what_waited_for_its_commit_the_statements_tell_what_changes(
        self, tmp_path: Path, after: tuple[RuleConfig, ...], expected: set[Group]
    ) -> None:
        with RecordedBench(tmp_path, policy([AT_COMMIT])) as bench:
            bench.client(query("begin"))
            bench.target(complete("BEGIN"), ready("T"))
            bench.client(query("delete from orders where id = 7"))
            bench.answer_ask(tag="SELECT 0", status="T")
            bench.target(complete("DELETE 1"), ready("T"))
            bench.client(query("commit"))
            bench.answer_ask(tag="SET CONSTRAINTS", status="T")
            bench.answer_ask((b"public.orders", b"0", b"0", b"1"), status="T")
            bench.approve()
            bench.target(complete("COMMIT"), ready())
        assert groups(redecided(bench.path, policy(after))) == [UNCHANGED, frozenset(expected), UNCHANGED]

    def test_what_would_wait_for_its_commit_is_newly_held(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path) as bench:
            bench.ask("delete from orders where id = 7", tag="DELETE 1")
        found = only(redecided(bench.path, policy([AT_COMMIT])))
        assert found.comparison.groups == {Group.HELD}
        assert found.now.reason == Reason.AWAITS_COMMIT

    def test_a_lost_grant_denies_every_statement(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path) as bench:
            bench.ask("select 1")
        lost = replace_policy(policy(), subjects=(SubjectConfig(groups=("others",)),))
        found = only(redecided(bench.path, lost))
        assert found.comparison.groups == {Group.DENIED}
        assert found.now.reason == Reason.NO_POLICY
        assert "the session would be refused" in found.now.detail

    def test_time_is_that_of_the_statement(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path) as bench:
            bench.ask("select 1")
            bench.now = NOW + 3600
            bench.ask("select 2")
        ends = replace_policy(policy(), validity=ValidityConfig(not_after=NOW + 60))
        found = redecided(bench.path, ends)
        assert groups(found) == [UNCHANGED, {Group.DENIED}]
        assert isinstance(found[1], Redecided)
        assert found[1].now.reason == Reason.OUTSIDE_VALIDITY

    def test_a_policy_that_only_observes_lets_run_what_it_denied_before(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, policy([NO_DELETES])) as bench:
            bench.ask("delete from orders")
        found = only(redecided(bench.path, replace_policy(policy([NO_DELETES]), mode=PolicyMode.OBSERVE)))
        assert found.comparison.groups == {Group.ALLOWED}
        assert found.now.reason == Reason.OBSERVED

    def test_what_the_gate_refused_by_itself_is_no_change(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, policy([NO_DELETES])) as bench:
            bench.ask("execute nobody_prepared_it")
            bench.ask("selec 1")
        assert groups(redecided(bench.path, policy())) == [UNCHANGED, UNCHANGED]

    def test_what_an_execute_runs_is_decided_with_it(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path) as bench:
            bench.ask("prepare d as delete from orders", tag="PREPARE")
            bench.ask("execute d", tag="DELETE 3")
        found = redecided(bench.path, policy([HOLD_DELETES]))
        assert groups(found) == [{Group.RULE}, {Group.HELD}]  # PREPARE runs nothing

    def test_what_a_fetch_brings_is_decided_with_it(self, tmp_path: Path) -> None:
        no_users = RuleConfig("no-users", RuleAction.DENY, statements=StatementMatch(tables=("users",)))
        with RecordedBench(tmp_path) as bench:
            for text, tag in (
                ("begin", "BEGIN"),
                ("declare c cursor for select id from users", "DECLARE CURSOR"),
                ("fetch c", "FETCH 1"),
            ):
                bench.client(query(text))
                bench.target(complete(tag), ready("T"))
        assert groups(redecided(bench.path, policy([no_users]))) == [UNCHANGED, {Group.DENIED}, {Group.DENIED}]

    def test_statements_of_the_extended_protocol_are_decided(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path) as bench:
            bench.client(parse("delete from orders where id = $1", "d"), bind("", "d", b"7"), execute(), SYNC)
            bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("DELETE 1"), ready())
        assert groups(redecided(bench.path, policy([NO_DELETES]))) == [{Group.DENIED}]

    def test_the_search_path_of_the_statement_counts(self, tmp_path: Path) -> None:
        prod = RuleConfig("prod", RuleAction.DENY, statements=StatementMatch(schemas=("prod",)))
        with RecordedBench(tmp_path) as bench:
            bench.ask("select * from settings")
            bench.ask("set search_path = prod", tag="SET")
            bench.client(query("select * from settings"))
            bench.answer_ask((b"{prod}", b"rw"))
            bench.target(complete("SELECT 1"), ready())
        # SET search_path could reach any schema, so the rule is about it as well
        assert groups(redecided(bench.path, policy([prod])))[::2] == [UNCHANGED, {Group.DENIED}]

    def test_without_a_recorded_search_path_only_what_needs_none_is_told(self, tmp_path: Path) -> None:
        public = replace_policy(
            policy(), grants=(GrantConfig(databases=("*",), role="rw", allow=EVERY_KIND, schemas=("public",)),)
        )
        with RecordedBench(tmp_path, older=True) as bench:
            bench.ask("select * from settings")
            bench.ask("select * from prod.settings")
            bench.ask("select * from public.settings")
        assert groups(redecided(bench.path, public)) == ["untold", {Group.DENIED}, UNCHANGED]

    def test_text_that_was_masked_into_something_else_is_not_told(self, tmp_path: Path) -> None:
        numbers = RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))
        with RecordedBench(tmp_path, policy([numbers])) as bench:
            bench.ask("select 4111111111111111")
        found = redecided(bench.path, policy([numbers]))
        assert isinstance(found[0], Untold)
        assert "masked, perhaps" in found[0].why or "for the gate" in found[0].why

    def test_a_statement_without_a_decision_is_not_told(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path) as bench:
            bench.client(parse("select nowhere"), SYNC)
            bench.target(target_error("42703"), ready())
        assert "no decision is recorded" in why(redecided(bench.path, policy()))

    def test_a_session_that_goes_on_is_read_as_far_as_it_is_written(self, tmp_path: Path) -> None:
        bench = RecordedBench(tmp_path, policy([HOLD_DELETES]))
        bench.ask("select 1")
        bench.ask("delete from orders")
        try:
            assert groups(redecided(bench.path, policy())) == [UNCHANGED, {Group.ALLOWED}]
        finally:
            bench.recorder.abandon()


class TestRows:
    def test_recorded_rows_are_held_against_the_new_limit(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, policy([BIG_DELETES])) as bench:
            bench.ask_measured("delete from orders", 60, (b"public.orders", b"0", b"0", b"60"))
        smaller = RuleConfig(
            "big", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Delete",), rows_more_than=50), approval=DBA
        )
        assert groups(redecided(bench.path, policy([BIG_DELETES]))) == [UNCHANGED]
        assert groups(redecided(bench.path, policy([smaller]))) == [{Group.HELD}]

    def test_what_was_held_for_its_rows_would_run_under_a_wider_limit(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, policy([BIG_DELETES])) as bench:
            bench.ask_measured("delete from orders", 5000, (b"public.orders", b"0", b"0", b"5000"))
        wider = RuleConfig(
            "big", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Delete",), rows_more_than=9000), approval=DBA
        )
        assert groups(redecided(bench.path, policy([wider]))) == [{Group.ALLOWED}]
        assert groups(redecided(bench.path, policy([BIG_DELETES]))) == [UNCHANGED]

    def test_rows_add_up_over_the_session(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, policy([BIG_DELETES])) as bench:
            for _ in range(2):
                bench.ask_measured("delete from orders", 45, (b"public.orders", b"0", b"0", b"45"))
        smaller = RuleConfig(
            "big", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Delete",), rows_more_than=80), approval=DBA
        )
        assert groups(redecided(bench.path, policy([smaller]))) == [UNCHANGED, {Group.HELD}]

    def test_the_tag_of_what_was_not_measured_is_a_lower_bound(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path) as bench:
            bench.ask("delete from orders", tag="DELETE 5000")
            bench.ask("delete from orders", tag="DELETE 5")
        found = redecided(bench.path, policy([BIG_DELETES]))
        assert groups(found) == [{Group.HELD}, "untold"]
        assert isinstance(found[1], Untold)
        assert "cascades and triggers" in found[1].why

    def test_a_truncation_that_was_not_counted_is_not_told(self, tmp_path: Path) -> None:
        limit = RuleConfig("big", RuleAction.DENY, statements=StatementMatch(kinds=("Truncate",), rows_more_than=10))
        wider = RuleConfig("big", RuleAction.DENY, statements=StatementMatch(kinds=("Truncate",), rows_more_than=1000))
        no_truncations = RuleConfig("none", RuleAction.DENY, statements=StatementMatch(kinds=("Truncate",)))
        with RecordedBench(tmp_path) as bench:
            bench.ask("truncate orders", tag="TRUNCATE TABLE")
        assert groups(redecided(bench.path, policy([limit]))) == ["untold"]
        with RecordedBench(tmp_path, policy([no_truncations]), session="s-2") as bench:
            bench.ask("truncate orders")
        assert groups(redecided(bench.path, policy([limit]))) == [{Group.ALLOWED}]
        with RecordedBench(tmp_path, policy([limit]), session="s-3") as bench:
            bench.client(query("truncate orders"))
            bench.answer_ask(tag="BEGIN", status="T")
            bench.answer_ask(tag="LOCK TABLE", status="T")
            bench.answer_ask((b"r", b"f"), status="T")
            bench.answer_ask((b"0", b"11"), status="T")
            bench.answer_ask(tag="ROLLBACK")
            bench.target(target_error(), ready())
        assert groups(redecided(bench.path, policy([limit]))) == [UNCHANGED]
        assert groups(redecided(bench.path, policy([wider]))) == ["untold"]

    def test_a_truncation_that_cannot_be_counted_is_over_every_limit(self, tmp_path: Path) -> None:
        limit = RuleConfig("big", RuleAction.DENY, statements=StatementMatch(kinds=("Truncate",), rows_more_than=10_000_000))
        with RecordedBench(tmp_path) as bench:
            bench.ask("truncate orders, " + ", ".join(f"orders_{number}" for number in range(40)), tag="TRUNCATE TABLE")
        assert groups(redecided(bench.path, policy([limit]))) == [{Group.DENIED}]

    def test_what_goes_with_a_cascade_is_not_recorded(self, tmp_path: Path) -> None:
        limit = RuleConfig("big", RuleAction.DENY, statements=StatementMatch(kinds=("Truncate",), rows_more_than=10_000_000))
        elsewhere = RuleConfig("else", RuleAction.DENY, statements=StatementMatch(kinds=("DDL",), schemas=("prod",)))
        public = RuleConfig("here", RuleAction.DENY, statements=StatementMatch(kinds=("DDL",), schemas=("public",)))
        with RecordedBench(tmp_path) as bench:
            bench.ask("truncate orders cascade", tag="TRUNCATE TABLE")
            bench.ask("drop table orders cascade", tag="DROP TABLE")
        assert groups(redecided(bench.path, policy([limit]))) == ["untold", UNCHANGED]
        assert groups(redecided(bench.path, policy([elsewhere]))) == [UNCHANGED, "untold"]
        assert groups(redecided(bench.path, policy([public]))) == [UNCHANGED, {Group.DENIED}]


class TestMasks:
    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ((SSN,), (), {Group.UNMASKED}),
            ((SSN,), (SSN_HASHED,), {Group.UNMASKED}),
            ((SSN_HASHED,), (SSN,), {Group.MASKED}),
            ((), (SSN,), {Group.MASKED}),
            ((SSN,), (CARDS,), {Group.MASKED, Group.UNMASKED}),
            ((SSN,), (SSN, SSN_HASHED), UNCHANGED),
            ((SSN,), (RuleConfig("else", RuleAction.MASK, columns=(ColumnMatch("ssn", "others"),)),), {Group.UNMASKED}),
        ],
    )
    def test_masks_are_compared_by_what_a_statement_shows(
        self, tmp_path: Path, before: tuple[RuleConfig, ...], after: tuple[RuleConfig, ...], expected: set[Group]
    ) -> None:
        with RecordedBench(tmp_path, policy(before), catalog=CATALOG) as bench:
            bench.ask("select ssn, card from users")
            bench.ask("select id from users")
        assert groups(redecided(bench.path, policy(after))) == [frozenset(expected), UNCHANGED]

    def test_a_star_shows_every_masked_column(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, policy([SSN]), catalog=CATALOG) as bench:
            bench.ask("select * from users")
        assert only(redecided(bench.path, policy())).comparison.less == ("users.ssn (Redact -> shown)",)

    def test_a_view_that_showed_masked_values_tells_that_they_are_not_masked_any_more(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, policy([SSN]), catalog=CATALOG) as bench:
            bench.ask(
                "select number from people", row_description(("number", 20002, 2)), data_row(b"123-45-6789"), complete("SELECT 1")
            )
        assert only(redecided(bench.path, policy())).comparison.groups == {Group.UNMASKED}
        assert groups(redecided(bench.path, policy([SSN]))) == [UNCHANGED]

    def test_a_recording_without_masks_says_so_and_still_tells_what_was_masked(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, policy([SSN]), catalog=CATALOG, older=True) as bench:
            bench.ask(
                "select ssn from public.users", row_description(("ssn", 20000, 2)), data_row(b"123-45-6789"), complete("SELECT 1")
            )
            bench.ask("select card from public.users")
        found = redecided(bench.path, policy())
        assert groups(found) == [{Group.UNMASKED}, UNCHANGED]
        assert all(isinstance(each, Redecided) and each.masks_unknown for each in found)

    def test_detectors_are_compared_for_whatever_shows_values(self, tmp_path: Path) -> None:
        values = RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))
        with RecordedBench(tmp_path, policy([values])) as bench:
            bench.ask("select id from users")
            bench.ask("delete from orders", tag="DELETE 1")
        assert groups(redecided(bench.path, policy())) == [{Group.UNMASKED}, UNCHANGED]


class TestCatalog:
    """What the gate refused because of a view's definition, which isn't in the recording."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        with RecordedBench(tmp_path, policy([SSN]), catalog=CATALOG) as bench:
            bench.ask("select id from people where number like '1%'")
        return bench.path

    def test_a_refusal_of_the_catalog_stands_while_its_masks_do(self, path: Path) -> None:
        assert groups(redecided(path, policy([SSN]))) == [UNCHANGED]
        assert groups(redecided(path, policy([SSN, CARDS]))) == [UNCHANGED]

    def test_it_is_gone_when_nothing_is_masked(self, path: Path) -> None:
        assert groups(redecided(path, policy())) == [{Group.ALLOWED}]
        assert groups(redecided(path, policy([SSN_USABLE]))) == [{Group.ALLOWED}]

    def test_it_is_not_told_when_other_columns_are_masked(self, path: Path) -> None:
        assert "target's catalog" in why(redecided(path, policy([CARDS])))

    def test_new_masks_that_a_view_may_lead_to_are_marked(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, catalog=CATALOG) as bench:
            bench.ask("select id from people where number like '1%'")
        found = only(redecided(bench.path, policy([SSN])))
        assert found.now.fate is Fate.ALLOW
        assert found.catalog_may_refuse

    def test_a_limit_on_deletions_that_a_trigger_may_pass_is_marked(self, tmp_path: Path) -> None:
        with RecordedBench(tmp_path, catalog=CATALOG) as bench:
            bench.ask("update users set card = null", tag="UPDATE 9")
        found = only(redecided(bench.path, policy([BIG_DELETES])))
        assert found.comparison.groups == UNCHANGED
        assert found.catalog_may_refuse


class TestClaims:
    """Subjects by claims, which aren't recorded."""

    DATA = SubjectConfig(expression="claims.department == 'data'")

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        with RecordedBench(tmp_path) as bench:
            bench.ask("select 1")
            bench.ask("delete from orders", tag="DELETE 1")
        return bench.path

    def test_only_what_depends_on_them_is_not_told(self, path: Path) -> None:
        limits = replace_policy(policy([NO_DELETES]), name="limits", subjects=(self.DATA,), grants=())
        found = redecided(path, policy(), limits)
        assert groups(found) == [UNCHANGED, "untold"]
        assert isinstance(found[1], Untold)
        assert "`shop/limits`" in found[1].why
        assert "claims" in found[1].why

    def test_a_grant_by_claims_is_not_taken_for_granted(self, path: Path) -> None:
        assert groups(redecided(path, replace_policy(policy(), subjects=(self.DATA,)))) == ["untold", "untold"]

    def test_subjects_that_name_the_caller_otherwise_are_settled(self, path: Path) -> None:
        both = replace_policy(policy([NO_DELETES]), subjects=(self.DATA, SubjectConfig(groups=("ai",))))
        assert groups(redecided(path, both)) == [UNCHANGED, {Group.DENIED}]
        neither = replace_policy(
            policy([NO_DELETES]), name="limits", subjects=(SubjectConfig(groups=("others",), expression="claims.a == 1"),)
        )
        assert groups(redecided(path, policy(), neither)) == [UNCHANGED, UNCHANGED]

    def test_expressions_about_what_is_recorded_are_evaluated(self, path: Path) -> None:
        named = replace_policy(policy([NO_DELETES]), subjects=(SubjectConfig(expression="username == 'ada@example.com'"),))
        assert groups(redecided(path, named)) == [UNCHANGED, {Group.DENIED}]

    def test_too_many_of_them_are_not_tried(self, path: Path) -> None:
        many = [replace_policy(policy([NO_DELETES]), name=f"p{n}", subjects=(self.DATA,), grants=()) for n in range(4)]
        assert groups(redecided(path, policy(), *many)) == ["untold", "untold"]


class TestPassthrough:
    def test_statements_pass_when_the_session_does(self) -> None:
        session = SessionFields(
            id="s", target="shop/db", source_address="10.0.0.9", database="shop", role="app", passthrough="app"
        )
        asked = AskedStatement(1, NOW, "select 1", "simple", (), (), None, has_search_path=False, masks=None)
        without = config_of(policy())
        entry = PassthroughConfig("app", ("app",), ("10.0.0.0/24",))
        within = GateConfig.sealed(msgspec.structs.replace(without.target, passthrough=(entry,)), without.policies)
        for config, expected in ((within, UNCHANGED), (without, {Group.DENIED})):
            found = Resession(Engine(config), session, StatementCache(10)).decide(asked)
            assert isinstance(found, Redecided)
            assert found.comparison.groups == expected


def replace_policy(original: PolicyConfig, **changes: object) -> PolicyConfig:
    return msgspec.structs.replace(original, **changes)
