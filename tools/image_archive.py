#!/usr/bin/env python3
"""Write images as OCI archives, which `ctr images import`, `skopeo` and `podman load` take: layers from folders, without Docker.

The same input gives the same bytes: entries are sorted, times are one constant, names of users are left out, so that a layer's digest is
a hash of its content, and an image's too. Layers are not compressed: an import from the same disk is faster without.

As a program: an image of a few files of this machine, `image_archive.py --name NAME --file SOURCE=/TARGET --command PATH ARCHIVE`.
Uses the standard library alone: the test cluster runs it before anything is installed. Left out: registries, other architectures than this
machine's, deleted files of lower layers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

# 2026-01-01: of every file in every layer. Not zero: some tools take that for `unknown`.
TIMESTAMP: Final = 1767225600
CREATED: Final = "2026-01-01T00:00:00Z"
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_IMAGE_PATH: Final = "PATH"
_SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Layer:
    """A tar file on this machine's disk and its digest."""

    file: Path
    digest: str

    @property
    def size(self) -> int:
        return self.file.stat().st_size


@dataclass(frozen=True, slots=True)
class Settings:
    """What a container of the image runs, and as whom."""

    command: Sequence[str]
    user: str = "0"
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str = "/"
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[int] = ()
    stop_signal: str = ""  # SIGTERM


def layer_of(root: Path, file: Path, wanted: Callable[[str, os.stat_result], bool] = lambda name, status: True) -> Layer:
    """Pack the folder `root` into the tar file `file`: what `wanted` says yes to, asked with each path below the root.

    A folder that isn't wanted is still walked. Owners and modes are kept; sockets are left out.
    """
    part = file.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
        linked: dict[tuple[int, int], str] = {}
        for path, status in _walk(root):
            name = str(path.relative_to(root))
            if stat.S_ISSOCK(status.st_mode) or not wanted(name, status):
                continue
            _add(archive, name, path, status, linked)
    digest = _digest_of(part)
    part.replace(file)
    return Layer(file, digest)


def layer_of_files(files: Mapping[str, tuple[bytes, int]], file: Path) -> Layer:
    """Pack files of root's from memory: absolute path -> content and mode. Folders on the way are made."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"/"})
        for name in folders:
            archive.addfile(_entry(name.lstrip("/"), tarfile.DIRTYPE, 0o755))
        for name in sorted(files):
            content, mode = files[name]
            entry = _entry(name.lstrip("/"), tarfile.REGTYPE, mode)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return Layer(file, _digest_of(file))


def manifest_digest(layers: Sequence[Layer], settings: Settings) -> str:
    """The digest of the image that `write_archive` writes, by which it can be named whatever its tag says."""
    _, manifest = _documents(layers, settings)
    return _digest(manifest)


def write_archive(file: Path, names: Sequence[str], layers: Sequence[Layer], settings: Settings) -> str:
    """Write an OCI archive with one image under each of `names` (whole ones, as `localhost/sidegate/gate:1`); returns its digest."""
    configuration, manifest = _documents(layers, settings)
    digest = _digest(manifest)
    described = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": len(manifest)}
    index = _encoded(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            # containerd takes the name from its own annotation, others from OCI's
            "manifests": [
                {**described, "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}}
                for name in names
            ],
        }
    )
    part = file.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
        documents = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": index,
            _blob(_digest(configuration)): configuration,
            _blob(digest): manifest,
            # `docker load` before Docker 25 reads this, and nothing else of it all; a name by digest is none to it
            "manifest.json": _encoded(
                [
                    {
                        "Config": _blob(_digest(configuration)),
                        "RepoTags": [name for name in names if "@" not in name],
                        "Layers": [_blob(layer.digest) for layer in layers],
                    }
                ]
            ),
        }
        for folder in ("blobs", "blobs/sha256"):
            archive.addfile(_entry(folder, tarfile.DIRTYPE, 0o755))
        for name, content in documents.items():
            entry = _entry(name, tarfile.REGTYPE, 0o644)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for layer in {layer.digest: layer for layer in layers}.values():
            entry = _entry(_blob(layer.digest), tarfile.REGTYPE, 0o644)
            entry.size = layer.size
            with layer.file.open("rb") as content_file:
                archive.addfile(entry, content_file)
    part.replace(file)
    return digest


def _documents(layers: Sequence[Layer], settings: Settings) -> tuple[bytes, bytes]:
    """The image's configuration and its manifest, encoded."""
    runs: dict[str, Any] = {
        "User": settings.user,
        "Entrypoint": list(settings.command),
        "Env": [f"{name}={value}" for name, value in {_IMAGE_PATH: _SEARCH, **settings.environment}.items()],
        "WorkingDir": settings.directory,
    }
    if settings.labels:
        runs["Labels"] = dict(settings.labels)
    if settings.ports:
        runs["ExposedPorts"] = {f"{port}/tcp": {} for port in settings.ports}
    if settings.stop_signal:
        runs["StopSignal"] = settings.stop_signal
    configuration = _encoded(
        {
            "created": CREATED,
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": runs,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            # one for each layer: optional in the specification, but buildah builds nothing on top of an image without
            "history": [{"created": CREATED, "created_by": "image_archive.py"} for _ in layers],
        }
    )
    manifest = _encoded(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": _digest(configuration),
                "size": len(configuration),
            },
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size}
                for layer in layers
            ],
        }
    )
    return configuration, manifest


def _walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every path below `root`, a folder before what is in it, in an order that doesn't depend on the disk."""
    for path in sorted(root.iterdir()):
        status = path.lstat()
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path)


def _add(archive: tarfile.TarFile, name: str, path: Path, status: os.stat_result, linked: dict[tuple[int, int], str]) -> None:
    entry = _entry(name, tarfile.REGTYPE, stat.S_IMODE(status.st_mode))
    entry.uid, entry.gid = status.st_uid, status.st_gid
    if stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        entry.type = tarfile.CHRTYPE if stat.S_ISCHR(status.st_mode) else tarfile.BLKTYPE
        entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    elif stat.S_ISFIFO(status.st_mode):
        entry.type = tarfile.FIFOTYPE
    elif status.st_nlink > 1 and (status.st_dev, status.st_ino) in linked:
        entry.type, entry.linkname = tarfile.LNKTYPE, linked[status.st_dev, status.st_ino]
    else:
        linked[status.st_dev, status.st_ino] = name
        entry.size = status.st_size
        with path.open("rb") as content:
            archive.addfile(entry, content)
        return
    archive.addfile(entry)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, TIMESTAMP
    return entry


def _encoded(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--name", required=True)
    parser.add_argument("--file", required=True, action="append", metavar="SOURCE=/TARGET")
    parser.add_argument("--command", required=True)
    parser.add_argument("archive", type=Path)
    given = parser.parse_args()
    files = {}
    for pair in given.file:
        source, _, target = pair.partition("=")
        files[target] = (Path(source).read_bytes(), 0o755)
    layer_file = given.archive.with_suffix(".layer")
    layer = layer_of_files(files, layer_file)
    write_archive(given.archive, [given.name], [layer], Settings(command=[given.command]))
    layer_file.unlink()


if __name__ == "__main__":
    main()
