"""The chart as Helm renders it, without a cluster: Helm itself, as a library.

for wanted in rendered(): ...                                  # with the least that has to be said
rendered({"gateway": {"enabled": False}})                      # merged into that, as `--values` does
container(deployment("sidegate-webhook"))["args"]
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import helm_python as helm
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "charts" / "sidegate"
RELEASE: Final = "sidegate"
NAMESPACE: Final = "sidegate-system"
OPERATOR_IMAGE: Final = f"registry.example/sidegate/operator@sha256:{'1' * 64}"
GATE_IMAGE: Final = f"registry.example/sidegate/gate@sha256:{'0' * 64}"
REDIRECT_IMAGE: Final = f"registry.example/sidegate/redirect@sha256:{'2' * 64}"
LEAST: Final[Mapping[str, Any]] = {"operator": {"image": OPERATOR_IMAGE}, "gate": {"image": GATE_IMAGE}}
EVERYTHING: Final[Mapping[str, Any]] = {
    "operator": {"spread": "Required", "priorityClassName": "high", "nodeSelector": {"kubernetes.io/os": "linux"}},
    "webhook": {
        "clientAuthority": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "redirect": {"image": REDIRECT_IMAGE},
    "gateway": {"port": 9444},
    "imagePullSecrets": [{"name": "registry"}],
    "roles": {"aggregateEditor": True},
    "networkPolicies": {"apiServer": {"cidrs": ["10.0.0.1/32"]}, "metricsFrom": ["monitoring"]},
    "metrics": {
        "serviceMonitors": {"enabled": True, "labels": {"release": "prometheus"}},
        "gateMonitor": {"enabled": True},
        "alerts": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}
Object = dict[str, Any]
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a second for each of the large CRDs without


def merged(*documents: Mapping[str, Any]) -> Object:
    """As Helm merges values: mappings key by key, everything else whole."""
    result: Object = {}
    for document in documents:
        for key, value in document.items():
            before = result.get(key)
            result[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, Mapping) else value
    return result


def render(values: Mapping[str, Any] | None = None, *, namespace: str = NAMESPACE) -> dict[str, str]:
    """Each template's text.

    Raises:
        helm.HelmError: the values are refused, or a template fails.
    """
    return dict(_rendered(json.dumps(merged(LEAST, values or {})), namespace))


@cache
def _rendered(values: str, namespace: str) -> Mapping[str, str]:
    with helm.Chart.load(CHART) as chart:
        return chart.render(json.loads(values), name=RELEASE, namespace=namespace)


def rendered(values: Mapping[str, Any] | None = None, *, namespace: str = NAMESPACE) -> list[Object]:
    """Every object, in the templates' order."""
    texts = (text for name, text in sorted(render(values, namespace=namespace).items()) if name.endswith(".yaml"))
    return copy.deepcopy([document for text in texts for document in _documents(text)])


@cache
def _documents(text: str) -> Sequence[Object]:
    return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def container(objects: Sequence[Object], component: str) -> Object:
    """The one container of `sidegate-COMPONENT`."""
    (found,) = named(objects, "Deployment", f"sidegate-{component}")["spec"]["template"]["spec"]["containers"]
    return dict(found)
