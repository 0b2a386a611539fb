"""Write the chart's admission templates: `python tools/write_admission.py`, or `--check` to only say whether they are current.

They are copies of `operator/sidegate_operator/webhook/objects/`, where the operator compares the live ones with them. Their only template
expression is the release's namespace, so that filling it in is all it takes to render them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from sidegate_operator.webhook.guards import object_files

ROOT: Final = Path(__file__).resolve().parent.parent
TEMPLATES: Final = ROOT / "charts" / "sidegate" / "templates"
HEADER: Final = "# Made by `python tools/write_admission.py`. Change it in `operator/sidegate_operator/webhook/objects`.\n"


def wanted_files() -> dict[Path, str]:
    """Every template that follows from the objects, with its text."""
    return {TEMPLATES / name: HEADER + text for name, text in object_files().items()}


def stale_files() -> list[Path]:
    """Those that aren't as they should be, and templates of objects that are no more."""
    wanted = wanted_files()
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    return [*stale, *(path for path in sorted(TEMPLATES.glob("admission-*.yaml")) if path not in wanted)]


def main(arguments: list[str]) -> int:
    stale, wanted = stale_files(), wanted_files()
    for path in stale:
        print(path.relative_to(ROOT))
        if "--check" in arguments:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path in wanted:
            path.write_text(wanted[path], "utf-8")
        else:
            path.unlink()
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
