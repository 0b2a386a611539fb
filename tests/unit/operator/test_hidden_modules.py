"""What is hidden can't be imported meanwhile, and can afterwards; and kopf goes without what it doesn't need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sidegate_operator.hidden_modules import hidden


def test_a_hidden_module_is_absent_meanwhile_and_there_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with hidden("colorsys"), pytest.raises(ImportError):
        __import__("colorsys")
    assert __import__("colorsys").__name__ == "colorsys"


def test_one_that_is_loaded_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = __import__("colorsys")
    with hidden("colorsys"):
        assert __import__("colorsys") is loaded
    assert sys.modules["colorsys"] is loaded


def test_the_operator_loads_no_second_client() -> None:
    said = "import sys, sidegate_operator.main, sidegate_operator.framework; print({'kubernetes', 'pykube'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "set()\n"
