"""Write the chart's admission templates: `python -m tools.write_admission`, or `--check` to only say whether they are current.

They are copies of `operator/sidegate_operator/webhook/objects/`, where the operator compares the live ones with them. Their only template
expression is the release's namespace, so that filling it in is all it takes to render them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from sidegate_operator.webhook.guards import object_files
from tools.made_files import ROOT, stale, write_or_check

TEMPLATES: Final = ROOT / "charts" / "sidegate" / "templates"
HEADER: Final = "# Made by `make chart`. Change it in `operator/sidegate_operator/webhook/objects`.\n"


def wanted_files() -> dict[Path, str]:
    """Every template that follows from the objects, with its text."""
    return {TEMPLATES / name: HEADER + text for name, text in object_files().items()}


def stale_files() -> list[Path]:
    """Those that aren't as they should be, and templates of objects that are no more."""
    return stale(wanted_files(), TEMPLATES.glob("admission-*.yaml"))


def main(arguments: list[str]) -> int:
    return write_or_check(wanted_files(), arguments, TEMPLATES.glob("admission-*.yaml"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
