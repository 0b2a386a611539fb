"""Which reports of gates count, at which moment."""

from __future__ import annotations

from sidegate.gateway.messages import Report
from sidegate_operator.gateway.reports import SILENT_AFTER_S, Heard, Reports
from sidegate_operator.store import Key

SHOP, OTHER = Key("shop", "shop-db"), Key("shop", "other-db")


def heard(at: float, revision: str = "r1", target: Key = SHOP, version: str = "1.0", problem: str | None = None) -> Heard:
    return Heard(target, "shop-db-0", Report(revision=revision, version=version, sessions=0, problem=problem), at)


def test_what_a_gate_enforces_is_news_once() -> None:
    reports = Reports(0.0)
    assert [reports.hear("uid", heard(at, revision)) for at, revision in ((1, "r1"), (2, "r1"), (3, "r2"))] == [True, False, True]
    assert reports.enforced(SHOP) == {"uid": "r2"}
    assert reports.enforced(OTHER) == {}


def test_a_gate_without_a_config_enforces_nothing() -> None:
    reports = Reports(0.0)
    reports.hear("uid", heard(1.0, ""))
    assert reports.enforced(SHOP) == {}


def test_why_a_gate_enforces_nothing_newer_is_news_once_and_fit_to_be_shown() -> None:
    reports = Reports(0.0)
    said = [None, "no \x1bSecret", "no \x1bSecret", None]
    assert [reports.hear("uid", heard(float(at), problem=each)) for at, each in enumerate(said)] == [True, True, False, True]
    reports.hear("uid", heard(9.0, problem="no \x1bSecret"))
    assert reports.problems(SHOP) == {"uid": "no \\x1bSecret"}
    assert reports.problems(OTHER) == {}


def test_a_silent_gate_counts_no_more_and_its_target_is_told_once() -> None:
    reports = Reports(0.0)
    reports.hear("silent", heard(0.0))
    reports.hear("alive", heard(10.0, target=OTHER))
    assert reports.fallen_silent(SILENT_AFTER_S - 0.1) == set()
    assert reports.fallen_silent(SILENT_AFTER_S) == {SHOP}
    assert reports.fallen_silent(SILENT_AFTER_S) == set()
    assert (reports.enforced(SHOP), reports.enforced(OTHER)) == ({}, {"alive": "r1"})


def test_it_is_young_until_every_gate_had_its_turn() -> None:
    reports = Reports(100.0)
    assert reports.is_young(100.0 + SILENT_AFTER_S - 0.1)
    assert not reports.has_grown_up(100.0 + SILENT_AFTER_S - 0.1)
    assert not reports.is_young(100.0 + SILENT_AFTER_S)
    assert [reports.has_grown_up(100.0 + SILENT_AFTER_S) for _ in range(2)] == [True, False]


def test_versions_are_counted() -> None:
    reports = Reports(0.0)
    for uid, version in (("a", "1.0"), ("b", "1.1"), ("c", "1.1")):
        reports.hear(uid, heard(0.0, version=version))
    assert reports.versions() == {"1.0": 1, "1.1": 2}
