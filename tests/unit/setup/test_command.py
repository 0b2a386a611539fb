"""`sidegate setup postgres` used wrongly, or where something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidegate.cli.main import main

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "demo" / "target.yaml"


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["setup", "postgres", "--manifests", str(EXAMPLE), *arguments])
    return done.exit_code, done.output


def test_says_what_to_install_where_psycopg_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "sidegate.setup.server", raising=False)
    code, output = run("--url", "host=127.0.0.1", "--check")
    assert code == 1
    assert "sidegate[setup]" in output


def test_shows_without_psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    code, output = run()
    assert code == 0
    assert 'CREATE ROLE "readonly"' in output


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--apply", "--check"), 2, "not both"),
        (("--hba-file", "x"), 2, "--apply"),
        (("--role", "nobody"), 1, "no credential for role `nobody`"),
        (("--target", "other"), 1, "choose with --target"),
        (("--gate-network", "0.0.0.0/0"), 1, "names everywhere"),
        (("--gate-network", "10.0.0.1/8"), 1, "can't be read"),
        (("--url", "postgresql://postgres:secret@127.0.0.1/postgres", "--check"), 1, "has a password"),
        (("--url", "postgresql://postgres@127.0.0.1:1/postgres", "--check"), 1, "lets nobody in"),
        (("--url", "no url", "--check"), 1, "can't be read"),
    ],
)
def test_refuses_with_a_way_forward(arguments: tuple[str, ...], code: int, word: str) -> None:
    found, output = run(*arguments)
    assert found == code
    assert word in output
    assert "secret@" not in output
