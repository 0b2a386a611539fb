"""Make the images of gate, operator and redirection, and a PostgreSQL for tests, without Docker or an image registry: `make image`.

Layers, each made again only when what it is made from changed: Debian with Python; the locked dependencies (wheels, checked by hash);
the project. So a change of the project's code costs the top layer. An image's tag is the hash of its content: the same code on the same
layers has the same name, and an image that a cluster has needs no import. Each is named twice, by tag and by digest.

    build/images/images.json    {"gate": {"image": "localhost/sidegate/gate:TAG", "digest": "sha256:...", "archive": "..."}, ...}
    ctr -n k8s.io images import build/images/gate.tar

Needs root, for debootstrap. Layers are kept in ~/.cache/sidegate/images; `--fresh` makes Debian's anew, with its newest updates.
`--compiled` puts the compiled hot modules in, which needs this machine to run the same Python. The same sources give the same digests,
on any machine and from an empty cache, for as long as Debian has no update. Left out: publishing; the Dockerfile is for whoever has
Docker and a registry.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidegate import __version__
from tools import image_debian as debian
from tools.bootstrap import mirror_setting, uv_environment
from tools.compile import COMPILED, assemble, compile_extensions
from tools.image_archive import Layer, Settings, layer_of, manifest_digest, write_archive

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "build" / "images"
REGISTRY: Final = "localhost/sidegate"
PYTHON: Final = "3.11"  # of the suite
SITE: Final = f"usr/local/lib/python{PYTHON}/dist-packages"
DEBIAN_PACKAGES: Final = ("ca-certificates", "python3")
POSTGRES_PACKAGES: Final = ("postgresql", "postgresql-client")
REDIRECT_PACKAGES: Final = ("nftables",)
# Numbers that no image of a database uses, so that a gate's user is its own in the pod it shares.
USERS: Final = {"sidegate": 64801, "sidegate-operator": 64802}
POSTGRES_USER: Final = 999  # as in the official image, so that manifests fit both
IMAGES: Final = ("gate", "operator", "redirect", "postgres")
_GATE: Final = {"sidegate": "sidegate.cli.main"}
# Each image's commands, the first of which it starts. What `sidegate local` and `sidegate policy` need is in the operator's image alone.
COMMANDS: Final = {"gate": _GATE, "operator": {"sidegate-operator": "sidegate_operator.main", **_GATE}}
_KEPT_S: Final = 7 * 24 * 3600  # how long a layer that nothing asks for stays in the cache
_SCRIPT: Final = """\
#!/usr/bin/python3 -Iu
import sys

from {module} import main

sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What `images.json` says of one image."""

    image: str
    digest: str
    archive: str


def cache_folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or (f"{os.environ['HOME']}/.cache" if os.environ.get("HOME") else "")
    return (Path(caches) if caches else ROOT / "build" / "cache") / "sidegate" / "images"


def say(text: str) -> None:
    print(f"image: {text}", file=sys.stderr, flush=True)


class Workshop:
    """Makes layers in a cache folder, each under a name that ends in the hash of its inputs."""

    def __init__(self, cache: Path, *, fresh: bool) -> None:
        self.cache = cache
        self.fresh = fresh

    def layer(
        self, name: str, inputs: Sequence[str | bytes], what: str, usual_s: int, make: Callable[[Path, Path], Layer]
    ) -> Layer:
        """The layer from the cache, or what `make` makes of an empty folder for its work and a place for its tar file.

        What `make` leaves behind when it fails isn't taken for a layer.
        """
        key = hashlib.sha256(b"\0".join(each.encode() if isinstance(each, str) else each for each in inputs)).hexdigest()[:16]
        folder, done = self.cache / f"{name}-{key}", self.cache / f"{name}-{key}" / "digest"
        if done.exists() and not (self.fresh and name in {"debian", "postgres", "redirect"}):
            done.touch()
            return Layer(folder / "layer.tar", done.read_text())
        began = time.monotonic()
        say(f"making {what}, which takes some {usual_s} s")
        shutil.rmtree(folder, ignore_errors=True)
        work = folder / "root"
        work.mkdir(parents=True)
        layer = make(work, folder / "layer.tar")
        if name != "debian":  # whose programs make the layers above
            shutil.rmtree(work)
        done.write_text(layer.digest)
        say(f"made it in {time.monotonic() - began:.0f} s, {layer.size / 1e6:.0f} MB")
        for other in self.cache.glob(f"{name}-????????????????"):
            unused_s = time.time() - (other / "digest").stat().st_mtime if (other / "digest").exists() else 0  # noqa: TID251 - a file's age
            if unused_s > _KEPT_S:
                shutil.rmtree(other)
        return layer

    def debian(self) -> Layer:
        def make(root: Path, file: Path) -> Layer:
            debian.bootstrap(root, DEBIAN_PACKAGES)
            for name, number in USERS.items():
                debian.add_user(root, name, number)
            debian.tidy(root)
            debian.compile_bytecode(root, f"/usr/lib/python{PYTHON}", "/usr/lib/python3")
            return layer_of(root, file)

        inputs = (debian.SUITE, *DEBIAN_PACKAGES, _content_of("image_debian.py", "image_archive.py"))
        return self.layer("debian", inputs, "the Debian layer", 40, make)

    def postgres(self, base: Layer) -> Layer:
        lower = base.file.parent / "root"

        def make(root: Path, file: Path) -> Layer:
            shutil.rmtree(root)
            subprocess.run(["cp", "-a", "--reflink=auto", str(lower), str(root)], check=True)
            settings = root / "etc/postgresql-common/createcluster.conf"
            settings.parent.mkdir(parents=True)
            settings.write_text("create_main_cluster = false\n")
            debian.add_user(root, "postgres", POSTGRES_USER)
            debian.install(root, POSTGRES_PACKAGES)
            debian.tidy(root)
            script = root / "usr/local/bin/run-postgres"
            shutil.copy(ROOT / "tools" / "image_postgres.sh", script)
            for folder in ("var/lib/postgresql/data", "run/postgresql", "docker-entrypoint-initdb.d"):
                (root / folder).mkdir(parents=True, exist_ok=True)
                os.chown(root / folder, POSTGRES_USER, POSTGRES_USER)
            return layer_of(root, file, debian.added_to(lower, root))

        own = ("image_debian.py", "image_archive.py", "image_postgres.sh")
        inputs = (base.digest, *POSTGRES_PACKAGES, str(POSTGRES_USER), _content_of(*own))
        return self.layer("postgres", inputs, "the PostgreSQL layer", 15, make)

    def redirect(self, base: Layer) -> Layer:
        lower = base.file.parent / "root"

        def make(root: Path, file: Path) -> Layer:
            shutil.rmtree(root)
            subprocess.run(["cp", "-a", "--reflink=auto", str(lower), str(root)], check=True)
            debian.install(root, REDIRECT_PACKAGES)
            debian.tidy(root)
            return layer_of(root, file, debian.added_to(lower, root))

        inputs = (base.digest, *REDIRECT_PACKAGES, _content_of("image_debian.py", "image_archive.py"))
        return self.layer("redirect", inputs, "the layer of redirection", 10, make)

    def dependencies(self, base: Layer, extra: str) -> Layer:
        """The locked packages of an extra, as wheels for the image's Python."""
        environment = uv_environment(mirror_setting())
        wanted = _uv("export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--extra", extra, environment=environment)

        def make(root: Path, file: Path) -> Layer:
            requirements = root.parent / "requirements.txt"
            requirements.write_text(wanted)
            site = root / SITE
            options = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", PYTHON)
            platform_name = f"{platform.machine()}-manylinux_2_36"  # the suite's libc
            target = ("--python-platform", platform_name, "--link-mode", "copy", "--target", str(site))
            _uv("pip", "install", "--quiet", *options, *target, "-r", str(requirements), environment=environment)
            shutil.rmtree(site / "bin", ignore_errors=True)  # scripts of dependencies, with this machine's Python in them
            (site / ".lock").unlink(missing_ok=True)
            self._compile(base, site)
            return layer_of(root, file)

        inputs = (base.digest, wanted, platform.machine(), _content_of("image_archive.py"))
        return self.layer(f"dependencies-{extra}", inputs, f"the layer of the {extra}'s dependencies", 10, make)

    def project(self, base: Layer, name: str, sources: Sequence[Path], commands: Mapping[str, str]) -> Layer:
        found = [(path, source) for source in sources for path in sorted(source.rglob("*"))]
        files = [
            (path, str(path.relative_to(source.parent))) for path, source in found if path.is_file() and path.suffix != ".pyc"
        ]

        def make(root: Path, file: Path) -> Layer:
            site = root / SITE
            for source in sources:
                shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            for path in site.rglob("*"):
                path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)
            self._compile(base, site)
            programs = root / "usr/local/bin"
            programs.mkdir(parents=True)
            for command, module in commands.items():
                (programs / command).write_text(_SCRIPT.format(module=module))
                (programs / command).chmod(0o755)
            return layer_of(root, file)

        content = (part for path, name in files for part in (name, path.read_bytes()))
        inputs = (base.digest, json.dumps(commands), _SCRIPT, _content_of("image_archive.py"), *content)
        return self.layer(f"project-{name}", inputs, f"the {name}'s own layer", 1, make)

    def _compile(self, base: Layer, site: Path) -> None:
        debian.compile_bytecode(base.file.parent / "root", f"/{SITE}", binds={site: SITE})


def make_images(names: Sequence[str], *, fresh: bool, compiled: bool) -> dict[str, Image]:
    """Make these images and write their archives.

    Raises:
        ImageError: one can't be made.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise debian.ImageError(
            "images are made by root on Linux, since debootstrap is", "use sudo, or Docker and the Dockerfile"
        )
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        workshop = Workshop(cache, fresh=fresh)
        base = workshop.debian()
        made = {}
        for name in names:
            layers, settings = _recipe(workshop, base, name, compiled=compiled)
            digest = manifest_digest(layers, settings)
            repository = f"{REGISTRY}/{name}"
            image = Image(f"{repository}:{digest[7:19]}", digest, f"build/images/{name}.tar")
            archive, stamp = ROOT / image.archive, OUTPUT / f"{name}.digest"
            if not archive.exists() or not stamp.exists() or stamp.read_text() != digest:
                stamp.unlink(missing_ok=True)
                write_archive(archive, [image.image, f"{repository}@{digest}"], layers, settings)
                stamp.write_text(digest)
            made[name] = image
        return made


def _recipe(workshop: Workshop, base: Layer, name: str, *, compiled: bool) -> tuple[list[Layer], Settings]:
    labels = {
        "org.opencontainers.image.title": f"sidegate-{name}",
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.licenses": "GPL-3.0-or-later",
    }
    if name == "postgres":
        layers = [base, workshop.postgres(base)]
        environment = {"PGDATA": "/var/lib/postgresql/data/pgdata", "LANG": "C.UTF-8"}
        command = ["/usr/local/bin/run-postgres"]
        # at SIGTERM it would wait for its clients to go
        return layers, Settings(command, str(POSTGRES_USER), environment, labels=labels, ports=[5432], stop_signal="SIGINT")
    if name == "redirect":  # root, with the one capability that its pod gives it
        return [base, workshop.redirect(base)], Settings(["/usr/sbin/nft"], "0", {"LANG": "C.UTF-8"}, labels=labels)
    sources = [_gate_sources(compiled=compiled)]
    if name == "operator":
        sources.append(ROOT / "operator" / "sidegate_operator")
    commands = COMMANDS[name]
    layers = [base, workshop.dependencies(base, name), workshop.project(base, name, sources, commands)]
    user = str(USERS["sidegate" if name == "gate" else "sidegate-operator"])
    return layers, Settings([f"/usr/local/bin/{next(iter(commands))}"], user, {"LANG": "C.UTF-8"}, labels=labels)


def _gate_sources(*, compiled: bool) -> Path:
    if not compiled:
        return ROOT / "sidecar" / "sidegate"
    if f"{sys.version_info[0]}.{sys.version_info[1]}" != PYTHON:
        raise debian.ImageError(
            f"the image has Python {PYTHON}, and this is another", "run make with that Python, or without COMPILED"
        )
    assemble(compile_extensions())
    return COMPILED / "sidegate"


def _content_of(*names: str) -> bytes:
    """The tools that make a layer are among what it is made from."""
    return b"\0".join((ROOT / "tools" / name).read_bytes() for name in names)


def _uv(*arguments: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "uv", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise debian.ImageError(f"`uv {arguments[0]}` ended with {done.returncode}:\n{done.stderr}", "see its message above")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="make the images of gate and operator, and PostgreSQL for tests")
    parser.add_argument(
        "names", nargs="*", choices=[*IMAGES, []], metavar="NAME", help=f"of {', '.join(IMAGES)}; all of them without"
    )
    parser.add_argument("--fresh", action="store_true", help="make Debian's layers anew, with its newest updates")
    parser.add_argument("--compiled", action="store_true", help="with the compiled hot modules")
    chosen = parser.parse_args()
    try:
        made = make_images(chosen.names or IMAGES, fresh=chosen.fresh, compiled=chosen.compiled)
    except debian.ImageError as error:
        print(f"image: {error}\n  what to do: {error.way_forward}", file=sys.stderr)
        return 1
    listing = OUTPUT / "images.json"
    known = json.loads(listing.read_text()) if listing.exists() else {}
    known |= {name: {"image": each.image, "digest": each.digest, "archive": each.archive} for name, each in made.items()}
    listing.write_text(json.dumps(known, indent=2) + "\n")
    for each in made.values():
        print(f"{each.image}  {each.digest}  {each.archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
