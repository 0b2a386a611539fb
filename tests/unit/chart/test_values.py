"""What values the chart takes, and that it refuses the others in words that say which."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import helm_python as helm
import pytest
import yaml

from tests.support.chart import (
    CHART,
    EVERYTHING,
    GATE_IMAGE,
    LEAST,
    OPERATOR_IMAGE,
    REDIRECT_IMAGE,
    ROOT,
    container,
    merged,
    render,
    rendered,
)

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize("values", [LEAST, merged(LEAST, EVERYTHING)], ids=["least", "everything"])
def test_helm_finds_nothing_to_mend(values: Mapping[str, Any]) -> None:
    report = helm.lint(CHART, dict(values), strict=True)
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"] if each["severity"] > 1] == []


def test_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown value": ({"gatway": {}}, "'gatway' not allowed"),
    "an unknown value below": ({"webhook": {"replica": 3}}, "'replica' not allowed"),
    "no replica": ({"webhook": {"replicas": 0}}, "/webhook/replicas"),
    "a gate by tag": ({"gate": {"image": "registry.example/gate:1"}}, "/gate/image"),
    "a gate with a word behind": ({"gate": {"image": f"{GATE_IMAGE} --x"}}, "/gate/image"),
    "redirection by tag": ({"redirect": {"image": "registry.example/redirect:1"}}, "/redirect/image"),
    "an operator without tag": ({"operator": {"image": "registry.example/operator"}}, "/operator/image"),
    "text for a switch": ({"networkPolicies": {"enabled": "no"}}, "/networkPolicies/enabled"),
    "a name for an address": ({"listenHost": "localhost"}, "/listenHost"),
    "a port of the system": ({"gateway": {"port": 443}}, "/gateway/port"),
    "a lease too short": ({"operator": {"leaseSeconds": 1}}, "/operator/leaseSeconds"),
    "another spread": ({"operator": {"spread": "None"}}, "/operator/spread"),
    "no PEM": ({"webhook": {"clientAuthority": "MIIB"}}, "/webhook/clientAuthority"),
    "a CIDR without prefix": ({"networkPolicies": {"apiServer": {"cidrs": ["10.0.0.1"]}}}, "/networkPolicies/apiServer/cidrs"),
    "claims of resources": ({"operator": {"resources": {"claims": []}}}, "'claims' not allowed"),
}


@pytest.mark.parametrize(("values", "words"), REFUSED.values(), ids=REFUSED)
def test_refuses(values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.HelmValuesError) as caught:
        render(values)
    assert words in str(caught.value)


@pytest.mark.parametrize("missing", ["operator", "gate"])
def test_says_which_image_is_not_given(missing: str) -> None:
    with pytest.raises(helm.HelmRenderError) as caught:
        render({missing: {"image": ""}})
    assert f"{missing}.image isn't given; fix: " in str(caught.value)


def test_every_value_of_the_file_is_known_to_the_schema_and_back() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(_schema_paths(schema, schema, "")) - {"global"} == set(_value_paths(VALUES, schema, schema, ""))


def _resolved(part: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = root["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    return found


def _schema_paths(part: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, below in _resolved(part, root).get("properties", {}).items():
        yield f"{path}{name}"
        yield from _schema_paths(below, root, f"{path}{name}.")


def _value_paths(value: Any, part: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    known = _resolved(part, root).get("properties", {})
    for name, below in value.items() if isinstance(value, dict) and known else ():
        yield f"{path}{name}"
        yield from _value_paths(below, known.get(name, {}), root, f"{path}{name}.")


def test_every_value_has_a_comment_of_its_own_or_its_parents() -> None:
    bare = []
    commented: dict[int, bool] = {}
    above = False
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if not text or text.startswith("#"):
            above = text.startswith("#")
            continue
        commented = {at: has for at, has in commented.items() if at < depth}
        has = above or any(commented.values())
        commented[depth] = above
        if not has and not text.endswith(":"):
            bare.append(text)
        above = False
    # Said once, for the component before: what the words don't say by themselves is commented there.
    assert set(bare) <= {
        "resources:",
        "requests: {cpu: 100m, memory: 128Mi}",
        "limits: {memory: 384Mi}",
        "requests: {cpu: 50m, memory: 96Mi}",
        "limits: {memory: 256Mi}",
        "spread: Preferred",
        "nodeSelector: {}",
        "tolerations: []",
        "port: 8444",
        "interval: 30s",
        "labels: {}",
    }


def test_nothing_but_what_is_asked_for_needs_somebody_elses_kinds() -> None:
    ours = {"sidegate.dev"}
    groups = {each["apiVersion"].rpartition("/")[0] for each in rendered()}
    assert {group for group in groups if "." in group and not group.endswith(".k8s.io")} - ours == set()
    monitored = {each["kind"] for each in rendered(EVERYTHING) if each["apiVersion"].startswith("monitoring.coreos.com/")}
    assert monitored == {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


def test_images_go_where_they_belong() -> None:
    objects = rendered()
    for component in ("operator", "webhook"):
        made = container(objects, component)
        assert made["image"] == OPERATOR_IMAGE
        assert f"--gate-image={GATE_IMAGE}" in made["args"]


def test_redirection_is_set_up_by_the_image_that_is_given() -> None:
    assert f"--redirect-image={REDIRECT_IMAGE}" in container(rendered(EVERYTHING), "webhook")["args"]
    assert not any(each.startswith("--redirect-image") for each in container(rendered(), "webhook")["args"])


def test_namespaces_that_scrape_may_read_the_metrics_of_gates() -> None:
    assert "--scrapers=monitoring" in container(rendered(EVERYTHING), "operator")["args"]
    assert not any(each.startswith("--scrapers") for each in container(rendered(), "operator")["args"])
