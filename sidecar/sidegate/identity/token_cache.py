"""Tokens kept between two runs of a command, one file for each kind of login.

Rules it keeps: files are their owner's alone (0600 in a 0700 directory), written whole or not at all, and never followed through links; a
directory that others can write to isn't used; a file that can't be read counts as absent. One login at a time: the file is locked while a
token is fetched, so that ten clients that start at once ask once. Left out: what is worth keeping, which the caller decides.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

_MAX_BYTES = 256 * 1024


class TokenCacheError(Exception):
    """The cache can't be used here."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


class CachedToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token with its end, and what renews it without a person."""

    token: str
    expires_at: float
    refresh_token: str | None = None

    def __repr__(self) -> str:
        return f"CachedToken(expires_at={self.expires_at})"


def cache_directory(environment: Mapping[str, str]) -> Path | None:
    """Where the tokens are kept: XDG Base Directory Specification. None when the environment names no absolute place."""
    for name, tail in (("XDG_CACHE_HOME", "sidegate"), ("HOME", ".cache/sidegate")):
        value = environment.get(name, "")
        if value.startswith("/"):
            return Path(value) / tail
    return None


@dataclass(frozen=True, slots=True)
class TokenCache:
    """The token of one kind of login. Use inside `locked`."""

    path: Path

    @classmethod
    @contextlib.contextmanager
    def locked(cls, directory: Path, *key: str | None) -> Iterator[TokenCache]:
        """Alone with this login's token, after waiting for whoever is fetching it now.

        Raises:
            TokenCacheError: the directory can't be made, or is open to others.
        """
        name = hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = directory.stat()
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
                raise TokenCacheError(
                    f"`{directory}` can be written by others", "make it yours: chown and chmod 700, or remove it"
                )
            lock = os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TokenCacheError(
                f"`{directory}` can't be used: {error.strerror}", "set XDG_CACHE_HOME to a directory of yours"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield cls(directory / f"{name}.json")
        finally:
            os.close(lock)

    def read(self) -> CachedToken | None:
        """The token kept, if one is there and nobody else could have put it there."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                return None
            return msgspec.json.decode(os.read(file, _MAX_BYTES), type=CachedToken)
        except (OSError, msgspec.DecodeError):
            return None
        finally:
            os.close(file)

    def write(self, token: CachedToken) -> None:
        """Keep the token instead of the last one.

        Raises:
            TokenCacheError: it can't be written.
        """
        fresh = self.path.with_suffix(".new")
        try:
            fresh.unlink(missing_ok=True)
            file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "wb") as stream:
                stream.write(msgspec.json.encode(token))
            fresh.replace(self.path)
        except OSError as error:
            raise TokenCacheError(
                f"`{self.path}` can't be written: {error.strerror}", "free some space, or use --no-cache"
            ) from None

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
