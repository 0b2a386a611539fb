"""Gets a suite from where it is published, once, and unpacks it: from the package index or from a release's commit, proven by hash.

What was got stays in build/client-suites. Left out: any place beside the publisher's own and a mirror that the settings name.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from tests.client_suites.suites import LockedSdist, Suite, TaggedCommit
from tools import bootstrap

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build" / "client-suites"
GIT_TIMEOUT_S: Final = 300


class SuiteError(Exception):
    """A suite can't be had or can't be run; `way_forward` says what to do about it."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


def locked_version(project: str) -> str:
    return str(_locked(project)["version"])


def _locked(project: str) -> dict[str, object]:
    with (ROOT / "uv.lock").open("rb") as file:
        return next(entry for entry in tomllib.load(file)["package"] if entry["name"] == project)


def version_of(suite: Suite) -> str:
    return locked_version(suite.origin.project) if isinstance(suite.origin, LockedSdist) else suite.origin.tag


def unpack(suite: Suite, folder: Path) -> Path:
    """A fresh copy of the suite in `folder`; returns where its `tests` folder stands.

    Raises:
        SuiteError: not to be had from where it is published, or not what it must be.
    """
    archive = BUILD / f"{suite.name}-{version_of(suite)}.tar"
    if not archive.exists():
        content = _from_index(suite.origin) if isinstance(suite.origin, LockedSdist) else _from_repository(suite.origin)
        archive.parent.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(f".{os.getpid()}")
        part.write_bytes(content)
        part.replace(archive)
    content = archive.read_bytes()
    try:
        _check(suite, content)
    except SuiteError:
        archive.unlink()
        raise
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(folder, filter="data")
    (tests,) = (path for path in (folder / "tests", *folder.glob("*/tests")) if path.is_dir())
    if isinstance(suite.origin, LockedSdist):
        # The library beside it was not built: the installed one must be what the tests import.
        shutil.copytree(tests, folder / "suite" / "tests")
        return folder / "suite"
    return tests.parent


def _check(suite: Suite, content: bytes) -> None:
    expected = suite.origin.sha256 if isinstance(suite.origin, TaggedCommit) else _sdist(suite.origin)[1]
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise SuiteError(
            f"the suite of {suite.name} has SHA-256 `{found}`, it must be `{expected}`",
            "something between here and its publisher changes files: find out what, and don't go round it",
        )


def _sdist(origin: LockedSdist) -> tuple[str, str]:
    sdist = _locked(origin.project)["sdist"]
    assert isinstance(sdist, dict)
    return sdist["url"], sdist["hash"].removeprefix("sha256:")


def _from_index(origin: LockedSdist) -> bytes:
    address, _ = _sdist(origin)
    try:
        context = bootstrap.tls_context()
        mirror = bootstrap.mirror_setting()
        if mirror:
            address = bootstrap.address_at_mirror(mirror, address.rsplit("/", 1)[1], context, origin.project)
        return bootstrap.fetch(address, context)
    except bootstrap.SetUpError as error:
        raise SuiteError(f"the suite of {origin.project} can't be had: {error}", error.way_forward) from error


def _from_repository(origin: TaggedCommit) -> bytes:
    repository = os.environ.get(origin.setting) or origin.repository

    def git(*arguments: str) -> bytes:
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, env=environment, capture_output=True, timeout=GIT_TIMEOUT_S, check=True
            )
        except subprocess.CalledProcessError as error:
            problem = (error.stderr.decode(errors="replace").strip().splitlines() or ["no word from git"])[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        else:
            return done.stdout
        raise SuiteError(
            f"can't get {origin.tag} from `{repository}`: {problem}",
            f"set {origin.setting} to a clone or mirror that git reaches, or name the suites to run: SUITES=asyncpg",
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        git("init", "--quiet", "--bare")
        git("fetch", "--quiet", "--depth", "1", repository, f"refs/tags/{origin.tag}")
        commit = git("rev-parse", "FETCH_HEAD^{commit}").decode().strip()
        if commit != origin.commit:
            raise SuiteError(
                f"tag {origin.tag} of `{repository}` is commit `{commit}`, it must be `{origin.commit}`", "find out who moved it"
            )
        return git("-c", "tar.umask=0022", "archive", "--format=tar", commit, *origin.files)
