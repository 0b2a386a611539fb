"""What every resource shares: the strict model, its rules, object metadata, conditions, selectors and references to Secrets.

`ApiModel` refuses unknown fields, is frozen, and carries its cross-field rules as data: each `Constraint` has the CEL that goes into the
CRD and the predicate that runs here, side by side, so that the API server and `sidegate local` refuse the same manifest with the same
sentence. `ChangeConstraint` is the same for what an update may not change. Lists with `unique_by` or `each_once` refuse duplicates in
both places.

In Python fields go by their own names; on the wire by camelCase names only: `from_wire` and `to_wire` are the way in and out.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, JsonValue, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from sidegate.api.text import LabelName, ObjectName, Text, Timestamp

GROUP: Final = "sidegate.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CONSTRAINTS_BROKEN: Final = (
    "sidegate_constraints"  # the `type` of the error that carries every broken rule of one object in its context
)
MAX_BOUND: Final = 16  # how many names a status lists; beside them stands the true count

Wire: TypeAlias = "dict[str, JsonValue]"


@dataclass(frozen=True, slots=True)
class Constraint:
    """One cross-field rule: `cel` over `self` for the CRD, `holds` over the model here, `field` that is to blame, and the fix."""

    name: str
    field: str
    cel: str
    holds: Callable[[Any], bool]
    problem: str
    way_forward: str

    @property
    def message(self) -> str:
        return f"{self.problem}; fix: {self.way_forward}"


@dataclass(frozen=True, slots=True)
class ChangeConstraint:
    """One rule over an update: `cel` over `oldSelf` and `self`, `holds(old, new)` here."""

    name: str
    field: str
    cel: str
    holds: Callable[[Any, Any], bool]
    problem: str
    way_forward: str

    @property
    def message(self) -> str:
        return f"{self.problem}; fix: {self.way_forward}"


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that an object breaks. `field_path` is relative to the object that has the rule."""

    field_path: str
    problem: str
    way_forward: str


def unique_by(key: str) -> dict[str, JsonValue]:
    """`json_schema_extra` of a list whose entries are told apart by `key` (wire name)."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def each_once() -> dict[str, JsonValue]:
    """`json_schema_extra` of a list of plain values in which none may stand twice."""
    return {"x-kubernetes-list-type": "set"}


def ordered() -> dict[str, JsonValue]:
    """`json_schema_extra` of a list that is replaced as a whole."""
    return {"x-kubernetes-list-type": "atomic"}


class ApiModel(BaseModel):
    """One object of the API. Frozen; an update is a copy."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        use_enum_values=False,
        ser_json_inf_nan="constants",
        allow_inf_nan=False,
    )
    constraints: ClassVar[tuple[Constraint, ...]] = ()
    change_constraints: ClassVar[tuple[ChangeConstraint, ...]] = ()

    @model_validator(mode="after")
    def _keep_constraints(self) -> Self:
        broken = [*self._duplicates()]
        broken += [Broken(each.field, each.problem, each.way_forward) for each in self.constraints if not each.holds(self)]
        if broken:
            text = " | ".join(f"{each.field_path}: {each.problem}; fix: {each.way_forward}" for each in broken)
            raise PydanticCustomError(CONSTRAINTS_BROKEN, "{text}", {"text": text, "broken": broken})
        return self

    def _duplicates(self) -> list[Broken]:
        broken = []
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            if not isinstance(extra, dict) or extra.get("x-kubernetes-list-type") not in {"map", "set"}:
                continue
            keys = extra.get("x-kubernetes-list-map-keys")
            key = str(keys[0]) if isinstance(keys, list) else None
            seen: set[object] = set()
            wire_name = info.alias or name
            for index, entry in enumerate(getattr(self, name)):
                value = entry.field_by_wire_name(key) if key else entry
                path = f"{wire_name}[{index}].{key}" if key else f"{wire_name}[{index}]"
                if value in seen:
                    broken.append(Broken(path, f"`{value}` stands twice in {wire_name}", "leave one out, or rename it"))
                seen.add(value)
        return broken

    def field_by_wire_name(self, wire_name: str) -> object:
        for name, info in type(self).model_fields.items():
            if (info.alias or name) == wire_name:
                return getattr(self, name)
        raise KeyError(wire_name)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler.resolve_ref_schema(handler(schema))
        validations = [*map(_validation, cls.constraints), *map(_validation, cls.change_constraints)]
        if validations:
            made["x-kubernetes-validations"] = validations
        return made

    @classmethod
    def from_wire(cls, document: Mapping[str, object]) -> Self:
        """Read what YAML or the API server gave, by camelCase names only and without turning one type into another.

        Raises:
            pydantic.ValidationError: with every problem found; `sidegate.api.manifests` turns them into sentences with line numbers.
        """
        return cls.model_validate_json(json.dumps(document), strict=True, by_alias=True, by_name=False)

    def to_wire(self) -> Wire:
        """Plain dicts, lists and strings as the API server and YAML want them; what isn't set is left out."""
        return _pruned(self.model_dump(mode="json", by_alias=True, exclude_none=True))


def change_problems(old: ApiModel, new: ApiModel, path: str = "") -> tuple[Broken, ...]:
    """What the update from `old` to `new` breaks: the change constraints of the objects and of what they contain, lists excepted.

    Raises:
        TypeError: they are not of one type, so neither is an update of the other.
    """
    if type(old) is not type(new):
        raise TypeError(f"{type(new).__name__} is no update of {type(old).__name__}")
    broken = [
        Broken(f"{path}.{each.field}".strip("."), each.problem, each.way_forward)
        for each in new.change_constraints
        if not each.holds(old, new)
    ]
    for name, info in type(new).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, ApiModel) and isinstance(after, ApiModel):
            broken += change_problems(before, after, f"{path}.{info.alias or name}".lstrip("."))
    return tuple(broken)


def _validation(constraint: Constraint | ChangeConstraint) -> dict[str, str]:
    """One entry of `x-kubernetes-validations`. The API server knows the fields of the schema only, and metadata has none there."""
    entry = {"rule": constraint.cel, "message": constraint.message}
    if constraint.field and not constraint.field.startswith("metadata"):
        entry["fieldPath"] = f".{constraint.field}"
    return entry


def _pruned(document: Wire) -> Wire:
    """Without empty lists and empty metadata maps: to the API, empty and absent are one, and lists have a least length."""
    return {
        name: _pruned(value)
        if isinstance(value, dict)
        else [_pruned(e) if isinstance(e, dict) else e for e in value]
        if isinstance(value, list)
        else value
        for name, value in document.items()
        if not (value == [] or (value == {} and name in {"labels", "annotations", "matchLabels"}))
    }


class ConditionStatus(enum.StrEnum):
    """Whether a condition holds (metav1.ConditionStatus)."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One observation about the object's state, as Kubernetes' metav1.Condition has it."""

    type: Annotated[
        str, Field(pattern=r"^[A-Z][A-Za-z]*$", max_length=64, description="What is observed, as in `Accepted` or `Ready`.")
    ]
    status: Annotated[ConditionStatus, Field(description="Whether it holds: `True`, `False` or `Unknown`.")]
    observed_generation: Annotated[
        int | None, Field(default=None, ge=0, description="The `metadata.generation` that the observation is about.")
    ]
    last_transition_time: Annotated[Timestamp, Field(description="When the status last changed.")]
    reason: Annotated[
        str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=128, description="Why, as one CamelCase word from a closed list.")
    ]
    message: Annotated[
        str, Field(default="", max_length=4096, description="Why, as a sentence for a person, with the way forward.")
    ]


class Wildcard(ApiModel):
    """A Kubernetes field that Sidegate keeps as it is and doesn't read."""

    model_config = ConfigDict(extra="allow")


class ObjectMeta(ApiModel):
    """Kubernetes' own metadata. Sidegate reads name, namespace, labels and annotations; the rest is the API server's."""

    name: Annotated[ObjectName, Field(description="The object's name, unique in its namespace.")]
    namespace: Annotated[LabelName, Field(default=LabelName("default"), description="The object's namespace.")]
    labels: Annotated[dict[str, str], Field(default_factory=dict, description="Labels, which selectors pick by.")]
    annotations: Annotated[dict[str, str], Field(default_factory=dict, description="Annotations.")]
    generate_name: Annotated[str | None, Field(default=None, description="The API server's: prefix of a generated name.")]
    uid: Annotated[str | None, Field(default=None, description="The API server's: identity of this object over its life.")]
    resource_version: Annotated[str | None, Field(default=None, description="The API server's: version of the stored object.")]
    generation: Annotated[int | None, Field(default=None, description="The API server's: counts changes of spec.")]
    creation_timestamp: Annotated[
        Timestamp | None, Field(default=None, description="The API server's: when the object was made.")
    ]
    deletion_timestamp: Annotated[
        Timestamp | None, Field(default=None, description="The API server's: when deletion was asked for.")
    ]
    deletion_grace_period_seconds: Annotated[int | None, Field(default=None, description="The API server's.")]
    self_link: Annotated[str | None, Field(default=None, description="The API server's, no longer used.")]
    finalizers: Annotated[tuple[str, ...], Field(default=(), description="What must be undone before the object goes.")]
    owner_references: Annotated[tuple[Wildcard, ...], Field(default=(), description="Objects that this one goes with.")]
    managed_fields: Annotated[tuple[Wildcard, ...], Field(default=(), description="The API server's: who set which field.")]


class SelectorOperator(enum.StrEnum):
    """How a label is compared (metav1.LabelSelectorOperator)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelKey(Text):
    """The key of a label, with or without a prefix."""

    __slots__ = ()
    pattern = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
    max_length = 317
    meaning = "the key of a label"
    way_forward = "write it as in `app` or `app.kubernetes.io/name`"


class LabelValue(Text):
    """The value of a label, which may be empty."""

    __slots__ = ()
    pattern = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
    min_length = 0
    max_length = 63
    meaning = "the value of a label"
    way_forward = "use up to 63 letters, digits, `-`, `_` and `.`"


class SelectorRequirement(ApiModel):
    """One comparison of a label."""

    key: Annotated[LabelKey, Field(description="The label's key.")]
    operator: Annotated[SelectorOperator, Field(description="How it is compared.")]
    values: Annotated[
        tuple[LabelValue, ...],
        Field(
            default=(),
            min_length=1,
            max_length=32,
            json_schema_extra=each_once(),
            description="With `In` and `NotIn`: the values.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="selector-values",
            field="values",
            cel="(self.operator == 'In' || self.operator == 'NotIn') == has(self.values)",
            holds=lambda self: (self.operator in {SelectorOperator.IN, SelectorOperator.NOT_IN}) == bool(self.values),
            problem="values and operator don't fit",
            way_forward="give values with In and NotIn, and none with Exists and DoesNotExist",
        ),
    )


class LabelSelector(ApiModel):
    """Picks objects by their labels; everything given must match (metav1.LabelSelector, never empty)."""

    match_labels: Annotated[
        dict[LabelKey, LabelValue] | None,
        Field(default=None, min_length=1, max_length=16, description="Labels that must be there with exactly these values."),
    ]
    match_expressions: Annotated[
        tuple[SelectorRequirement, ...],
        Field(
            default=(), min_length=1, max_length=16, json_schema_extra=ordered(), description="Comparisons that must all hold."
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="selector-not-empty",
            field="matchLabels",
            cel="has(self.matchLabels) || has(self.matchExpressions)",
            holds=lambda self: bool(self.match_labels or self.match_expressions),
            problem="an empty selector would pick everything",
            way_forward="give matchLabels or matchExpressions",
        ),
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in (self.match_labels or {}).items()) and all(
            _requirement_holds(each, labels) for each in self.match_expressions
        )


def _requirement_holds(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    present = requirement.key in labels
    listed = present and labels[requirement.key] in requirement.values
    return {
        SelectorOperator.IN: listed,
        SelectorOperator.NOT_IN: not listed,  # an absent label is not in the values, as in apimachinery's labels.Requirement
        SelectorOperator.EXISTS: present,
        SelectorOperator.DOES_NOT_EXIST: not present,
    }[requirement.operator]


class SecretKeyRef(ApiModel):
    """One key of a Secret in the object's own namespace."""

    name: Annotated[ObjectName, Field(description="The Secret's name.")]
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253, description="The key inside the Secret.")]


class SecretRef(ApiModel):
    """A whole Secret in the object's own namespace."""

    name: Annotated[ObjectName, Field(description="The Secret's name.")]


ApiVersion: TypeAlias = Literal["sidegate.dev/v1alpha1"]
ObservedGeneration: TypeAlias = Annotated[
    int | None, Field(default=None, ge=0, description="The `metadata.generation` that this status is about.")
]
Conditions: TypeAlias = Annotated[
    tuple[Condition, ...],
    Field(default=(), max_length=8, json_schema_extra=unique_by("type"), description="What is observed about the object."),
]
