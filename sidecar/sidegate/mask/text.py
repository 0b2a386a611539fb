"""Masking in the texts that reach a client beside its results: error and notice fields, notifications, parameter status.

Detectors look at all of them. Where columns are masked, detectors are not enough: an error quotes values of any column. Then a text passes
only when a table below says that such a message carries no value of the data, or when the target says that it speaks of the statement's own
text (a position in it, and no function in between). What is left is cut out: quoted parts, numbers, what follows the last colon; of a
message that code inside the database composed itself, everything.

SQLSTATEs are from the PostgreSQL documentation, appendix A; what each message quotes is from its sources (ereport calls).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sidegate.mask.scanner import Scanner
from sidegate.mask.strategies import REDACTED
from sidegate.policy.decision import Masks

MASKED: Final = REDACTED.decode()

# Field codes of ErrorResponse and NoticeResponse (PostgreSQL documentation, "Error and Notice Message Fields").
_NEVER_MASKED: Final = frozenset("SVCPpFLR")  # severity, SQLSTATE, positions, place in PostgreSQL's own source
_NAME_FIELDS: Final = frozenset("stcdn")  # schema, table, column, data type, constraint

# Classes whose messages are fixed texts, or quote names, process ids and limits of the server only.
_FIXED_CLASSES: Final[Mapping[str, str]] = {
    "08": "connection",
    "25": "invalid transaction state",
    "26": "invalid statement name: the client's own name",
    "34": "invalid cursor name: the client's own name",
    "40": "serialization failure, deadlock",
    "53": "insufficient resources",
    "57": "operator intervention",
}
_FIXED_STATES: Final[Mapping[str, str]] = {
    "3B001": "savepoint does not exist: the client's own name",
    "42P03": "duplicate cursor: the client's own name",
    "42P05": "duplicate prepared statement: the client's own name",
    "55P03": "lock not available: names a relation",
    "55006": "object in use: names a relation",
    "2BP01": "dependent objects: names objects",
}
# Class 23 (integrity constraints): the message quotes names of the catalog, the detail quotes values. Only these forms count as that.
_CONSTRAINT_MESSAGE: Final = re.compile(
    r'duplicate key value violates unique constraint "[^"]*"'
    r'|(?:insert or )?update (?:or delete )?on table "[^"]*" violates (?:RESTRICT setting of )?foreign key constraint "[^"]*"'
    r'(?: on table "[^"]*")?'
    r'|null value in column "[^"]*" of relation "[^"]*" violates not-null constraint'
    r'|new row for relation "[^"]*" violates check constraint "[^"]*"'
    r'|conflicting key value violates exclusion constraint "[^"]*"'
    r'|value for domain [\w.$" ]{1,130} violates check constraint "[^"]*"'
    r'|domain [\w.$" ]{1,130} does not allow null values'
)
_KEY_DETAIL: Final = re.compile(r"Key \(([^=]{1,256}?)\)=\(")
_KEY_ENDINGS: Final = ("already exists.", "is duplicated.", "is still referenced from table", "is not present in table")
# Notices of PostgreSQL's own code, by SQLSTATE and the function that reports them (field R), which quote names only.
_NAME_NOTICES: Final = frozenset(
    {
        ("42P07", "transformCreateStmt"),
        ("42P07", "DefineIndex"),
        ("42P07", "index_create"),
        ("42P07", "heap_create_with_catalog"),
        ("42P07", "ExecRefreshMatView"),
        ("42P07", "CreateTableAsRelExists"),
        ("42P06", "CreateSchemaCommand"),
        ("42701", "check_for_column_name_collision"),
        ("42710", "CreateExtension"),
        ("00000", "DropErrorMsgNonExistent"),
        ("00000", "DropErrorMsgWrongType"),
        ("00000", "does_not_exist_skipping"),
        ("00000", "reportDependentObjects"),
        ("00000", "ExecuteTruncate"),
        ("00000", "ExecuteTruncateGuts"),
        ("25001", "BeginTransactionBlock"),
        ("25P01", "UserAbortTransactionBlock"),
        ("25P01", "EndTransactionBlock"),
        ("25P01", "CheckTransactionBlock"),
        ("25P01", "WarnNoTransactionBlock"),
        ("25P01", "RequireTransactionBlock"),
    }
)
# Functions (field R) and files (field F) by which code inside the database speaks: RAISE, the other languages' loggers, other servers'
# errors. Whatever SQLSTATE it chose, the text is its own.
_SPEAKING_ROUTINES: Final = frozenset(
    {"exec_stmt_raise", "exec_stmt_assert", "PLy_output", "PLy_elog_impl", "plperl_util_elog", "pltcl_elog"}
)
_SPEAKING_FILES: Final = frozenset(
    {"pl_exec.c", "plpy_elog.c", "plpy_plpymodule.c", "plperl.c", "pltcl.c", "dblink.c", "connection.c"}
)
# Classes in which PostgreSQL's own code reports. Not among them: internal errors (XX) and external routines (38, 39), which extensions'
# languages raise with texts of their own, PL/pgSQL (P0), SQL routines (2F), and classes that somebody made up.
_OWN = "00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 10 20 21 22 23 24 25 26 27 28 2B 2D 34 3B 3D 3F 40 42 44 53 54 55 57 58 HV"
_OWN_CLASSES: Final = frozenset(_OWN.split(" "))
_PLACE: Final = re.compile(
    r"PL/pgSQL function [\w.\"$]+\([\w\s.,\[\]\"]*\) line \d+ at [A-Za-z_ .]+|COPY [\w.\"$]+, line \d+(?=[,:]|$)"
)
_QUOTES: Final = ('""', "\u201c\u201d", "\u00ab\u00bb", "``")
_NUMBER: Final = re.compile(r"[0-9][0-9.,:/-]{3,}")


def mask_fields(fields: Mapping[str, str], masks: Masks, hash_key: bytes | None = None) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse (code to text) as the client may see them."""
    shown = _without_values(fields) if masks.columns else dict(fields)
    if not masks.values:
        return shown
    scanner = Scanner.of(masks.values, hash_key)
    return {code: text if code in _NEVER_MASKED else _scanned(text, scanner) for code, text in shown.items()}


def mask_payload(text: str, masks: Masks, hash_key: bytes | None = None) -> str:
    """The payload of a notification. Triggers send whole rows there, so where columns are masked nothing of it passes."""
    if masks.columns:
        return MASKED if text else text
    return _scanned(text, Scanner.of(masks.values, hash_key))


def mask_channel(text: str, masks: Masks, hash_key: bytes | None = None) -> str:
    """The channel of a notification: a name that the client itself listens to."""
    return _scanned(text, Scanner.of(masks.values, hash_key))


# What a parameter's value can be. Values of every other parameter are free text, which set_config may have filled from anywhere.
_PARAMETER_VALUES: Final[Mapping[str, re.Pattern[str]]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "client_encoding": r"[A-Z0-9_]{1,16}",
        "server_encoding": r"[A-Z0-9_]{1,16}",
        "DateStyle": r"(?:ISO|SQL|Postgres|German), (?:MDY|DMY|YMD)",
        "IntervalStyle": r"postgres|postgres_verbose|sql_standard|iso_8601",
        "TimeZone": r"(?:[A-Z][A-Za-z]+/)?[A-Z][A-Za-z_]{1,20}(?:/[A-Z][A-Za-z_]{1,20})?|Etc/GMT[+-]\d{1,2}",
        "server_version": r"[0-9][0-9A-Za-z. ()+:~_-]{0,60}",
        "scram_iterations": r"\d{1,10}",
        "default_transaction_read_only": r"on|off",
        "in_hot_standby": r"on|off",
        "integer_datetimes": r"on|off",
        "is_superuser": r"on|off",
        "standard_conforming_strings": r"on|off",
    }.items()
}


def mask_parameter(name: str, value: str, masks: Masks, hash_key: bytes | None = None) -> str:
    """The value of a ParameterStatus. `application_name`, `search_path` and the like can be set to a column's value by set_config."""
    if masks.columns:
        pattern = _PARAMETER_VALUES.get(name)
        if value and (pattern is None or pattern.fullmatch(value) is None):
            return MASKED
    return _scanned(value, Scanner.of(masks.values, hash_key))


def _scanned(text: str, scanner: Scanner) -> str:
    masked = scanner.mask(text.encode("utf-8", "surrogateescape"))
    return text if masked is None else masked.decode("utf-8", "replace")


def _without_values(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields with everything cut out that may be a value of a masked column."""
    shown = dict(fields)
    state = fields.get("C", "")
    if _is_own_text(fields):
        return shown
    if _is_spoken(fields, state):
        for code in fields:
            if code in _NAME_FIELDS:
                del shown[code]
            elif code not in _NEVER_MASKED:
                shown[code] = MASKED
        shown["M"] = MASKED
        return shown
    message = fields.get("M", "")
    if not _is_fixed(fields, state, message):
        shown["M"] = _cut(message)
        if "H" in fields:
            shown["H"] = _cut(fields["H"])
    if "D" in fields and not (state[:2] in _FIXED_CLASSES or state in _FIXED_STATES):
        shown["D"] = _key_detail(fields["D"]) if state[:2] == "23" else MASKED
    if "W" in fields:
        shown["W"] = _places(fields["W"])
    if "q" in fields:
        shown["q"] = MASKED
    return shown


def _is_own_text(fields: Mapping[str, str]) -> bool:
    """The error points into the statement that the client sent, and no function, COPY line or inner query stands in between."""
    return "P" in fields and not ({"W", "q", "p"} & fields.keys()) and not _is_spoken(fields, fields.get("C", ""))


def _is_spoken(fields: Mapping[str, str], state: str) -> bool:
    """Code inside the database composed the message, or nobody can tell who did."""
    if state[:2] not in _OWN_CLASSES or fields.get("R", "") in _SPEAKING_ROUTINES or fields.get("F", "") in _SPEAKING_FILES:
        return True
    is_notice = fields.get("V", fields.get("S", "")) not in ("ERROR", "FATAL", "PANIC")
    return is_notice and (state, fields.get("R", "")) not in _NAME_NOTICES


def _is_fixed(fields: Mapping[str, str], state: str, message: str) -> bool:
    if state[:2] in _FIXED_CLASSES or state in _FIXED_STATES or (state, fields.get("R", "")) in _NAME_NOTICES:
        return True
    return state[:2] == "23" and _CONSTRAINT_MESSAGE.fullmatch(message) is not None


def _without_quoted(text: str) -> str:
    """Each kind's last closing quote is looked for once: a pattern would look for it again behind each opening one."""
    pairs = [(opening, text.rfind(closing)) for opening, closing in _QUOTES]
    pieces: list[str] = []
    at = 0
    while quoted := [(start, end) for mark, end in pairs if at <= (start := text.find(mark, at)) < end]:
        start, end = min(quoted)
        pieces += [text[at:start], f'"{MASKED}"']
        at = end + 1
    return "".join([*pieces, text[at:]])


def _cut(text: str) -> str:
    """Without quoted parts (from the first quote to the last: a value may hold quotes), long numbers, and the text after a colon."""
    text = _without_quoted(text)
    head, colon, _ = text.partition(": ")
    return _NUMBER.sub(MASKED, head) + (f": {MASKED}" if colon else "")


def _key_detail(text: str) -> str:
    """`Key (ssn)=(...) already exists.`: the columns stay, the values go."""
    match = _KEY_DETAIL.match(text)
    if match is None:
        return MASKED
    ending = next((ending for ending in _KEY_ENDINGS if ending in text), "")
    return f"Key ({match[1]})=({MASKED}) {ending}".rstrip()


def _places(text: str) -> str:
    """Lines of a context that only say where; the rest may quote statements and values."""
    lines: list[str] = []
    for line in text.split("\n"):
        match = _PLACE.match(line)
        place = match[0] if match is not None else MASKED
        if not lines or lines[-1] != place:
            lines.append(place)
    return "\n".join(lines)
