from __future__ import annotations

import ast
import base64
import hashlib
import http.server
import io
import ssl
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import bootstrap
from tools.bootstrap import SetUpError

WHEELS = [
    {"url": "https://files.example/a/uv-1-py3-none-macosx_11_0_arm64.whl"},
    {"url": "https://files.example/b/uv-1-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl"},
    {"url": "https://files.example/c/uv-1-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"},
    {"url": "https://files.example/d/uv-1-py3-none-manylinux_2_28_aarch64.whl"},
    {"url": "https://files.example/e/uv-1-py3-none-musllinux_1_1_x86_64.whl"},
]
PACKAGES = {
    "/simple/uv/": b'<a href="../../files/uv-1-x.whl#sha256=0">uv</a> <a href="/files/uv-1-y&amp;z.whl">uv</a>',
    "/files/uv-1-x.whl": b"the wheel",
}


class Registry(http.server.BaseHTTPRequestHandler):
    """Asks for a login, then has the files above."""

    def do_GET(self) -> None:
        is_known = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:p@ss").decode()
        content = PACKAGES.get(self.path) if is_known else b""
        self.send_response(401 if not is_known else 404 if content is None else 200)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("machine", "libc", "folder"),
    [
        ("x86_64", (2, 36), "c"),
        ("x86_64", (2, 17), "c"),
        ("aarch64", (2, 36), "b"),
        ("x86_64", None, "e"),
        ("aarch64", None, "b"),
    ],
)
def test_the_wheel_fits_the_machine_and_its_libc(machine: str, libc: tuple[int, int] | None, folder: str) -> None:
    assert bootstrap.choose_wheel(WHEELS, machine, libc)["url"].split("/")[3] == folder


@pytest.mark.parametrize(("machine", "libc"), [("x86_64", (2, 12)), ("sparc64", (2, 36)), ("arm64", None), ("x86_6", (2, 36))])
def test_a_machine_without_a_wheel_is_told_what_to_do(machine: str, libc: tuple[int, int] | None) -> None:
    with pytest.raises(SetUpError, match="no build of uv") as caught:
        bootstrap.choose_wheel(WHEELS, machine, libc)
    assert "PATH" in caught.value.way_forward


def test_the_lock_has_a_wheel_for_each_machine_we_support() -> None:
    wheels = bootstrap.locked_uv(bootstrap.ROOT / "uv.lock")["wheels"]
    for machine in ("x86_64", "aarch64"):
        for libc in ((2, 36), None):  # bookworm; musl
            assert bootstrap.choose_wheel(wheels, machine, libc)["hash"].startswith("sha256:")


def wheel_with(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("uv/__init__.py", "")
        archive.writestr("uv-1.data/scripts/uvx", b"another")
        archive.writestr("uv-1.data/scripts/uv", content)
    return packed.getvalue()


def test_the_binary_is_unpacked_and_may_be_run(tmp_path: Path) -> None:
    wheel = wheel_with(b"#!/bin/sh\n")
    bootstrap.unpack_uv(wheel, "sha256:" + hashlib.sha256(wheel).hexdigest(), tmp_path / "uv-1")
    assert (tmp_path / "uv-1").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "uv-1").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["uv-1"]


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    expected = "sha256:" + hashlib.sha256(wheel_with(b"good")).hexdigest()
    with pytest.raises(SetUpError, match="has hash"):
        bootstrap.unpack_uv(wheel_with(b"evil"), expected, tmp_path / "uv-1")
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_is_asked_with_its_login_and_its_page_says_where_the_file_is(registry: str) -> None:
    context = ssl.create_default_context()
    address = bootstrap.address_at_mirror(f"http://me:p%40ss@{registry}/simple", "uv-1-x.whl", context)
    assert bootstrap.fetch(address, context) == b"the wheel"


def test_a_mirror_without_the_file_or_the_login_says_so_without_naming_the_password(registry: str) -> None:
    context = ssl.create_default_context()
    with pytest.raises(SetUpError, match=r"no `uv-2.whl`"):
        bootstrap.address_at_mirror(f"http://me:p%40ss@{registry}/simple", "uv-2.whl", context)
    with pytest.raises(SetUpError, match="401") as caught:
        bootstrap.address_at_mirror(f"http://me:wrong@{registry}/simple", "uv-1-x.whl", context)
    assert "wrong" not in str(caught.value)


def test_the_locks_own_registry_is_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bootstrap.INDEX_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert bootstrap.mirror_setting() is None
    monkeypatch.setenv("PIP_INDEX_URL", bootstrap.locked_uv(bootstrap.ROOT / "uv.lock")["source"]["registry"] + "/")
    assert bootstrap.mirror_setting() is None
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple/")
    assert bootstrap.mirror_setting() == "https://mirror.example/simple"


def test_a_certificate_file_that_is_named_is_the_one_that_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in bootstrap.CERTIFICATE_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "absent.pem"))
    with pytest.raises(SetUpError, match=r"absent.pem` can't be read"):
        bootstrap.tls_context()


def test_certificates_are_verified_wherever_there_is_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bootstrap.CERTIFICATE_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    if not bootstrap.machine_has_certificates(ssl.create_default_context()):
        assert bootstrap.tls_context().verify_mode is ssl.CERT_NONE  # the hash alone proves the content then
    else:
        assert bootstrap.tls_context().verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("home", [None, "", "/proc/nowhere", "relative"])
def test_without_a_home_to_write_to_the_cache_is_in_the_project(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    for name in ("UV_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert bootstrap.cache_folder() == bootstrap.TOOLS / "uv-cache"


def test_a_home_and_a_named_cache_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("UV_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bootstrap.cache_folder() == tmp_path / ".cache" / "uv"
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "named"))
    assert bootstrap.cache_folder() == tmp_path / "named"


def test_an_old_python_can_read_the_file_and_say_what_is_wrong() -> None:
    ast.parse(Path(bootstrap.__file__).read_text(), feature_version=(3, 7))
