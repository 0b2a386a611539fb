"""Engine cases as data: resources, a question, the answer expected. Shared by the tests and `sidegate policy explain --check`.

A file of cases has resources (manifests, at least one target), `defaults` for its questions, and `cases`. tests/conformance/engine has
them; docs/policy.md describes the form. Strict: an unknown field or an expectation that names nothing is an error, never a pass.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import msgspec

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.config import GateConfig
from sidegate.policy.explain import Explanation, Question, explain, summary
from sidegate.policy.principal import Json, Principal
from sidegate.policy.statement import NOTHING_SPENT, Impact, Spent, SqlStatement, TableImpact

SECRETS_DIR: Final = "/run/sidegate/secrets"

# Text to classified statements, or a sentence that says why there are none. `sidegate.sql` stands above this layer, so it is handed in.
Classify: TypeAlias = Callable[[str, "tuple[str, ...] | None"], "Sequence[SqlStatement] | str"]


class CaseError(Exception):
    """The file of cases is wrong itself."""

    def __init__(self, problem: str, way_forward: str = "docs/policy.md has the form of cases") -> None:
        super().__init__(problem)
        self.way_forward = way_forward


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class CasePrincipal(_Part, frozen=True):
    username: str = "ada@example.com"
    groups: tuple[str, ...] = ()
    agent: str | None = None
    environment: str | None = None
    address: str = "10.1.2.3"
    claims: dict[str, Any] = {}
    expires_at: str | None = None

    def principal(self) -> Principal:
        expires_at = moment(self.expires_at) if self.expires_at is not None else None
        return Principal(
            issuer="https://issuer.example",
            subject=self.username,
            username=self.username,
            groups=frozenset(self.groups),
            agent=self.agent,
            environment=self.environment,
            source_address=self.address,
            expires_at=expires_at,
            claims=self.claims,
        )


class CaseImpact(_Part, frozen=True):
    rows: int
    tables: dict[str, tuple[int, int, int]] = {}  # relation -> inserted, updated, deleted
    is_truncation: bool = False

    def impact(self) -> Impact:
        return Impact(self.rows, tuple(TableImpact(name, *counts) for name, counts in self.tables.items()), self.is_truncation)


class Approved(_Part, frozen=True):
    rows: int | None = None


class Expected(_Part, frozen=True):
    """What isn't given isn't compared; `decision` always is. `detail` must be contained in the answer's."""

    decision: Literal["Allow", "Deny", "RequireApproval", "Measure", "Session"]
    reason: str | msgspec.UnsetType = msgspec.UNSET
    source: str | msgspec.UnsetType = msgspec.UNSET
    detail: str | msgspec.UnsetType = msgspec.UNSET
    way_forward: str | msgspec.UnsetType = msgspec.UNSET
    role: str | msgspec.UnsetType = msgspec.UNSET
    more_than: int | msgspec.UnsetType = msgspec.UNSET
    approvers: list[str] | msgspec.UnsetType = msgspec.UNSET
    required: int | msgspec.UnsetType = msgspec.UNSET
    expires_after: float | msgspec.UnsetType = msgspec.UNSET
    hold_at: Literal["Statement", "Commit"] | msgspec.UnsetType = msgspec.UNSET
    observed: str | msgspec.UnsetType | None = msgspec.UNSET
    observed_source: str | msgspec.UnsetType | None = msgspec.UNSET
    masks: dict[Literal["columns", "detectors"], list[str]] | msgspec.UnsetType = msgspec.UNSET


class CaseSpent(_Part, frozen=True):
    """What the session has used up of every budget."""

    statements: int = 0
    rows: int = 0
    masked_values: int = 0


class Asked(_Part, frozen=True):
    """One question; without `sql` it is whether the session may be opened. What isn't given comes from the file's defaults."""

    principal: CasePrincipal | msgspec.UnsetType = msgspec.UNSET
    target: str | msgspec.UnsetType = msgspec.UNSET
    database: str | msgspec.UnsetType = msgspec.UNSET
    role: str | msgspec.UnsetType | None = msgspec.UNSET
    at: str | msgspec.UnsetType = msgspec.UNSET
    search_path: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class Case(Asked, frozen=True, kw_only=True):
    name: str
    expect: Expected
    sql: str | None = None
    impact: CaseImpact | None = None
    approved: Approved | None = None
    rows_so_far: int = 0
    spent: CaseSpent | None = None


class CaseFile(_Part, frozen=True):
    resources: list[dict[str, Any]]
    cases: tuple[Case, ...]
    defaults: Asked = Asked()
    about: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`differences` is empty when the answer is as expected."""

    case: Case
    differences: tuple[str, ...]
    explanation: Explanation


def read_cases(document: object) -> CaseFile:
    """Raises:
    CaseError: the document isn't a file of cases.
    """
    try:
        return msgspec.convert(document, CaseFile, strict=True)
    except msgspec.ValidationError as error:
        raise CaseError(f"not a file of cases: {error}") from error


def run_cases(file: CaseFile, classify: Classify) -> tuple[Outcome, ...]:
    """Ask every case.

    Raises:
        CaseError: the resources don't compile, or a question is incomplete.
    """
    configs = _compile_all(file.resources)
    return tuple(_run(case, file.defaults, configs, classify) for case in file.cases)


def moment(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 moment with its offset.

    Raises:
        CaseError: it isn't one.
    """
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise CaseError(f"`{text}` is not a moment: {error}", "write it as in `2026-11-25T10:00:00Z`") from error
    if found.tzinfo is None:
        raise CaseError(f"`{text}` has no offset from UTC", "write it as in `2026-11-25T10:00:00Z`")
    return found.timestamp()


def _compile_all(resources: Sequence[Mapping[str, Any]]) -> dict[str, GateConfig]:
    try:
        targets = [ProtectedTarget.from_wire(each) for each in resources if each.get("kind") == "ProtectedTarget"]
        policies = [AccessPolicy.from_wire(each) for each in resources if each.get("kind") == "AccessPolicy"]
    except ValueError as error:
        raise CaseError(f"a resource of the cases is wrong: {error}", "correct the manifest") from error
    if len(targets) + len(policies) != len(resources) or not targets:
        raise CaseError("cases need a ProtectedTarget and AccessPolicies, and nothing else")
    configs: dict[str, GateConfig] = {}
    for target in targets:
        compiled = compile_target(target, policies, Placement(SECRETS_DIR))
        if compiled.config is None:
            raise CaseError(f"target `{target.metadata.name}` doesn't compile: {'; '.join(map(str, compiled.findings))}")
        configs[str(target.metadata.name)] = compiled.config
    return configs


def _given(case: Asked, defaults: Asked, name: str, fallback: object = msgspec.UNSET) -> Any:
    for place in (case, defaults):
        value = getattr(place, name)
        if value is not msgspec.UNSET:
            return value
    if fallback is msgspec.UNSET:
        raise CaseError(f"a case gives no {name}, and neither do the defaults")
    return fallback


def _run(case: Case, defaults: Asked, configs: Mapping[str, GateConfig], classify: Classify) -> Outcome:
    target = _given(case, defaults, "target", next(iter(configs)))
    if target not in configs:
        raise CaseError(f"case `{case.name}` asks target `{target}`, which isn't among the resources")
    principal: CasePrincipal = _given(case, defaults, "principal", CasePrincipal())
    statements: Sequence[SqlStatement] | None = None
    unparsable: str | None = None
    if case.sql is not None:
        classified = classify(case.sql, _given(case, defaults, "search_path", None))
        if isinstance(classified, str):
            unparsable = classified
        else:
            statements = classified
    question = Question(
        principal=principal.principal(),
        database=_given(case, defaults, "database"),
        now=moment(_given(case, defaults, "at")),
        role=_given(case, defaults, "role", None),
        statements=statements,
        unparsable=unparsable,
        impact=case.impact.impact() if case.impact is not None else None,
        approved_fingerprint="approved" if case.approved is not None else None,
        approved_rows=case.approved.rows if case.approved is not None else None,
        rows_so_far=case.rows_so_far,
        spent=Spent(case.spent.statements, case.spent.rows, case.spent.masked_values)
        if case.spent is not None
        else NOTHING_SPENT,
    )
    explanation = explain(configs[target], question)
    return Outcome(case, tuple(_differences(case.expect, summary(explanation.answer))), explanation)


def _differences(expected: Expected, found: Mapping[str, Json]) -> list[str]:
    differences: list[str] = []
    for name, wanted in msgspec.to_builtins(expected).items():
        answered = found.get(name)
        if name == "detail":
            is_as_wanted = isinstance(answered, str) and wanted in answered
        elif name == "masks":
            masks = answered if isinstance(answered, dict) else {}
            is_as_wanted = all(masks.get(kind, []) == sorted(names) for kind, names in wanted.items())
        else:
            is_as_wanted = answered == wanted
        if not is_as_wanted:
            differences.append(f"{name} should be `{wanted}` and is `{answered}`")
    return differences
