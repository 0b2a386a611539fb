"""No more rows and masked values get through than a session's budget has, whatever is asked, however bytes and portals are cut, and
wherever the target gives up; and client, gate and target always agree on what is failed and what isn't.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.policy.config import BudgetConfig, RuleAction, RuleConfig
from sidegate.postgres.effects import CancelTarget, CloseSession
from tests.support import session as s

ROWS = 12
VALUES = 9
CARD = b"4111111111111111"
RULES = (
    RuleConfig("rows", RuleAction.DENY, budget=BudgetConfig(rows=ROWS)),
    RuleConfig("values", RuleAction.DENY, budget=BudgetConfig(masked_values=VALUES)),
    RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",)),
)


@dataclass
class Target:
    """PostgreSQL as far as it matters here. `SELECT a, b, c`: `a` rows, of which `b` in each have two cards, failing after `c` rows if any."""

    status: str = "I"
    is_skipping: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    portals: dict[str, list[bytes]] = field(default_factory=dict)
    fails: dict[str, bool] = field(default_factory=dict)

    def answer(self, code: str, body: bytes) -> list[bytes]:
        if code == "Q":
            return self._query(body[:-1].decode())
        if code == "S":
            self.is_skipping = False
            return [s.ready(self.status)]
        if self.is_skipping or code == "H":
            return []
        if code == "P":
            name, text = body.split(b"\0")[:2]
            if text == b"sidegate denied":
                return self._fail()
            self.texts[name.decode()] = text.decode()
            return [s.PARSE_COMPLETE]
        if code == "B":
            portal, statement = (each.decode() for each in body.split(b"\0")[:2])
            if statement not in self.texts:
                return self._fail("26000")
            self.portals[portal], self.fails[portal] = rows_of(self.texts[statement])
            return [s.BIND_COMPLETE]
        if code == "D":
            return [s.row_description("a")]
        assert code == "E", code
        return self._execute(body)

    def _execute(self, body: bytes) -> list[bytes]:
        name, _, rest = body.partition(b"\0")
        portal, most = name.decode(), int.from_bytes(rest, "big")
        if portal not in self.portals:
            return self._fail("34000")
        rows = self.portals[portal]
        part, self.portals[portal] = (rows[:most], rows[most:]) if most else (rows, [])
        if most and len(part) == most:
            return [*part, s.frame(b"s")]
        return [*part, *(self._fail("57014") if self.fails[portal] else [s.complete(f"SELECT {len(part)}")])]

    def _query(self, text: str) -> list[bytes]:
        if text in ("BEGIN", "ROLLBACK"):
            self.status = "T" if text == "BEGIN" and self.status != "E" else "I" if text == "ROLLBACK" else self.status
            return [s.complete(text), s.ready(self.status)]
        if text == "sidegate denied" or self.status == "E":
            failed = self._fail()
            self.is_skipping = False
            return [*failed, s.ready(self.status)]
        out: list[bytes] = []
        for part in text.split(";"):
            rows, fails = rows_of(part)
            out += [s.row_description("a"), *rows]
            if fails:
                out += self._fail("57014")
                break
            out.append(s.complete(f"SELECT {len(rows)}"))
        self.is_skipping = False
        return [*out, s.ready(self.status)]

    def _fail(self, sqlstate: str = "42601") -> list[bytes]:
        self.is_skipping = True
        self.status = "E" if self.status in "TE" else "I"
        return [s.target_error(sqlstate)]


def rows_of(text: str) -> tuple[list[bytes], bool]:
    count, cards, fails_after = (int(number) for number in re.findall(r"\d+", text))
    rows = [s.data_row(b"x" * (number % 5) + (b" %s, %s" % (CARD, CARD) if number < cards else b"")) for number in range(count)]
    return (rows[:fails_after], True) if fails_after < count else (rows, False)


selects = st.builds(
    "SELECT {}, {}, {}".format, st.integers(0, 20), st.integers(0, 6), st.sampled_from([0, 3, 11, 13, 99, 99, 99])
)
queries = st.one_of(st.sampled_from(["BEGIN", "ROLLBACK"]), st.lists(selects, min_size=1, max_size=3).map(";".join)).map(
    lambda text: (s.query(text),)
)
executes = st.builds(
    lambda text, sizes, describes: (
        s.parse(text),
        s.bind(),
        *((s.describe(),) if describes else ()),
        *(s.execute(max_rows=size) for size in sizes),
    ),
    selects,
    st.lists(st.sampled_from([0, 1, 2, 5, 30]), min_size=1, max_size=4),
    st.booleans(),
)
pipelines = st.lists(executes, min_size=1, max_size=3).map(lambda parts: (*(each for part in parts for each in part), s.SYNC))


class Run:
    def __init__(self, chunk: int | None) -> None:
        self.bench = s.Bench(s.policy(RULES), chunk=chunk)
        self.target = Target()
        self.seen: list[s.Message] = []

    def send(self, messages: tuple[bytes, ...]) -> list[s.Message]:
        """What the client got for them."""
        pending = self.bench.client(*messages)
        seen: list[s.Message] = self.bench.seen()
        while True:
            answers = [part for code, body in pending for part in self.target.answer(code, body)]
            if answers:
                seen += self.bench.target(*answers)
            cancels = [action for action in self.bench.actions if isinstance(action, CancelTarget)]
            self.bench.actions = [action for action in self.bench.actions if not isinstance(action, CancelTarget)]
            for _ in cancels:
                self.bench.take(self.bench.session.target_cancelled(self.bench.now))
            seen += self.bench.seen()
            pending = self.bench.sent()
            if not pending:
                break
        self.seen += seen
        return seen


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(queries, pipelines), min_size=1, max_size=8), st.one_of(st.none(), st.integers(1, 60)))
def test_no_more_gets_through_than_the_budget_has(groups: list[tuple[bytes, ...]], chunk: int | None) -> None:
    run = Run(chunk)
    for group in groups:
        before = run.target.status
        seen = run.send(group)
        assert not any(isinstance(action, CloseSession) for action in run.bench.actions), run.bench.actions
        codes = s.codes(seen)
        assert codes.endswith("Z"), codes
        assert codes.count("Z") == 1, codes
        assert codes.count("E") <= 1, codes
        status = seen[-1][1].decode()
        assert status == run.target.status
        if "E" in codes:
            assert codes[codes.index("E") :] == "EZ", "nothing of a failed message comes behind its error"
            assert status == {"I": "I", "T": "E", "E": "E"}[before]
    assert sum(code == "D" for code, _ in run.seen) <= ROWS
    assert sum(body.count(b"[masked]") for _, body in run.seen) <= VALUES
    assert not any(CARD in body for _, body in run.seen)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(0, ROWS), st.booleans())
def test_what_the_budget_has_gets_through_whole(chunk: int, rows: int, is_extended: bool) -> None:
    run = Run(chunk)
    text = f"SELECT {rows}, {min(rows, VALUES // 2)}, 99"
    seen = run.send((s.parse(text), s.bind(), s.execute(), s.SYNC) if is_extended else (s.query(text),))
    assert s.codes(seen) == ("12" if is_extended else "T") + "D" * rows + "CZ"
