"""The admission objects that Sidegate stands on, and whether the API server has them as they must be.

They are YAML in `objects/`, the one source: the chart's templates are copies (`tools/write_admission.py`), tests apply them, and the
operator compares what is live with them. Their only variable is Sidegate's own namespace, written as Helm writes it.

Rules it keeps:
- Whole specs are compared, defaults written out: a field that somebody added can weaken a guard as well as one they took away.
  `caBundle` alone is left out, which the webhook writes.
- What isn't there, isn't readable or is being deleted counts as missing.

Left out: reading the API server; the operator does that, by `guard_keys`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml

from sidegate_operator.resources import (
    ADMISSION_POLICIES,
    ADMISSION_POLICY_BINDINGS,
    MUTATING_WEBHOOKS,
    VALIDATING_WEBHOOKS,
    Resource,
)

Json = Mapping[str, Any]

NAMESPACE_VARIABLE: Final = "{{ .Release.Namespace }}"
_OBJECTS: Final = resources.files("sidegate_operator.webhook") / "objects"
_KINDS: Final[Mapping[str, Resource]] = {
    each.kind: each for each in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS, ADMISSION_POLICIES, ADMISSION_POLICY_BINDINGS)
}


@dataclass(frozen=True, slots=True)
class GuardProblem:
    """`name` is `Kind/name`; `field_path` names what differs first, and is empty when the object is missing."""

    name: str
    field_path: str
    problem: str
    way_forward: str = "apply the chart again: helm upgrade sidegate"

    def __str__(self) -> str:
        where = f"{self.name}: {self.field_path}" if self.field_path else self.name
        return f"{where}: {self.problem}; fix: {self.way_forward}"


def object_files() -> dict[str, str]:
    """The YAML by file name, its variable not yet filled in."""
    files = (each for each in _OBJECTS.iterdir() if each.name.endswith(".yaml"))
    return {each.name: each.read_text("utf-8") for each in sorted(files, key=lambda each: each.name)}


@cache
def _rendered(namespace: str, url: str = "") -> tuple[Json, ...]:
    texts = (text.replace(NAMESPACE_VARIABLE, namespace) for text in object_files().values())
    documents = [document for text in texts for document in yaml.safe_load_all(text)]
    for webhook in (each for document in documents for each in document.get("webhooks", ()) if url):
        webhook["clientConfig"]["url"] = url + webhook["clientConfig"].pop("service")["path"]
    return tuple(documents)


def admission_objects(namespace: str, url: str = "") -> list[dict[str, Any]]:
    """Everything as it is applied when Sidegate lives in this namespace. `url`: the webhook's, where it is called by no Service."""
    return [copy.deepcopy(dict(each)) for each in _rendered(namespace, url)]


def guard_keys(namespace: str) -> tuple[tuple[Resource, str], ...]:
    """Kind and name of each of them, to read it by."""
    return tuple((_KINDS[each["kind"]], each["metadata"]["name"]) for each in _rendered(namespace))


def guards_in_place(live: Iterable[Json | None], namespace: str, url: str = "") -> tuple[GuardProblem, ...]:
    """What is missing or changed among the live objects, None of them when all guards stand. Others' objects are ignored. `url` as in
    `admission_objects`.
    """
    found = {_key(each): each for each in live if each}
    problems = []
    for wanted in _rendered(namespace, url):
        name = _key(wanted)
        there = found.get(name)
        if there is None:
            problems.append(GuardProblem(name, "", "it is missing"))
        elif there["metadata"].get("deletionTimestamp"):
            problems.append(GuardProblem(name, "metadata.deletionTimestamp", "it is being deleted"))
        else:
            path = _first_difference(_compared(wanted), _compared(there))
            if path is not None:
                problems.append(GuardProblem(name, path, "it was changed"))
    return tuple(problems)


def _key(document: Json) -> str:
    return f"{document.get('kind')}/{(document.get('metadata') or {}).get('name')}"


def _compared(document: Json) -> Json:
    """What a guard does, without who made it and what the webhook writes into it."""
    if "webhooks" not in document:
        return {"spec": document.get("spec")}
    webhooks = copy.deepcopy(document["webhooks"]) or []
    for each in webhooks:
        each["clientConfig"].pop("caBundle", None)
    return {"webhooks": webhooks}


def _first_difference(wanted: object, there: object, path: str = "") -> str | None:
    if isinstance(wanted, Mapping) and isinstance(there, Mapping):
        for key in sorted({*wanted, *there}, key=str):
            if key not in wanted or key not in there:
                return f"{path}.{key}".lstrip(".")
            below = _first_difference(wanted[key], there[key], f"{path}.{key}")
            if below is not None:
                return below
        return None
    if isinstance(wanted, list) and isinstance(there, list):
        if len(wanted) != len(there):
            return path.lstrip(".")
        for index, (one, other) in enumerate(zip(wanted, there, strict=True)):
            below = _first_difference(one, other, f"{path}[{index}]")
            if below is not None:
                return below
        return None
    return None if wanted == there else path.lstrip(".")
