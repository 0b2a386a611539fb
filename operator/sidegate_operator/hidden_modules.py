"""Imports without what a library takes along only because it happens to be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Modules that can't be imported meanwhile, as if they weren't installed. One that is loaded already stays as it is."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None is Python's own mark for that (importlib, `sys.modules`)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
