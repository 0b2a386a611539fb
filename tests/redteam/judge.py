"""Judges a case: plays it through the gate and says what came of it.

Masking cases hunt for planted secrets in every byte that came back; oracles are played twice, with a right guess and a wrong one, and must look
alike. Blocking cases must leave no trace between two snapshots. Allowed cases must bring what they bring without a gate, but for values that are
planted secrets. Left out: timing as a channel is told by 0.35 s and more.
"""

from __future__ import annotations

import enum
import json
import re
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from tests.redteam import snapshot
from tests.redteam.client import Outcome
from tests.redteam.corpus import Case, Step, Words, normal
from tests.redteam.hunter import SECRET, Hunter, Unit
from tests.redteam.steps import Play
from tests.redteam.target import GATE_ROLE, RedTeamTarget
from tests.redteam.tee import Tee, messages

WRITES: Final = re.compile(
    r"\b(insert|update|delete|merge|create|alter|drop|truncate|copy|do|into|lo_\w+|comment|grant|revoke|setval|nextval|refresh|call|import|"
    r"reassign|tell|purge\w*|drop_it|execute|prepare|vacuum|cluster|reindex|security|lock|dblink\w*|query_to_xml|pg_\w*slot\w*|pgbench|psql|"
    r"pg_dump|set)\b",
    re.IGNORECASE,
)
VARIES: Final = re.compile(
    rb"\d\.\d+ ?ms|tps|latency|Dumped|initial connection|restrict|port|socket"
)  # in the output of programs
TELLING_S: Final = 0.35


class Verdict(enum.StrEnum):
    OK = "ok"
    DENIED = "denied"
    HELD = "held"
    SKIPPED = "skipped"
    LEAK = "LEAK"  # a secret came back
    ORACLE = "ORACLE"  # a right guess looks different from a wrong one
    EFFECT = "EFFECT"  # something was done that shouldn't have been
    OVERBLOCKED = "OVERBLOCKED"  # what must be answered was refused
    DIFFERS = "DIFFERS"  # what must be answered was answered otherwise
    LOST = "LOST"  # the session ended instead of an answer
    HANG = "HANG"
    ERROR = "ERROR"  # the runner or the case failed

    @property
    def is_failure(self) -> bool:
        return self.name not in ("OK", "DENIED", "HELD", "SKIPPED")


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    why: str = ""


@dataclass(slots=True)
class Judge:
    """`gate_dsn` leads through the tee at a port, as somebody of a name: how often one may ask for approval is counted by person."""

    target: RedTeamTarget
    words: Words
    hunter: Hunter
    tee: Tee
    gate_dsn: Callable[[str, int], str]
    timeout_s: float
    is_dirty: bool = True

    def judge(self, case: Case) -> Judgement:
        if case.given.get("min_version", 0) > self.target.version:
            return Judgement(Verdict.SKIPPED, f"needs server {case.given['min_version']}")
        extension = case.given.get("needs", "")
        if extension and not self.target.query("SELECT 1 FROM pg_available_extensions WHERE name = %s", [extension]):
            return Judgement(Verdict.SKIPPED, f"needs extension {extension}")
        if self.is_dirty:
            self.target.reset()
        self.is_dirty = bool(WRITES.search(json.dumps(case.given)))
        if case.expect == "allowed":
            return self._allowed(case)
        if case.kind == "blocking":
            return self._blocked(case)
        return self._oracle(case) if "oracle" in case.given else self._masked(case)

    def _play(self, case: Case, guess: str | None = None, dsn: str | None = None) -> Play:
        self.tee.forget()
        return Play(
            self.target,
            self.words,
            case,
            dsn or self.gate_dsn(case.id, self.tee.port),
            self.timeout_s,
            guess,
            lambda: self.tee.is_held(),
        )

    def _reset_again(self) -> None:
        if self.is_dirty:
            self.target.reset()

    def _is_evident(self, case: Case) -> bool:
        query = case.given.get("admin_evidence")
        return bool(query and self.target.query(self.words.fill(query))[0][0])

    # Masking

    def _masked(self, case: Case) -> Judgement:
        with self._play(case) as play:
            play.run(case.steps)
            time.sleep(0.02)  # what the gate sends beside the answer
            received = self.tee.units()
            received += [Unit("copy", outcome.copied) for outcome in play.outcomes if outcome.copied]
            is_evident = self._is_evident(case)
            errors = [error for outcome in play.outcomes for error in outcome.raised()]
            is_dead = bool(errors) and not self._survived(case, play)
        hits = self.hunter.hunt(received, case.given.get("decode", ()), case.given.get("hunt", SECRET))
        must_answer = case.expect == "no_secret"
        if hits:
            more = f" and {len(hits) - 2} more" if len(hits) > 2 else ""
            return Judgement(Verdict.LEAK, "; ".join(map(str, hits[:2])) + more)
        if is_evident:
            return Judgement(Verdict.EFFECT, "the target holds the secret where the attack put it")
        if play.has_hung:
            return Judgement(Verdict.HANG if must_answer else Verdict.HELD, f"no answer in {self.timeout_s:g} s")
        said = _said([error for outcome in play.outcomes for error in outcome.errors], is_lost=play.is_lost or is_dead)
        if not errors and not play.is_lost:
            return Judgement(Verdict.OK, said)
        if must_answer:
            return Judgement(Verdict.LOST if play.is_lost else Verdict.OVERBLOCKED, said)
        return Judgement(Verdict.DENIED, said)

    @staticmethod
    def _survived(case: Case, play: Play) -> bool:
        """A refusal costs the statement, not the session. Raw bytes may have left it in any state."""
        if play.has_hung or play.is_lost or "a" not in play.sessions or any(step.keys() & {"raw", "hex"} for step in case.steps):
            return True
        return play.sessions["a"].is_alive()

    def _oracle(self, case: Case) -> Judgement:
        oracle = case.given["oracle"]
        channel = oracle.get("observe", "result")
        seen: list[Hashable] = []
        said, seconds = "", []
        for guess, steps in self._guesses(case, oracle):
            if seen:
                self._reset_again()
            with self._play(case, guess) as play:
                play.run(steps)
            if play.has_hung:
                return Judgement(Verdict.HELD, f"no answer in {self.timeout_s:g} s")
            last = play.outcomes[-1] if play.outcomes else Outcome()
            said = said or _said(last.errors, is_lost=play.is_lost)
            seconds.append(last.seconds)
            seen.append(self._notices() if channel == "notices" else last.observed(channel))
        differs = abs(seconds[0] - seconds[1]) > TELLING_S if channel == "timing" else seen[0] != seen[1]
        if differs:
            return Judgement(Verdict.ORACLE, f"{channel} tells a right guess from a wrong one")
        return Judgement(Verdict.DENIED if said else Verdict.OK, said)

    def _notices(self) -> int:
        return sum(kind == "N" for stream in self.tee.streams for kind, _ in messages(bytes(stream)))

    def _guesses(self, case: Case, oracle: dict[str, Any]) -> Iterator[tuple[str | None, Sequence[Step]]]:
        if "guess" not in oracle:
            yield None, normal(oracle["true"])
            yield None, normal(oracle["false"])
            return
        value = self.words.fill("${" + oracle["guess"] + "}")
        start, end = oracle.get("take", (0, len(value)))
        right = value[start:end]
        last = right[-1]
        other = str((int(last) + 1) % 10) if last.isdigit() else "m" if last == "k" else "k"
        yield right, case.steps
        yield oracle.get("bad", right[:-1] + other), case.steps

    # Blocking

    def _blocked(self, case: Case) -> Judgement:
        steps = list(case.steps)
        while steps and "admin" in steps[0]:  # what is set up or tidied up stays outside the two snapshots
            self.target.query(self.words.fill(steps.pop(0)["admin"]))
        tidy: list[str] = []
        while steps and "admin" in steps[-1]:
            tidy.insert(0, self.words.fill(steps.pop()["admin"]))
        before = self.target.snapshot()
        self.is_dirty = True
        with ExitStack() as stack:
            if case.given.get("victim"):
                stack.enter_context(self.target.connect("rt_victim"))
            play = stack.enter_context(self._play(case))
            play.run(steps)
            evidence = self._evidence(case, play)
        if play.has_hung:
            time.sleep(0.3)  # the gate takes back what nobody waits for any more
        try:
            changed = [] if case.given.get("ignore_state") else snapshot.differences(before, self.target.snapshot())
        except psycopg.Error as error:
            return Judgement(Verdict.EFFECT, f"the database is not what it was: {error}")
        for query in tidy:
            with suppress(psycopg.Error):
                self.target.query(query)
        if evidence:
            return Judgement(Verdict.EFFECT, f"evidence: {evidence}")
        if changed:
            return Judgement(
                Verdict.EFFECT, f"changed: {', '.join(changed[:3])}{f' and {len(changed) - 3} more' * (len(changed) > 3)}"
            )
        if play.has_hung:
            return Judgement(Verdict.HELD, "the gate holds it" if self.tee.is_held() else f"no answer in {self.timeout_s:g} s")
        errors = [error for outcome in play.outcomes for error in outcome.raised()]
        if errors or play.is_lost:
            return Judgement(Verdict.DENIED, _said(errors, is_lost=play.is_lost))
        return Judgement(Verdict.OK, "answered, but nothing changed")

    def _evidence(self, case: Case, play: Play) -> str:
        """What proves that the attack worked; empty: nothing."""
        with suppress(psycopg.Error):  # of a query about what the attack was to make
            if self._is_evident(case):
                return str(case.given["admin_evidence"])
        pattern = case.given.get("evidence")
        if not pattern or not play.outcomes or play.outcomes[-1].errors:
            return ""
        last = play.outcomes[-1]
        cells = [(cell or b"").decode("utf8", "replace") for row in last.rows for cell in row]
        texts = [*cells, *last.tags, *last.copied.decode("utf8", "replace").split("\n")]
        return str(pattern) if any(re.fullmatch(pattern, text) for text in texts) else ""

    # Allowed

    def _allowed(self, case: Case) -> Judgement:
        with self._play(case) as gate:
            gate.run(case.steps)
        self._reset_again()
        with self._play(case, dsn=self.target.dsn(GATE_ROLE)) as direct:
            direct.run(case.steps)
        failed = [error for outcome in direct.outcomes for error in outcome.raised()]
        if failed:
            return Judgement(Verdict.ERROR, f"the case fails without a gate too: {failed[0][0]} {failed[0][1]}")
        how = case.given.get("compare", "")
        for number, (ours, theirs) in enumerate(zip(gate.outcomes, direct.outcomes, strict=False), start=1):
            found = self._difference(ours, theirs, how)
            if found is not None:
                return Judgement(found.verdict, f"step {number}: {found.why}")
        if len(gate.outcomes) != len(direct.outcomes):
            return Judgement(Verdict.DIFFERS, "the gate stopped early")
        return Judgement(Verdict.OK)

    def _difference(self, gate: Outcome, direct: Outcome, how: str) -> Judgement | None:
        """`how`: `ok` compares nothing but success, `shape` no values."""
        if gate.has_hung:
            return Judgement(Verdict.HANG, "no answer")
        if gate.is_lost:
            return Judgement(Verdict.LOST, _said(gate.errors, is_lost=True))
        if gate.errors and not direct.errors:
            return Judgement(Verdict.OVERBLOCKED, _said(gate.errors, is_lost=False))
        if how == "ok":
            return None
        if gate.columns != direct.columns:
            return Judgement(Verdict.DIFFERS, f"columns {str(gate.columns)[:60]}, directly {str(direct.columns)[:60]}")
        if len(gate.rows) != len(direct.rows):
            return Judgement(Verdict.DIFFERS, f"{len(gate.rows)} rows, directly {len(direct.rows)}")
        if how == "shape":
            return None
        if gate.tags != direct.tags:
            return Judgement(Verdict.DIFFERS, f"tags {gate.tags}, directly {direct.tags}")
        pairs = [pair for rows in zip(gate.rows, direct.rows, strict=True) for pair in zip(*rows, strict=True)]
        lines = gate.copied.split(b"\n"), direct.copied.split(b"\n")
        if len(lines[0]) != len(lines[1]):
            return Judgement(Verdict.DIFFERS, f"output of {len(lines[0])} lines, directly {len(lines[1])}")
        pairs += [(ours, theirs) for ours, theirs in zip(*lines, strict=True) if not VARIES.search(theirs)]
        for ours, theirs in pairs:
            if ours != theirs and not self._is_secret(theirs):
                return Judgement(Verdict.DIFFERS, f"{ours!r}, directly {theirs!r}")
        return None

    def _is_secret(self, value: bytes | None) -> bool:
        return bool(value and self.hunter.hunt([Unit("cell", value)], (), (*SECRET, "email")))


def _said(errors: Sequence[tuple[str, str]], *, is_lost: bool) -> str:
    said = f"{errors[0][0]} {errors[0][1]}" if errors else ""
    return f"session lost: {said}" if is_lost else said
