"""What makes pods, as objects for tests: a StatefulSet, the resources of two database operators, and the pods of their making."""

from __future__ import annotations

import copy

from tests.support.admission import plain_pod
from tests.support.api_server import ApiServer
from tests.support.cluster_client import ApiError, Object
from tests.support.processes import wait_until

LABELS = {"app": "shop-db"}


def gated_pod(namespace: str, name: str = "shop-db-0") -> Object:
    """A pod that asks for the gate of `shop-db`, and is selected by it."""
    pod = plain_pod(namespace, name, target="shop-db")
    pod["metadata"]["labels"] = dict(LABELS)
    return pod


def stateful_set(namespace: str, pod: Object, name: str = "shop-db") -> Object:
    template = {"metadata": {key: pod["metadata"].get(key, {}) for key in ("labels", "annotations")}, "spec": pod["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": LABELS}, "serviceName": name, "template": template},
    }


def of(owner: Object, pod: Object) -> Object:
    """The pod as its owner makes it."""
    owned = copy.deepcopy(pod)
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    owned["metadata"]["ownerReferences"] = [{**reference, "uid": owner["metadata"]["uid"], "controller": True}]
    return owned


def cnpg_cluster(namespace: str) -> Object:
    metadata = {"name": "shop-db", "namespace": namespace}
    return {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": metadata, "spec": {"size": 3}}


def zalando_database(namespace: str) -> Object:
    metadata = {"name": "shop-db", "namespace": namespace}
    return {"apiVersion": "acid.zalan.do/v1", "kind": "postgresql", "metadata": metadata, "spec": {"size": 3}}


def operators_kind(api: ApiServer, wanted: Object) -> None:
    """Define the kind of `wanted`, without a schema."""
    group, version = wanted["apiVersion"].split("/")
    plural = f"{wanted['kind'].lower()}s"
    names = {"kind": wanted["kind"], "plural": plural, "singular": wanted["kind"].lower(), "listKind": f"{wanted['kind']}List"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    api.admin.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {
                "group": group,
                "names": names,
                "scope": "Namespaced",
                "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
            },
        }
    )

    def is_served() -> bool:
        try:
            api.admin.list(wanted["apiVersion"], wanted["kind"])
        except (ApiError, LookupError):
            return False
        return True

    wait_until(is_served, f"{plural}.{group} to be served", 30)
