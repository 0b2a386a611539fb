"""`sidegate token` as a program: what is on stdout, what is on stderr, what is kept."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidegate.identity.keys import IssuerKeys
from sidegate.identity.token import TokenVerifier, VerifiedToken
from sidegate.identity.transport import HttpTransport
from sidegate.policy.config import IdentityConfig
from tests.support.issuer import Fault, Issuer

COMMAND = [sys.executable, "-c", "from sidegate.cli.token import token; token(prog_name='sidegate token')"]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(now=None) as running:
        yield running


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("demo\n")
    return path


class Command:
    """The command in a home of its own."""

    def __init__(self, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIDEGATE_", "XDG_"))}
        self.environment = kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
        self.cache = home / "cache" / "sidegate"

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def ada(issuer: Issuer, secret: Path) -> list[str | Path]:
    return ["--issuer", issuer.url, "--client-id", "cursor", "--client-secret-file", secret, "--user", "ada"]


def token_requests(issuer: Issuer) -> int:
    return issuer.requests["/token"]


async def verified(issuer: Issuer, token: str, **changes: object) -> VerifiedToken:
    verifier = TokenVerifier(IdentityConfig(issuers=(issuer.config(**changes),)), IssuerKeys(HttpTransport()))
    found = await verifier.verify(token, issuer.clock())
    assert isinstance(found, VerifiedToken), found
    return found


async def test_prints_the_token_alone(command: Command, issuer: Issuer, secret: Path) -> None:
    done = command.run(*ada(issuer, secret))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert (await verified(issuer, done.stdout.rstrip("\n"))).claims["email"] == "ada@example.com"


def test_takes_its_options_from_the_environment_too(command: Command, issuer: Issuer, secret: Path) -> None:
    names = {"SIDEGATE_ISSUER": issuer.url, "SIDEGATE_CLIENT_ID": "app", "SIDEGATE_CLIENT_SECRET_FILE": str(secret)}
    assert command.run(**names).returncode == 0


def test_a_kept_token_is_printed_without_asking_the_issuer(command: Command, issuer: Issuer, secret: Path) -> None:
    first = command.run(*ada(issuer, secret))
    issuer.go_down()
    second = command.run(*ada(issuer, secret))
    assert second.returncode == 0
    assert first.stdout == second.stdout
    files = [path for path in command.cache.iterdir() if path.suffix == ".json"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600]
    assert stat.S_IMODE(command.cache.stat().st_mode) == 0o700


def test_a_kept_token_is_for_its_own_login_alone(command: Command, issuer: Issuer, secret: Path) -> None:
    first = command.run(*ada(issuer, secret))
    other = command.run("--issuer", issuer.url, "--client-id", "cursor", "--client-secret-file", secret, "--user", "dana")
    assert other.returncode == 0
    assert first.stdout != other.stdout


def test_a_token_with_less_than_a_minute_to_live_is_renewed(command: Command, issuer: Issuer, secret: Path) -> None:
    issuer.core.lifetime_s = 59
    first = command.run(*ada(issuer, secret))
    issuer.core.lifetime_s = 3600
    second = command.run(*ada(issuer, secret))
    third = command.run(*ada(issuer, secret))
    assert first.stdout != second.stdout
    assert second.stdout == third.stdout
    assert token_requests(issuer) == 2


def test_renew_asks_the_issuer_and_keeps_the_new_token(command: Command, issuer: Issuer, secret: Path) -> None:
    first = command.run(*ada(issuer, secret))
    second = command.run(*ada(issuer, secret), "--renew")
    third = command.run(*ada(issuer, secret))
    assert first.stdout != second.stdout
    assert second.stdout == third.stdout
    assert token_requests(issuer) == 2


def test_no_cache_keeps_nothing(command: Command, issuer: Issuer, secret: Path) -> None:
    for _ in range(2):
        assert command.run(*ada(issuer, secret), "--no-cache").returncode == 0
    assert token_requests(issuer) == 2
    assert not command.cache.exists()


def test_many_at_once_ask_the_issuer_once(command: Command, issuer: Issuer, secret: Path) -> None:
    running = [command.start(*ada(issuer, secret)) for _ in range(4)]
    printed = {process.communicate(timeout=60)[0] for process in running}
    assert len(printed) == 1
    assert token_requests(issuer) == 1


def test_a_cache_that_others_can_write_to_isnt_used(command: Command, issuer: Issuer, secret: Path) -> None:
    command.cache.mkdir(parents=True)
    command.cache.chmod(0o777)
    done = command.run(*ada(issuer, secret))
    assert done.returncode == 0
    assert done.stdout.count(".") == 2
    assert "can be written by others" in done.stderr
    assert list(command.cache.iterdir()) == []


async def test_a_person_logs_in_on_a_page_of_the_issuers(command: Command, issuer: Issuer) -> None:
    arguments = ["--issuer", issuer.url, "--client-id", "psql", "--scope", "openid offline_access"]
    process = command.start(*arguments)
    assert process.stderr is not None
    shown = re.fullmatch(r"To log in, open (\S+) and enter the code (\S+)\n", process.stderr.readline())
    assert shown is not None
    form = urllib.parse.urlencode({"user_code": shown[2], "user": "dana"}).encode()
    with urllib.request.urlopen(shown[1], form) as answer:
        assert answer.status == 200
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert (await verified(issuer, printed.strip())).claims["email"] == "dana@example.com"
    # The login is renewed without the person once the token is about to end.
    (kept,) = command.cache.glob("*.json")
    ending = json.loads(kept.read_text()) | {"expires_at": issuer.clock() + 30}
    kept.write_text(json.dumps(ending))
    renewed = command.run(*arguments)
    assert renewed.returncode == 0, renewed.stderr
    assert renewed.stderr == ""
    assert renewed.stdout != printed
    assert (await verified(issuer, renewed.stdout.strip())).claims["email"] == "dana@example.com"


async def test_prints_the_id_token_when_asked_to(command: Command, issuer: Issuer, secret: Path) -> None:
    done = command.run(*ada(issuer, secret), "--use", "id-token")
    assert done.returncode == 0
    assert (await verified(issuer, done.stdout.strip(), audiences=("cursor",))).claims["aud"] == "cursor"


@pytest.mark.parametrize("fault", [Fault.GARBAGE, Fault.ERROR, Fault.REDIRECT, Fault.HUGE, Fault.CUT])
def test_an_issuer_in_trouble_is_told_with_a_way_forward(command: Command, issuer: Issuer, secret: Path, fault: Fault) -> None:
    issuer.fault = fault
    done = command.run(*ada(issuer, secret))
    assert done.returncode == 1
    assert done.stdout == ""
    problem, hint = done.stderr.splitlines()
    assert problem.startswith("sidegate token: ")
    assert hint.startswith("hint: ")


def test_a_wrong_secret_is_told_and_not_shown(command: Command, issuer: Issuer, secret: Path) -> None:
    secret.write_text("not-the-secret")
    done = command.run(*ada(issuer, secret))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "invalid_client" in done.stderr
    assert "not-the-secret" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_secret_file_without_a_secret_is_told(command: Command, issuer: Issuer, secret: Path, content: bytes) -> None:
    secret.write_bytes(content)
    done = command.run(*ada(issuer, secret))
    assert done.returncode == 1
    assert "hint: " in done.stderr
    assert token_requests(issuer) == 0


def test_plain_http_to_another_machine_is_refused(command: Command, secret: Path) -> None:
    done = command.run("--issuer", "http://issuer.example", "--client-id", "cursor", "--client-secret-file", secret)
    assert done.returncode == 1
    assert "isn't an https URL" in done.stderr


def test_wrong_use_is_told_as_such(command: Command) -> None:
    assert command.run().returncode == 2
    done = command.run("--issuer", "https://issuer.example", "--client-id", "x", "--flow", "client-credentials")
    assert done.returncode == 2
    assert "--client-secret-file" in done.stderr


def test_the_help_names_flows_files_and_exit_status(command: Command) -> None:
    done = command.run("--help")
    assert done.returncode == 0
    for heading in ("EXAMPLES", "FLOWS", "FILES", "EXIT STATUS"):
        assert heading in done.stdout
