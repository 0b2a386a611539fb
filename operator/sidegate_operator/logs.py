"""The operator's log on stderr: one line an event, as JSON or for a person. Words of others within a message make no line of their own."""

from __future__ import annotations

import enum
import logging
import sys
from typing import Final

import msgspec

from sidegate_operator.clock import timestamp

MAX_TEXT: Final = 16 * 1024


class LogForm(enum.StrEnum):
    JSON = "json"
    TEXT = "text"


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = _cut(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = f"{timestamp(record.created)} {record.levelname.lower()} {_on_one_line(_cut(record.getMessage()))}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "".join(f"\n    {_on_one_line(each)}" for each in _cut(self.formatException(record.exc_info)).splitlines())
        return text


def set_up_logs(form: LogForm, level: int = logging.INFO) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form is LogForm.JSON else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


def _cut(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " [cut]"


def _on_one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
