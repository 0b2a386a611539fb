"""The document about detectors says what the code does."""

from __future__ import annotations

from sidegate.mask.detectors import DETECTOR_NAMES
from tools.coverage_detectors import DOCUMENT, document


def test_the_document_about_detectors_is_current() -> None:
    assert DOCUMENT.read_text() == document(), "run `make docs` and commit what it wrote"


def test_the_document_names_every_detector() -> None:
    text = DOCUMENT.read_text()
    assert all(f"| `{name}` |" in text for name in DETECTOR_NAMES)
