"""An approval request for a terminal: what was asked and decided, a line a fact.

Rules it keeps: nothing of what others wrote looks like a line of this page. A statement's lines stand behind a bar, values and names are
quoted or come last on their line, what can't be seen is escaped and named, and every line is broken here and not by the terminal, where
a long one would go on at the left margin. What is left out of a long text is counted, with the command that shows it.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sidegate.mask.plain import cells, plain

if TYPE_CHECKING:
    from sidegate.approval.backend import HoldRequest, ShownParameter
    from sidegate.approval.document import ApprovalDocument
    from sidegate.approval.hold import Hold
    from sidegate.policy.statement import Impact

MAX_LINES: Final = 20  # of one text, and of one list of values, when the request isn't shown whole
_LEAST_WIDTH: Final = 40
_LABEL: Final = 13
_SIMPLE: Final = re.compile(r"[\w$@.:/+-]+")


def width(otherwise: int = 100) -> int:
    """Columns that lines may take; `otherwise` when there is no terminal."""
    return max(_LEAST_WIDTH, shutil.get_terminal_size((otherwise, 24)).columns)


def request_lines(hold: Hold, document: ApprovalDocument, now: float, columns: int, *, is_whole: bool) -> Iterator[str]:
    """All that an approver has to know. `is_whole`: no text is cut."""
    request = hold.request
    through = f" through {name(request.agent)}" if request.agent else ""
    address = f" from {name(request.source_address)}" if request.source_address else ""
    since = left(now - request.requested_at)
    yield from _fact("asked by", f"{name(request.requester)}{through}{address}, {since} ago", columns)
    yield from _fact("on", _where(request), columns)
    yield from _fact("path", _path(request), columns)
    detail = f": {request.detail}" if request.detail else ""
    yield from _fact("held by", f"{request.source} ({request.reason}){detail}", columns)
    if request.impact is not None:
        yield from _fact("impact", _impact(request.impact), columns)
        for table in request.impact.tables:
            yield from _fact("", f"+{table.inserted} ~{table.updated} -{table.deleted}  {table.relation}", columns)
    page = _Page(hold.name, columns, is_whole)
    yield from page.statement("statement", request.statement, request.parameters)
    for each in request.runs:
        yield from page.statement("runs", each.statement, each.parameters)
    for each in request.alternatives:
        yield from page.statement("or, should the target refuse that", each.statement, each.parameters)
    if document.spec.hidden_characters:
        yield from _fact("hidden", f"{', '.join(document.spec.hidden_characters)}: in the texts above they are escapes", columns)
    yield from _decisions(hold, document, now, columns)


def _where(request: HoldRequest) -> str:
    where = f", database {name(request.database)}" if request.database else ""
    if not request.role:
        return f"{request.namespace}/{request.target}{where}"
    if request.current_role is None:
        role = f" as {name(request.role)}, if no SET ROLE came before"
    elif request.current_role != request.role:
        role = f" as {name(request.current_role)}, by SET ROLE of {name(request.role)}"
    else:
        role = f" as {name(request.role)}"
    return f"{request.namespace}/{request.target}{where}{role}"


def _path(request: HoldRequest) -> str:
    if request.search_path is None:
        return "not known: what is named without its schema could be in any"
    return ", ".join(map(name, request.search_path))


def _decisions(hold: Hold, document: ApprovalDocument, now: float, columns: int) -> Iterator[str]:
    from sidegate.approval.backend import Phase

    request = hold.request
    for each in hold.votes:
        groups = f" of {', '.join(map(name, each.groups))}" if each.groups else ""
        comment = f": {each.comment}" if each.comment else ""
        yield from _fact(each.choice.value.lower(), f"by {name(each.by)}{groups}, {_moment(each.at)}{comment}", columns)
    if hold.phase is Phase.APPROVED:
        client = (
            f"the gate holds the statement until {_moment(request.hold_until)}"
            if now < request.hold_until
            else "the gate no longer waits: it runs when the same statement is sent again"
        )
        yield from _fact("usable", f"once, until {_moment(request.expires_at)}; {client}", columns)
    elif hold.phase is Phase.PENDING:
        yield from _fact("expires", f"{_moment(request.expires_at)}, in {left(request.expires_at - now)}", columns)
    outcome = document.status.outcome
    if outcome is not None:
        yield from _fact("outcome", f"{outcome.result}: {outcome.sqlstate or outcome.message or ''}, {outcome.at}", columns)


class _Page:
    """Lays out statements of one request."""

    def __init__(self, request: str, columns: int, is_whole: bool) -> None:
        self._request = request
        self._columns = columns
        self._is_whole = is_whole

    def statement(self, title: str, text: str, parameters: tuple[ShownParameter, ...]) -> Iterator[str]:
        yield f"  {title}"
        yield from self._text(text, 4)
        shown = parameters if self._is_whole else parameters[:MAX_LINES]
        for number, each in enumerate(shown, 1):
            yield from self._parameter(number, each)
        if len(shown) < len(parameters):
            yield f"    ... {len(parameters) - len(shown)} more parameters: {self._way}"

    @property
    def _way(self) -> str:
        return f"sidegate approvals show {self._request}"

    def _text(self, text: str, indent: int) -> Iterator[str]:
        """Each line behind a bar; what goes on from the line before, behind a colon."""
        margin = " " * indent
        lines: list[tuple[str, str]] = []
        for line in plain(text, keeps_lines=True).expandtabs(4).split("\n"):
            pieces = broken(line, self._columns - indent - 2)
            lines += [(f"{margin}{':' if number else '|'} ", piece) for number, piece in enumerate(pieces)]
        at_most = len(lines) if self._is_whole or len(lines) <= MAX_LINES else MAX_LINES
        yield from (bar + piece for bar, piece in lines[:at_most])
        if at_most < len(lines):
            characters = sum(len(piece) for _, piece in lines[at_most:])
            yield f"{margin}... {len(lines) - at_most} more lines, {characters} characters: {self._way}"

    def _parameter(self, number: int, parameter: ShownParameter) -> Iterator[str]:
        """The value comes last, so that it can't say what its type is, or whether it is masked."""
        words = [parameter.type or "untyped", *["binary"] * parameter.is_binary, *["masked"] * parameter.is_masked]
        head = f"    ${number} ({', '.join(map(plain, words))}) ="
        if parameter.text is None:
            value = "NULL" if parameter.hexadecimal is None else f"\\x{parameter.hexadecimal}"
        else:
            value = "'" + plain(parameter.text, keeps_lines=True).replace("'", "''") + "'"
        if "\n" in value or "\t" in value or cells(head) + 1 + cells(value) > self._columns:
            yield head
            yield from self._text(value, 6)
        else:
            yield f"{head} {value}"


def name(text: str) -> str:
    """A name that somebody chose: quoted, as SQL does it, unless it is of letters, digits and what addresses have."""
    shown = plain(text)
    return shown if _SIMPLE.fullmatch(shown) else '"' + shown.replace('"', '""') + '"'


def cut(text: str, columns: int) -> str:
    """One line of at most so many columns. What is left out is told by `...`."""
    flat = " ".join(plain(text, keeps_lines=True).split())
    return flat if cells(flat) <= columns else f"{broken(flat, max(1, columns - 3))[0]}..."


def broken(line: str, columns: int) -> list[str]:
    """The line in pieces that each fit."""
    if line.isascii():
        return [line[at : at + columns] for at in range(0, len(line), columns)] or [""]
    pieces, piece, taken = [], "", 0
    for character in line:
        needed = 2 if unicodedata.east_asian_width(character) in "WFA" else 1  # never less than any terminal takes
        if taken + needed > columns:
            pieces.append(piece)
            piece, taken = "", 0
        piece += character
        taken += needed
    return [*pieces, piece]


def _fact(label: str, text: str, columns: int) -> Iterator[str]:
    pieces, rest = [], plain(text)
    while rest:
        piece = broken(rest, columns - _LABEL)[0]
        blank = piece.rfind(" ") + 1
        if len(piece) < len(rest) and blank:
            piece = piece[:blank]
        pieces.append(piece)
        rest = rest[len(piece) :]
    for number, piece in enumerate(pieces):
        yield f"{'' if number else '  ' + label:<{_LABEL}}{piece}".rstrip()


def _impact(impact: Impact) -> str:
    return "empties a table" if impact.is_truncation else f"{impact.rows} rows by the statement, {impact.rows_affected} in all"


def left(seconds: float) -> str:
    """A length of time, in the unit that tells most."""
    seconds = max(0, int(seconds))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
