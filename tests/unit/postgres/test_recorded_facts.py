"""What a recording keeps so that its statements can be decided again: the search path that held, and the masks of the session."""

from __future__ import annotations

import msgspec
import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig
from sidegate.policy.decision import MaskStrategy
from sidegate.policy.engine import Engine, SessionGrant, decide_session
from sidegate.record.entries import ConfigRecord, MasksFields, StatementRecord, decode_entry
from sidegate.record.frame import RecordKind
from tests.support.session import ADA, NOW, Bench, complete, config_of, policy, query, ready

MASK = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn", "users", "prod"),), strategy=MaskStrategy.HASH)
VALUES = RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))


def statements(bench: Bench) -> list[StatementRecord]:
    found = [decode_entry(each.kind, each.payload) for each in bench.records if each.kind is RecordKind.CLIENT_STATEMENT]
    return [each for each in found if isinstance(each, StatementRecord)]


def test_the_search_path_stands_with_the_first_statement_and_wherever_it_changes() -> None:
    bench = Bench()
    for text, tag in (("select 1", "SELECT 1"), ("select 2", "SELECT 1"), ("set search_path = prod", "SET")):
        bench.client(query(text))
        bench.target(complete(tag), ready())
    bench.client(query("select 3"))
    bench.answer_ask((b"{prod,public}", b"rw"))
    bench.target(complete("SELECT 1"), ready())
    assert [(each.text, each.search_path) for each in statements(bench)] == [
        ("select 1", ("public",)),
        ("select 2", msgspec.UNSET),
        ("set search_path = prod", msgspec.UNSET),
        ("select 3", ("prod", "public")),
    ]


def test_a_search_path_that_is_not_known_is_recorded_as_such() -> None:
    bench = Bench()
    bench.session.judge.learn_search_path(None)
    bench.client(query("select 1"))
    assert statements(bench)[0].search_path is None


def test_new_rules_are_recorded_with_their_masks() -> None:
    bench = Bench()
    fresh = config_of(policy(rules=[MASK]))
    grant = decide_session(fresh, ADA, "shop", NOW)
    assert isinstance(grant, SessionGrant)
    bench.take(bench.session.config_changed(fresh, Engine(fresh), grant, NOW))
    (entry,) = (each for each in bench.records if each.kind is RecordKind.CONFIG)
    record = decode_entry(entry.kind, entry.payload)
    assert isinstance(record, ConfigRecord)
    assert record.masks is not None
    assert record.masks.masks() == grant.masks
    assert grant.masks.columns


@pytest.mark.parametrize("rules", [(), (MASK,), (MASK, VALUES), (VALUES,)])
def test_masks_come_back_from_a_recording_as_they_were(rules: tuple[RuleConfig, ...]) -> None:
    grant = decide_session(config_of(policy(rules=rules)), ADA, "shop", NOW)
    assert isinstance(grant, SessionGrant)
    encoded = msgspec.json.encode(MasksFields.of(grant.masks))
    assert msgspec.json.decode(encoded, type=MasksFields).masks() == grant.masks
