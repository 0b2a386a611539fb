"""Statements that make the gate's roles, and verifiers as PostgreSQL makes them."""

from __future__ import annotations

import dataclasses

import pytest

from sidegate.setup.roles import RoleFacts, UnusableRole, is_scram, is_verifier_of, role_statements, scram_verifier

SALT = bytes(range(16))
PASSWORD = "s3cret 'pass'"
GOOD = RoleFacts("readonly", secret=scram_verifier(PASSWORD, b"other salt of 16"))


def texts(facts: RoleFacts | None) -> list[str]:
    return [each.text for each in role_statements("readonly", PASSWORD, facts, SALT, 4096)]


def test_a_new_role_gets_no_power_and_no_password_in_clear() -> None:
    (statement,) = role_statements("readonly", PASSWORD, None, SALT, 4096)
    words = statement.text.split()
    assert words[:3] == ["CREATE", "ROLE", '"readonly"']
    assert {"LOGIN", "NOSUPERUSER", "NOBYPASSRLS", "NOREPLICATION", "NOCREATEROLE"} <= set(words)
    assert "s3cret" not in statement.text
    assert "SCRAM-SHA-256$4096" not in statement.shown


def test_a_role_that_is_as_it_should_be_gets_no_statement() -> None:
    assert texts(GOOD) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"bypasses_rls": True}, "NOBYPASSRLS"),
        ({"replicates": True}, "NOREPLICATION"),
        ({"creates_roles": True}, "NOCREATEROLE"),
        ({"can_log_in": False}, "LOGIN"),
    ],
)
def test_only_what_is_wrong_is_changed(change: dict[str, bool], word: str) -> None:
    assert texts(dataclasses.replace(GOOD, **change)) == [f'ALTER ROLE "readonly" {word};']


@pytest.mark.parametrize("secret", [None, "md5" + "0" * 32, scram_verifier("another", SALT), "SCRAM-SHA-256$4096:bad$x:y"])
def test_another_password_is_replaced(secret: str | None) -> None:
    (text,) = texts(dataclasses.replace(GOOD, secret=secret))
    assert is_verifier_of(text.split("'")[1], PASSWORD)


def test_a_verifier_with_fewer_iterations_than_the_gate_accepts_is_replaced() -> None:
    weak = scram_verifier(PASSWORD, SALT, 1000)
    assert is_scram(weak)
    assert len(texts(dataclasses.replace(GOOD, secret=weak))) == 1


def test_a_superuser_never_becomes_the_gates_role() -> None:
    with pytest.raises(UnusableRole):
        texts(dataclasses.replace(GOOD, is_superuser=True))
