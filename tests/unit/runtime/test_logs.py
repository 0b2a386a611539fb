from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.runtime import logs
from sidegate.runtime.logs import JsonLines, LogForm, TextLines, without_secrets

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2lnbmF0dXJl"


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO, io.StringIO]]:
    """A logger that writes both forms."""
    logger = logging.getLogger("sidegate.tested")
    as_json, as_text = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(as_json), logging.StreamHandler(as_text)]
    handlers[0].setFormatter(JsonLines())
    handlers[1].setFormatter(TextLines())
    logger.handlers = list(handlers)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger, as_json, as_text
    logger.handlers = []


def test_a_json_line_has_time_level_logger_message_and_the_callers_fields(
    log: tuple[logging.Logger, io.StringIO, io.StringIO],
) -> None:
    logger, as_json, as_text = log
    logger.warning("session ended: %s", "token expired", extra={"session": "s-1", "seconds": 1.5})
    line = json.loads(as_json.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "sidegate.tested",
        "message": "session ended: token expired",
        "session": "s-1",
        "seconds": 1.5,
    }
    assert as_text.getvalue().endswith("Z warning sidegate.tested: session ended: token expired (session=s-1 seconds=1.5)\n")


def test_a_field_cannot_replace_what_the_line_itself_says(log: tuple[logging.Logger, io.StringIO, io.StringIO]) -> None:
    logger, as_json, _ = log
    logger.error("refused", extra={"level": "debug", "logger": "x", "time": "y"})
    line = json.loads(as_json.getvalue())
    assert (line["level"], line["logger"]) == ("error", "sidegate.tested")
    assert line["time"] != "y"


def test_nobody_writes_a_line_of_their_own(log: tuple[logging.Logger, io.StringIO, io.StringIO]) -> None:
    logger, as_json, as_text = log
    hostile = "x\n2026-01-01T00:00:00.000Z info sidegate: all is well\x1b[2J\u202e\u2028"
    logger.info("user %s", hostile, extra={"username": hostile})
    assert as_json.getvalue().count("\n") == 1
    assert len(as_text.getvalue().splitlines()) == 1
    assert "\x1b" not in as_text.getvalue() + as_json.getvalue()
    assert "\u202e" not in as_text.getvalue()


def test_an_error_is_logged_with_its_stack_and_without_its_secrets(log: tuple[logging.Logger, io.StringIO, io.StringIO]) -> None:
    logger, as_json, as_text = log
    try:
        raise ValueError(f"bad token {JWT}")
    except ValueError:
        logger.exception("login failed")
    assert "ValueError: bad token [withheld]" in json.loads(as_json.getvalue())["error"]
    assert "\n    ValueError: bad token [withheld]" in as_text.getvalue()
    assert "c2lnbmF0dXJl" not in as_json.getvalue() + as_text.getvalue()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"token is {JWT} there", JWT),
        ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
        ("header basic dXNlcjpwYXNz rest", "dXNlcjpwYXNz"),
        ("connecting to postgresql://app:hunter2@db.example/shop", "hunter2"),
        ("host=db password=hunter2 user=app", "hunter2"),
        ("host=db password='hun ter2' user=app", "hun ter2"),
        ("PGPASSWORD=hunter2 psql", "hunter2"),
        ("client_secret=hunter2&grant_type=x", "hunter2"),
        ('{"password": "hunter2", "a": 1}', "hunter2"),
        ("password: hunter2", "hunter2"),
        ("access_token=hunter2", "hunter2"),
        ("x -----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY----- y", "MIIabc"),
        ("x -----BEGIN PRIVATE KEY-----\nMIIabc", "MIIabc"),
    ],
)
def test_secrets_are_withheld(text: str, secret: str) -> None:
    assert secret in text
    cleaned = without_secrets(text)
    assert secret not in cleaned
    assert "[withheld]" in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "token refused: it expired 30 s ago",
        "password authentication isn't offered",
        "gate config can't be read: No such file or directory",
        "https://issuer.example/.well-known/openid-configuration",
        "dan@example.com asked for a hold",
    ],
)
def test_plain_messages_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text


def test_fields_with_a_telling_name_are_withheld(log: tuple[logging.Logger, io.StringIO, io.StringIO]) -> None:
    logger, as_json, _ = log
    logger.info("x", extra={"db_password": "hunter2", "idToken": ["hunter2"]})
    line = json.loads(as_json.getvalue())
    assert (line["db_password"], line["idToken"]) == ("[withheld]", "[withheld]")


def test_long_text_is_cut_without_leaving_half_a_secret() -> None:
    text = "a " * (logs.MAX_TEXT_READ // 2 - 5) + JWT
    cleaned = without_secrets(text)
    assert len(cleaned) <= logs.MAX_TEXT + len(" [cut]")
    assert "eyJ" not in cleaned


@given(st.text(st.characters(), max_size=200), st.lists(st.text(st.characters(), max_size=20), max_size=3))
def test_any_text_and_arguments_give_one_valid_line(text: str, arguments: list[str]) -> None:
    record = logging.LogRecord("sidegate", logging.INFO, "f.py", 1, text, tuple(arguments) or None, None)
    line = JsonLines().format(record)
    assert "\n" not in line
    assert isinstance(json.loads(line)["message"], str)
    assert TextLines().format(record).isprintable()


def test_set_up_replaces_earlier_handlers_and_takes_warnings_in() -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    try:
        handler = logs.set_up_logs(LogForm.JSON, stream=stream)
        assert root.handlers == [handler]
        logs.set_up_logs(LogForm.TEXT, stream=stream)
        assert len(root.handlers) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("something is old", UserWarning, stacklevel=1)
        assert "something is old" in stream.getvalue()
    finally:
        logging.captureWarnings(False)
        root.handlers = before
        root.setLevel(level)


def test_the_log_goes_to_stderr_by_default() -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        handler = logs.set_up_logs(LogForm.TEXT)
        assert isinstance(handler, logging.StreamHandler)
        assert handler.stream is sys.stderr
    finally:
        logging.captureWarnings(False)
        root.handlers = before
        root.setLevel(level)
