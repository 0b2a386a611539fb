"""How the drivers' own suites are judged: what passes directly must pass through the gate, and nothing is left out in silence."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.client_suites import published
from tests.client_suites.comparison import KNOWN, best_of, compare, failing, in_doubt, still_asked, summary
from tests.client_suites.program import main
from tests.client_suites.published import SuiteError
from tests.client_suites.running import End, read_ends
from tests.client_suites.suites import PSYCOPG, SUITES

PASSED = End("passed", "")
FAILED = End("failed", "no")
SKIPPED = End("skipped", "not here")


def note(test: str, outcome: str) -> str:
    return json.dumps({"test": test, "outcome": outcome, "reason": "", "seconds": 0.0})


def test_what_passes_directly_and_fails_through_the_gate_differs() -> None:
    result = compare("s", {"a": PASSED, "b": PASSED}, {"a": PASSED, "b": FAILED})
    assert [difference.test for difference in result.differences] == ["b"]
    assert not result.is_good
    assert summary([result]) == "1 passed both ways, 1 differ"


@pytest.mark.parametrize("through", [{"a": PASSED}, {"a": PASSED, "b": SKIPPED}], ids=["absent", "skipped"])
def test_what_is_not_run_through_the_gate_differs(through: dict[str, End]) -> None:
    assert not compare("s", {"a": PASSED, "b": PASSED}, through).is_good


def test_what_does_not_pass_directly_is_told_and_asked_of_nobody() -> None:
    result = compare("s", {"a": PASSED, "b": FAILED, "c": SKIPPED}, {"a": PASSED, "b": PASSED, "c": FAILED})
    assert result.is_good
    assert dict(result.not_passing) == {"b": FAILED, "c": SKIPPED}


def test_a_run_in_which_nothing_passed_is_not_good() -> None:
    assert not compare("s", {"a": SKIPPED}, {"a": SKIPPED}).is_good


def test_a_known_difference_is_good_while_it_is_one() -> None:
    known = {("s", "b"): "because"}
    assert compare("s", {"a": PASSED, "b": PASSED}, {"a": PASSED, "b": FAILED}, known=known).is_good
    assert compare("s", {"a": PASSED, "b": PASSED}, {"a": PASSED, "b": PASSED}, known=known).untrue == ("b",)
    assert not compare("s", {"a": PASSED, "b": PASSED}, {"a": PASSED, "b": PASSED}, known=known).is_good


def test_every_known_difference_has_a_reason_and_a_suite() -> None:
    assert {suite for suite, _ in KNOWN} <= {suite.name for suite in SUITES}
    assert all(len(why) > 20 for why in KNOWN.values())


def test_what_ends_differently_is_tried_again_either_way_round() -> None:
    assert in_doubt({"a": PASSED, "b": FAILED, "c": PASSED}, {"a": FAILED, "b": PASSED, "c": PASSED}) == ["a", "b"]
    assert best_of({"a": FAILED, "b": PASSED}, {"a": PASSED, "b": FAILED}) == {"a": PASSED, "b": PASSED}


def test_only_what_failed_directly_too_is_tried_longer() -> None:
    direct, through = {"a": PASSED, "b": PASSED, "c": FAILED}, {"a": FAILED, "b": FAILED, "c": PASSED}
    assert failing(direct) == {"c"}
    assert still_asked(direct, through, {"b", "c"}) == ["b"]
    assert compare("s", direct, through, {"b", "c"}).unsteady == ("b",)
    assert not compare("s", direct, through, {"b", "c"}).is_good


def test_a_test_ends_as_the_worst_of_its_phases_and_subtests() -> None:
    ends = read_ends([note("a", "passed"), note("a", "failed"), note("a", "passed"), note("b", "skipped")])
    assert {test: end.outcome for test, end in ends.items()} == {"a": "failed", "b": "skipped"}


def test_a_suite_with_another_hash_is_refused_and_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "BUILD", tmp_path)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("tests/test_evil.py"))
    archive = tmp_path / f"psycopg-{PSYCOPG.origin.tag}.tar"  # type: ignore[union-attr]
    archive.write_bytes(content.getvalue())
    with pytest.raises(SuiteError, match=hashlib.sha256(content.getvalue()).hexdigest()):
        published.unpack(PSYCOPG, tmp_path / "out")
    assert not archive.exists()
    assert not (tmp_path / "out").exists()


def test_a_repository_that_is_not_reached_says_how_to_name_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "BUILD", tmp_path)
    monkeypatch.setenv("PSYCOPG_REPOSITORY", str(tmp_path / "absent"))
    with pytest.raises(SuiteError) as found:
        published.unpack(PSYCOPG, tmp_path / "out")
    assert "PSYCOPG_REPOSITORY" in found.value.way_forward


def test_a_suite_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["client-suites", "pg8000"])
    with pytest.raises(SystemExit) as found:
        main()
    assert found.value.code == 2
