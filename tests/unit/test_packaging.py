"""What the project declares, locks and documents about its dependencies is one and the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tools.check_names import refused_names
from tools.compile import HOT_MODULES

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED: dict[str, dict[str, Any]] = {p["name"]: p for p in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
OURSELVES = "sidegate"

# What a package declares that isn't an SPDX expression -> the expression it means.
SPDX = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",  # google-re2's LICENSE
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "LGPL": "LGPL-2.1-or-later",  # python-stdnum's COPYING and classifier
}
# Licences that may be part of a GPL-3.0-or-later whole (https://www.gnu.org/licenses/license-list.html).
COMBINES = {
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Apache-2.0",
    "ISC",
    "MPL-2.0",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "GPL-3.0-or-later",
}


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def declared() -> dict[str, str]:
    """Each direct dependency and the part that asks for it."""
    groups: dict[str, list[str]] = {
        "client-suites": PROJECT["dependency-groups"]["client-suites"],  # first: what another part asks for too counts there
        "core": PROJECT["project"]["dependencies"],
        **PROJECT["project"]["optional-dependencies"],
        "dev": PROJECT["dependency-groups"]["dev"],
        "build": PROJECT["build-system"]["requires"],
    }
    return {name_of(each): group for group, requirements in groups.items() for each in requirements if name_of(each) != OURSELVES}


def documented() -> dict[str, dict[str, str]]:
    lines = [line for line in (ROOT / "docs" / "dependencies.md").read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads, _, *rows = cells
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


def licence_of(name: str) -> str:
    """As the installed package declares it: expression, else field, else classifier (core metadata 2.4)."""
    facts = metadata.metadata(name)
    classifiers = [each.rsplit(" :: ", 1)[1] for each in facts.get_all("Classifier") or [] if each.startswith("License :: OSI")]
    said = facts.get("License-Expression") or facts.get("License") or " OR ".join(classifiers)
    return SPDX.get(said, said)


def closure(extra: str) -> set[str]:
    """Every package that installing `sidegate[extra]` brings, on any platform."""
    roots = LOCKED[OURSELVES]
    waiting = [*roots.get("dependencies", []), *roots["optional-dependencies"][extra]]
    seen: set[tuple[str, str | None]] = set()
    while waiting:
        entry = waiting.pop()
        wanted = entry.get("extra", [])
        for chosen in (None, *([wanted] if isinstance(wanted, str) else wanted)):
            if (entry["name"], chosen) in seen:
                continue
            seen.add((entry["name"], chosen))
            package = LOCKED[entry["name"]]
            waiting += (
                package.get("dependencies", []) if chosen is None else package.get("optional-dependencies", {}).get(chosen, [])
            )
    return {name for name, _ in seen}


def test_every_dependency_is_documented_under_the_part_that_asks_for_it() -> None:
    assert {name: row["used by"] for name, row in documented().items()} == declared()


def test_every_documented_dependency_says_why() -> None:
    assert [name for name, row in documented().items() if len(row["why"]) < 10] == []


@pytest.mark.parametrize("name", sorted(set(declared()) & set(LOCKED)))
def test_the_documented_version_is_the_locked_one(name: str) -> None:
    documented_parts = documented()[name]["version"].split(".")
    assert LOCKED[name]["version"].split(".")[: len(documented_parts)] == documented_parts


@pytest.mark.parametrize(
    "name", sorted(name for name, part in declared().items() if part not in {"operator", "build", "client-suites"})
)
def test_the_documented_licence_is_what_the_package_declares(name: str) -> None:
    assert documented()[name]["licence"] == licence_of(name)


def combines(licence: str) -> bool:
    """Whether one alternative of an SPDX expression may be part of a GPL-3.0-or-later whole."""
    return any(set(alternative.split(" AND ")) <= COMBINES for alternative in licence.split(" OR "))


def test_every_licence_combines_with_ours() -> None:
    assert not combines("EPL-2.0")
    assert not combines("MIT AND SSPL-1.0")
    assert {name: row["licence"] for name, row in documented().items() if not combines(row["licence"])} == {}


def test_every_licence_of_what_a_gate_installs_combines_with_ours() -> None:
    assert {name: licence_of(name) for name in closure("gate") if not combines(licence_of(name))} == {}


def test_a_gate_installs_nothing_of_the_operators_and_no_framework() -> None:
    brought = closure("gate")
    assert {"pglast", "uvloop", "cffi"} <= brought  # the walk reaches direct dependencies and what they bring
    assert brought & {"kubernetes", "kopf", "aiohttp", "pydantic", "pyyaml", "requests"} == set()


def test_the_walk_finds_an_operators_dependencies_where_they_are() -> None:
    assert {"kopf", "aiohttp", "pydantic", "pglast"} <= closure("operator")


def test_only_the_commands_for_a_cluster_install_a_generated_client_of_kubernetes() -> None:
    assert "kubernetes" not in closure("operator")
    assert "kubernetes" in closure("cluster")
    assert closure("cluster") & {"kopf"} == set()


def test_every_locked_package_comes_from_one_registry_with_hashes() -> None:
    others = {name: package for name, package in LOCKED.items() if name != OURSELVES}
    assert len({package["source"].get("registry") for package in others.values()}) == 1
    files = [file for p in others.values() for file in [*p.get("wheels", []), *([p["sdist"]] if "sdist" in p else [])]]
    assert files
    assert [file["url"] for file in files if not file["hash"].startswith("sha256:")] == []


def test_only_the_lock_names_the_registry() -> None:
    host = LOCKED["uv"]["source"]["registry"].split("/")[2]
    hosts = {host, *(wheel["url"].split("/")[2] for wheel in LOCKED["uv"]["wheels"])}
    tracked = [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run", *ROOT.glob("*.md")]
    for folder in ("tools", "docs", "sidecar", "operator", "examples", "tests"):
        tracked += [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".yaml", ".toml", ".sh"}]
    assert [path for path in tracked if any(each in path.read_text(errors="replace") for each in hosts)] == []


def test_the_modules_to_compile_are_there() -> None:
    assert [name for name in HOT_MODULES if not (ROOT / "sidecar" / name).is_file()] == []


def test_every_folder_of_tests_is_run_by_a_target() -> None:
    folders = {f"tests/{path.relative_to(ROOT / 'tests').parts[0]}" for path in (ROOT / "tests").rglob("test_*.py")}
    by_itself = set(re.findall(r"-m pytest (tests/\w+)", (ROOT / "Makefile").read_text()))
    assert by_itself == {"tests/e2e"}
    assert folders <= {*PROJECT["tool"]["pytest"]["ini_options"]["testpaths"], *by_itself}


def test_file_names_say_what_a_file_is_about() -> None:
    assert (
        refused_names([Path("sidecar/sidegate/policy/engine.py"), Path("tests/support/gate.py"), Path("tests/unit/database.py")])
        == []
    )
    refused = [Path(name) for name in ("sidegate/utils.py", "sidegate/helpers/x.py", "sidegate/session_manager.py", "a/base.py")]
    assert len(refused_names(refused)) == len(refused)
    assert subprocess.run([sys.executable, "tools/check_names.py"], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("tool", sorted(path.stem for path in (ROOT / "tools").glob("write_*.py")))
def test_what_is_made_from_code_is_current(tool: str) -> None:
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", f"tools.{tool}", "--check"], cwd=ROOT, env=bare, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def prose_of(document: Path) -> str:
    """Without code, which may hold brackets of its own."""
    return re.sub(r"```.*?```|`[^`]*`", "", document.read_text(), flags=re.DOTALL)


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "changes").glob("*.md")]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([\w./:-]+)[)#]", prose_of(document))
        if "://" not in link
    ]
    assert len(links) > 5
    assert [f"{document.relative_to(ROOT)}: {link}" for document, link in links if not (document.parent / link).exists()] == []
