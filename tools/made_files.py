"""Files that are made from code: written, or with `--check` only compared, which fails when one isn't what the code says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


def stale(wanted: Mapping[Path, str], there: Iterable[Path] = ()) -> list[Path]:
    """Those that aren't as they should be, and of those that are `there` the ones that nothing makes any more."""
    differing = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    return [*differing, *(path for path in sorted(there) if path not in wanted)]


def write_or_check(wanted: Mapping[Path, str], arguments: Sequence[str], there: Iterable[Path] = ()) -> int:
    """The exit status: with `--check`, 1 when something is stale. Each stale file is printed."""
    found = stale(wanted, there)
    for path in found:
        print(path.relative_to(ROOT))
        if "--check" in arguments:
            continue
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], "utf-8")
        else:
            path.unlink()
    if "--check" in arguments and found:
        print("not what the code says: run `make docs chart` and commit what it wrote")
        return 1
    return 0
