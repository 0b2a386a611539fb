"""Fuzz with atheris: `python tests/fuzz/run.py [--seconds N] [TARGET ...]`; without names, every target in turn. Needs atheris (README.md beside).

Each target runs in a process of its own, because libFuzzer ends its process. Findings are written to corpus/TARGET/, where the tests pick
them up; what grew along the way stays in build/fuzz/. Ends with 1 when anything was found.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def fuzz(name: str, seconds: int) -> None:
    """In this process, until the time is over or something is found."""
    import atheris  # type: ignore[import-untyped]  # fetched for `make fuzz` alone

    with atheris.instrument_imports(include=["sidegate"]):
        from tests.fuzz.seeds import seeds_of
        from tests.fuzz.targets import TARGETS

    grown, found = ROOT / "build" / "fuzz" / name, HERE / "corpus" / name
    grown.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds_of(name)):
        (grown / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={found}/"]
    atheris.Setup([sys.argv[0], *options, str(grown), str(found)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="fuzz what reads bytes")
    parser.add_argument("targets", nargs="*", help="names of targets; all when none is given")
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    if chosen.one:
        fuzz(chosen.one, chosen.seconds)
        return 0
    from tests.fuzz.targets import TARGETS

    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    failed = []
    for name in chosen.targets or TARGETS:
        command = [sys.executable, str(Path(__file__).resolve()), "--one", name, "--seconds", str(chosen.seconds)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        print(f"{name}: {'ok' if done.returncode == 0 else 'FOUND'}: {lines[-1] if lines else 'no output'}", flush=True)
        if done.returncode:
            failed.append(name)
            print("\n".join(lines[-30:]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
