"""What a test needs beside Python: absent, the test is skipped with its reason, but fails where CI=true promises that all is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def is_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


def absent(what: str, way_forward: str) -> NoReturn:
    """End the test for want of `what`."""
    message = f"{what} is absent: {way_forward}"
    if is_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def program(name: str, way_forward: str) -> Path:
    """The path of a program, or the end of the test."""
    found = shutil.which(name)
    if found is None:
        absent(f"the program `{name}`", way_forward)
    return Path(found)
