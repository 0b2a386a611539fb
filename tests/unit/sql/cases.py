"""The statements that the case files list, one list for every test that goes through them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

DIRECTORY = Path(__file__).parent / "cases"
SEARCH_PATH = ("public",)


class Case(NamedTuple):
    sql: str
    expected: dict[str, Any]


def load(*files: str) -> list[Any]:
    """Cases as pytest parameters, named by file and number."""
    found = []
    for path in sorted(DIRECTORY.glob("*.yaml")):
        if files and path.stem not in files:
            continue
        for number, entry in enumerate(yaml.safe_load(path.read_text())):
            expected = {key: value for key, value in entry.items() if key != "sql"}
            found.append(pytest.param(Case(entry["sql"], expected), id=f"{path.stem}-{number + 1}"))
    return found
