"""What a compiler of policies has to say to their authors: a value, with the resource, the field, the problem and the way forward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sidegate.api.access_policy import AccessPolicy, FindingSeverity
from sidegate.api.protected_target import ProtectedTarget


@dataclass(frozen=True, slots=True)
class Finding:
    """`resource` is `Kind/namespace/name`; `field_path` as manifests have it (`spec.rules[2].match`)."""

    severity: FindingSeverity
    resource: str
    field_path: str
    problem: str
    way_forward: str

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.resource}: {self.field_path}: {self.problem}; fix: {self.way_forward}"


def name_of(resource: AccessPolicy | ProtectedTarget) -> str:
    return f"{resource.kind}/{resource.metadata.namespace}/{resource.metadata.name}"


def error(resource: str, field_path: str, problem: str, way_forward: str) -> Finding:
    return Finding(FindingSeverity.ERROR, resource, field_path, problem, way_forward)


def warning(resource: str, field_path: str, problem: str, way_forward: str) -> Finding:
    return Finding(FindingSeverity.WARNING, resource, field_path, problem, way_forward)


def note(resource: str, field_path: str, problem: str, way_forward: str) -> Finding:
    return Finding(FindingSeverity.NOTE, resource, field_path, problem, way_forward)


_ORDER = {FindingSeverity.ERROR: 0, FindingSeverity.WARNING: 1, FindingSeverity.NOTE: 2}


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each once, in an order that doesn't depend on the order of the resources."""
    return tuple(sorted(set(findings), key=lambda each: (_ORDER[each.severity], each.resource, each.field_path, each.problem)))
