"""What `sidegate policy test` found, gathered while recordings are read, and shown at the end: for a person, and as JSON.

Rules it keeps:
- Alike changes of alike callers are one entry with a count and the first place where it happened; memory is bounded in entries, and what is
  over that is counted in its group all the same.
- Whatever a client, a token or a manifest said goes through `plain`, shortened; JSON is ASCII.
- Statements are shown without their constants: a report is read by more people than a recording.

Pure.
"""

from __future__ import annotations

import datetime as dt
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sidegate.audit.events import SessionFields
from sidegate.mask.plain import plain
from sidegate.policy.compared import Answer, Group
from sidegate.policy.principal import Json
from sidegate.postgres.redecide import Redecided, Untold
from sidegate.record.asked import AskedStatement

MAX_ENTRIES: Final = 5000
MAX_UNTOLD: Final = 500
SHOWN_CHARACTERS: Final = 240
KEPT_CHARACTERS: Final = 2000
SCHEMA: Final = "sidegate.dev/policy-test/v1"
SCHEMAS_IN_COMMAND: Final = 16

HEADINGS: Final[dict[Group, str]] = {
    Group.ALLOWED: "NEWLY ALLOWED: was denied or held, and would run",
    Group.UNMASKED: "MASKED LESS: would show what was masked",
    Group.DENIED: "NEWLY DENIED",
    Group.HELD: "NEWLY HELD FOR APPROVAL",
    Group.MASKED: "MASKED MORE",
    Group.RULE: "DECIDED BY ANOTHER RULE",
}
_SUMMARY: Final[dict[Group, str]] = {
    Group.ALLOWED: "newly allowed",
    Group.UNMASKED: "masked less",
    Group.DENIED: "newly denied",
    Group.HELD: "newly held",
    Group.MASKED: "masked more",
    Group.RULE: "other rule",
}


class Place(NamedTuple):
    """Where a statement stands."""

    session: SessionFields
    recording: str
    statement: int
    time: float
    search_path: tuple[str, ...] | None
    rows: int | None


@dataclass(slots=True)
class Entry:
    """One change, as often as it happened."""

    group: Group
    first: Place
    redecided: Redecided
    count: int = 0


@dataclass(slots=True)
class Unsettled:
    """One reason why it can't be told."""

    first: Place
    count: int = 0


@dataclass(slots=True)
class Tally:
    """`revisions`: of the targets that were asked, as compiled from the manifests."""

    recordings: int = 0
    skipped: int = 0
    statements: int = 0
    unchanged: int = 0
    counts: Counter[Group] = field(default_factory=Counter)
    entries: dict[object, Entry] = field(default_factory=dict)
    not_listed: Counter[Group] = field(default_factory=Counter)
    untold: dict[str, Unsettled] = field(default_factory=dict)
    untold_count: int = 0
    masks_unknown: int = 0
    catalog_may_refuse: int = 0
    revisions: dict[str, str] = field(default_factory=dict)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    def add(self, session: SessionFields, recording: str, asked: AskedStatement, found: Redecided | Untold) -> None:
        self.statements += 1
        impact = next((each.impact for each in reversed(asked.decisions) if each.impact is not None), None)
        path = asked.search_path
        rows = (
            max(impact.rows, sum(each.inserted + each.updated + each.deleted for each in impact.tables))
            if impact is not None
            else None
        )
        place = Place(session, recording, asked.number, asked.time, path, rows)
        if isinstance(found, Untold):
            self._add_untold(place, found.why)
            return
        self.masks_unknown += found.masks_unknown
        self.catalog_may_refuse += found.catalog_may_refuse
        groups = found.comparison.groups
        if not groups - {Group.RULE}:
            self.unchanged += 1
        for group in groups:
            self.counts[group] += 1
            key = (_who(session), group, found.fingerprint, found.was, found.now, found.comparison.less, found.comparison.more)
            entry = self.entries.get(key)
            if entry is None:
                if len(self.entries) >= MAX_ENTRIES:
                    self.not_listed[group] += 1
                    continue
                entry = self.entries[key] = Entry(group, place, found)
            entry.count += 1

    def _add_untold(self, place: Place, why: str) -> None:
        self.untold_count += 1
        if why not in self.untold and len(self.untold) >= MAX_UNTOLD:
            why = "other reasons"
        self.untold.setdefault(why, Unsettled(place)).count += 1

    def of(self, group: Group) -> list[Entry]:
        """The most frequent first."""
        return sorted(
            (entry for entry in self.entries.values() if entry.group is group),
            key=lambda e: (-e.count, e.first.time, e.first.statement),
        )

    # ---- for a person -------------------------------------------------------------------------------------------------------------

    def lines(self, recordings: str, manifests: str, *, verbose: bool) -> Iterator[str]:
        for group, heading in HEADINGS.items():
            if not self.counts[group] or (group is Group.RULE and not verbose):
                continue
            yield f"{heading} ({_counted(self.counts[group])})"
            for entry in self.of(group):
                yield from _entry_lines(entry, recordings, manifests)
            if self.not_listed[group]:
                yield f"  and {_counted(self.not_listed[group])} more, of changes too many to list"
            yield ""
        if self.untold:
            yield f"CAN'T BE TOLD ({_counted(self.untold_count)})"
            for why, unsettled in sorted(self.untold.items(), key=lambda item: (-item[1].count, item[0])):
                yield f"  {unsettled.count}x  {_short(why)}"
                first = unsettled.first
                yield f"        first  {_moment(first.time)}, session {_short(first.session.id)}, statement {first.statement}"
            yield ""
        for path, problem in self.damaged:
            yield f"DAMAGED  {_short(path)}: {_short(problem)}; only what stands before it was read"
        if self.masks_unknown:
            yield (
                f"note: of {_counted(self.masks_unknown)} it isn't recorded what was masked, since the gate was older:"
                " outcomes are compared, masks are not"
            )
        if self.catalog_may_refuse:
            yield (
                f"note: {_counted(self.catalog_may_refuse)} would be let through by the policies, and may be refused, held or"
                " measured all the same, if views, generated columns or triggers of the target lead to what is masked or limited now"
            )
        changed = [f"{self.counts[group]} {words}" for group, words in _SUMMARY.items() if self.counts[group]]
        yield (
            f"{_counted(self.statements)} in {self.recordings} recording{'' if self.recordings == 1 else 's'}:"
            f" {', '.join([*changed, f'{self.unchanged} unchanged', *([f'{self.untold_count} untold'] if self.untold_count else [])])}"
        )

    # ---- for a program ------------------------------------------------------------------------------------------------------------

    def document(self, failed: tuple[Group, ...] | list[str]) -> dict[str, Json]:
        """docs/policy.md has the schema; names are never given another meaning within its version."""
        changes: list[Json] = [_entry_json(entry) for group in HEADINGS for entry in self.of(group)]
        untold: list[Json] = [
            {"why": why[:KEPT_CHARACTERS], "count": each.count, "first": _place_json(each.first)}
            for why, each in sorted(self.untold.items(), key=lambda item: (-item[1].count, item[0]))
        ]
        damaged: list[Json] = [{"recording": path, "problem": problem} for path, problem in self.damaged]
        revisions: dict[str, Json] = {**self.revisions}
        counts: dict[str, Json] = {group.value: self.counts[group] for group in HEADINGS}
        not_listed: dict[str, Json] = {group.value: self.not_listed[group] for group in HEADINGS if self.not_listed[group]}
        return {
            "schema": SCHEMA,
            "revisions": revisions,
            "recordings": {"read": self.recordings, "left": self.skipped, "damaged": damaged},
            "statements": self.statements,
            "unchanged": self.unchanged,
            "counts": {**counts, "untold": self.untold_count},
            "changes": changes,
            "notListed": not_listed,
            "untold": untold,
            "masksUnknown": self.masks_unknown,
            "catalogMayRefuse": self.catalog_may_refuse,
            "failed": [str(each) for each in failed],
        }


def _who(session: SessionFields) -> tuple[object, ...]:
    """Callers that the same subjects name, but for subjects by user: their answers tell them apart then."""
    principal = session.principal
    if principal is None:
        return (session.target, session.database, session.role, session.passthrough)
    return (session.target, session.database, session.role, principal.groups, principal.agent, principal.environment)


def _entry_lines(entry: Entry, recordings: str, manifests: str) -> Iterator[str]:
    found, first = entry.redecided, entry.first
    yield f"  {entry.count}x  {_short(found.statement or '(a statement of the protocol)')}"
    yield f"        who    {_short(_caller(first.session))}, on {_short(first.session.target)}, database {_short(first.session.database)}"
    yield f"        was    {_told(found.was)}"
    yield f"        now    {_told(found.now)}"
    labels = {Group.UNMASKED: found.comparison.less, Group.MASKED: found.comparison.more}.get(entry.group, ())
    for label in labels[:8]:
        yield f"        mask   {_short(label)}"
    if len(labels) > 8:
        yield f"        mask   and {len(labels) - 8} more"
    yield f"        first  {_moment(first.time)}, session {_short(first.session.id)}, statement {first.statement}"
    for command in commands(entry, recordings, manifests):
        yield f"        see    {plain(command)}"


def commands(entry: Entry, recordings: str, manifests: str) -> Iterator[str]:
    """Ways to look closer, quoted for a shell."""
    first = entry.first
    yield shlex.join(["sidegate", "replay", first.session.id, "--directory", recordings, "--statement", str(first.statement)])
    principal, statement = first.session.principal, entry.redecided.statement
    if principal is None or not statement or len(statement) > SHOWN_CHARACTERS or statement != plain(statement):
        return
    options = ["--manifests", manifests, "--target", first.session.target, "--user", principal.username]
    for group in principal.groups:
        options += ["--group", group]
    if principal.agent is not None:
        options += ["--agent", principal.agent]
    if principal.environment is not None:
        options += ["--environment", principal.environment]
    options += ["--database", first.session.database, "--role", first.session.role, "--at", _moment(first.time)]
    path = first.search_path
    if path and len(path) <= SCHEMAS_IN_COMMAND and not any("," in name or name != name.strip() for name in path):
        options += ["--search-path", ",".join(path)]
    if first.rows is not None:
        options += ["--rows", str(first.rows)]
    # What begins with a dash, a comment, would be taken for an option
    yield shlex.join(["sidegate", "policy", "explain", *options, "--", statement])


def _entry_json(entry: Entry) -> Json:
    found, first = entry.redecided, entry.first
    session = first.session
    principal = session.principal
    groups: list[Json] = [*principal.groups] if principal is not None else []
    who: dict[str, Json] = (
        {"passthrough": session.passthrough}
        if principal is None
        else {
            "username": principal.username,
            "groups": groups,
            "agent": principal.agent,
            "environment": principal.environment,
        }
    )
    less: list[Json] = [*found.comparison.less]
    more: list[Json] = [*found.comparison.more]
    return {
        "group": entry.group.value,
        "count": entry.count,
        "statement": found.statement[:KEPT_CHARACTERS],
        "fingerprint": found.fingerprint,
        "target": session.target,
        "database": session.database,
        "role": session.role,
        "who": who,
        "was": _answer_json(found.was),
        "now": _answer_json(found.now),
        "masks": {"less": less, "more": more},
        "catalogMayRefuse": found.catalog_may_refuse,
        "first": _place_json(first),
    }


def _answer_json(answer: Answer) -> dict[str, Json]:
    return {
        "decision": answer.fate.value,
        "reason": answer.reason,
        "source": answer.source,
        "detail": answer.detail[:KEPT_CHARACTERS],
    }


def _place_json(place: Place) -> dict[str, Json]:
    return {
        "time": _moment(place.time),
        "session": place.session.id,
        "recording": place.recording,
        "statement": place.statement,
    }


def _caller(session: SessionFields) -> str:
    principal = session.principal
    if principal is None:
        return f"passthrough {session.passthrough or ''} as {session.role}"
    through = f" through {principal.agent}" if principal.agent else ""
    groups = f" in {', '.join(principal.groups)}" if principal.groups else " in no group"
    return f"{principal.username}{through}{groups}, as {session.role}"


def _told(answer: Answer) -> str:
    reason = f" ({answer.reason})" if answer.reason else ""
    detail = f": {answer.detail}" if answer.detail else ""
    return _short(f"{answer.fate.value}{reason} by {answer.source}{detail}")


def _short(text: str) -> str:
    """Cut before it is escaped, so that a huge text costs nothing, and after, since escapes are longer."""
    shown = plain(text[: SHOWN_CHARACTERS + 1])
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 1] + "…"


def _counted(number: int) -> str:
    return f"{number} statement{'' if number == 1 else 's'}"


def _moment(time: float) -> str:
    """With all its digits: a window may begin between two of them. Frames can hold times that no calendar has."""
    try:
        return dt.datetime.fromtimestamp(time, tz=dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "at no time"
