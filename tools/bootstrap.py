"""Set up `.venv` from `uv.lock` with nothing but this Python: no pip, no venv module, no package of any kind.

Rules: what is downloaded is what `uv.lock` pins, proven by its hash whichever address it came from; a second run with nothing
changed does nothing; two runs at once wait for each other; nothing is written outside the project but the package cache.
Progress goes to stderr.

Settings it obeys: PIP_INDEX_URL, UV_INDEX_URL or UV_DEFAULT_INDEX (a mirror), SSL_CERT_FILE (or PIP_CERT, REQUESTS_CA_BUNDLE),
https_proxy, UV_CACHE_DIR. Left out: getting a Python. One that is too old hands over to a newer one on PATH, or says what to
install; so this file must stay readable by Python 3.7.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import html
import io
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any, NoReturn

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
STAMP = VENV / ".set-up"
DOWNLOAD_TRIES = 3
DOWNLOAD_TIMEOUT_S = 60
INDEX_SETTINGS = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
CERTIFICATE_SETTINGS = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
NETWORK_ADVICE = (
    "check the network; behind a proxy set https_proxy, behind a mirror set PIP_INDEX_URL, "
    "with a certificate authority of your own set SSL_CERT_FILE; then run it again"
)


class SetUpError(Exception):
    """Set-up can't go on; `way_forward` says what to do about it."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


def say(text: str) -> None:
    print(f"set-up: {text}", file=sys.stderr, flush=True)


def hand_over_to_a_newer_python() -> NoReturn:
    """Go on in the newest Python on PATH that is new enough.

    Raises:
        SetUpError: there is none.
    """
    for minor in range(20, OLDEST[1] - 1, -1):
        newer = shutil.which(f"python3.{minor}")
        if newer and subprocess.run([newer, "-c", ""], capture_output=True, check=False).returncode == 0:  # not a dead shim
            os.execv(newer, [newer, *sys.argv])
    version = ".".join(str(part) for part in sys.version_info[:2])
    raise SetUpError(
        f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, `{sys.executable}` is {version}",
        "install a newer one (Debian 12 and later: apt-get install python3), or name it: make PYTHON=/path/to/python3.13",
    )


def base_interpreter() -> str:
    """This Python, or the one its virtual environment was made from: `.venv` must not be built on itself."""
    inside_environment = sys.prefix != sys.base_prefix
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable) if inside_environment else sys.executable)


def stamp_content() -> str:
    """What `.venv` was made from. Another place or another Python needs another `.venv`: its scripts carry absolute paths."""
    digest = hashlib.sha256()
    for name in ("uv.lock", "pyproject.toml", "tools/bootstrap.py"):
        digest.update((ROOT / name).read_bytes())
    return f"{ROOT}\n{base_interpreter()} {platform.python_version()}\n{digest.hexdigest()}\n"


def read_stamp() -> str:
    try:
        return STAMP.read_text() if os.access(VENV / "bin" / "python", os.X_OK) else ""
    except OSError:
        return ""


# The pinned uv


def locked_uv(lock: Path) -> dict[str, Any]:
    """The entry of uv in the lock: version, registry, wheels with address and hash."""
    import tomllib  # new in 3.11, and this file is read by older ones

    packages: list[dict[str, Any]] = tomllib.loads(lock.read_text())["package"]
    return next(package for package in packages if package["name"] == "uv")


def is_usable(tag: str, machine: str, libc: tuple[int, int] | None) -> bool:
    """Whether a wheel's platform tag fits a Linux machine with this glibc (None: musl). See PEP 600 and PEP 656."""
    match = re.fullmatch(r"(manylinux|musllinux)_(\d+)_(\d+)_(\w+)", tag)
    if match is None or match[4] != machine:
        return False
    if libc is None:
        return match[1] == "musllinux"
    return match[1] == "manylinux" and (int(match[2]), int(match[3])) <= libc


def choose_wheel(wheels: list[dict[str, Any]], machine: str, libc: tuple[int, int] | None) -> dict[str, Any]:
    """The first wheel for this machine.

    Raises:
        SetUpError: the lock has none.
    """
    for wheel in wheels:
        tags = wheel["url"].rsplit("/", 1)[1].removesuffix(".whl").rsplit("-", 1)[1].split(".")
        if any(is_usable(tag, machine, libc) for tag in tags):
            return wheel
    kind = "musl" if libc is None else f"glibc {libc[0]}.{libc[1]}"
    raise SetUpError(
        f"uv.lock has no build of uv for `{sys.platform}` on `{machine}` ({kind})",
        "put a uv of your own on PATH and run it again",
    )


def this_libc() -> tuple[int, int] | None:
    name, version = platform.libc_ver()
    parts = re.match(r"(\d+)\.(\d+)", version)
    return (int(parts[1]), int(parts[2])) if name == "glibc" and parts else None


def tls_context() -> ssl.SSLContext:
    """Trust what the settings name, else this machine's store.

    A fresh Debian has no store at all. Then the address isn't verified, and needn't be: the hash in `uv.lock` proves the content.
    """
    named = next((os.environ[name] for name in CERTIFICATE_SETTINGS if os.environ.get(name)), None)
    try:
        context = ssl.create_default_context(cafile=named)
    except OSError as error:
        raise SetUpError(
            f"the certificates in `{named}` can't be read: {error}", "name a file of PEM certificates in SSL_CERT_FILE"
        ) from error
    if named is None and not machine_has_certificates(context):
        say("this machine has no certificate store; what is downloaded is checked against uv.lock alone")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def machine_has_certificates(context: ssl.SSLContext) -> bool:
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None  # read when needed, so not in the statistics
    return context.cert_store_stats()["x509_ca"] > 0 or (folder is not None and folder.is_dir() and any(folder.iterdir()))


def fetch(address: str, context: ssl.SSLContext) -> bytes:
    """The content of an address, with its `user:password@` as basic authentication.

    Raises:
        SetUpError: not to be had in a few tries.
    """
    parts = urllib.parse.urlsplit(address)
    request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    if parts.username:
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    problem: Exception | None = None
    for attempt in range(DOWNLOAD_TRIES):
        if attempt:
            time.sleep(2 * attempt)
        try:
            with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S, context=context) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            error.close()
            problem = error
            if error.code < 500 and error.code != 429:
                break
        except OSError as error:  # URLError, time-outs, connections cut short
            problem = error
    raise SetUpError(f"can't download from `{parts.hostname}`: {problem}", NETWORK_ADVICE)


def address_at_mirror(mirror: str, file_name: str, context: ssl.SSLContext, project: str = "uv") -> str:
    """Where a mirror has this file: its page of the project lists it (PEP 503)."""
    page = f"{mirror.rstrip('/')}/{project}/"
    for link in re.findall(r'href="([^"]+)"', fetch(page, context).decode(errors="replace")):
        address = urllib.parse.urljoin(page, html.unescape(link)).partition("#")[0]
        if address.endswith("/" + file_name):
            return address
    raise SetUpError(f"the mirror has no `{file_name}`", "have it mirrored, or unset PIP_INDEX_URL")


def unpack_uv(wheel: bytes, expected_hash: str, binary: Path) -> None:
    """Check the wheel against its hash, then take the one file out of it that is needed.

    Raises:
        SetUpError: the content isn't what `uv.lock` pins.
    """
    found = "sha256:" + hashlib.sha256(wheel).hexdigest()
    if found != expected_hash:
        raise SetUpError(
            f"the downloaded uv has hash `{found}`, uv.lock says `{expected_hash}`",
            "something between here and the registry changes files: find out what, and don't go round it",
        )
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        part = binary.with_suffix(".part")
        part.write_bytes(archive.read(name))
    part.chmod(0o755)
    part.replace(binary)


def get_uv(mirror: str | None) -> Path:
    """The uv that the lock pins, downloaded once to `.tools`."""
    entry = locked_uv(ROOT / "uv.lock")
    binary: Path = TOOLS / f"uv-{entry['version']}"
    if binary.exists():
        return binary
    try:
        wheel = choose_wheel(entry["wheels"], platform.machine(), this_libc())
    except SetUpError:
        of_their_own = shutil.which("uv")
        if of_their_own is None:
            raise
        return Path(of_their_own)
    say(f"downloading uv {entry['version']} ({wheel['size'] / 1e6:.0f} MB)")
    context = tls_context()
    address = address_at_mirror(mirror, wheel["url"].rsplit("/", 1)[1], context) if mirror else wheel["url"]
    unpack_uv(fetch(address, context), wheel["hash"], binary)
    return binary


# The environment


def mirror_setting() -> str | None:
    """The package index that the settings name, when it isn't the one the lock was made from."""
    named = next((os.environ[name] for name in INDEX_SETTINGS if os.environ.get(name)), "").rstrip("/")
    return named if named and named != locked_uv(ROOT / "uv.lock")["source"]["registry"].rstrip("/") else None


def cache_folder() -> Path:
    """uv's own place for its cache, made if need be, or one in the project when there is no home to write to."""
    named = os.environ.get("UV_CACHE_DIR")
    home = os.environ.get("HOME")
    caches = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else "")
    usual = Path(named) if named else Path(caches) / "uv"
    try:
        if not named and not usual.is_absolute():
            raise PermissionError
        usual.mkdir(parents=True, exist_ok=True)
        if os.access(usual, os.W_OK | os.X_OK):
            return usual
    except OSError:
        pass
    (TOOLS / "uv-cache").mkdir(parents=True, exist_ok=True)
    return TOOLS / "uv-cache"


def uv_environment(mirror: str | None) -> dict[str, str]:
    """This process's environment, so that uv takes this Python and this project and trusts what we trust."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    cache = cache_folder()
    environment.update(
        UV_PYTHON=base_interpreter(), UV_PYTHON_DOWNLOADS="never", UV_PROJECT_ENVIRONMENT=str(VENV), UV_CACHE_DIR=str(cache)
    )
    environment.setdefault("UV_HTTP_TIMEOUT", "180")
    certificates = next((os.environ[name] for name in CERTIFICATE_SETTINGS if os.environ.get(name)), None)
    if certificates:
        environment["SSL_CERT_FILE"] = certificates
    elif machine_has_certificates(ssl.create_default_context()):
        environment.setdefault("UV_SYSTEM_CERTS", "true")  # else uv's own list, which is what a machine without a store needs
    if mirror:
        environment["UV_DEFAULT_INDEX"] = mirror
    if cache.stat().st_dev != ROOT.stat().st_dev:
        environment.setdefault("UV_LINK_MODE", "copy")  # no hard links across file systems
    return environment


def run_uv(uv: Path, arguments: list[str], environment: dict[str, str]) -> None:
    """Run uv, its bar shown on a terminal, its long list of packages kept out of logs.

    Raises:
        SetUpError: uv failed; it has said why on stderr.
    """
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    outcome = subprocess.run([str(uv), *quiet, *arguments], cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
    if outcome.returncode != 0:
        raise SetUpError(
            f"`uv {' '.join(arguments)}` ended with {outcome.returncode}", f"see its message above; {NETWORK_ADVICE}"
        )


def install(uv: Path, mirror: str | None) -> None:
    """Make `.venv` what the lock says. A mirror needs another way: the addresses in the lock are not the mirror's."""
    environment = uv_environment(mirror)
    if mirror is None:
        run_uv(uv, ["sync", "--frozen"], environment)
        return
    pinned = TOOLS / "requirements.txt"
    run_uv(uv, ["export", "--frozen", "--no-emit-project", "--output-file", str(pinned)], environment)
    run_uv(uv, ["venv", "--clear", "--python", base_interpreter(), str(VENV)], environment)
    environment["VIRTUAL_ENV"] = str(VENV)
    environment["UV_PYTHON"] = str(VENV / "bin" / "python")
    run_uv(uv, ["pip", "sync", "--require-hashes", str(pinned)], environment)
    run_uv(uv, ["pip", "install", "--no-deps", "--editable", str(ROOT)], environment)


def set_up() -> None:
    """Bring `.venv` in line with the lock, unless it is.

    Raises:
        SetUpError: it can't be done, with the way forward.
    """
    if sys.version_info[:2] < OLDEST:
        hand_over_to_a_newer_python()
    wanted = stamp_content()
    if read_stamp() == wanted:
        return
    try:
        TOOLS.mkdir(exist_ok=True)
        lock = (TOOLS / "lock").open("w")
    except OSError as error:
        raise SetUpError(f"can't write in `{ROOT}`: {error.strerror}", "give this user the right to write there") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read_stamp()
        if before == wanted:
            return  # another run did it while this one waited
        if before and before.splitlines()[0] != str(ROOT):
            shutil.rmtree(VENV)
        started = time.monotonic()
        mirror = mirror_setting()
        uv = get_uv(mirror)
        say(f"installing into {VENV} with Python {platform.python_version()}")
        STAMP.unlink(missing_ok=True)
        install(uv, mirror)
        STAMP.write_text(wanted)
        say(f"done in {time.monotonic() - started:.0f} s")


def main() -> int:
    try:
        set_up()
    except SetUpError as error:
        print(f"set-up failed: {error}\n  what to do: {error.way_forward}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
