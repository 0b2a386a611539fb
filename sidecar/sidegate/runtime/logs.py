"""The gate's own log on stderr: one line an event, as JSON or for a person. What sessions did is audit, not log.

Rules: no secret reaches a line, whoever logged it: tokens, passwords in settings and addresses, private keys and fields with a telling
name are replaced. Nobody can write a line of their own: control characters are escaped, long text is cut. Logging never raises.

Left out: rotation and shipping, which belong to whoever runs the gate.
"""

from __future__ import annotations

import enum
import logging
import re
import sys
from typing import Final, TextIO

import msgspec

from sidegate.runtime.clock import timestamp

MAX_TEXT: Final = 8 * 1024
MAX_TEXT_READ: Final = 4 * MAX_TEXT  # bounds the work on text that will be cut anyway
WITHHELD: Final = "[withheld]"

_TELLING_NAMES: Final = "password | passwd | passphrase | pwd | client_secret | api_?key"
_VALUE: Final = r""" "[^"]*" | '[^']*' | [^\s,;&}]+ """

# What may be a secret -> what is written for it. All of them are linear: no nested repetition.
SECRETS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), WITHHELD),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)*"), WITHHELD),  # JWT and JWE: a JSON object in base64url begins so
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {WITHHELD}"),
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), rf"\1:{WITHHELD}@"),  # user information, RFC 3986 section 3.2.1
    (
        re.compile(
            rf"(?ix) ( (?: {_TELLING_NAMES} | secret | token | access_?key | authorization ) [\"']? \s* = \s* ) ( {_VALUE} )"
        ),
        rf"\1{WITHHELD}",
    ),
    (re.compile(rf"(?ix) ( \b (?: {_TELLING_NAMES} ) [\"']? \s* : \s* ) ( {_VALUE} )"), rf"\1{WITHHELD}"),
)
SECRET_FIELDS: Final = re.compile(r"(?i)password|passwd|passphrase|secret|token|authorization|api_?key|private_?key|credential")

# What logging itself puts on a record; everything else is a field that the caller gave with `extra`.
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LogForm(enum.StrEnum):
    JSON = "json"
    TEXT = "text"


def without_secrets(text: str) -> str:
    """The text with everything that looks like a secret replaced, and cut to a bounded length."""
    if len(text) > MAX_TEXT_READ:
        text = text[:MAX_TEXT_READ].rpartition(" ")[0]  # half a secret at the end would not be recognised
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    text = text.encode("utf-8", "backslashreplace").decode()  # lone surrogates stand for bytes that were no UTF-8
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " [cut]"


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # arguments that don't fit the format: say what was said without them
        text = f"{record.msg} (its arguments don't fit)"
    return without_secrets(text)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in vars(record).items():
        if name in _OWN_ATTRIBUTES:
            continue
        if SECRET_FIELDS.search(name):
            found[name] = WITHHELD
        else:
            found[name] = value if isinstance(value, bool | int | float | None) else without_secrets(str(value))
    return found


class JsonLines(logging.Formatter):
    """`{"time", "level", "logger", "message", ...fields, "error"}`; a field never replaces one of these."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = without_secrets(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.000Z warning sidegate.runtime: message (field=value)`, an error's stack below it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_on_one_line(str(value))}" for name, value in _fields(record).items())
        line = f"{timestamp(record.created)} {record.levelname.lower()} {record.name}: {_on_one_line(_message(record))}"
        if fields:
            line += f" ({fields})"
        if record.exc_info and record.exc_info[0] is not None:
            stack = without_secrets(self.formatException(record.exc_info))
            line += "".join(f"\n    {_on_one_line(part)}" for part in stack.splitlines())
        return line


def _on_one_line(text: str) -> str:
    """Control characters escaped, those of terminals and of bidirectional text too: what isn't printable isn't printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def set_up_logs(form: LogForm, level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Send the whole process's log to `stream` (stderr) in this form, in place of what was set up before. Returns the handler."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines() if form is LogForm.JSON else TextLines())
    root = logging.getLogger()
    for earlier in list(root.handlers):
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    return handler
