"""Check the names of the project's files: a name says what the file is about, and the two sides have one name each.

Left out: what stands inside the files.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

FOLDERS: Final = ("sidecar", "operator", "tests", "tools", "examples")

# Word in a file's or folder's name -> what to write instead.
REFUSED: Final = {
    "util": "name it after its one idea",
    "utils": "name it after its one idea",
    "helper": "name it after its one idea",
    "helpers": "name it after its one idea",
    "common": "name it after its one idea",
    "misc": "name it after its one idea",
    "manager": "name it after what it does",
    "managers": "name it after what it does",
    "base": "name it after its one idea",
    "upstream": "the two sides are `client` and `target`",
    "downstream": "the two sides are `client` and `target`",
    "frontend": "the two sides are `client` and `target`",
}


def refused_names(paths: list[Path]) -> list[str]:
    """A line for each path with a refused word in it."""
    lines = []
    for path in paths:
        words = {word for part in path.with_suffix("").parts for word in re.split(r"[^a-z]+", part.lower())}
        lines += [f"{path}: `{word}` in a name: {REFUSED[word]}" for word in sorted(words & REFUSED.keys())]
    return lines


def main() -> int:
    files = [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    lines = refused_names(files)
    print("\n".join(lines) if lines else "file names: fine")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
