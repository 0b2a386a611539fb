"""The types as CustomResourceDefinitions: structural schemas (OpenAPI v3 as the API server wants it), CEL rules, columns, names.

pydantic's JSON Schema is the only source. What a structural schema may not have (`$ref`, `title`, `const`, null, `additionalProperties`
beside properties) is resolved here; a keyword that this module doesn't know is an error, so that nothing is dropped in silence. Every
list, map and string has a longest size: the API server computes the cost of the CEL rules from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.approval_request import ApprovalRequest
from sidegate.api.meta import GROUP, VERSION, ApiModel, ObjectMeta
from sidegate.api.protected_target import ProtectedTarget

Schema: TypeAlias = "dict[str, Any]"

_KEPT: Final = (
    "description",
    "type",
    "format",
    "default",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "anyOf",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)  # also the order in which they are written
_RESOLVED: Final = frozenset({"$ref", "const", "title", "propertyNames", "patternProperties"})
_INT_OR_STRING: Final = ({"type": "integer"}, {"type": "string"})


class SchemaError(Exception):
    """A type can't be said as a structural schema."""

    def __init__(self, path: str, problem: str, way_forward: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`. `is_wide`: with `-o wide` only."""

    name: str
    json_path: str
    type: str = "string"
    is_wide: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One custom resource: its type and its names."""

    model: type[ApiModel]
    kind: str
    plural: str
    singular: str
    short_name: str
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"

    @property
    def file_name(self) -> str:
        return f"{GROUP}_{self.plural}.yaml"


_READY: Final = Column("Ready", '.status.conditions[?(@.type=="Ready")].status', description="Whether all is as wanted.")
_AGE: Final = Column("Age", ".metadata.creationTimestamp", "date", description="How long it has existed.")

RESOURCES: Final = (
    Resource(
        model=AccessPolicy,
        kind="AccessPolicy",
        plural="accesspolicies",
        singular="accesspolicy",
        short_name="ap",
        columns=(
            Column("Targets", ".status.targetsCount", "integer", description="How many targets are bound to it."),
            Column("Mode", ".spec.mode", description="Enforce or Observe."),
            _READY,
            Column("Findings", ".status.findingsCount", "integer", is_wide=True, description="How many findings there are."),
            _AGE,
        ),
    ),
    Resource(
        model=ProtectedTarget,
        kind="ProtectedTarget",
        plural="protectedtargets",
        singular="protectedtarget",
        short_name="pt",
        columns=(
            Column("Protocol", ".spec.protocol", description="What the target speaks."),
            Column("Environment", ".spec.environment", description="The target's environment."),
            _READY,
            Column(
                "Enforced",
                '.status.conditions[?(@.type=="Enforced")].status',
                description="Whether a probe found every other way in closed.",
            ),
            Column("Gates", ".status.gates.summary", description="Gates that enforce the newest revision, of all."),
            Column("Revision", ".status.revision", is_wide=True, description="The revision that was published last."),
            _AGE,
        ),
    ),
    Resource(
        model=ApprovalRequest,
        kind="ApprovalRequest",
        plural="approvalrequests",
        singular="approvalrequest",
        short_name="ar",
        columns=(
            Column("Target", ".spec.target", description="The target that the statement is for."),
            Column("Requester", ".spec.principal.username", description="Who asks."),
            Column("Agent", ".spec.agent", is_wide=True, description="The agent that acts for them."),
            Column("Statement", ".spec.summary", description="The statement's beginning."),
            Column("Phase", ".status.phase", description="Where it stands."),
            Column("Approvals", ".status.approvals", description="Approvals there are, of those that are needed."),
            Column("Expires", ".spec.expiresAt", description="When it is no longer usable."),
            _AGE,
        ),
        selectable=(".spec.target", ".status.phase"),
    ),
)


def custom_resource_definition(resource: Resource) -> Schema:
    """The CRD as a document for YAML."""
    columns = []
    for column in resource.columns:
        entry: Schema = {
            "name": column.name,
            "type": column.type,
            "jsonPath": column.json_path,
            "description": column.description,
        }
        columns.append(entry | ({"priority": 1} if column.is_wide else {}))
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": structural_schema(resource.model)},
    }
    if resource.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in resource.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.crd_name, "labels": {"app.kubernetes.io/part-of": "sidegate"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.singular,
                "shortNames": [resource.short_name],
                "categories": ["sidegate"],
            },
            "versions": [version],
        },
    }


def structural_schema(model: type[ApiModel]) -> Schema:
    """The schema of a whole resource: metadata is the API server's own, and status is never required.

    Raises:
        SchemaError: a type can't be said as a structural schema.
    """
    whole = model.model_json_schema(by_alias=True, mode="validation")
    schema = _structural(whole, whole.get("$defs", {}), model.__name__)
    properties = schema["properties"]
    properties["apiVersion"] = {"description": properties["apiVersion"]["description"], "type": "string"}
    properties["kind"] = {"description": properties["kind"]["description"], "type": "string"}
    schema["required"] = ["spec"]
    return schema


def _structural(schema: Schema, defs: Schema, path: str) -> Schema:
    schema = _dereferenced(_without_null(_dereferenced(schema, defs), path), defs)
    unknown = schema.keys() - set(_KEPT) - _RESOLVED - {"$defs"}
    if unknown:
        raise SchemaError(path, f"unknown keywords {sorted(unknown)}", "say in sidegate.api.schema what becomes of them")
    if "const" in schema:
        schema = {**schema, "enum": [schema["const"]], "type": "string"}
    if schema.get("x-kubernetes-int-or-string"):
        schema = {**schema, "anyOf": [dict(each) for each in _INT_OR_STRING]}
    elif schema.get("type") == "object":
        schema = _object(schema, defs, path)
    elif schema.get("type") == "array":
        schema = {**schema, "items": _structural(schema["items"], defs, f"{path}[]")}
        schema.setdefault("x-kubernetes-list-type", "atomic")
    elif schema.get("type") == "integer":
        schema = {**schema, "format": "int64"}
    elif schema.get("type") not in {"string", "boolean"}:
        raise SchemaError(path, f"type {schema.get('type')} has no place in a structural schema", "use another type")
    if schema.get("default", ...) in (None, []):
        schema.pop("default")
    return {keyword: schema[keyword] for keyword in _KEPT if keyword in schema}


def _object(schema: Schema, defs: Schema, path: str) -> Schema:
    schema = dict(schema)
    if "properties" in schema:
        schema.pop("additionalProperties", None)  # pruning and strict field validation take the place of `false`
        schema["properties"] = {
            name: {"type": "object"} if _is_metadata(value) else _structural(value, defs, f"{path}.{name}")
            for name, value in schema["properties"].items()
        }
        if isinstance(schema.get("default"), dict):
            schema["default"] = _without_empty(schema["default"])
        return schema
    patterns = schema.pop("patternProperties", None)  # the API server can't check keys by pattern; the values' form stays
    if patterns is not None:
        (values,) = patterns.values()
        schema["additionalProperties"] = values
    if not isinstance(schema.get("additionalProperties"), dict):
        raise SchemaError(path, "an object must name its properties or the form of its values", "give it fields")
    schema["additionalProperties"] = _structural(schema["additionalProperties"], defs, f"{path}{{}}")
    return schema


def _without_empty(default: Schema) -> Schema:
    """Written out, not `{}`: the API server runs the CEL rules over a default as it stands, before the defaults inside it are filled in."""
    return {
        name: _without_empty(value) if isinstance(value, dict) else value
        for name, value in default.items()
        if value is not None and value != []
    }


def _is_metadata(schema: Schema) -> bool:
    return bool(schema.get("$ref") == f"#/$defs/{ObjectMeta.__name__}")


def _dereferenced(schema: Schema, defs: Schema) -> Schema:
    """What stands beside a `$ref` wins over what it points to: a field's own description over its type's."""
    while "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**defs[schema["$ref"].removeprefix("#/$defs/")], **beside}
    return schema


def _without_null(schema: Schema, path: str) -> Schema:
    """On the wire an optional field is absent, never null."""
    if "anyOf" not in schema:
        return dict(schema)
    chosen = [each for each in schema["anyOf"] if each != {"type": "null"}]
    if len(chosen) != 1:
        raise SchemaError(path, "alternatives can't be said in a structural schema", "give each its own field")
    beside = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**chosen[0], **beside}
