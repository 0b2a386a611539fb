"""Debian root folders for images, made with debootstrap: a minimal system, packages on top, and nothing that differs from run to run.

Rules: programs of the root run in a mount namespace of their own, so that nothing stays mounted whatever happens; services aren't started;
keys, logs, caches and machine ids that installation leaves behind are removed, so that no two images share a secret; no program runs as
another user than whoever starts it. Where this machine runs the same Debian, its own package sources are used, else Debian's; an image
names Debian's. Needs root. Left out: other architectures than this machine's.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
SOURCES: Final = (
    f"deb http://deb.debian.org/debian/ {SUITE} main",
    f"deb http://deb.debian.org/debian/ {SUITE}-updates main",
    f"deb http://deb.debian.org/debian-security/ {SUITE}-security main",
)
# What installing leaves behind; patterns below the root. Documents go but for copyrights, which licences want to be kept.
_LEFTOVERS: Final = """
dev/* proc/* run/* sys/* tmp/* root/.* debootstrap etc/apt/apt.conf.d/90image
etc/hostname etc/resolv.conf etc/machine-id etc/.pwd.lock etc/passwd- etc/group- etc/shadow- etc/gshadow-
etc/ssl/private/ssl-cert-snakeoil.key etc/ssl/certs/ssl-cert-snakeoil.pem
usr/sbin/policy-rc.d var/cache/* var/lib/apt/* var/lib/dpkg/*-old var/lib/systemd/* var/log/* var/tmp/*
usr/share/doc/*/[!c]* usr/share/doc/*/changelog* usr/share/info/* usr/share/lintian/* usr/share/locale/* usr/share/man/*
usr/share/postgresql/*/man/*
"""
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_APT_SETTINGS: Final = 'APT::Install-Recommends "false";\nDPkg::Options "--force-confdef";\n'


class ImageError(Exception):
    """An image can't be made; `way_forward` says what to do."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


def bootstrap(root: Path, packages: Sequence[str]) -> None:
    """Make a minimal Debian with these packages and its newest updates in the folder `root`.

    Raises:
        ImageError: debootstrap isn't here, or failed.
    """
    program = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise ImageError("the program `debootstrap` is absent", "apt-get install debootstrap")
    mirror = _sources()[0].split()[1]
    _run([program, "--variant=minbase", SUITE, str(root), mirror], log=root.with_suffix(".log"))
    install(root, packages)


def install(root: Path, packages: Sequence[str]) -> None:
    """Install packages into a root, without what they only recommend."""
    _forbid_services(root)
    (root / "etc/apt/sources.list").write_text("\n".join(_sources()) + "\n")
    (root / "etc/apt/apt.conf.d/90image").write_text(_APT_SETTINGS)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    for command in (["update"], ["-y", "dist-upgrade"], ["-y", "install", *packages]):
        run_in(root, ["apt-get", "-qq", *command], environment=environment)


def run_in(
    root: Path, command: Sequence[str], *, environment: Mapping[str, str] | None = None, binds: Mapping[Path, str] | None = None
) -> None:
    """Run a program of the root in it; `binds` are folders of this machine and where they are seen there.

    Raises:
        ImageError: it failed; the message ends with what it said.
    """
    mounts = [("-t", "proc", "proc", str(root / "proc")), ("--rbind", "/dev", str(root / "dev"))]
    for source, seen_as in (binds or {}).items():
        (root / seen_as.lstrip("/")).mkdir(parents=True, exist_ok=True)
        mounts.append(("--bind", str(source), str(root / seen_as.lstrip("/"))))
    for folder in ("proc", "dev"):
        (root / folder).mkdir(exist_ok=True)
    script = "\n".join(
        ["set -e", *(f"mount {' '.join(_quoted(part) for part in mount)}" for mount in mounts), 'exec chroot "$0" "$@"']
    )
    names = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    proxies = {name: os.environ[name] for name in names if name in os.environ}
    whole = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **proxies, **(environment or {})}
    _run(["unshare", "--mount", "sh", "-c", script, str(root), *command], environment=whole, log=root.with_suffix(".log"))


def tidy(root: Path) -> None:
    """Remove what installing left behind, what would differ from run to run, and the set-user-ID bits: no container becomes another."""
    for pattern in _LEFTOVERS.split():
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for cached in root.glob("usr/**/__pycache__"):
        shutil.rmtree(cached)
    for path in root.rglob("*"):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if path.parent == root / "etc/ssl/certs" and not path.exists():
                path.unlink()  # the hash of a certificate that was removed above
        elif stat.S_ISREG(status.st_mode) and status.st_mode & _SET_ID:
            path.chmod(stat.S_IMODE(status.st_mode) & ~_SET_ID)
    (root / "etc/apt/sources.list").write_text("\n".join(SOURCES) + "\n")  # whoever made it may have used a mirror of their own
    shadow = root / "etc/shadow"  # the day of the last change of each password, which nobody has
    shadow.write_text(re.sub(r"^([^:]*:[^:]*):\d+:", r"\1:20454:", shadow.read_text(), flags=re.MULTILINE))


def compile_bytecode(root: Path, *folders: str, binds: Mapping[Path, str] | None = None) -> None:
    """Compile Python's modules beforehand: a container with a read-only root can't. By hash, since layers change files' times."""
    command = ["python3", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", *folders]
    run_in(root, command, environment={"PYTHONHASHSEED": "0"}, binds=binds)


def added_to(lower: Path, root: Path) -> Callable[[str, os.stat_result], bool]:
    """Says of each path in `root` whether `lower`, which `root` is a grown copy of, lacks it or has it otherwise."""

    def is_new(name: str, status: os.stat_result) -> bool:
        try:
            before = (lower / name).lstat()
        except FileNotFoundError:
            return True
        facts = [(each.st_mode, each.st_uid, each.st_gid) for each in (before, status)]
        if facts[0] != facts[1]:
            return True
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(lower / name) != os.readlink(root / name)
        if not stat.S_ISREG(status.st_mode):
            return False
        return before.st_size != status.st_size or (lower / name).read_bytes() != (root / name).read_bytes()

    return is_new


def add_user(root: Path, name: str, number: int) -> None:
    """A user without a password, a home or a shell, and a group of the same name and number."""
    for table, line in (
        ("passwd", f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin"),
        ("group", f"{name}:x:{number}:"),
    ):
        with (root / "etc" / table).open("a") as content:
            content.write(line + "\n")


def _sources() -> Sequence[str]:
    """This machine's own package sources as lines of a sources.list, which may be mirrors, when it runs the suite; else Debian's."""
    apt = shutil.which("apt-get")
    if apt is None:
        return SOURCES
    asked = [apt, "indextargets", "--format", "$(ORIGIN)|deb $(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    found = [line.partition("|")[2] for line in lines if line.startswith("Debian|")]
    found = [line for line in found if line.split()[2].split("-")[0] == SUITE and line.split()[3] == "main"]
    found.sort(key=lambda line: line.split()[2] != SUITE)
    return found if found and found[0].split()[2] == SUITE else SOURCES


def _forbid_services(root: Path) -> None:
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # invoke-rc.d(8): the action is forbidden
    policy.chmod(0o755)


def _run(command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> None:
    with log.open("ab") as output:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ImageError(f"`{command[0]}` ended with {done.returncode}; the end of {log}:\n{last}", "see its message above")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
