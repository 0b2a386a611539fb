"""The bench itself: a tenth of it runs through, and what it measures is what happened. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.bench.cluster.population import QUICK
from tests.support import requirements
from tests.support.cluster_programs import built_programs, required_control_plane

PROGRAM = Path(__file__).resolve().parents[1] / "bench" / "cluster" / "run.py"


def test_the_quick_bench_of_the_cluster_runs_and_measures_what_it_says(tmp_path: Path) -> None:
    required_control_plane()
    if built_programs("fake-nodes") is None:
        requirements.absent("kwok", "run `make cluster-programs`, which needs Linux and Go")
    output = tmp_path / "bench-cluster.json"
    command = [sys.executable, str(PROGRAM), "--quick", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(output.read_text())
    assert figures["first_install_writes_apply_configmap"] == QUICK.targets
    statuses = figures["first_install_writes_status_accesspolicy"]
    assert QUICK.policies <= statuses < 1.5 * QUICK.policies, "each is written once, but for those whose gates were slow"
    assert figures["first_install_writes_annotate_pod"] >= QUICK.pods
    assert figures.get("restart_writes_apply_configmap", 0) == 0, "what is in order stays as it is"
    assert figures["release_count"] == QUICK.edits
    assert figures["edit_count"] == figures["edit_wide_count"] == QUICK.edits
    assert figures["injection_added_count"] == QUICK.injections
    for aim in (
        "first_install_settled_s",
        "restart_settled_s",
        "edit_p95_s",
        "operator_peak_mib",
        "injection_added_p99_ms",
        "release_p95_ms",
    ):
        assert figures[aim] != 0
        assert f"aim: {aim} below" in done.stdout
