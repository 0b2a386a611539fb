"""Whole scripts through the session core, against a fake target that is itself compared with PostgreSQL, in every cut and interleaving.

The scripts are random messages in any order (pipelines, names that meet, errors, COPY, transactions, cursors); the policies deny, hold, measure
and mask; verdicts, cancels and other configs come at any moment.
"""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from sidegate.approval.backend import HoldRequest
from sidegate.policy.config import ApprovalConfig, ColumnMatch, GateConfig, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.engine import Engine, decide_session
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.messages import decode_fields
from sidegate.postgres.session_facts import SessionLimits
from tests.support import wire_messages as m
from tests.support.fake_target import FakeTarget
from tests.support.fake_target_scripts import name_script, script, synced
from tests.support.fake_target_sql import Table, standard_tables
from tests.support.fake_target_wiring import APPROVE, DENY, EXPIRE, Wired, messages
from tests.support.session import ADA, NOW, Bench, config_of, policy

APPROVAL = ApprovalConfig(approver_groups=("dba",))
NO_DDL = RuleConfig("no-ddl", RuleAction.DENY, StatementMatch(kinds=("DDL",)))
HOLD_DDL = RuleConfig("hold-ddl", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("DDL",)), approval=APPROVAL)
HOLD_SELECTS = RuleConfig("hold-reads", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Read",)), approval=APPROVAL)
LIMIT = 2
FEW_ROWS = RuleConfig(
    "few-rows", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete", "Truncate"), rows_more_than=LIMIT), approval=APPROVAL
)
NO_MANY_ROWS = RuleConfig("no-many-rows", RuleAction.DENY, StatementMatch(kinds=("Delete", "Truncate"), rows_more_than=LIMIT))
COLUMN = RuleConfig("secret", RuleAction.MASK, columns=(ColumnMatch("secret"),))
CARDS = RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))
CARD_NUMBERS = ("4111111111111111", "5500005555555559", "340000000000009", "6011000000000004")
CATALOG = Catalog.decode(
    [
        (oid, b"public", name, b"r", number, column)
        for oid, name in ((b"20000", b"notes"), (b"20001", b"other"), (b"30000", b"made"))
        for number, column in ((b"1", b"id"), (b"2", b"secret"))
    ],
    [],
    [],
    1,
)

usual_settings = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
seeds = st.integers(0, 2**32)
any_script = st.one_of(script, name_script)


TWELVE_ROWS = tuple(f"row-{number}" for number in range(12))


def tables(secrets: tuple[str, ...] = TWELVE_ROWS) -> dict[str, Table]:
    return standard_tables(secrets)


def marked(parts: list[bytes]) -> bytes:
    """Each Query and Parse gets a comment of its own, so that its text is known wherever it turns up."""
    out = b""
    number = 0
    for code, body in messages(b"".join(parts)):
        if code == "Q" and body.rstrip(b"\0"):
            number += 1
            texts = [f"{text} /*t{number}.{at}*/" for at, text in enumerate(body[:-1].decode().split("; "))]
            body = "; ".join(texts).encode() + b"\0"
        elif code == "P":
            name, text, rest = body.split(b"\0", 2)
            number += 1
            body = name + b"\0" + text + f" /*t{number}*/".encode() + b"\0" + rest
        out += m.message(code.encode(), body)
    return out


def expected_readies(data: bytes) -> int:
    """Each Sync and Query is answered by one: none of these stands in a COPY or behind an error without its Sync."""
    return sum(code in "SQ" for code, _ in messages(data))


def finish(parts: list[bytes]) -> bytes:
    return marked([*parts, m.copy_fail("over"), m.sync(), m.query("rollback"), m.query("select 'the end'")])


def run(wired: Wired, parts: list[bytes]) -> list[tuple[str, bytes]]:
    """To the end; then what holds for every script and every policy."""
    data = finish(parts)
    note(repr(messages(data)))
    wired.client(data)
    wired.settle()
    seen = messages(wired.seen)
    note(repr(seen))
    assert not wired.is_closed, seen[-1]
    assert sum(code == "Z" for code, _ in seen) == expected_readies(data)
    assert seen[-1] == ("Z", b"I")
    assert wired.bench.session.status == wired.target.status == "I"
    assert len(wired.bench.session.expected) == 0
    assert not wired.holds
    for name, prepared in wired.target._statements.items():
        text = prepared.plan.text if prepared.plan is not None else ""
        assert any(text in known.text for known in wired.bench.session.prepared.find(name)), name
    event(f"{len(wired.approved)} approved of {wired.holds_made}")
    return seen


def without_words(seen: list[tuple[str, bytes]]) -> list[object]:
    """Errors that the gate finds itself (it can't parse it) have words of its own; everything else must be the same to the byte."""
    found: list[object] = []
    for code, body in seen:
        fields = decode_fields(body) if code == "E" else {}
        sqlstate = fields.get("C")
        if sqlstate in ("26000", "34000", "25P02"):  # a name that isn't known, in a transaction that failed: either is true
            found.append(("E", "failed"))
        else:
            found.append(("E", "42601") if sqlstate == "42601" else (code, body))
    return found


def refers(part: bytes) -> bool:
    """EXECUTE or FETCH in a Parse or among other statements: the gate refuses an unknown name earlier than the target finds it missing."""
    is_alone = part.startswith(b"Q") and b";" not in part
    return not is_alone and re.search(rb"execute|fetch", part) is not None


@usual_settings
@given(parts=any_script.map(lambda parts: synced([part for part in parts if not refers(part)])), seed=seeds)
def test_a_gate_that_allows_everything_is_transparent(parts: list[bytes], seed: int) -> None:
    wired = Wired(Bench(), FakeTarget(tables()), seed)
    seen = run(wired, parts)
    alone = FakeTarget(tables())
    expected = messages(alone.feed(finish(parts)))
    assert without_words(seen) == without_words(expected)
    assert wired.target.tables == alone.tables


@usual_settings
@given(parts=any_script, seed=seeds)
def test_what_is_denied_never_runs(parts: list[bytes], seed: int) -> None:
    wired = Wired(Bench(policy([NO_DDL])), FakeTarget(tables()), seed)
    run(wired, parts)
    assert not [text for text in wired.target.ran if text.startswith(("create", "drop"))]
    assert not re.search(rb"create table|drop table", b"".join(wired.sent))
    assert wired.target.tables.keys() == tables().keys()


class Verdicts:
    """Each request is answered by its content and the seed, so that the same request may be answered otherwise in another example."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, request: HoldRequest) -> str:
        return (APPROVE, DENY, EXPIRE)[(self._seed + sum(request.fingerprint.encode())) % 3]


def shown_texts(request: HoldRequest) -> list[str]:
    return [request.statement, *(each.statement for each in request.runs)]


@usual_settings
@given(parts=any_script, seed=seeds)
def test_what_is_held_runs_once_for_each_approval(parts: list[bytes], seed: int) -> None:
    wired = Wired(Bench(policy([HOLD_DDL, HOLD_SELECTS])), FakeTarget(tables()), seed, Verdicts(seed))
    run(wired, parts)
    ran = [text for text in wired.target.ran if text.startswith(("create", "drop", "select")) and "/*t" in text]
    for text in set(ran):
        allowed = sum(any(text in shown for shown in shown_texts(request)) for request in wired.approved)
        assert ran.count(text) <= allowed, text
    for text in wired.target.planned:
        if text.startswith(("create", "drop", "select")) and "/*t" in text:
            approved = [shown for request in wired.approved for shown in shown_texts(request)]
            assert any(text in shown for shown in approved), text


@usual_settings
@given(parts=any_script, seed=seeds, rule=st.sampled_from([FEW_ROWS, NO_MANY_ROWS]))
def test_no_more_rows_go_than_the_limit_and_the_approvals_say(parts: list[bytes], seed: int, rule: RuleConfig) -> None:
    wired = Wired(Bench(policy([rule])), FakeTarget(tables()), seed, Verdicts(seed))
    run(wired, parts)
    gone = sum(
        len({row[0] for row in table.rows} - {row[0] for row in wired.target.tables[name].rows})
        for name, table in tables().items()
        if name in wired.target.tables
    )
    impacts = [request.impact for request in wired.approved]
    if None not in impacts:  # whoever approves what can't be measured approves all of it
        assert gone <= LIMIT + sum(impact.rows_affected for impact in impacts if impact is not None)


@usual_settings
@given(parts=any_script, seed=seeds, rules=st.sampled_from([[COLUMN], [CARDS], [COLUMN, CARDS, FEW_ROWS], [CARDS, HOLD_SELECTS]]))
def test_secrets_never_reach_the_client(parts: list[bytes], seed: int, rules: list[RuleConfig]) -> None:
    wired = Wired(Bench(policy(rules), catalog=CATALOG), FakeTarget(tables(CARD_NUMBERS)), seed, Verdicts(seed), catalog=CATALOG)
    run(wired, parts)
    for number in CARD_NUMBERS:
        assert number.encode() not in wired.seen


CONFIGS: tuple[GateConfig, ...] = tuple(
    config_of(policy(rules)) for rules in ([], [HOLD_DDL], [FEW_ROWS], [NO_DDL, FEW_ROWS], [HOLD_SELECTS], [CARDS])
)


def cancel(wired: Wired) -> None:
    if not wired.is_closed:
        wired.take(wired.bench.session.cancel("unix", NOW))


def other_config(wired: Wired) -> None:
    fresh = CONFIGS[len(wired.sent) % len(CONFIGS)]
    grant = decide_session(fresh, ADA, "shop", NOW)
    wired.take(wired.bench.session.config_changed(fresh, Engine(fresh), grant, NOW))


@usual_settings
@given(parts=any_script, seed=seeds, policies=st.sampled_from([[], [HOLD_DDL, FEW_ROWS], [HOLD_SELECTS, CARDS]]))
def test_cancels_and_other_configs_at_any_moment_leave_the_session_in_step(
    parts: list[bytes], seed: int, policies: list[RuleConfig]
) -> None:
    limits = replace(SessionLimits(), max_captured_bytes=64)
    wired = Wired(
        Bench(policy(policies), limits=limits),
        FakeTarget(tables()),
        seed,
        Verdicts(seed),
        events=(cancel, other_config, other_config),
    )
    run(wired, parts)


@usual_settings
@given(parts=any_script, seed=seeds, policies=st.sampled_from([[], [HOLD_DDL, FEW_ROWS]]))
def test_a_session_with_little_room_for_names_comes_to_rest(parts: list[bytes], seed: int, policies: list[RuleConfig]) -> None:
    """It is paced while much is in flight, and ended when names take more than the limit."""
    limits = replace(SessionLimits(), max_name_bytes=10_000)
    wired = Wired(Bench(policy(policies), limits=limits), FakeTarget(tables()), seed, Verdicts(seed))
    wired.client(finish(parts))
    wired.settle()
    seen = messages(wired.seen)
    if wired.is_closed:
        assert decode_fields(seen[-1][1])["C"] == "54000"
        event("ended")
    else:
        assert not wired._from_client
        assert seen[-1] == ("Z", b"I")


@usual_settings
@given(parts=script, seed=seeds, at=st.integers(0, 400), policies=st.sampled_from([[HOLD_DDL, FEW_ROWS], [HOLD_SELECTS, CARDS]]))
def test_a_client_that_leaves_at_any_moment_sends_nothing_more(
    parts: list[bytes], seed: int, at: int, policies: list[RuleConfig]
) -> None:
    wired = Wired(Bench(policy(policies)), FakeTarget(tables()), seed, Verdicts(seed))
    wired.client(finish(parts)[:at])
    wired.settle()
    wired.take(wired.bench.session.client_left(NOW))
    sent = len(wired.sent)
    wired.take(wired.bench.session.from_client(m.query("select 1"), NOW))
    wired.take(wired.bench.session.from_target(b"Z\0\0\0\5I", NOW))
    assert len(wired.sent) == sent
