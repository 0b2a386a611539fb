"""An image archive is what the OCI image specification says, and the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tools.image_archive import TIMESTAMP, Layer, Settings, layer_of, layer_of_files, manifest_digest, write_archive

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("localhost/sidegate/gate:1", "localhost/sidegate/gate@sha256:" + "0" * 64)
SETTINGS = Settings(
    ["/usr/local/bin/sidegate"], "64801", {"LANG": "C.UTF-8"}, labels={"made": "here"}, ports=[5432], stop_signal="SIGINT"
)


def grow(root: Path, names: tuple[str, ...] = ("b/two", "a/one", "b/a/three")) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
        path.chmod(0o640)
    (root / "link").symlink_to("a/one")
    os.link(root / "a/one", root / "same")
    return root


def entries(file: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(file) as archive:
        return {entry.name: entry for entry in archive.getmembers()}


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def contents(file: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(file) as archive:
        for entry in archive.getmembers():
            stream = archive.extractfile(entry) if entry.isfile() else None
            if stream is not None:
                found[entry.name] = stream.read()
    return found


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return layer_of(grow(tmp_path / "root"), tmp_path / "layer.tar")


# Layers


def test_the_same_folder_made_at_another_time_in_another_order_is_the_same_layer(tmp_path: Path, layer: Layer) -> None:
    other = grow(tmp_path / "other", ("b/a/three", "b/two", "a/one"))
    for path in [other, *other.rglob("*")]:
        os.utime(path, (1, time.monotonic()), follow_symlinks=False)
    again = layer_of(other, tmp_path / "again.tar")
    assert again.digest == layer.digest == digest_of(layer.file.read_bytes())
    assert again.file.read_bytes() == layer.file.read_bytes()


@pytest.mark.parametrize("change", ["content", "mode", "name", "link"])
def test_any_change_of_a_folder_is_another_layer(tmp_path: Path, layer: Layer, change: str) -> None:
    other = grow(tmp_path / "other")
    match change:
        case "content":
            (other / "b/two").write_text("Content of b/two")
        case "mode":
            (other / "b/two").chmod(0o644)
        case "name":
            (other / "b/two").rename(other / "b/to")
        case "link":
            (other / "link").unlink()
            (other / "link").symlink_to("b/two")
    assert layer_of(other, tmp_path / "again.tar").digest != layer.digest


def test_a_layer_keeps_modes_and_links_and_leaves_out_times_and_users_names(layer: Layer) -> None:
    found = entries(layer.file)
    assert list(found) == sorted(found)
    assert {entry.mtime for entry in found.values()} == {TIMESTAMP}
    assert {(entry.uname, entry.gname) for entry in found.values()} == {("", "")}
    assert {(entry.uid, entry.gid) for entry in found.values()} == {(os.getuid(), os.getgid())}
    assert (found["a"].isdir(), found["a/one"].mode) == (True, 0o640)
    assert (found["link"].issym(), found["link"].linkname) == (True, "a/one")
    assert (found["same"].islnk(), found["same"].linkname) == (True, "a/one")


def test_a_layer_leaves_out_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = grow(tmp_path / "root")
    monkeypatch.chdir(root)  # a socket's path has 108 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        assert "socket" not in entries(layer_of(root, tmp_path / "layer.tar").file)


def test_a_folder_that_is_not_wanted_is_still_walked(tmp_path: Path) -> None:
    layer = layer_of(grow(tmp_path / "root"), tmp_path / "layer.tar", lambda name, status: name == "b/a/three")
    assert list(entries(layer.file)) == ["b/a/three"]


def test_files_from_memory_belong_to_root_and_bring_the_folders_on_their_way(tmp_path: Path) -> None:
    layer = layer_of_files({"/usr/bin/pause": (b"\x7fELF", 0o755)}, tmp_path / "layer.tar")
    found = entries(layer.file)
    assert [(each.name, each.isdir(), each.mode, each.uid) for each in found.values()] == [
        ("usr", True, 0o755, 0),
        ("usr/bin", True, 0o755, 0),
        ("usr/bin/pause", False, 0o755, 0),
    ]


# Archives


def test_an_archive_is_an_oci_layout_whose_blobs_are_what_their_names_say(tmp_path: Path, layer: Layer) -> None:
    second = layer_of_files({"/etc/motd": (b"hello", 0o644)}, tmp_path / "second.tar")
    digest = write_archive(tmp_path / "image.tar", NAMES, [layer, second], SETTINGS)
    found = contents(tmp_path / "image.tar")

    def described(by: dict[str, Any]) -> bytes:
        blob = found["blobs/" + by["digest"].replace(":", "/")]
        assert (len(blob), digest_of(blob)) == (by["size"], by["digest"])
        return blob

    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(found["index.json"])
    assert [each["annotations"]["io.containerd.image.name"] for each in index["manifests"]] == list(NAMES)
    assert [each["annotations"]["org.opencontainers.image.ref.name"] for each in index["manifests"]] == list(NAMES)
    assert {each["digest"] for each in index["manifests"]} == {digest}
    manifest = json.loads(described(index["manifests"][0]))
    assert [described(each) for each in manifest["layers"]] == [layer.file.read_bytes(), second.file.read_bytes()]
    configuration = json.loads(described(manifest["config"]))
    assert configuration["rootfs"] == {"type": "layers", "diff_ids": [layer.digest, second.digest]}
    assert len(configuration["history"]) == 2
    runs = configuration["config"]
    assert (runs["Entrypoint"], runs["User"], runs["WorkingDir"]) == (["/usr/local/bin/sidegate"], "64801", "/")
    assert "LANG=C.UTF-8" in runs["Env"]
    assert any(each.startswith("PATH=/") for each in runs["Env"])
    assert (runs["Labels"], runs["ExposedPorts"], runs["StopSignal"]) == ({"made": "here"}, {"5432/tcp": {}}, "SIGINT")
    (loaded,) = json.loads(found["manifest.json"])
    assert loaded["RepoTags"] == [name for name in NAMES if "@" not in name]
    assert found[loaded["Config"]] == described(manifest["config"])
    assert [found[each] for each in loaded["Layers"]] == [layer.file.read_bytes(), second.file.read_bytes()]
    assert len(found) == 2 + 2 + 2 + 1  # layout and index, configuration and manifest, layers; and what `docker load` reads


def test_the_digest_is_known_before_the_archive_is_written_and_does_not_depend_on_names(tmp_path: Path, layer: Layer) -> None:
    expected = manifest_digest([layer], SETTINGS)
    assert write_archive(tmp_path / "one.tar", NAMES[:1], [layer], SETTINGS) == expected
    assert write_archive(tmp_path / "two.tar", NAMES, [layer], SETTINGS) == expected
    assert manifest_digest([layer], Settings(["/bin/sh"])) != expected


def test_the_same_image_is_the_same_archive(tmp_path: Path, layer: Layer) -> None:
    for name in ("one.tar", "two.tar"):
        write_archive(tmp_path / name, NAMES, [layer], SETTINGS)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_layer_that_is_there_twice_is_packed_once(tmp_path: Path, layer: Layer) -> None:
    write_archive(tmp_path / "image.tar", NAMES, [layer, layer], SETTINGS)
    with tarfile.open(tmp_path / "image.tar") as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))


def test_packs_files_of_this_machine_as_a_program(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    archive = tmp_path / "pause.tar"
    command = [sys.executable, "tools/image_archive.py", "--name", "localhost/pause:1", "--file", f"{program}=/pause"]
    subprocess.run([*command, "--command", "/pause", str(archive)], cwd=ROOT, check=True)
    blobs = [content for name, content in contents(archive).items() if name.startswith("blobs/")]
    layers = [content for content in blobs if not content.startswith(b"{")]
    assert len(layers) == 1
    with tarfile.open(fileobj=io.BytesIO(layers[0])) as layer:
        assert layer.getnames() == ["pause"]
    assert not archive.with_suffix(".layer").exists()
