"""Write `docs/coverage/detectors.md` from the detectors themselves. `--check` writes nothing and fails when it isn't current."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from sidegate.mask.detect.payment_card import SCHEMES
from sidegate.mask.detectors import DETECTORS

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "coverage" / "detectors.md"


def _lengths(lengths: frozenset[int]) -> str:
    ordered = sorted(lengths)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))


def document() -> str:
    lines = [
        "# Detectors: what each finds",
        "",
        "<!-- Made by `make docs` from `sidecar/sidegate/mask/detect/`. Change it there. -->",
        "",
        "A rule names detectors in `match.values.detectors`. Every reading of a value is looked at: as it is, with backslash escapes",
        "undone, with digits, letters, spaces and dashes of any script or width as their ASCII twins, and without characters that",
        "can't be seen. See [masking](../masking.md).",
        "",
        "| detector | finds | proof | leaves out |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{each.name}` | {each.finds} | {each.proof} | {each.leaves_out} |" for each in DETECTORS.values()]
    lines += ["", "## Payment cards: issuer ranges", "", "| prefix | digits | scheme |", "| --- | --- | --- |"]
    lines += [
        f"| {first if first == last else f'{first} to {last}'} | {_lengths(lengths)} | {name} |"
        for first, last, lengths, name in SCHEMES
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    content = document()
    if DOCUMENT.exists() and DOCUMENT.read_text() == content:
        return 0
    if "--check" in arguments:
        print("docs/coverage/detectors.md is not what the code says; run `make docs` and commit what it wrote")
        return 1
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(content)
    print("wrote docs/coverage/detectors.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
