"""Limits that a session begins with, and the statements that would lift them."""

from __future__ import annotations

import pytest

from sidegate.postgres.restrictions import Restrictions
from sidegate.sql import Analysis, analyse
from tests.support.session import Bench, error_of, query, ready, target_error

BEGAN_READ_ONLY = Restrictions({"default_transaction_read_only": "on"})
BEGAN_WITH_TIMEOUT = Restrictions({"statement_timeout": "30s"})


def lifts(restrictions: Restrictions, sql: str) -> bool:
    analysis = analyse(sql, ("public",))
    assert isinstance(analysis, Analysis)
    return restrictions.loosened(analysis.statements) is not None


@pytest.mark.parametrize(
    "sql",
    [
        "SET default_transaction_read_only = off",
        "SET default_transaction_read_only TO 'no'",
        "SET Default_Transaction_Read_Only TO DEFAULT",
        "SELECT set_config('default_transaction_read_only', 'off', true)",
        "SELECT set_config('transaction_read_only', lower('OFF'), true)",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET TRANSACTION READ WRITE",
        "SET transaction_read_only = 0",
        "BEGIN READ WRITE",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
        "SELECT 1; BEGIN READ WRITE; INSERT INTO t VALUES (1); COMMIT",
    ],
)
def test_a_session_that_began_read_only_stays_so(sql: str) -> None:
    assert lifts(BEGAN_READ_ONLY, sql)
    assert lifts(Restrictions({}, {"default_transaction_read_only": "on"}), sql)
    assert not lifts(Restrictions(), sql)
    assert not lifts(Restrictions({"default_transaction_read_only": "on"}, {"default_transaction_read_only": "off"}), sql)


@pytest.mark.parametrize(
    "sql", ["BEGIN", "BEGIN READ ONLY", "SET TRANSACTION READ ONLY", "SET default_transaction_read_only = on"]
)
def test_a_read_only_session_may_say_so_again(sql: str) -> None:
    assert not lifts(BEGAN_READ_ONLY, sql)


@pytest.mark.parametrize(
    ("value", "is_lifted"),
    [
        ("0", True),
        ("'0ms'", True),
        ("'31s'", True),
        ("'1min'", True),
        ("DEFAULT", True),
        ("'30 s'", False),
        ("5000", False),
        ("'1000us'", False),
    ],
)
def test_a_timeout_from_startup_may_be_tightened_and_not_lifted(value: str, is_lifted: bool) -> None:
    assert lifts(BEGAN_WITH_TIMEOUT, f"SET statement_timeout TO {value}") is is_lifted
    assert lifts(BEGAN_WITH_TIMEOUT, f"SET LOCAL statement_timeout TO {value}") is is_lifted
    assert not lifts(BEGAN_WITH_TIMEOUT, f"SET lock_timeout TO {value}")


def test_a_timeout_of_zero_from_startup_is_no_limit() -> None:
    assert not lifts(Restrictions({"statement_timeout": "0"}), "SET statement_timeout TO '1h'")


def test_a_session_refuses_what_would_lift_its_limits() -> None:
    bench = Bench()
    bench.session.judge.restrictions = BEGAN_READ_ONLY
    bench.client(query("BEGIN READ WRITE"))
    assert error_of(bench.target(target_error(), ready()))["D"].startswith("reason SettingRefused, by builtin/session-limits")
