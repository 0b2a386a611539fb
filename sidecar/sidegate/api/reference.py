"""The reference pages of the resources, in Markdown: every field with its form and meaning, and every rule with its fix.

Made from the same schema as the CRD, so that page, API server and `sidegate local` can't say different things.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sidegate.api.meta import GROUP, VERSION
from sidegate.api.schema import Resource, Schema, structural_schema

_NOTICE: Final = "<!-- Made by `make crds` from the types in `sidecar/sidegate/api`. Change it there. -->"
_STATED: Final = frozenset({"apiVersion", "kind"})  # above the table already
_METADATA: Final = "Kubernetes' own: name, namespace, labels, annotations."


def reference_page(resource: Resource) -> str:
    schema = structural_schema(resource.model)
    lines = [
        f"# {resource.kind}",
        "",
        _NOTICE,
        "",
        schema["description"],
        "",
        f"`apiVersion: {GROUP}/{VERSION}`, `kind: {resource.kind}`, short name `{resource.short_name}`, namespaced.",
        "A field without a default that isn't marked as needed may be left out. Nothing may be empty: leave it out instead.",
        "",
        "## Fields",
    ]
    objects = list(_objects(schema, ""))
    for path, each in objects:
        lines += ["", f"### `{path}`" if path else "### The resource", "", each.get("description", ""), ""]
        lines += ["| field | form | default | meaning |", "| --- | --- | --- | --- |"]
        fields = each["properties"].items()
        lines += [_row(name, value, name in each.get("required", ())) for name, value in fields if path or name not in _STATED]
    lines += ["", "## What is refused", "", "Beside values that don't have the form given above:", ""]
    lines += ["| where | why | fix |", "| --- | --- | --- |"]
    for path, each in objects:
        for validation in each.get("x-kubernetes-validations", ()):
            problem, _, fix = validation["message"].partition("; fix: ")
            where = f"{path}{validation.get('fieldPath', '')}".lstrip(".")
            lines.append(f"| `{where or 'metadata.name'}` | {_cell(problem)} | {_cell(fix)} |")
    return "\n".join(lines) + "\n"


def index_page(resources: tuple[Resource, ...]) -> str:
    lines = ["# Reference", "", _NOTICE, "", f"The custom resources of `{GROUP}/{VERSION}`.", ""]
    lines += ["| kind | short name | what it is |", "| --- | --- | --- |"]
    for resource in resources:
        description = structural_schema(resource.model)["description"]
        lines.append(f"| [{resource.kind}]({resource.singular}.md) | `{resource.short_name}` | {_cell(description)} |")
    return "\n".join(lines) + "\n"


def _objects(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every object that has named fields, outside in."""
    if "properties" not in schema:
        return
    yield path, schema
    for name, value in schema["properties"].items():
        below = f"{path}.{name}" if path else name
        yield from _objects(value, below)
        if "items" in value:
            yield from _objects(value["items"], f"{below}[]")


def _row(name: str, schema: Schema, is_needed: bool) -> str:
    default = "needed" if is_needed else f"`{_plain(schema['default'])}`" if "default" in schema else ""
    meaning = schema.get("description", _METADATA)
    return f"| `{name}` | {_cell(_form(schema))} | {_cell(default)} | {_cell(meaning)} |"


def _form(schema: Schema) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return f"number or text `{schema['pattern']}`"
    kind = schema["type"]
    if kind == "array":
        once = {"set": ", each once", "map": f", each `{schema.get('x-kubernetes-list-map-keys', [''])[0]}` once"}
        size = _span(schema.get("minItems"), schema.get("maxItems"))
        return f"list of {size} {_form(schema['items'])}{once.get(schema['x-kubernetes-list-type'], '')}"
    if kind == "object":
        return f"names with {_form(schema['additionalProperties'])}" if "additionalProperties" in schema else "object"
    if kind == "integer":
        return " ".join(["number", _span(schema.get("minimum"), schema.get("maximum"))]).strip()
    if kind == "boolean":
        return "`true` or `false`"
    if schema.get("format") == "date-time":
        return "moment (RFC 3339)"
    pattern = f" `{schema['pattern']}`" if "pattern" in schema else ""
    return f"text{pattern}, {_span(schema.get('minLength'), schema.get('maxLength'))} characters"


def _span(least: int | None, most: int | None) -> str:
    if least and most:
        return f"{least} to {most}"
    return f"up to {most}" if most else f"from {least}" if least is not None else ""


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_plain(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
