"""The same image under another digest: what runs is the same, and Kubernetes takes it for a newer release of it.

newer = relabelled(images["gate"], tmp_path / "newer.tar", {"org.example.release": "next"})
cluster.load(newer)                        # newer.name is by digest, as a chart's value

An OCI archive names its configuration by a hash of it, so a label more makes another image of the same layers. Left out: archives of several
different images.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.support.cluster_node import ClusterImage

_INDEX: Final = "index.json"


def relabelled(image: ClusterImage, archive: Path, labels: Mapping[str, str]) -> ClusterImage:
    """Write the archive; the image is named by its digest."""
    with tarfile.open(image.archive) as given, tarfile.open(archive, "w") as written:
        index = _read(given, _INDEX)
        before = index["manifests"][0]["digest"]
        manifest = _read(given, _blob(before))
        settings_before = manifest["config"]["digest"]
        settings = _read(given, _blob(settings_before))
        settings["config"]["Labels"] = {**settings["config"].get("Labels", {}), **labels}
        manifest["config"] |= _add(written, settings)
        described = _add(written, manifest)
        name = f"{image.name.partition('@')[0].rpartition(':')[0]}@{described['digest']}"
        names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
        index["manifests"] = [{**index["manifests"][0], **described, "annotations": names}]
        _write(written, _INDEX, _encoded(index))
        replaced = {_INDEX, "manifest.json", _blob(before), _blob(settings_before)}
        for entry in given:
            if entry.name not in replaced:
                written.addfile(entry, given.extractfile(entry) if entry.isreg() else None)
    return ClusterImage(name, archive)


def _read(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    content = archive.extractfile(name)
    assert content is not None
    found: dict[str, Any] = json.load(content)
    return found


def _add(archive: tarfile.TarFile, document: Mapping[str, Any]) -> dict[str, Any]:
    """As a blob; what describes it where it is named."""
    content = _encoded(document)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _write(archive, _blob(digest), content)
    return {"digest": digest, "size": len(content)}


def _write(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
