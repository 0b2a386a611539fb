"""The document about detectors says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sidegate.mask.detectors import DETECTOR_NAMES

ROOT = Path(__file__).resolve().parents[3]


def test_the_document_about_detectors_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "coverage_detectors.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_names_every_detector() -> None:
    text = (ROOT / "docs" / "coverage" / "detectors.md").read_text()
    assert all(f"| `{name}` |" in text for name in DETECTOR_NAMES)
