"""Write `docs/coverage/detectors.md` from the detectors themselves and from how often they are right on made data.

`--check` writes nothing and fails when it isn't current.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from sidegate.mask.detect.payment_card import SCHEMES
from sidegate.mask.detectors import DETECTORS
from tools.detector_precision import PER_KIND, PLANTED_EACH, measure, tables
from tools.ordinary_data import KINDS

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "coverage" / "detectors.md"
_MEASURED: Final = """\
Measured over {values:,} values of {kinds} kinds of ordinary data without secrets (`tools/ordinary_data.py`), and {planted:,} planted values
of each detector, alone and in prose, JSON, arrays, composites and rows, grouped and written in many ways (`tools/planted_data.py`). A
planted value counts as found when no eight letters or digits in a row of it are left. Precision is that of one planted value to fifty
ordinary ones: with fewer secrets among your data it is lower, and the false positives are what to look at. The seed is fixed:
`python -m tools.detector_precision` prints the same numbers, and a test holds them.

What is left can't be told from the real thing: a random number of 16 digits lies in an issuer's range three times in ten, and one in ten
of those has a right check digit; a matrix product in Python (`w@self.delta`) has the form of an address; 30 random bytes in base64 look
like an AWS secret. Any number written as 3-2-4 digits is a social security number to the gate, and isn't among the ordinary data.
"""


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
        "A rule names detectors in `match.values.detectors`. Every reading of a value is looked at: as it is; with backslash escapes,",
        "percent-encoding and character references undone; with digits, letters, spaces, dashes and dots of any script or width as",
        "their ASCII twins, and without characters that can't be seen and marks; UTF-16 as ASCII. See [masking](../masking.md).",
        "",
        "| detector | finds | proof | leaves out |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{each.name}` | {each.finds} | {each.proof} | {each.leaves_out} |" for each in DETECTORS.values()]
    lines += [
        "",
        "## How often they are right",
        "",
        *_MEASURED.format(values=PER_KIND * len(KINDS), kinds=len(KINDS), planted=PLANTED_EACH).split("\n"),
    ]
    lines += tables(measure())
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
