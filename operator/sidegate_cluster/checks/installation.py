"""Is Sidegate there: the cluster's version, the resources, an operator that leads, the key that decisions are signed with."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidegate.api.schema import RESOURCES, custom_resource_definition
from sidegate.api.text import Timestamp
from sidegate.cli.request_view import left
from sidegate_cluster.checks.check import APPLY_CHART, Check, Outcome, Patient, Result, fine, logs_of, pods_of, wrong
from sidegate_operator.resources import CONFIG_MAPS, DECISION_KEYS, LEASES, Resource
from sidegate_operator.roles import LEASE
from sidegate_operator.webhook.guards import guard_keys

LEAST_VERSION: Final = (1, 33)  # native sidecars are stable
_KEY_BYTES: Final = 32
DEFINITIONS: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", is_namespaced=False
)


def _version(patient: Patient) -> Iterator[Result]:
    said = json.loads(patient.cluster.text("/version"))
    found = tuple(int(re.sub(r"\D.*", "", str(said.get(part, ""))) or 0) for part in ("major", "minor"))  # `35+` is 35
    text = f"Kubernetes {said.get('gitVersion', '?')}"
    if found < LEAST_VERSION:
        yield wrong(f"{text} is too old", f"use {'.'.join(map(str, LEAST_VERSION))} or newer: gates are native sidecars")
    else:
        yield fine(text)


def _installed(patient: Patient) -> Iterator[Result]:
    """Says nothing where anything of it is there: what is missing is said further on, part by part."""
    if any(patient.cluster.find(kind, name) is not None for kind, name in guard_keys(patient.home)):
        return
    left_behind = any(patient.cluster.find(DEFINITIONS, each.crd_name) is not None for each in RESOURCES)
    what = "; targets and policies are left of it, and protect nothing new" if left_behind else ""
    way_forward = f"helm install sidegate charts/sidegate -n {patient.home} --create-namespace (docs/install.md)"
    yield Result(Outcome.WRONG, f"Sidegate isn't installed in {patient.cluster.where}{what}", way_forward, is_last=True)


def _definitions(patient: Patient) -> Iterator[Result]:
    for resource in RESOURCES:
        wanted = custom_resource_definition(resource)
        found = patient.cluster.find(DEFINITIONS, resource.crd_name)
        if found is None:
            yield wrong(f"the resource {resource.crd_name} isn't there", APPLY_CHART)
        elif not _is_established(found):
            yield wrong(f"the resource {resource.crd_name} isn't served", f"kubectl describe crd {resource.crd_name} says why")
        elif _schemas(found) != _schemas(wanted):
            yield wrong(
                f"the resource {resource.crd_name} isn't that of this version of sidegate",
                f"{APPLY_CHART}; or use the version of this command that is installed in the cluster",
            )
        else:
            yield fine(f"resource {resource.crd_name}")


def _schemas(definition: Mapping[str, Any]) -> dict[str, Any]:
    """What is served under which version, and by which rules."""
    return {
        each["name"]: (each["served"], each["storage"], each["schema"]["openAPIV3Schema"])
        for each in definition["spec"]["versions"]
    }


def _is_established(definition: Mapping[str, Any]) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Established" and each.get("status") == "True" for each in conditions)


def _operator(patient: Patient) -> Iterator[Result]:
    start = f"see why it doesn't run: {pods_of(patient.home, 'operator')}"
    lease = patient.cluster.find(LEASES, LEASE, patient.home)
    spec = (lease or {}).get("spec") or {}
    if lease is None or not spec.get("renewTime"):
        yield wrong(f"no operator ever led: there is no Lease `{LEASE}` in namespace `{patient.home}`", start)
    elif not spec.get("holderIdentity"):
        yield wrong("no operator leads: the last one gave its Lease back", start)
    else:
        age = patient.now - Timestamp(spec["renewTime"]).epoch_s
        if age > 2 * spec.get("leaseDurationSeconds", 15):
            yield wrong(f"no operator leads: the Lease was renewed {left(age)} ago", start)
        else:
            yield fine(f"operator {spec['holderIdentity'].partition('_')[0]} leads")


def _keys(patient: Patient) -> Iterator[Result]:
    found = patient.cluster.find(CONFIG_MAPS, DECISION_KEYS, patient.home)
    keys = [name for name, text in ((found or {}).get("data") or {}).items() if _is_key(text)]
    if keys:
        yield fine(f"decisions are signed; {len(keys)} public key{'s' if len(keys) > 1 else ''} published")
    else:
        yield wrong(
            f"no key for decisions is published in ConfigMap `{DECISION_KEYS}`, so no gate believes an approval",
            f"the webhook publishes it: {logs_of(patient.home, 'webhook')}",
        )


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


CHECKS: Final = (
    Check("cluster", _version),
    Check("installation", _installed),
    Check("resources", _definitions),
    Check("operator", _operator),
    Check("decisions", _keys),
)
