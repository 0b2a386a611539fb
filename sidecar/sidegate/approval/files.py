"""Approval requests as YAML files in one directory, and the index that says what the gate wrote in them.

Rules: the directory belongs to this user alone (0700) or is refused; every change is made under the directory's lock and by atomic
replacement, so a reader sees a whole file or another; a request whose fixed part isn't what the index says is refused, whoever changed it;
of what ended a number is kept, and whoever has most loses first; what was used up or withdrawn is remembered in the index too, so an
edited status can't bring it back. What this can't keep out is someone who may write in the directory: they can write a decision, and an
index. docs/approvals.md says so.

Everything here blocks, for as long as a small file takes. PyYAML is loaded when the first file is read or written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from sidegate.approval.backend import ApprovalUnavailable, Phase
from sidegate.approval.document import (
    ApprovalDocument,
    DocumentError,
    digest,
    from_wire,
    request_of,
    to_wire,
    votes_of,
    with_hold,
)
from sidegate.approval.hold import Approver, Choice, Hold, VoteProblem, replay, vote
from sidegate.gateway.pace import COUNTED_S, surplus

MAX_FILE_BYTES: Final = 4 * 1024 * 1024  # all that a request may show, each character as its escape, is a quarter of it
MAX_ENDED: Final = 2000  # all of them are read and written with each change of the index
KEPT_S: Final = 30 * 86_400.0  # how long a request stays to be looked at after it ended; the audit log keeps the fact for good
_INDEX: Final = ".index.json"
_LOCK: Final = ".lock"
_SUFFIX: Final = ".yaml"


class DirectoryBusyError(Exception):
    """Another process holds the directory's lock right now: try again in a moment."""


class IndexEntry(msgspec.Struct, forbid_unknown_fields=True):
    """What the gate knows of a request it made. `ended`: empty, or the phase that the gate itself put it in. `target` is NAMESPACE/NAME;
    it and `requested_at` are empty in what an older version made.
    """

    digest: str
    fingerprint: str
    requester_key: str
    expires_at: float
    ended: str = ""
    target: str = ""
    requested_at: float = 0.0

    def is_open(self, now: float) -> bool:
        return not self.ended and now < self.expires_at


Index = dict[str, IndexEntry]
_index_decoder = msgspec.json.Decoder(Index)


class ApprovalFiles:
    """The directory. Methods that change something, or depend on its not changing, are called inside `locked`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        """Make the directory when missing, and see that it is private.

        Raises:
            ApprovalUnavailable: it can't be made, or others may read or write it.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.directory.stat()
        except OSError as error:
            raise _unavailable(f"directory `{self.directory}` can't be used: {error.strerror}") from error
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise ApprovalUnavailable(
                f"directory `{self.directory}` is open to others", f"run: chown {os.geteuid()} and chmod 700 {self.directory}"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory's lock, which every process that changes it takes.

        Raises:
            DirectoryBusyError: somebody else has it.
            ApprovalUnavailable: there can be no lock here.
        """
        try:
            descriptor = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unavailable(f"directory `{self.directory}` can't be locked: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DirectoryBusyError from error
            yield
        finally:
            os.close(descriptor)

    def names(self) -> list[str]:
        """Every request there is a file of, oldest first."""
        try:
            return sorted(
                path.stem for path in self.directory.iterdir() if path.suffix == _SUFFIX and not path.name.startswith(".")
            )
        except OSError as error:
            raise _unavailable(f"directory `{self.directory}` can't be read: {error.strerror}") from error

    def stamp(self, name: str) -> tuple[int, int] | None:
        """Changes whenever the file of a request does; None when there is none."""
        try:
            found = os.stat(self._path(name), follow_symlinks=False)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def load(self, name: str) -> ApprovalDocument:
        """The file of a request, not compared with anything.

        Raises:
            ApprovalUnavailable: there is none, or it isn't a request.
        """
        import yaml  # what runs with an operator's gateway never needs it

        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(descriptor, "rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ApprovalUnavailable(
                f"approval request `{name}` can't be read: {error.strerror}", "send the statement again"
            ) from error
        if len(data) > MAX_FILE_BYTES:
            raise _changed(name, "it is too large")
        try:
            return from_wire(yaml.load(data, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506 - both are the safe loader
        except (yaml.YAMLError, DocumentError, RecursionError) as error:
            raise _changed(name, " ".join(str(error).split())) from error

    def hold(self, name: str, index: Index, now: float, known_digest: str | None = None) -> tuple[Hold, ApprovalDocument]:
        """Where a request stands, after all that must not have changed was compared and every vote was checked again.

        Raises:
            ApprovalUnavailable: no such request, or it was tampered with.
        """
        entry = index.get(name)
        if entry is None:
            raise ApprovalUnavailable(
                f"approval request `{name}` is not one that a gate made here", "list them: sidegate approvals list"
            )
        document = self.load(name)
        if (
            digest(document) != entry.digest
            or (known_digest is not None and known_digest != entry.digest)
            or document.metadata.name != name
        ):
            raise _changed(name, "what was asked is not what the gate wrote")
        try:
            request, votes = request_of(document), votes_of(document)
        except DocumentError as error:
            raise _changed(name, str(error)) from error
        ended = Phase(entry.ended) if entry.ended else None
        return replay(name, request, votes, ended, now), document

    def decide(self, name: str, approver: Approver, choice: Choice, comment: str, now: float) -> Hold | VoteProblem:
        """Take one person's decision, inside `locked`. Who they are was proven before.

        Raises:
            ApprovalUnavailable: as `hold`, or the file can't be written.
        """
        hold, document = self.hold(name, self.load_index(), now)
        after = vote(hold, approver, choice, comment, now)
        if isinstance(after, Hold):
            self.save(with_hold(document, after))
        return after

    def save(self, document: ApprovalDocument) -> None:
        """Put a request's file in place, whole."""
        self._replace(self._path(document.metadata.name), _to_yaml(to_wire(document)))

    def load_index(self) -> Index:
        try:
            return _index_decoder.decode((self.directory / _INDEX).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise _unavailable(f"index of `{self.directory}` can't be read: {error}") from error

    def save_index(self, index: Index) -> None:
        self._replace(self.directory / _INDEX, msgspec.json.encode(index))

    def prune(self, index: Index, now: float) -> None:
        """Forget what ended long ago, and of what is too much the oldest of whoever has most; the caller saves the index."""
        for name in going(index, now):
            with contextlib.suppress(OSError):
                self._path(name).unlink()
            del index[name]

    def _path(self, name: str) -> Path:
        if not name or name.startswith(".") or not all(c.isascii() and (c.isalnum() or c == "-") for c in name):
            raise ApprovalUnavailable(
                f"`{name[:80]}` is not the name of an approval request", "list them: sidegate approvals list"
            )
        return self.directory / f"{name}{_SUFFIX}"

    def _replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.new")  # one writer at a time: the lock is held
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        except OSError as error:
            raise _unavailable(f"`{path}` can't be written: {error.strerror}") from error


def going(index: Index, now: float, most: int = MAX_ENDED) -> list[str]:
    """Which requests are forgotten now. Never one that is open, or that still counts for how often its requester may ask."""
    old = [name for name, entry in index.items() if entry.expires_at + KEPT_S < now]
    ended: dict[str, list[str]] = {}
    # By name, so by age. INVARIANT: what someone may not lose yet isn't taken from anybody else in its place.
    for name in sorted(index.keys() - set(old)):
        if not index[name].is_open(now):
            ended.setdefault(index[name].requester_key, []).append(name)
    over = surplus({who: len(theirs) for who, theirs in ended.items()}, most)
    for who, number in over.items():
        old += [name for name in ended[who] if index[name].requested_at + COUNTED_S <= now][:number]
    return old


def _to_yaml(wire: dict[str, Any]) -> bytes:
    """Readable, and ASCII alone: no invisible character of a statement can make a file look like another."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(wire, Dumper=Dumper, sort_keys=False, width=110, allow_unicode=False).encode("ascii")


def _unavailable(problem: str) -> ApprovalUnavailable:
    return ApprovalUnavailable(problem, "mend the approvals directory of the gate")


def _changed(name: str, problem: str) -> ApprovalUnavailable:
    return ApprovalUnavailable(
        f"approval request `{name}` was changed by somebody: {problem}",
        "find out who can write there, and send the statement again",
    )
