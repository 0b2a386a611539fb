"""Strings that mean something: what each form takes, what it refuses, and what it is worth."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from sidegate.api import meta, names, text
from sidegate.api.text import (
    AtMost,
    ByteQuantity,
    CpuQuantity,
    Days,
    Duration,
    Host,
    IssuerUrl,
    Label,
    LabelName,
    Network,
    NetworkOrSocket,
    ObjectName,
    Sentence,
    Text,
    TimeOfDay,
    Timestamp,
    TimeZoneName,
)


def forms(kind: type[Text] = Text) -> list[type[Text]]:
    found = [each for each in kind.__subclasses__() if hasattr(each, "pattern")]
    return found + [below for each in kind.__subclasses__() for below in forms(each)]


FORMS = forms()
assert {meta.LabelKey, names.ColumnName, text.ImageName} <= set(FORMS)

TAKES: list[tuple[type[Text], tuple[str, ...], tuple[str, ...]]] = [
    (Duration, ("10m", "90d", "1h30m", "1d12h", "99999s"), ("", "0s", "10", "m", "1.5h", "10 m", "-5m", "10M", "1h1h1h1h1h", "10m\n", "１0m", "100000s")),
    (ByteQuantity, ("1", "64Ki", "10Gi", "500M", "2T"), ("", "0", "-1", "10gi", "10GiB", "1.5Gi", "1e9", "10 Gi", "0Gi")),
    (CpuQuantity, ("100m", "2"), ("", "0", "0.5", "100mi", "1 ")),
    (TimeOfDay, ("00:00", "08:05", "23:59", "24:00"), ("8:00", "24:01", "08:60", "0800", "08:00:00", "08:00\n")),
    (Days, ("Mon", "Sat", "Mon-Fri", "Fri-Mon"), ("mon", "Monday", "Mon-", "Mon-Fri-Sat", "Mon,Tue", "")),
    (
        Timestamp,
        ("2026-11-24T08:00:00Z", "2026-11-24T08:00:00.123456789Z", "2026-11-24T08:00:00+05:30"),
        ("2026-11-24", "2026-11-24T08:00:00", "2026-11-24 08:00:00Z", "2026-02-30T08:00:00Z", "2026-11-24T24:00:00+99:00", "2026-11-24T08:00:00z"),
    ),
    (TimeZoneName, ("UTC", "Europe/Berlin", "America/Argentina/Ushuaia"), ("CEST/", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "Europe", "")),
    (Network, ("10.0.0.0/8", "fd00::/8", "192.0.2.7/32", "0.0.0.0/0"), ("10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "unix", "::/129", "10.0.0.0/08", "10.0.0.0/255.0.0.0")),
    (NetworkOrSocket, ("unix", "10.0.0.0/8"), ("0.0.0.0/00", "::/00", "Unix", "socket", "10.0.0.1/8")),
    (Host, ("db.example.com", "127.0.0.1", "::1", "/var/run/postgresql", "localhost"), ("db.example.com:5432", "", "http://db", "-db", "a b", "[::1]")),
    (
        IssuerUrl,
        ("https://id.example.com", "https://id.example.com/realms/x/", "http://127.0.0.1:8790", "http://localhost/x", "http://[::1]:80"),
        ("http://id.example.com", "https://u@id.example.com", "https://id.example.com?x=1", "http://127.0.0.1.evil.com", "http://localhost.evil.com",
         "https://", "ftp://x", "https://a b", "http://localhost:1@evil.com", "https://id.example.com#x"),
    ),
    (ObjectName, ("shop-db", "a.b", "1"), ("Shop", "-a", "a-", "a..b", "a_b", "", "a" * 254)),
    (LabelName, ("big-deletes",), ("a.b", "A", "a" * 64)),
    (Label, ("ai assistants", "ann@example.com", "Ä"), (" dba", "dba ", "a\nb", "", "a\x00")),
    (Sentence, ("ask Ann", " x "), ("a\nb", "", "\x1b[31m")),
    (text.ClaimName, ("groups", "realm_access.roles", "https://example.com/groups"), ("", "a b", "ä")),
    (text.EnvironmentName, ("production", "eu-1.prod"), ("", "-a", "a b")),
    (text.ImageName, ("registry.example/sidegate@sha256:" + "a" * 64, "sidegate:1.0"), ("Sidegate", "a@sha256:ab", "a b", "")),
    (meta.LabelKey, ("app", "app.kubernetes.io/name"), ("", "/a", "a/b/c", "a b")),
    (meta.LabelValue, ("", "shop", "1"), ("-", "a b", "a" * 64)),
]  # fmt: skip


@pytest.mark.parametrize(("form", "takes", "refuses"), TAKES, ids=[form.__name__ for form, _, _ in TAKES])
def test_takes_and_refuses(form: type[Text], takes: tuple[str, ...], refuses: tuple[str, ...]) -> None:
    for value in takes:
        assert form(value) == value
    for value in refuses:
        with pytest.raises(PydanticCustomError) as caught:
            form(value)
        assert caught.value.context is not None
        assert caught.value.context["way_forward"]


@pytest.mark.parametrize(("form", "takes", "refuses"), TAKES, ids=[form.__name__ for form, _, _ in TAKES])
def test_the_crds_pattern_is_read_alike_by_go(form: type[Text], takes: tuple[str, ...], refuses: tuple[str, ...]) -> None:
    """The API server compiles patterns with Go's RE2. It may let through what only a check in Python can see, never the reverse."""
    schema = TypeAdapter(form).json_schema()
    assert "pattern" in schema or schema.get("format") == "date-time"
    pattern = re2.compile(schema.get("pattern", ""))
    for value in takes:
        assert pattern.search(value)
        assert len(value) <= schema["maxLength"]
    for value in refuses:
        if len(value) <= schema["maxLength"] and re.fullmatch(form.pattern, value) is None and "pattern" in schema:
            assert not pattern.search(value), value


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_has_a_pattern_that_re2_compiles_and_a_limit(form: type[Text]) -> None:
    re2.compile(f"^({form.pattern})$")
    assert 0 < form.max_length <= 512
    assert form.meaning
    assert form.way_forward


@pytest.mark.parametrize(("written", "seconds"), [("10m", 600), ("90d", 7776000), ("1h30m", 5400), ("1d1s", 86401)])
def test_a_duration_is_worth_its_seconds(written: str, seconds: int) -> None:
    assert Duration(written).seconds == seconds


@given(st.lists(st.tuples(st.integers(1, 99999), st.sampled_from("dhms")), min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    worth = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    written = "".join(f"{count}{unit}" for count, unit in parts)
    assert Duration(written).seconds == sum(count * worth[unit] for count, unit in parts)


def test_a_duration_over_its_fields_limit_is_refused() -> None:
    adapter = TypeAdapter(Annotated[Duration, AtMost("1h")])
    assert adapter.validate_python("60m") == "60m"
    with pytest.raises(ValidationError, match="longer than 1h"):
        adapter.validate_python("61m")


@pytest.mark.parametrize(
    ("written", "count"), [("1", 1), ("64Ki", 65536), ("10Gi", 10 * 1024**3), ("500M", 500_000_000), ("3k", 3000)]
)
def test_a_size_is_worth_its_bytes(written: str, count: int) -> None:
    assert ByteQuantity(written).bytes == count


def test_a_size_may_be_written_as_a_number_but_not_as_a_truth_value() -> None:
    adapter = TypeAdapter(ByteQuantity)
    assert adapter.validate_json("1048576", strict=True) == "1048576"
    for refused in ("true", "1.5", "null", "[]"):
        with pytest.raises(ValidationError):
            adapter.validate_json(refused, strict=True)


@pytest.mark.parametrize(
    ("written", "indexes"),
    [
        ("Mon", (0,)),
        ("Mon-Fri", (0, 1, 2, 3, 4)),
        ("Fri-Mon", (4, 5, 6, 0)),
        ("Sun-Sun", (6,)),
        ("Mon-Sun", (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_days_count_from_monday_and_go_over_the_weeks_end(written: str, indexes: tuple[int, ...]) -> None:
    assert Days(written).indexes == indexes


def test_a_time_of_day_is_worth_its_minutes() -> None:
    assert [TimeOfDay(each).minute for each in ("00:00", "08:30", "24:00")] == [0, 510, 1440]


def test_a_moment_is_worth_its_seconds_since_the_epoch() -> None:
    expected = datetime(2026, 11, 24, 8, 0, tzinfo=UTC).timestamp()
    assert Timestamp("2026-11-24T08:00:00Z").epoch_s == expected
    assert Timestamp("2026-11-24T13:30:00+05:30").epoch_s == expected
    assert Timestamp("2026-11-24T08:00:00.250000001Z").epoch_s == expected + 0.25


@given(st.integers(0, 4_000_000_000))
def test_a_moment_survives_the_way_through_text(seconds: int) -> None:
    assert Timestamp.from_epoch(float(seconds)).epoch_s == seconds


@given(st.text(max_size=40))
def test_no_form_takes_a_line_break_or_a_null_byte(value: str) -> None:
    for form in FORMS:
        for hidden in ("\n", "\x00", "\r"):
            with pytest.raises(PydanticCustomError):
                form(value + hidden)


def test_a_message_shows_no_control_characters_and_no_endless_input() -> None:
    assert "\x1b" not in text.shown("\x1b[31mred")
    assert len(text.shown("x" * 10_000)) < 100
