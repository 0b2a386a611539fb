"""The demo: a database, an identity provider and a gate on this machine, and a tour of what an assistant gets to see through it.

    python -m examples.demo.tour          # make demo: tour, then everything is taken down; exit 0 when all went as told
    python -m examples.demo.tour --keep   # make demo KEEP=1: stays up and prints what to paste into another terminal

Everything is real: PostgreSQL, psql, tokens signed and verified, `sidegate local` with the manifests beside this file. What each step must
bring is checked, so a tour that ends well is also a test.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from examples.screen import DIM, PLAIN, TourError, expect, heading, held, show
from tests.support.postgres_server import PostgresServer, password_of

HERE = Path(__file__).resolve().parent

WAIT_S = 30.0


@dataclass(slots=True)
class Stage:
    """What is up: where the state is, how psql is called, and tokens."""

    state: Path
    psql: Path
    gate_port: int
    issuer_url: str

    def token(self, user: str) -> str:
        form = {"grant_type": "client_credentials", "client_id": "cursor", "client_secret": "demo", "user": user}
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"{self.issuer_url}/token", data, timeout=10) as reply:
            return str(json.load(reply)["access_token"])

    def environment(self, user: str) -> dict[str, str]:
        return {
            **os.environ,
            "PGPASSWORD": self.token(user),
            "PGUSER": "readwrite",
            "PGCONNECT_TIMEOUT": "10",
            "PSQLRC": "/dev/null",
        }

    @property
    def psql_command(self) -> list[str]:
        return [str(self.psql), "-X", "-h", "127.0.0.1", "-p", str(self.gate_port), "-d", "shop"]

    def sidegate(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("sidegate")), *arguments]


# ---- what is run ---------------------------------------------------------------------------------------------------------------------


def run_psql(stage: Stage, sql: str, *, user: str = "ada") -> str:
    done = subprocess.run(
        [*stage.psql_command, "-f", "-"],
        input=sql,
        env=stage.environment(user),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    show(
        f"psql -h 127.0.0.1 -p {stage.gate_port} -d shop   # as {user}, through the assistant\n  shop=> "
        + "\n  shop=> ".join(sql.strip().splitlines()),
        output,
    )
    return output


def run_sidegate(stage: Stage, *arguments: str, user: str = "dana") -> str:
    environment = {**os.environ, "SIDEGATE_STATE": str(stage.state), "SIDEGATE_TOKEN": stage.token(user)}
    done = subprocess.run(stage.sidegate(*arguments), env=environment, capture_output=True, text=True, timeout=60, check=False)
    output = done.stdout + done.stderr
    show("sidegate " + " ".join(arguments), output)
    if done.returncode:
        raise TourError(f"sidegate {arguments[0]} ended with {done.returncode}")
    return output


# ---- the tour -----------------------------------------------------------------------------------------------------------------------


def tour_masking(stage: Stage) -> None:
    heading("A masked SELECT: secrets by column, card numbers by their content")
    output = run_psql(stage, "SELECT name, password, ssn, note FROM customers ORDER BY id;")
    expect(
        output,
        "Ines Berg",
        "[masked]",
        "prefers mornings",
        absent=("correct horse", "219-09-9999", "4111 1111 1111 1111", "5555-5555"),
    )


def tour_refusal(stage: Stage) -> None:
    heading("A refused DROP, and the same session goes on")
    output = run_psql(stage, "DROP TABLE orders;\nSELECT count(*) FROM orders;")
    expect(output, "refused by sidegate", "no-ddl-in-public", "HINT", "5000")


def tour_held_ddl(stage: Stage) -> None:
    heading("DDL on prod is held, a person approves it from outside, and it runs")
    sql = "ALTER TABLE prod.ledger ADD COLUMN note text;"
    with held([*stage.psql_command, "-f", "-"], sql, sql, WAIT_S, stage.environment("ada")) as (name, finish):
        run_sidegate(stage, "approvals", "list")
        run_sidegate(stage, "approve", name, "--comment", "planned change")
        output = finish()
    expect(output, "held by sidegate", name, "ALTER TABLE")


def tour_big_delete(stage: Stage) -> None:
    heading("A DELETE is measured where it can be taken back: 5,000 rows, held, denied, nothing is lost")
    sql = "DELETE FROM orders;\nSELECT count(*) FROM orders;"
    with held([*stage.psql_command, "-f", "-"], sql, sql, WAIT_S, stage.environment("ada")) as (name, finish):
        shown = run_sidegate(stage, "approvals", "show", name)
        run_sidegate(stage, "deny", name, "--comment", "not without a backup")
        output = finish()
    expect(shown, "5000")
    expect(output, "5000 rows", "an approver denied the statement", "not without a backup", " 5000")


def tour_recording(stage: Stage) -> None:
    heading("The session that asked for it, replayed")
    newest = max((stage.state / "recordings").rglob("*.sgrec"), key=lambda path: path.name)
    output = run_sidegate(stage, "replay", str(newest))
    expect(output, "DELETE FROM orders", "big-deletes", absent=("correct horse",))
    heading("And every recording verified: one changed bit would show")
    output = run_sidegate(stage, "recordings", "verify")
    expect(output, "ok")


TOUR: tuple[Callable[[Stage], None], ...] = (tour_masking, tour_refusal, tour_held_ddl, tour_big_delete, tour_recording)


# ---- what is brought up -------------------------------------------------------------------------------------------------------------


def bring_up(stack: ExitStack, state: Path) -> Stage:
    print(f"{DIM}bringing up PostgreSQL, an identity provider and a gate; state in {state}{PLAIN}", flush=True)
    server = stack.enter_context(PostgresServer())
    with server.admin() as admin:
        admin.execute("CREATE DATABASE shop")
    with server.admin("shop") as admin:
        admin.execute((HERE / "shop.sql").read_bytes())
    issuer_port, gate_port = free_port(8790), free_port(6432)
    issuer_url = f"http://127.0.0.1:{issuer_port}"
    start(
        stack,
        [sys.executable, str(HERE / "issuer.py"), "--port", str(issuer_port), "--state", str(state / "issuer")],
        state / "issuer.log",
    )
    manifests = place_manifests(state, issuer_url)
    stage = Stage(state, server.installation.program("psql"), gate_port, issuer_url)
    start(
        stack,
        stage.sidegate(
            "local", "--manifests", str(manifests), "--secrets", str(state / "secrets"), "--state", str(state),
            "--address", f"shop-db={server.directory}:{server.port}", "--listen", f"127.0.0.1:{gate_port}",
        ),
        state / "gate.log",
    )  # fmt: skip
    wait_for_port(issuer_port, state / "issuer.log")
    wait_for_port(gate_port, state / "gate.log")
    return stage


def place_manifests(state: Path, issuer_url: str) -> Path:
    """The demo's manifests, with the issuer's true address, and the Secrets they name as files."""
    manifests = state / "manifests"
    manifests.mkdir(parents=True)
    for file in HERE.glob("*.yaml"):
        (manifests / file.name).write_text(file.read_text().replace("http://127.0.0.1:8790", issuer_url))
    for role in ("readonly", "readwrite"):
        secret = state / "secrets" / f"shop-db-{role}"
        secret.mkdir(mode=0o700, parents=True)
        (secret / "password").write_text(password_of(role))
    return manifests


def start(stack: ExitStack, command: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


def free_port(wanted: int) -> int:
    """`wanted` if nothing listens there, else any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise TourError("no free port on loopback")


def wait_for_port(port: int, log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TourError(f"nothing listens at port {port}:\n{log.read_text()}")


def keep_up(stage: Stage) -> None:
    command = " ".join(stage.sidegate("token"))
    client = f"--client-id cursor --client-secret-file {stage.state}/cursor.secret"
    token = f"$({command} --issuer {stage.issuer_url} {client} --user %s)"
    (stage.state / "cursor.secret").write_text("demo")
    heading("It stays up until Ctrl-C. Paste into another terminal:")
    print(f"export SIDEGATE_STATE={stage.state}")
    print("# a session as ada, through the assistant `cursor`")
    print(f"PGPASSWORD={token % 'ada'} {' '.join(stage.psql_command)} -U readwrite")
    print("# what is held, and a decision as dana, who is in the group dba")
    print(f"{' '.join(stage.sidegate('approvals', 'list'))}")
    print(f"SIDEGATE_TOKEN={token % 'dana'} {' '.join(stage.sidegate('approve'))} NAME")
    print(f"# rules: edit {stage.state}/manifests, they take force at once; logs: {stage.state}/*.log", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring up a database, an identity provider and a gate, and tour them with psql.")
    parser.add_argument("--keep", action="store_true", help="stay up after the tour")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    state = Path(tempfile.mkdtemp(prefix="sidegate-demo-"))
    try:
        with ExitStack() as stack:
            stage = bring_up(stack, state)
            try:
                for step in TOUR:
                    step(stage)
            except (TourError, subprocess.TimeoutExpired, urllib.error.URLError) as error:
                print(f"\nthe tour failed: {error}\n--- gate.log ---\n{(state / 'gate.log').read_text()}", file=sys.stderr)
                return 1
            heading(f"The tour is over: every step brought what it must, in {time.monotonic() - began:.0f} s")
            if options.keep:
                keep_up(stage)
    finally:
        shutil.rmtree(state, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
