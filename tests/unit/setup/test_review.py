"""Each thing that a review calls an open door, made on purpose; and what it warns of."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sidegate.setup.host_rules import GateRules, HostRule
from sidegate.setup.review import DatabaseFacts, ServerFacts, Wanted, review
from sidegate.setup.roles import RoleFacts, scram_verifier

VERIFIER = scram_verifier("x", bytes(16))
GATE = GateRules(("readonly",))
WANTED = Wanted(GATE, frozenset({"app"}))
REJECT_ALL = HostRule("host", ("all",), ("all",), "reject", "all", line=99)
ROLE = RoleFacts("readonly", secret=VERIFIER, groups=frozenset({"readonly"}))
POSTGRES = RoleFacts("postgres", is_superuser=True, groups=frozenset({"postgres"}))
CLOSED = ServerFacts((*GATE.rules(), REJECT_ALL), {"readonly": ROLE, "postgres": POSTGRES})


def doors(facts: ServerFacts) -> list[str]:
    return [each.problem for each in review(facts, WANTED) if each.is_door]


def warnings(facts: ServerFacts) -> list[str]:
    return [each.problem for each in review(facts, WANTED) if not each.is_door]


def with_role(**change: Any) -> ServerFacts:
    return dataclasses.replace(CLOSED, roles={**CLOSED.roles, "readonly": dataclasses.replace(ROLE, **change)})


def with_rules(*rules: HostRule) -> ServerFacts:
    return dataclasses.replace(CLOSED, rules=rules)


def host(method: str, role: str = "all", address: str = "all", **more: Any) -> HostRule:
    return HostRule("host", ("all",), (role,), method, address, line=7, **more)


def test_a_closed_server_has_nothing_to_say() -> None:
    assert review(CLOSED, WANTED) == ()


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (with_role(is_superuser=True), "do everything"),
        (with_role(bypasses_rls=True), "row security"),
        (with_role(replicates=True), "replication"),
        (with_role(creates_roles=True), "make roles"),
        (with_role(secret=None), "no password"),
        (with_role(secret="md5" + "0" * 32), "scram-sha-256"),
        (with_role(groups=frozenset({"readonly", "pg_execute_server_program"})), "runs programs"),
        (with_role(groups=frozenset({"readonly", "pg_read_server_files"})), "reads files"),
        (with_role(groups=frozenset({"readonly", "postgres"})), "member of `postgres`"),
        (dataclasses.replace(CLOSED, roles={"postgres": POSTGRES}), "isn't there"),
        (dataclasses.replace(CLOSED, is_stale=True), "changed after they were loaded"),
        (with_rules(*CLOSED.rules, HostRule("", (), (), "", error="invalid")), "can't be read"),
        (with_rules(host("trust"), *CLOSED.rules), "without any password"),
        (with_rules(host("md5"), *CLOSED.rules), "from outside by md5"),
        (with_rules(host("scram-sha-256"), *CLOSED.rules), "from outside by scram-sha-256"),
        (with_rules(host("ldap", "+readonly"), *CLOSED.rules), "from outside by ldap"),
        (with_rules(host("trust", address="127.0.0.1"), *CLOSED.rules), "gate's own place by trust"),
        (with_rules(HostRule("local", ("all",), ("all",), "trust"), *CLOSED.rules), "over the socket by trust"),
        (with_rules(HostRule("host", ("replication",), ("all",), "md5", "all"), *CLOSED.rules), "from outside by md5"),
        (with_rules(*GATE.rules(), host("trust", "postgres")), "lets `postgres` in from outside"),
    ],
)
def test_names_each_open_door(facts: ServerFacts, word: str) -> None:
    found = doors(facts)
    assert any(word in each for each in found), found


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (with_rules(*GATE.rules(), host("scram-sha-256")), "lets `postgres` in from outside"),
        (with_rules(*CLOSED.rules, HostRule("local", ("all",), ("postgres",), "trust")), "asks nobody over the socket"),
        (dataclasses.replace(CLOSED, password_encryption="md5"), "password_encryption"),
        (dataclasses.replace(CLOSED, databases=(DatabaseFacts("shop", True),)), "every role may connect"),
        (dataclasses.replace(CLOSED, databases=(DatabaseFacts("shop", extensions=frozenset({"dblink"})),)), "opens connections"),
        (dataclasses.replace(CLOSED, databases=(DatabaseFacts("shop", extensions=frozenset({"plpython3u"})),)), "runs programs"),
        (dataclasses.replace(CLOSED, databases=(DatabaseFacts("shop", extensions=None),)), "couldn't be looked into"),
        (with_role(groups=frozenset({"readonly", "pg_monitor"})), "sees the text"),
        (with_rules(REJECT_ALL), "let in from nowhere"),
        (with_role(can_log_in=False), "can't log in"),
    ],
)
def test_warns(facts: ServerFacts, word: str) -> None:
    assert doors(facts) == []
    found = warnings(facts)
    assert any(word in each for each in found), found


def test_the_applications_own_way_in_is_meant() -> None:
    app = RoleFacts("app", secret=VERIFIER, groups=frozenset({"app"}))
    facts = dataclasses.replace(
        with_rules(*GATE.rules(), host("scram-sha-256", "app"), REJECT_ALL), roles={**CLOSED.roles, "app": app}
    )
    assert review(facts, WANTED) == ()
