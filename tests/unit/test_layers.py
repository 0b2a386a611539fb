"""The layers of docs/architecture.md hold, and the tool that holds them would notice if they didn't."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(project: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over a project folder as `make lint` does, with that folder's own packages."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{project / 'sidecar'}:{project / 'operator'}",
        "COLUMNS": "200",
    }  # one line a contract
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_every_import_obeys_the_layers() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("sidegate/policy/engine.py", "import sidegate.runtime.clock", "Layers"),
        ("sidegate/record/writer.py", "import sidegate.identity.token", "Layers"),
        ("sidegate/misplaced/__init__.py", '"""In no layer."""', "Layers"),
        ("sidegate/policy/engine.py", "import time", "Cores are sans-IO"),
        ("sidegate/postgres/session.py", "import asyncio", "Cores are sans-IO"),
        ("sidegate/postgres/session.py", "import pglast", "pglast has one importer"),
        ("sidegate/runtime/clock.py", "import kubernetes", "A gate never imports the operator's"),
        ("sidegate/identity/token.py", "import aiohttp", "A gate never imports the operator's"),
        ("sidegate/postgres/session.py", "import pydantic", "A gate's data path never imports what only manifests need"),
        ("../operator/sidegate_operator/__init__.py", "import sidegate.postgres.session", "The operator imports"),
        ("../operator/sidegate_operator/plan/approval.py", "import time", "The operator's plan is pure"),
        ("../operator/sidegate_operator/plan/approval.py", "import kubernetes", "The operator's plan is pure"),
        ("sidegate/cli/place.py", "import sidegate_cluster.connection", "A gate never imports the operator's"),
        (
            "../operator/sidegate_operator/run_command.py",
            "import kubernetes",
            "The operator and admission never import the client",
        ),
        ("../operator/sidegate_cluster/commands/approvals.py", "import kubernetes", "kubernetes has one importer"),
        (
            "../operator/sidegate_cluster/commands/approvals.py",
            "import sidegate_operator.apply",
            "Commands for a cluster import no",
        ),
        ("../operator/sidegate_cluster/pages/refusals.py", "import time", "What commands say of a cluster is pure"),
        (
            "../operator/sidegate_operator/plan/approval.py",
            "import sidegate_operator.main",
            "The operator's plan imports nothing",
        ),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, line: str, contract: str) -> None:
    for folder in ("sidecar", "operator"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    changed = tmp_path / "sidecar" / file
    changed.parent.mkdir(exist_ok=True)
    with changed.open("a") as source:
        source.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [text for text in done.stdout.splitlines() if " BROKEN" in text]  # behind it, how many imports are ignored
    assert any(text.startswith(contract) for text in broken), done.stdout
