"""Manifests from a directory: its `*.yaml` and `*.yml` files in the order of their names, not those of its subdirectories.

What is read must lie inside the directory: a link that leads out of it, a device or a pipe is refused, since whoever can write
links there shouldn't choose what else the gate trusts. Links inside (a mounted ConfigMap is made of them) are followed. Kustomization files
are left alone. `sidegate.api.manifests` judges the text.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sidegate.api.documents import MAX_CHARACTERS, ManifestProblem
from sidegate.api.manifests import ManifestError, Manifests, parse_manifests

SUFFIXES: Final = (".yaml", ".yml")
KUSTOMIZATIONS: Final = frozenset({"kustomization.yaml", "kustomization.yml"})
MAX_FILES: Final = 1000
MAX_BYTES: Final = 4 * MAX_CHARACTERS  # of UTF-8; the true limit is counted in characters


def read_manifests(places: Sequence[Path] | Path) -> Manifests:
    """Every manifest of these directories and files.

    Raises:
        ManifestError: a place or file can't be read, or anything in any of them is wrong.
    """
    texts: list[tuple[str, str]] = []
    notes: list[str] = []
    problems: list[ManifestProblem] = []
    for place in [places] if isinstance(places, Path) else places:
        for file in _files(place, notes, problems):
            text = _read(file, place, problems)
            if text is not None:
                texts.append((str(file), text))
    if not texts and not problems:
        named = ", ".join(f"`{place}`" for place in ([places] if isinstance(places, Path) else places)) or "nothing"
        problems.append(_problem(Path(named), "has no manifest", "name a directory that has *.yaml files"))
    try:
        manifests = parse_manifests(texts)
    except ManifestError as error:
        raise ManifestError([*problems, *error.problems]) from None
    if problems:
        raise ManifestError(problems)
    return replace(manifests, notes=(*notes, *manifests.notes))


def _files(place: Path, notes: list[str], problems: list[ManifestProblem]) -> Iterator[Path]:
    try:
        if not place.is_dir():
            yield place
            return
        names = sorted(entry.name for entry in os.scandir(place) if entry.name.endswith(SUFFIXES))
    except OSError as error:
        problems.append(_problem(place, f"can't be read: {error.strerror}", "check the path and its permissions"))
        return
    if len(names) > MAX_FILES:
        problems.append(_problem(place, f"has more than {MAX_FILES} manifests", "name several smaller directories"))
        return
    for name in names:
        if name in KUSTOMIZATIONS:
            notes.append(f"{place / name}: left alone: kustomize's own")
        elif not name.startswith("."):
            yield place / name


def _read(file: Path, place: Path, problems: list[ManifestProblem]) -> str | None:
    try:
        inside, resolved = Path(os.path.realpath(place, strict=True)), Path(os.path.realpath(file, strict=True))
        if file != place and not resolved.is_relative_to(inside):
            problems.append(_problem(file, f"leads out of `{place}`", "put the file itself there"))
            return None
        # O_NONBLOCK: opening a pipe must not wait for a writer; the kind of file is judged on what was opened, not on its name
        descriptor = os.open(resolved, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                problems.append(_problem(file, "is not a plain file", "take it away, or rename it"))
                return None
            with os.fdopen(descriptor, "rb", closefd=False) as opened:
                data = opened.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        problems.append(_problem(file, f"can't be read: {error.strerror}", "check the path and its permissions"))
        return None
    if len(data) > MAX_BYTES:
        problems.append(_problem(file, f"the file is larger than {MAX_BYTES // 1024} KiB", "split it"))
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(ManifestProblem(str(file), line, 1, "", "the file is not UTF-8", "save it as UTF-8"))
        return None


def _problem(file: Path, problem: str, way_forward: str) -> ManifestProblem:
    return ManifestProblem(str(file), 1, 1, "", problem, way_forward)
