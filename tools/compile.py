"""Compile the hot modules with mypyc into `build/compiled`, and run the gate's tests with them.

`build/compiled` is a copy of the package with extension modules in place of the Python files named below: put it first on
PYTHONPATH and every process, started gates too, uses it. The sources stay alone in `sidecar/`, where no stale extension can
stand in front of an edited file. What is compiled is the same file that runs uncompiled; the tests run both ways.

Left out: wheels. The image copies `build/compiled` as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = ROOT / "sidecar"
COMPILED: Final = ROOT / "build" / "compiled"
WORK: Final = ROOT / "build" / "mypyc"

# The modules that touch every frame, row and statement (docs/decisions/0009). A new one needs a measurement in docs/performance.md.
HOT_MODULES: Final = (
    *(
        f"sidegate/postgres/{name}.py"
        for name in (
            *(
                "answers",
                "effects",
                "frames",
                "from_client",
                "from_target",
                "journal",
                "journal_writer",
                "judge",
                "messages",
                "pipeline",
            ),
            *("holds", "masker", "own_statements", "portals", "refusal", "relay", "restrictions"),
            *("results", "rows", "runners", "session", "session_facts", "startup", "statements", "stories", "withheld"),
        )
    ),
    *("sidegate/audit/chain.py", "sidegate/audit/sinks.py", "sidegate/sql/cache.py"),
    *("sidegate/policy/decision.py", "sidegate/policy/statement.py", "sidegate/policy/view.py"),
    *("sidegate/record/budget.py", "sidegate/record/capture.py", "sidegate/record/frame.py", "sidegate/record/writer.py"),
    *("sidegate/runtime/counts.py", "sidegate/runtime/meter.py"),
)
# What is run again with them, patterns of paths: all that reaches them through the session core, and stock clients through whole gates.
TESTS: Final = (
    *(
        "tests/unit/postgres",
        "tests/unit/record",
        "tests/unit/audit",
        "tests/unit/policy",
        "tests/unit/runtime",
        "tests/conformance",
    ),
    *("tests/property/test_rows*", "tests/property/test_session*", "tests/property/test_codec*", "tests/property/test_record*"),
    "tests/integration/clients/test_psql.py",
)


def missing_tools() -> str | None:
    """What this machine lacks to compile, with the way to get it; None when it can."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"no C compiler (`{compiler}`): apt-get install gcc libc6-dev"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no headers of Python: apt-get install python3-dev"
    return None


def digest() -> str:
    """Of everything that the extension modules are made from: mypyc also takes constants and types from modules that it doesn't compile."""
    parts = hashlib.sha256(f"{sys.version} {version('mypy')} {version('setuptools')} {HOT_MODULES}".encode())
    for path in sorted(SOURCES.rglob("*.py")):
        parts.update(path.read_bytes())
    return parts.hexdigest()


def compile_extensions() -> Path:
    """The folder with the extension modules, made anew when a source changed."""
    done = WORK / digest()
    if done.exists():
        return done
    shutil.rmtree(WORK, ignore_errors=True)
    script = (
        "import sys; from setuptools import setup; from mypyc.build import mypycify; part = sys.argv[1];"
        " modules = mypycify(sys.argv[2:], opt_level='3', debug_level='0', target_dir=part + '.c');"
        " arguments = ['-q', 'build_ext', '--build-lib', part, '--build-temp', part + '.temp'];"
        " setup(name='sidegate', packages=[], ext_modules=modules, script_args=arguments)"
    )
    part = WORK / "part"
    part.mkdir(parents=True)
    modules = [str(SOURCES / name) for name in HOT_MODULES]
    environment = {**os.environ, "MYPY_CACHE_DIR": str(WORK / "cache")}
    subprocess.run([sys.executable, "-c", script, str(part), *modules], cwd=ROOT, env=environment, check=True)
    part.rename(done)
    return done


def assemble(extensions: Path) -> None:
    """The package as it is now, with the extension modules instead of their sources."""
    part = COMPILED.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(SOURCES, part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in HOT_MODULES:
        (part / name).unlink()
    shutil.copytree(extensions, part, dirs_exist_ok=True)
    shutil.rmtree(COMPILED, ignore_errors=True)
    part.rename(COMPILED)


def check_that_they_load(environment: dict[str, str]) -> None:
    """Each hot module, imported as the gate does, is its extension: tests of the wrong variant would prove nothing."""
    for name in HOT_MODULES:
        module = name.removesuffix(".py").replace("/", ".")
        code = f"import {module}; print({module}.__file__)"
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
        if not found.startswith(str(COMPILED)) or not found.endswith(".so"):
            raise SystemExit(f"`{module}` comes from `{found}`, not from `{COMPILED}`")
        print(f"compiled: {module} is {Path(found).relative_to(ROOT)}", flush=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description="compile the hot modules of the gate")
    arguments.add_argument(
        "--test", action="store_true", help="then run the gate's tests with them; further arguments go to pytest"
    )
    chosen, for_pytest = arguments.parse_known_args()
    lacking = missing_tools()
    if lacking:
        is_optional = chosen.test and not os.environ.get("CI")
        print(f"{'NOT TESTED: ' if is_optional else ''}the compiled modules can't be built here: {lacking}", file=sys.stderr)
        return 0 if is_optional else 1
    assemble(compile_extensions())
    environment = {**os.environ, "PYTHONPATH": str(COMPILED)}
    check_that_they_load(environment)
    if not chosen.test:
        return 0
    tests = [str(path) for pattern in TESTS for path in sorted(ROOT.glob(pattern))]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *for_pytest, *tests], cwd=ROOT, env=environment, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
