"""Manifests to resources: all of them with the lines their fields stand on, or all of the problems.

Nothing is read half: with one problem in one file there are no manifests at all, for what a rule that wasn't read would have refused
must not pass. Documents of other API groups are left alone with a note; what looks like ours and isn't (a group misspelt, a kind or version
that doesn't exist) is a problem. Files are read by `sidegate.runtime.manifest_files`; this module sees text only.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.approval_request import ApprovalRequest
from sidegate.api.documents import Document, FieldPath, ManifestProblem, Place, path_text, read_documents
from sidegate.api.meta import API_VERSION, CONSTRAINTS_BROKEN, GROUP, ApiModel, Broken
from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.text import REFUSED, shown

Resource = TypeVar("Resource", bound=ApiModel)

KINDS: Final[Mapping[str, type[ApiModel]]] = {
    "AccessPolicy": AccessPolicy,
    "ApprovalRequest": ApprovalRequest,
    "ProtectedTarget": ProtectedTarget,
}
_LISTS: Final = frozenset({"List", *(f"{kind}List" for kind in KINDS)})
_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


class ManifestError(Exception):
    """The manifests can't be used. `problems` has every one that was found, in the order of files and lines."""

    def __init__(self, problems: Iterable[ManifestProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    @property
    def way_forward(self) -> str:
        return self.problems[0].way_forward if self.problems else ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a resource stands: the file, its first line, and the place of each field."""

    file: str
    line: int
    places: Mapping[FieldPath, Place] = field(repr=False)

    def place_of(self, field_path: str) -> Place:
        """Of `spec.rules[2].action`, or of the nearest thing around it that is written down."""
        return _nearest(self.places, _steps(field_path), self.line)

    def line_of(self, field_path: str) -> int:
        return self.place_of(field_path).line

    def problem(self, field_path: str, problem: str, way_forward: str) -> ManifestProblem:
        """A finding about a field, in the form of every other problem."""
        place = self.place_of(field_path)
        return ManifestProblem(self.file, place.line, place.column, field_path, problem, way_forward)


@dataclass(frozen=True, slots=True)
class Manifest(Generic[Resource]):
    """One resource and where it stands."""

    resource: Resource
    origin: Origin


@dataclass(frozen=True, slots=True)
class Manifests:
    """Everything that was read. `notes` names the documents that were left alone, for a person to see."""

    targets: tuple[Manifest[ProtectedTarget], ...] = ()
    policies: tuple[Manifest[AccessPolicy], ...] = ()
    approval_requests: tuple[Manifest[ApprovalRequest], ...] = ()
    notes: tuple[str, ...] = ()


def parse_manifests(documents: Iterable[tuple[str, str]]) -> Manifests:
    """Read (file name, text) pairs.

    Raises:
        ManifestError: anything in any of them is wrong.
    """
    reading = _Reading()
    for file, text in documents:
        found, problems = read_documents(file, text)
        reading.problems += problems
        if problems:
            continue  # incomplete documents would only give rise to more, and misleading, problems
        for document in found:
            reading.read(file, document.value, (), document)
    if reading.problems:
        raise ManifestError(reading.problems)
    return Manifests(
        targets=tuple(_of_type(reading.manifests, ProtectedTarget)),
        policies=tuple(_of_type(reading.manifests, AccessPolicy)),
        approval_requests=tuple(_of_type(reading.manifests, ApprovalRequest)),
        notes=tuple(reading.notes),
    )


def _of_type(manifests: list[Manifest[Any]], model: type[Resource]) -> Iterable[Manifest[Resource]]:
    return (each for each in manifests if isinstance(each.resource, model))


@dataclass(slots=True)
class _Reading:
    problems: list[ManifestProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    manifests: list[Manifest[Any]] = field(default_factory=list)
    seen: dict[tuple[str, str, str], Origin] = field(default_factory=dict)

    def read(self, file: str, value: Any, root: FieldPath, document: Document) -> None:
        """One document, or one item of a list (then `root` is its path)."""
        places = {path[len(root) :]: place for path, place in document.places.items() if path[: len(root)] == root}
        origin = Origin(file, places[()].line, places)
        if not isinstance(value, dict):
            self.problems.append(
                origin.problem("", "a manifest is a mapping with apiVersion and kind", "write one resource a document")
            )
            return
        api_version, kind = value.get("apiVersion"), value.get("kind")
        if not isinstance(api_version, str) or not isinstance(kind, str):
            missing = "kind" if isinstance(api_version, str) else "apiVersion"
            self.problems.append(origin.problem("", f"{missing} is missing", f"write apiVersion: {API_VERSION} and the kind"))
            return
        if kind in _LISTS and api_version in {"v1", API_VERSION}:
            items = value.get("items")
            if not isinstance(items, list):
                self.problems.append(origin.problem("items", "a list needs its items", "write items: and one resource an entry"))
                return
            for index, item in enumerate(items):
                self.read(file, item, (*root, "items", index), document)
            return
        model = self.model(origin, api_version, kind)
        if model is not None:
            self.resource(model, origin, value)

    def model(self, origin: Origin, api_version: str, kind: str) -> type[ApiModel] | None:
        if api_version == API_VERSION and kind in KINDS:
            return KINDS[kind]
        group = api_version.partition("/")[0]
        if group == GROUP and api_version != API_VERSION:
            self.problems.append(
                origin.problem("apiVersion", f"there is no version {shown(api_version)}", f"write apiVersion: {API_VERSION}")
            )
        elif group == GROUP:
            self.problems.append(origin.problem("kind", f"there is no kind {shown(kind)}", _suggestion(kind, KINDS, "kinds")))
        elif kind in KINDS or "sidegate" in group.lower() or difflib.get_close_matches(group, [GROUP], cutoff=0.8):
            self.problems.append(
                origin.problem("apiVersion", f"{shown(api_version)} is not {API_VERSION}", f"write apiVersion: {API_VERSION}")
            )
        else:
            self.notes.append(f"{origin.file}:{origin.line}: left alone: {shown(kind)} of {shown(api_version)} is not Sidegate's")
        return None

    def resource(self, model: type[ApiModel], origin: Origin, value: dict[str, Any]) -> None:
        try:
            resource = model.from_wire(_without_null_metadata(value))
        except ValidationError as error:
            self.problems += problems_of(error, model, origin)
            return
        meta = resource.metadata  # type: ignore[attr-defined]  # every kind has it
        key = (str(value["kind"]), str(meta.namespace), str(meta.name))
        if key in self.seen:
            first = self.seen[key]
            self.problems.append(
                origin.problem(
                    "metadata.name",
                    f"{key[0]} `{key[2]}` stands twice, first in {first.file}:{first.line}",
                    "rename one or leave it out",
                )
            )
            return
        self.seen[key] = origin
        self.manifests.append(Manifest(resource, origin))


def _without_null_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """Generators write `creationTimestamp: null`; in metadata, null is absent. Elsewhere `read_documents` refused it."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        return value
    return {**value, "metadata": {name: each for name, each in metadata.items() if each is not None}}


def problems_of(error: ValidationError, model: type[ApiModel], origin: Origin) -> list[ManifestProblem]:
    """Every problem of one resource in the order of its lines. The operator calls it for objects that admission let through."""
    found = []
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            continue  # pydantic counts valid entries only, and each invalid one has its own problem
        path = tuple(details["loc"])
        for below, problem, way_forward in _explained(details, path, model):
            place = _nearest(origin.places, below, origin.line)
            found.append(ManifestProblem(origin.file, place.line, place.column, path_text(below), problem, way_forward))
    return sorted(found, key=lambda each: (each.line, each.column, each.field_path))


def _explained(details: ErrorDetails, path: FieldPath, model: type[ApiModel]) -> Iterable[tuple[FieldPath, str, str]]:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    if kind == CONSTRAINTS_BROKEN:
        for broken in context["broken"]:
            assert isinstance(broken, Broken)
            yield (*path, *_steps(broken.field_path)), broken.problem, broken.way_forward
    elif kind == REFUSED:
        yield _without_key_mark(path), context["problem"], context["way_forward"]
    elif kind == "missing":
        yield path, f"{path[-1]} is missing", f"add it: {_description(model, path)}"
    elif kind == "extra_forbidden":
        yield (
            path,
            f"there is no field {shown(str(path[-1]))} here",
            _suggestion(str(path[-1]), _fields_of(_type_at(model, path[:-1])), "fields"),
        )
    elif kind in {"enum", "literal_error"}:
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        yield path, f"{shown(str(value))} isn't one of the values", _suggestion(str(value), choices, "values")
    elif kind == "string_type" and isinstance(value, bool | int):
        yield (
            path,
            f"{shown(str(value).lower())} is read as a {'truth value' if isinstance(value, bool) else 'number'}, and text is wanted",
            "put it in quotes",
        )
    elif kind in _TYPES:
        yield path, f"{_TYPES[kind][0]} is wanted here", _TYPES[kind][1]
    elif kind in _LIMITS:
        yield path, _LIMITS[kind][0].format(**context), _LIMITS[kind][1].format(**context)
    else:
        yield path, details["msg"][:1].lower() + details["msg"][1:], "see docs/reference for what the field takes"


_TYPES: Final = {
    "string_type": ("text", "write one value"),
    "int_type": ("a whole number", "write digits without quotes"),
    "int_parsing": ("a whole number", "write digits without quotes"),
    "bool_type": ("true or false", "write it without quotes"),
    "tuple_type": ("a list", "start each entry with `- `"),
    "list_type": ("a list", "start each entry with `- `"),
    "dict_type": ("a mapping", "write names and values, one a line"),
    "model_type": ("a mapping", "write its fields, one a line"),
    "model_attributes_type": ("a mapping", "write its fields, one a line"),
}
_LIMITS: Final = {
    "too_short": ("it has {actual_length} entries, and {min_length} is the least", "add entries, or leave the field out"),
    "too_long": ("it has more than {max_length} entries", "split it up, or use patterns"),
    "string_too_short": ("it is shorter than {min_length} characters", "write a longer value, or leave the field out"),
    "string_too_long": ("it is longer than {max_length} characters", "shorten it"),
    "string_pattern_mismatch": ("it doesn't have the form {pattern}", "write it in that form"),
    "greater_than_equal": ("it is less than {ge}", "write {ge} or more"),
    "less_than_equal": ("it is more than {le}", "write {le} or less"),
}


def _suggestion(written: str, known: Iterable[str], what: str) -> str:
    known = list(known)
    near = difflib.get_close_matches(written.lower(), [each.lower() for each in known], n=1, cutoff=0.6)
    meant = [each for each in known if near and each.lower() == near[0]]
    listed = ", ".join(known[:24]) + (", ..." if len(known) > 24 else "")
    return (
        f"write {meant[0]}" + (f"; the {what} are {listed}" if len(known) <= 8 else "")
        if meant
        else f"the {what} are {listed}"
        if known
        else "leave it out"
    )


def _fields_of(model: object) -> list[str]:
    if isinstance(model, type) and issubclass(model, ApiModel):
        return [info.alias or name for name, info in model.model_fields.items()]
    return []


def _type_at(model: object, path: FieldPath) -> object:
    """The type of the field at `path`, seen through optional and list; None when the path leads nowhere."""
    for step in path:
        if isinstance(step, int):
            continue  # a list's own type was already seen through
        if not (isinstance(model, type) and issubclass(model, ApiModel)):
            return None
        annotations = [info.annotation for name, info in model.model_fields.items() if (info.alias or name) == step]
        model = _seen_through(annotations[0]) if annotations else None
    return model


def _seen_through(annotation: object) -> object:
    while get_origin(annotation) in {tuple, Union, types.UnionType}:
        annotation = next(each for each in get_args(annotation) if each is not type(None) and each is not ...)
    return annotation


def _description(model: type[ApiModel], path: FieldPath) -> str:
    parent = _type_at(model, path[:-1])
    if isinstance(parent, type) and issubclass(parent, ApiModel):
        for name, info in parent.model_fields.items():
            if (info.alias or name) == path[-1] and info.description:
                text = info.description.rstrip(".")
                return text[:1].lower() + text[1:] if text[1:2].islower() else text
    return "see docs/reference"


def _without_key_mark(path: FieldPath) -> FieldPath:
    """pydantic marks the key of a map with a last step of `[key]`."""
    return path[:-1] if path[-1:] == ("[key]",) else path


def _steps(field_path: str) -> FieldPath:
    return tuple(int(index) if index else name for index, name in _STEP.findall(field_path))


def _nearest(places: Mapping[FieldPath, Place], path: FieldPath, line: int) -> Place:
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            return places[path[:length]]
    return Place(line, 1)
