"""Kept tokens: whose they are, and that nobody else's are taken."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sidegate.identity.token_cache import CachedToken, TokenCache, TokenCacheError, cache_directory

TOKEN = CachedToken("a.b.c", 1_800_000_000.0, "refresh")


def kept(directory: Path, *key: str | None) -> CachedToken | None:
    with TokenCache.locked(directory, *key) as cache:
        return cache.read()


def keep(directory: Path, token: CachedToken, *key: str | None) -> Path:
    with TokenCache.locked(directory, *key) as cache:
        cache.write(token)
        return cache.path


def test_keeps_a_token_for_its_own_login(tmp_path: Path) -> None:
    directory = tmp_path / "sidegate"
    keep(directory, TOKEN, "issuer", "client", None)
    assert kept(directory, "issuer", "client", None) == TOKEN
    assert kept(directory, "issuer", "client", "") is None
    assert kept(directory, "issuerclient", "", None) is None
    assert kept(directory, "issuer", "other", None) is None


def test_files_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = keep(tmp_path / "sidegate", TOKEN, "x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir() if entry.stat().st_mode & 0o077] == []


def test_a_new_token_replaces_the_old(tmp_path: Path) -> None:
    keep(tmp_path, TOKEN, "x")
    newer = CachedToken("d.e.f", 1_900_000_000.0)
    keep(tmp_path, newer, "x")
    assert kept(tmp_path, "x") == newer


def test_forgets(tmp_path: Path) -> None:
    keep(tmp_path, TOKEN, "x")
    with TokenCache.locked(tmp_path, "x") as cache:
        cache.forget()
        cache.forget()
        assert cache.read() is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_file_that_others_can_read_or_write_isnt_taken(tmp_path: Path, mode: int) -> None:
    path = keep(tmp_path, TOKEN, "x")
    path.chmod(mode)
    assert kept(tmp_path, "x") is None


def test_a_link_isnt_followed(tmp_path: Path) -> None:
    path = keep(tmp_path / "one", TOKEN, "x")
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    (tmp_path / "elsewhere").chmod(0o600)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert kept(tmp_path / "one", "x") is None


def test_writing_doesnt_follow_a_link_either(tmp_path: Path) -> None:
    path = keep(tmp_path / "one", TOKEN, "x")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.with_suffix(".new").symlink_to(victim)
    keep(tmp_path / "one", TOKEN, "x")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"token": 7, "expires_at": 1}', b'{"token": "a"}', b"\xff", b"{}" * 200_000]
)
def test_a_file_that_cant_be_read_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    path = keep(tmp_path, TOKEN, "x")
    path.write_bytes(content)
    assert kept(tmp_path, "x") is None


def test_a_fifo_doesnt_hang_it(tmp_path: Path) -> None:
    path = keep(tmp_path, TOKEN, "x")
    path.unlink()
    os.mkfifo(path, 0o600)
    assert kept(tmp_path, "x") is None


@pytest.mark.parametrize("mode", [0o777, 0o722, 0o770])
def test_a_directory_that_others_can_write_to_isnt_used(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "sidegate"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(TokenCacheError, match="written by others") as caught, TokenCache.locked(directory, "x"):
        pass
    assert caught.value.way_forward


def test_a_place_where_no_directory_can_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenCacheError, match="can't be used"), TokenCache.locked(tmp_path / "file" / "sidegate", "x"):
        pass


def test_one_login_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    script = (
        "import sys, pathlib; from sidegate.identity.token_cache import TokenCache\n"
        "with TokenCache.locked(pathlib.Path(sys.argv[1]), 'x'): print('in', flush=True)"
    )
    with TokenCache.locked(tmp_path, "x") as cache:
        other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        reader = threading.Thread(target=lambda: order.append(other.stdout.readline().strip() if other.stdout else ""))
        reader.start()
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.7)
        order.append("out")
        cache.forget()
    reader.join(10)
    assert other.wait(10) == 0
    assert other.stdout is not None
    other.stdout.close()
    assert order == ["out", "in"]


def test_shows_no_token_in_repr() -> None:
    assert repr(TOKEN) == "CachedToken(expires_at=1800000000.0)"


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/sidegate"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/sidegate"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/sidegate"),
        ({"HOME": ""}, None),
        ({}, None),
    ],
)
def test_the_directory_is_where_the_desktop_specification_says(environment: dict[str, str], directory: str | None) -> None:
    assert cache_directory(environment) == (Path(directory) if directory else None)
