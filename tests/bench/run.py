"""Entry of `make bench`: `python tests/bench/run.py [--quick] [--rounds N]`, from anywhere."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.bench.program import main

    main()
