"""The audit vocabulary: closed, documented, one line each, without raw text."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path

import msgspec
import pytest

from sidegate.audit import events
from sidegate.audit.events import (
    MAX_TEXT_CHARACTERS,
    AuditEvent,
    DecisionFacts,
    LoginRefused,
    PrincipalFields,
    SessionFields,
    StatementDecided,
    at,
    decode_event,
    encode_event,
)
from sidegate.policy.decision import ENGINE_SEAL, Allow, ApprovalTerms, Deny, Masks, Measure, Permit, RequireApproval
from sidegate.policy.principal import Principal
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin, PolicyGrant, PolicyRule

NOW = 1_795_516_530.25
SESSION = SessionFields(
    id="s-1",
    target="shop/shop-db",
    source_address="10.0.0.7",
    database="shop",
    role="readonly",
    principal=PrincipalFields.of(
        Principal("https://idp.example", "u-1", "ada@example.com", frozenset({"b", "a"}), agent="cursor", claims={"secret": "x"})
    ),
)
RULE = PolicyRule("shop", "assistants", "prod-ddl")
PERMIT = Permit(ENGINE_SEAL, "test", RULE, "r1")
TERMS = ApprovalTerms(frozenset({"dba"}), frozenset(), 1, 60.0)


def _decided(**changes: typing.Any) -> StatementDecided:
    deny = Deny(Reason.DENIED_BY_RULE, RULE, "r1", detail="drops `prod.orders`")
    return StatementDecided.of(at(NOW), SESSION, 4, deny, **changes)


def test_an_event_reads_as_one_flat_line_with_its_session() -> None:
    line = encode_event(_decided(text="DROP TABLE prod.orders", fingerprint="f00d", kinds=("DDL",)))
    assert json.loads(line) == {
        "event": "StatementDecided",
        "time": "2026-11-24T10:35:30.250000Z",
        "session": {
            "id": "s-1",
            "target": "shop/shop-db",
            "sourceAddress": "10.0.0.7",
            "database": "shop",
            "role": "readonly",
            "principal": {
                "username": "ada@example.com",
                "subject": "u-1",
                "issuer": "https://idp.example",
                "agent": "cursor",
                "groups": ["a", "b"],
            },
        },
        "statement": 4,
        "decision": "Deny",
        "reason": "DeniedByRule",
        "source": "shop/assistants#prod-ddl",
        "revision": "r1",
        "detail": "drops `prod.orders`",
        "kinds": ["DDL"],
        "text": "DROP TABLE prod.orders",
        "fingerprint": "f00d",
    }


def test_claims_of_the_token_are_not_in_an_event() -> None:
    assert b"secret" not in encode_event(_decided())


@pytest.mark.parametrize("text", ["a\nb", "a\r\n{}", "\x00\x1f", "\u2028", '","event":"GateStarted'])
def test_no_text_can_start_a_line_or_a_member(text: str) -> None:
    line = encode_event(_decided(text=text))
    assert len(re.findall(rb"[\x00-\x1f]", line)) == 0
    assert text == json.loads(line)["text"]


def test_long_text_is_cut_and_says_so() -> None:
    text = json.loads(encode_event(_decided(text="x" * (MAX_TEXT_CHARACTERS + 5))))["text"]
    assert text.endswith("x... (5 more characters)")


def test_every_event_of_the_module_is_in_the_vocabulary_and_says_what_it_is() -> None:
    members = set(typing.get_args(AuditEvent))
    defined = {
        value
        for name, value in vars(events).items()
        if isinstance(value, type) and issubclass(value, events._Event) and not name.startswith("_")
    }
    assert defined == members
    assert [event.__name__ for event in members if not (event.__doc__ or "").strip()] == []


def test_events_are_frozen() -> None:
    with pytest.raises(AttributeError):
        _decided().statement = 5  # type: ignore[misc]


def test_a_line_with_the_sinks_members_decodes_to_its_event() -> None:
    event = _decided(text="SELECT $1")
    assert event == decode_event(encode_event(event)[:-1] + b',"writer":"w","sequence":0,"link":"00"}')


def test_an_unknown_event_does_not_decode() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_event(b'{"event":"SomethingElse","time":"2026-11-24T10:35:30Z"}')


def test_a_refused_login_needs_no_session() -> None:
    event = LoginRefused(time=at(NOW), target="shop/shop-db", source_address="10.0.0.7", reason="IdentityRefused")
    assert event == decode_event(encode_event(event))


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (Allow(PERMIT, Masks(), PolicyGrant("n", "p", 0), "r"), ("Allow", "Granted", "n/p#grants[0]", "", "r", "")),
        (
            Allow(PERMIT, Masks(), RULE, "r", Reason.OBSERVED, Deny(Reason.NO_GRANT, Builtin("default-deny"), "r")),
            ("Allow", "Observed", "shop/assistants#prod-ddl", "", "r", "Deny by builtin/default-deny: NoGrant"),
        ),
        (Deny(Reason.NO_GRANT, Builtin("default-deny"), "r", "d"), ("Deny", "NoGrant", "builtin/default-deny", "d", "r", "")),
        (
            RequireApproval(TERMS, PERMIT, Masks(), RULE, "r", "d"),
            ("RequireApproval", "ApprovalRequired", "shop/assistants#prod-ddl", "d", "r", ""),
        ),
        (
            Measure(100, PERMIT, Masks(), RULE, "r"),
            ("Measure", "", "shop/assistants#prod-ddl", "rows are measured against a limit of 100", "r", ""),
        ),
    ],
)
def test_every_decision_has_its_words(decision: typing.Any, expected: tuple[str, ...]) -> None:
    assert expected == tuple(DecisionFacts.of(decision))


def test_the_documentation_names_each_event_and_each_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
    headings = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    assert sorted(event.__name__ for event in typing.get_args(AuditEvent)) == sorted(headings)
    for event in typing.get_args(AuditEvent):
        section = page.split(f"### {event.__name__}\n", 1)[1].split("\n### ", 1)[0]
        inherited = {"time", "session"}
        wanted = {f.encode_name for f in msgspec.structs.fields(event)} - inherited
        assert wanted == set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)), event.__name__
