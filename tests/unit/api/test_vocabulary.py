"""The API spells what the layers above it spell too, for it imports none of them. Here both are held equal."""

from __future__ import annotations

import enum

import pytest

from sidegate.api import access_policy, issuer, protected_target
from sidegate.identity.jwks import KEY_SHAPES
from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.policy import config, decision, statement

IMPLICIT = {
    statement.StatementKind.UNKNOWN,
    statement.StatementKind.TRANSACTION,
    statement.StatementKind.SESSION,
    statement.StatementKind.CURSOR,
}


def test_kinds_of_statements_are_the_engines_but_for_those_no_policy_names() -> None:
    assert {each.value for each in access_policy.StatementKind} == {
        each.value for each in set(statement.StatementKind) - IMPLICIT
    }


@pytest.mark.parametrize(
    ("api", "engine"),
    [
        (access_policy.PolicyMode, config.PolicyMode),
        (access_policy.RuleAction, config.RuleAction),
        (access_policy.MaskStrategy, decision.MaskStrategy),
        (access_policy.ColumnUse, decision.ColumnUse),
        (protected_target.Protocol, config.Protocol),
        (protected_target.TargetTlsMode, config.TargetTlsMode),
        (protected_target.ClientAuth, config.ClientAuth),
        (protected_target.RecordingMode, config.RecordingMode),
    ],
)
def test_words_are_the_gate_configs(api: type[enum.StrEnum], engine: type[enum.StrEnum]) -> None:
    assert [(each.name, each.value) for each in api] == [(each.name, each.value) for each in engine]


def test_detectors_are_those_that_the_gate_has() -> None:
    assert {each.value for each in access_policy.Detector} == DETECTOR_NAMES


def test_algorithms_are_those_that_the_gate_verifies() -> None:
    assert {each.value for each in issuer.Algorithm} == set(KEY_SHAPES)
