"""What `make image` makes, keeps and refuses; whole images are made and run by tests/e2e, which has root for it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import image, image_debian
from tools.image import COMMANDS, USERS, Workshop
from tools.image_archive import Layer, layer_of

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


# Refusals


@pytest.mark.parametrize(("platform", "user"), [("linux", 1000), ("darwin", 0)])
def test_refuses_whoever_is_not_root_on_linux_and_says_what_to_do(
    platform: str, user: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(sys, "argv", ["image", "gate"])
    assert image.main() == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "image: images are made by root on Linux, since debootstrap is\n  what to do: use sudo, or Docker and the Dockerfile\n"
    )


def test_refuses_an_image_that_it_does_not_know() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.image", "nginx"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'nginx'" in done.stderr


def test_refuses_compiled_modules_of_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "PYTHON", "2.7")
    with pytest.raises(image_debian.ImageError, match=r"the image has Python 2\.7") as refused:
        image._gate_sources(compiled=True)
    assert "COMPILED" in refused.value.way_forward


def test_says_which_package_brings_a_debootstrap_that_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(image_debian.ImageError, match="`debootstrap` is absent") as refused:
        image_debian.bootstrap(tmp_path / "root", ["python3"])
    assert refused.value.way_forward == "apt-get install debootstrap"


# Layers that are kept


def maker(content: str, made: list[str]) -> Callable[[Path, Path], Layer]:
    def make(root: Path, file: Path) -> Layer:
        assert list(root.iterdir()) == []
        (root / "file").write_text(content)
        made.append(content)
        return layer_of(root, file)

    return make


def test_makes_a_layer_again_only_when_what_it_is_made_from_changed(tmp_path: Path) -> None:
    workshop, made = Workshop(tmp_path, fresh=False), []  # type: tuple[Workshop, list[str]]
    first = workshop.layer("project-gate", ["1", b"a"], "a layer", 1, maker("one", made))
    assert workshop.layer("project-gate", ["1", b"a"], "a layer", 1, maker("one", made)) == first
    assert made == ["one"]
    assert workshop.layer("project-gate", ["1a", b""], "a layer", 1, maker("two", made)).digest != first.digest
    assert made == ["one", "two"]


def test_fresh_makes_debians_layers_again_and_no_others(tmp_path: Path) -> None:
    made: list[str] = []
    for name in ("debian", "postgres", "project-gate"):
        Workshop(tmp_path, fresh=False).layer(name, ["1"], "a layer", 1, maker(name, made))
        Workshop(tmp_path, fresh=True).layer(name, ["1"], "a layer", 1, maker(name, made))
    assert made == ["debian", "debian", "postgres", "postgres", "project-gate"]


def test_what_a_failure_leaves_behind_is_not_taken_for_a_layer(tmp_path: Path) -> None:
    def fail(root: Path, file: Path) -> Layer:
        (root / "half").write_text("half")
        file.write_text("half")
        raise image_debian.ImageError("no network", "wait")

    workshop, made = Workshop(tmp_path, fresh=False), []  # type: tuple[Workshop, list[str]]
    with pytest.raises(image_debian.ImageError, match="no network"):
        workshop.layer("debian", ["1"], "a layer", 1, fail)
    whole = workshop.layer("debian", ["1"], "a layer", 1, maker("whole", made))
    assert made == ["whole"]
    assert whole.file.stat().st_size == whole.size > len("half")


# Debian's root folder


def test_tidying_removes_secrets_and_what_differs_from_run_to_run(tmp_path: Path) -> None:
    kept = ["etc/ssl/certs/ca.pem", "usr/share/doc/bash/copyright", "usr/bin/env", "var/lib/dpkg/status"]
    removed = [
        *("etc/machine-id", "etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem"),
        *("var/log/apt/history.log", "var/cache/debconf/passwords.dat", "usr/share/doc/bash/changelog.gz"),
        *("root/.bash_history", "usr/lib/python3/__pycache__/site.pyc", "usr/sbin/policy-rc.d"),
    ]
    for name in [*kept, *removed, "etc/shadow", "etc/apt/sources.list"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "etc/shadow").write_text("root:*:20601:0:99999:7:::\n")
    (tmp_path / "etc/apt/sources.list").write_text("deb http://someone:secret@mirror.internal.example/debian bookworm main\n")
    (tmp_path / "etc/ssl/certs/0a1b2c3d.0").symlink_to("ssl-cert-snakeoil.pem")
    (tmp_path / "etc/ssl/certs/11111111.0").symlink_to("ca.pem")
    image_debian.tidy(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {*kept, "etc/shadow", "etc/apt/sources.list", "etc/ssl/certs/11111111.0"}
    assert (tmp_path / "etc/apt/sources.list").read_text().splitlines() == list(image_debian.SOURCES)
    assert (tmp_path / "etc/shadow").read_text() == "root:*:20454:0:99999:7:::\n"


def test_tidying_leaves_no_program_that_runs_as_another_user(tmp_path: Path) -> None:
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/shadow").write_text("")
    (tmp_path / "usr/bin").mkdir(parents=True)
    for name, mode in (("su", 0o4755), ("wall", 0o2755), ("env", 0o755)):
        (tmp_path / "usr/bin" / name).write_text(name)
        (tmp_path / "usr/bin" / name).chmod(mode)
    image_debian.tidy(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "usr/bin").iterdir()} == {0o755}


def test_a_layer_on_top_has_what_was_added_or_changed(tmp_path: Path) -> None:
    lower, root = tmp_path / "lower", tmp_path / "root"
    for folder in (lower, root):
        (folder / "etc").mkdir(parents=True)
        for name in ("same", "content", "mode"):
            (folder / "etc" / name).write_text("1")
        (folder / "link").symlink_to("etc/same")
    (root / "etc/content").write_text("2")
    (root / "etc/mode").chmod(0o600)
    (root / "etc/new").write_text("1")
    (root / "link").unlink()
    (root / "link").symlink_to("etc/new")
    is_new = image_debian.added_to(lower, root)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if is_new(str(path.relative_to(root)), path.lstat())}
    assert found == {"etc/content", "etc/mode", "etc/new", "link"}


# The Dockerfile makes the like of them


def stage(name: str) -> str:
    """From this stage's FROM to the next one's."""
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", DOCKERFILE, flags=re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_dockerfile_has_no_default_for_its_base_and_refuses_one_without_a_digest() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE).count("${BASE}") == 2
    assert not re.search(r"^ARG BASE=", DOCKERFILE, flags=re.MULTILINE)
    check = re.search(r"^RUN (case .*?esac)$", DOCKERFILE, flags=re.DOTALL | re.MULTILINE)
    assert check is not None
    script = check[1].replace("\\\n", "\n")
    for base, code in {"python:3.13": 1, f"python@sha256:{'0' * 64}": 0, f"python@sha256:{'0' * 63}": 1, "": 1}.items():
        done = subprocess.run(["sh", "-c", script], env={"BASE": base}, capture_output=True, text=True, check=False)
        assert (base, done.returncode) == (base, code)
        assert ("name it by its digest" in done.stderr) == bool(code)


@pytest.mark.parametrize("name", ["gate", "operator"])
def test_both_ways_to_make_an_image_give_the_same_user_and_command(name: str) -> None:
    commands = COMMANDS[name]
    number = USERS["sidegate" if name == "gate" else "sidegate-operator"]
    assert f"USER {number}:{number}\n" in stage(name)
    assert f'ENTRYPOINT ["/usr/local/bin/{next(iter(commands))}"]' in stage(name)
    assert all(f"/usr/local/bin/{each} " in stage(name) for each in commands)
    written = " ".join(f"{command}:{module}" for command, module in commands.items())
    assert f'commands="{written}"' in (ROOT / "tools" / "image_install.sh").read_text()


def test_what_the_dockerfile_copies_is_what_the_build_context_has() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE) for name in line.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in let_in)
