"""The CRDs: structural, bounded, described, current."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import re2
import yaml
from cel_expr_python import cel

from sidegate.api.meta import ApiModel
from sidegate.api.schema import RESOURCES, Resource, SchemaError, custom_resource_definition, structural_schema
from tools.write_crds import ROOT, wanted_files

# What apiextensions/v1 lets a structural schema have (docs of CustomResourceDefinition, "Specifying a structural schema").
ALLOWED = {
    "description", "type", "format", "default", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "required", "properties", "additionalProperties", "items", "anyOf", "x-kubernetes-int-or-string",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations",
}  # fmt: skip


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from nodes(below, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from nodes(schema[keyword], f"{path}[]")


BY_RESOURCE = pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)


@BY_RESOURCE
def test_every_part_of_a_schema_is_structural(resource: Resource) -> None:
    for path, schema in nodes(structural_schema(resource.model)):
        assert set(schema) <= ALLOWED, path
        assert not ("properties" in schema and "additionalProperties" in schema)
        if schema.get("x-kubernetes-int-or-string"):
            assert "type" not in schema
            assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}]
            continue
        assert "anyOf" not in schema
        assert schema["type"] in {"object", "array", "string", "integer", "boolean"}
        assert ("items" in schema) == (schema["type"] == "array")
        if schema["type"] == "object" and path != ".metadata":
            assert "properties" in schema or "additionalProperties" in schema
        assert set(schema.get("required", ())) <= set(schema.get("properties", {}))


@BY_RESOURCE
def test_every_string_list_and_map_has_a_longest_size(resource: Resource) -> None:
    """The API server reckons the cost of CEL rules from these; without them it refuses the CRD or the rules are too dear."""
    for path, schema in nodes(structural_schema(resource.model)):
        if path in {".apiVersion", ".kind", ".metadata"}:
            continue
        if schema.get("type") == "string":
            assert "enum" in schema or 0 < schema["maxLength"] <= 65536, path
        if schema.get("type") == "array":
            assert 0 < schema["maxItems"] <= 256, path
        if "additionalProperties" in schema:
            assert 0 < schema["maxProperties"] <= 64, path


@BY_RESOURCE
def test_every_list_says_how_it_is_merged(resource: Resource) -> None:
    for path, schema in nodes(structural_schema(resource.model)):
        if schema.get("type") != "array":
            continue
        kind, items = schema["x-kubernetes-list-type"], schema["items"]
        assert kind in {"atomic", "set", "map"}, path
        if kind == "set":
            assert items["type"] == "string"
        if kind == "map":
            (key,) = schema["x-kubernetes-list-map-keys"]
            assert key in items["required"]
            assert items["properties"][key]["type"] == "string"


@BY_RESOURCE
def test_every_pattern_compiles_where_the_api_server_compiles_it(resource: Resource) -> None:
    for path, schema in nodes(structural_schema(resource.model)):
        if "pattern" in schema:
            assert schema["pattern"].startswith("^")
            assert schema["pattern"].endswith("$"), path
            re2.compile(schema["pattern"])


@BY_RESOURCE
def test_every_cel_rule_compiles_and_blames_a_field_that_exists(resource: Resource) -> None:
    for path, schema in nodes(structural_schema(resource.model)):
        for rule in schema.get("x-kubernetes-validations", ()):
            assert "; fix: " in rule["message"], path
            cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN}).compile(rule["rule"])
            at = schema
            for step in rule.get("fieldPath", "").strip(".").split("."):
                at = at["properties"][step] if step else at


@BY_RESOURCE
def test_a_field_with_a_default_is_never_needed(resource: Resource) -> None:
    for path, schema in nodes(structural_schema(resource.model)):
        for name in schema.get("required", ()):
            assert "default" not in schema["properties"][name], f"{path}.{name}"


def models() -> list[type[ApiModel]]:
    found: list[type[ApiModel]] = []
    waiting: list[type[ApiModel]] = [ApiModel]
    while waiting:
        waiting += (below := waiting.pop().__subclasses__())
        found += below
    return found


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_field_and_every_type_is_described(model: type[ApiModel]) -> None:
    assert model.__doc__
    for name, info in model.model_fields.items():
        assert info.description, name
        assert info.description.endswith("."), name


@BY_RESOURCE
def test_names_columns_and_subresources_are_as_kubectl_users_expect(resource: Resource) -> None:
    document = custom_resource_definition(resource)
    spec = document["spec"]
    (version,) = spec["versions"]
    assert document["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
    assert spec["names"]["categories"] == ["sidegate"]
    assert len(spec["names"]["shortNames"]) == 1
    assert version["subresources"] == {"status": {}}
    assert version["additionalPrinterColumns"][-1]["name"] == "Age"
    schema = version["schema"]["openAPIV3Schema"]
    for path in [column["jsonPath"] for column in version["additionalPrinterColumns"][:-1]] + [
        field["jsonPath"] for field in version.get("selectableFields", ())
    ]:
        at = schema
        for step in path.partition("[?")[0].strip(".").split("."):
            at = at["properties"][step]


def test_requests_can_be_selected_by_target_and_phase() -> None:
    (version,) = custom_resource_definition(RESOURCES[-1])["spec"]["versions"]
    assert version["selectableFields"] == [{"jsonPath": ".spec.target"}, {"jsonPath": ".status.phase"}]


@pytest.mark.parametrize("path", wanted_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_made_from_the_types_is_current(path: Path) -> None:
    assert path.read_text("utf-8") == wanted_files()[path], "run `make crds`"


def test_nothing_else_stands_beside_the_crds() -> None:
    assert set((ROOT / "crds").iterdir()) == {path for path in wanted_files() if path.parent.name == "crds"}


@pytest.mark.parametrize("path", [path for path in wanted_files() if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_a_crd_is_plain_yaml_without_anchors(path: Path) -> None:
    text = path.read_text("utf-8")
    assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
    assert not any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader))


def test_refuses_a_type_that_no_structural_schema_can_say() -> None:
    class Either(ApiModel):
        value: int | str

    class Untold(ApiModel):
        apiVersion: str = ""
        spec: Either

    with pytest.raises(SchemaError, match="alternatives"):
        structural_schema(Untold)
