"""pgjdbc, pgx and node-postgres: a program each runs a fixed script of steps and prints what came of them; through a gate it is the same.

Sources, pins and lock files stand beside this file; programs are built into build/clients/ once, and again when a source changes.
Absent toolchain: skipped with its reason, a failure where CI=true.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.clients.conftest import Run
from tests.support import requirements
from tests.support.endpoint import Endpoint
from tests.support.postgres_server import PostgresServer

pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(600)]

HERE: Final = Path(__file__).parent
BUILD: Final = HERE.parents[2] / "build" / "clients"
BUILD_TIMEOUT_S: Final = 500
Results = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """`command` runs the program; `must_have` are steps whose control result is checked, so that a script that does nothing fails."""

    name: str
    tools: dict[str, str]
    build: Callable[[Path, Path], None]
    command: Callable[[Path], Sequence[str]]
    must_have: dict[str, object]


def build_command(*command: str, directory: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def build_jdbc(source: Path, target: Path) -> None:
    """Without the network if Maven's own store has everything."""
    arguments = ("-q", "-B", f"-Dbuild.root={target}", "process-classes")
    try:
        build_command("mvn", "-o", *arguments, directory=source)
    except AssertionError:
        build_command("mvn", *arguments, directory=source)


def build_pgx(source: Path, target: Path) -> None:
    build_command(
        "go",
        "build",
        "-trimpath",
        "-mod=readonly",
        "-o",
        str(target / "steps"),
        ".",
        directory=source,
        environment={"GOTOOLCHAIN": "local"},
    )


def build_node(source: Path, target: Path) -> None:
    for name in ("package.json", "package-lock.json", ".npmrc", "steps.mjs"):
        shutil.copy(source / name, target / name)
    build_command("npm", "ci", "--ignore-scripts", directory=target)


CLIENTS: Final = (
    Client(
        "jdbc",
        {"java": "apt-get install openjdk-17-jdk-headless", "mvn": "apt-get install maven"},
        build_jdbc,
        lambda target: ("java", "-XX:TieredStopAtLevel=1", "-cp", f"{target}/classes:{target}/lib/*", "Steps"),
        {"function call": "75.00", "notifications": [1, "jdbc", "payload"], "large values": [True, 1_000_000, 2_000_000]},
    ),
    Client(
        "pgx",
        {"go": "install Go 1.25 or newer"},
        build_pgx,
        lambda target: (str(target / "steps"),),
        {
            "pool": sum(range(40)),
            "notices and notifications": ["heed: pgx", "pgx", "payload"],
            "large values": ["no error", 3_000_000, 1_000_000],
        },
    ),
    Client(
        "node",
        {"node": "apt-get install nodejs", "npm": "apt-get install npm"},
        build_node,
        lambda target: ("node", str(target / "steps.mjs")),
        {"pool": list(range(60)), "stream": [5000, 12_502_500], "large values": [True, 1_000_000, 2_000_000]},
    ),
)


@cache
def built(client: Client) -> Path:
    """The directory of the built program. Two workers at once: one builds, the other waits."""
    source, target = HERE / client.name, BUILD / client.name
    target.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.is_file() and "node_modules" not in path.parts):
        digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes())
    stamp = target / ".built"
    with (BUILD / f".{client.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest.hexdigest():
            stamp.unlink(missing_ok=True)
            client.build(source, target)
            stamp.write_text(digest.hexdigest())
    return target


def steps(run: Run, client: Client, endpoint: Endpoint, postgres: PostgresServer) -> Results:
    """Run the script in a copy of the shop of its own."""
    program, *arguments = client.command(built(client))
    database = postgres.create_database()
    try:
        parameters = endpoint.parameters("readwrite", database)
        to = (parameters["host"], parameters["port"], "readwrite", database)
        done = run(program, *arguments, *to, environment={"PGPASSWORD": parameters["password"]}, timeout_s=120)
        results: Results = json.loads(done.stdout.replace(database, "DATABASE"))
        return results
    finally:
        postgres.drop_database(database)


def lines(results: Results) -> list[str]:
    """One line a value, each with the name of its step."""
    return [
        f"{name}: {line}"
        for name in sorted(results)
        for line in json.dumps(results[name], indent=1, ensure_ascii=False).splitlines()
    ]


@pytest.fixture(params=CLIENTS, ids=[client.name for client in CLIENTS])
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.param
    for tool, way_forward in chosen.tools.items():
        requirements.program(tool, way_forward)
    return chosen


def test_every_step_ends_as_it_does_on_the_target(run: Run, client: Client, endpoint: Endpoint, postgres: PostgresServer) -> None:
    expected = steps(run, client, postgres.endpoint, postgres)
    found = steps(run, client, endpoint, postgres)
    assert "\n".join(difflib.unified_diff(lines(expected), lines(found), "the target", endpoint.name, lineterm="", n=1)) == ""
    for name, result in client.must_have.items():
        assert expected[name] == result
    broken = {name: result for name, result in expected.items() if "not connected" in str(result) or "BROKEN" in str(result)}
    assert broken == {}
