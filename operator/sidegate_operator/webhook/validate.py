"""AccessPolicies and ProtectedTargets at admission: the checks of `sidegate policy lint`, made before the object is stored. Pure.

Rules it keeps:
- What is wrong with the object itself refuses it, each problem with its field and its fix. What is wrong with others because of it, and
  everything that is merely advice, comes as a warning: objects are applied in any order, and no order may lock their author out.
- An update that leaves `spec` and the labels as they are passes unseen, so that an object from before a stricter version can still be
  annotated, and lose its finalizers.
- Objects around it that can't be read are left out: they have conditions of their own, and are no reason to refuse this one.

Left out: what the CRD's own schema and CEL refuse before it comes here, and reading the objects around it (`neighbours`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from pydantic import ValidationError

from sidegate.api.access_policy import AccessPolicy, FindingSeverity
from sidegate.api.documents import Place
from sidegate.api.manifests import Origin, problems_of
from sidegate.api.meta import GROUP, VERSION, ApiModel
from sidegate.api.protected_target import ProtectedTarget
from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.policy.compile import Placement, binds, compile_target
from sidegate.policy.finding import Finding, name_of, worst_first
from sidegate.policy.review import review_time, review_unbound
from sidegate_operator.plan.redirect import redirect_findings
from sidegate_operator.webhook.review import Answer, Json, Operation, Reason, Review, allow, refuse

Validated: TypeAlias = "AccessPolicy | ProtectedTarget"
Model = TypeVar("Model", bound=ApiModel)

MODELS: Final[Mapping[str, type[AccessPolicy] | type[ProtectedTarget]]] = {
    "accesspolicies": AccessPolicy,
    "protectedtargets": ProtectedTarget,
}
# Where a gate finds Secrets makes no difference to findings.
_PLACEMENT: Final = Placement("/run/sidegate/secrets")
_UNPLACED: Final = Origin("", 1, {(): Place(1, 1)})


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The targets and policies of one namespace, as the API server lists them. Of many, only those that matter are read further."""

    targets: Sequence[Json] = ()
    policies: Sequence[Json] = ()


def needs_neighbours(review: Review) -> bool:
    """Whether `judge` looks at the objects around this one."""
    return _is_about_us(review) and not _is_unchanged(review)


def judge(review: Review, neighbours: Neighbours, now: float, left_out: Collection[str] = ()) -> Answer:
    """The answer to an AccessPolicy's or a ProtectedTarget's review, in the light of what else there is in its namespace. `left_out` are
    the namespaces whose pods admission doesn't look at.
    """
    if not _is_about_us(review):
        return refuse(
            Reason.NOT_OURS,
            f"`{review.resource.resource}.{review.resource.group}` is not checked here; fix: let the webhook configuration send "
            f"accesspolicies and protectedtargets of {GROUP}/{VERSION} only",
        )
    if _is_unchanged(review):
        return allow()
    assert review.new is not None
    model = MODELS[review.resource.resource]
    document = _with_namespace(review.new, review.namespace)
    try:
        resource: Validated = model.from_wire(document)
    except (ValidationError, ValueError) as error:
        return _unreadable(model, error)
    if isinstance(resource, ProtectedTarget) and resource.spec.selector is not None and review.namespace in left_out:
        problem = f"pods of namespace `{review.namespace}` never get a gate: admission leaves it out"
        return _invalid(
            [("spec.selector", f"{problem}; fix: run the database in a namespace of its own, or give an endpoint")], ()
        )
    findings = _findings_about(resource, neighbours, now)
    errors = [each for each in findings if each.severity is FindingSeverity.ERROR and each.resource == name_of(resource)]
    advice = [_warning_text(each, resource) for each in findings if each not in errors]
    if errors:
        causes = [(each.field_path, f"{each.problem}; fix: {each.way_forward}") for each in errors]
        return _invalid(causes, advice)
    return allow(warnings=advice)


def _is_about_us(review: Review) -> bool:
    return (
        review.resource.group == GROUP
        and review.resource.version == VERSION
        and review.resource.resource in MODELS
        and not review.subresource
        and review.operation in {Operation.CREATE, Operation.UPDATE}
    )


def _is_unchanged(review: Review) -> bool:
    """Labels count, since policies pick targets by them."""
    if review.operation is not Operation.UPDATE or review.new is None or review.old is None:
        return False
    new, old = review.new, review.old
    labels = [(each.get("metadata") or {}).get("labels") or {} for each in (new, old)]
    return bool(new.get("spec") == old.get("spec") and labels[0] == labels[1])


def _with_namespace(document: Json, namespace: str) -> dict[str, Any]:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return dict(document)
    present = {name: value for name, value in metadata.items() if value is not None}
    return {**document, "metadata": {**present, "namespace": namespace or present.get("namespace", "default")}}


def _readable(model: type[Model], documents: Iterable[Json]) -> Iterable[Model]:
    for document in documents:
        try:
            yield model.from_wire(document)
        except (ValidationError, ValueError):
            continue


def _unreadable(model: type[AccessPolicy] | type[ProtectedTarget], error: ValueError) -> Answer:
    if not isinstance(error, ValidationError):
        return _invalid([("", f"the object can't be read: {error}; fix: see docs/reference for its form")], ())
    problems = problems_of(error, model, _UNPLACED)
    return _invalid([(each.field_path, f"{each.problem}; fix: {each.way_forward}") for each in problems], ())


def _invalid(causes: Sequence[tuple[str, str]], advice: Sequence[str]) -> Answer:
    sentences = [f"{path}: {text}" if path else text for path, text in causes]
    return refuse(Reason.INVALID, "; ".join(sentences), code=422, causes=causes, warnings=advice)


def _findings_about(resource: Validated, neighbours: Neighbours, now: float) -> tuple[Finding, ...]:
    """What there is to say about the resource, and which errors others have once it is there; of others nothing else."""
    if isinstance(resource, ProtectedTarget):
        found = list(_compiled(resource, list(_readable(AccessPolicy, _naming(neighbours.policies, {resource.metadata.name})))))
        found += redirect_findings(resource)
    else:
        targets = list(_readable(ProtectedTarget, neighbours.targets))
        bound = [each for each in targets if binds(resource, each)]
        others = [
            each
            for each in _readable(AccessPolicy, _naming(neighbours.policies, {target.metadata.name for target in bound}))
            if each.metadata.name != resource.metadata.name
        ]
        found = [finding for target in bound for finding in _compiled(target, [*others, resource])]
        found += review_time(resource, now)
        if not bound:
            found += review_unbound(targets, [resource])
    return worst_first(each for each in found if each.resource == name_of(resource) or each.severity is FindingSeverity.ERROR)


def _naming(policies: Iterable[Json], names: Set[str]) -> Iterable[Json]:
    """Those that may be about a target of these names, without reading them whole: a namespace may have thousands."""
    for each in policies:
        spec = each.get("spec")
        targets = spec.get("targets") if isinstance(spec, Mapping) else None
        named = targets.get("names") if isinstance(targets, Mapping) else None
        if not isinstance(named, list) or any(name in names for name in named if isinstance(name, str)):
            yield each


def _compiled(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> tuple[Finding, ...]:
    return compile_target(target, policies, _PLACEMENT, DETECTOR_NAMES).findings


def _warning_text(finding: Finding, resource: Validated) -> str:
    place = finding.field_path if finding.resource == name_of(resource) else f"{finding.resource}: {finding.field_path}"
    kind = "" if finding.severity is FindingSeverity.WARNING else f"{finding.severity.value.lower()}: "
    return f"{kind}{place}: {finding.problem}; fix: {finding.way_forward}"
