"""Entry of `make bench-cluster`: `python tests/bench/cluster/run.py [--quick]`, from anywhere."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from tests.bench.cluster.program import main

    main()
