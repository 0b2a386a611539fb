"""One installation of Sidegate after another on one cluster: nothing of one is left when the next begins, whoever made it and how."""

from __future__ import annotations

from typing import Final

from tests.support.chart import NAMESPACE
from tests.support.cluster_node import Cluster

# In this order: what stands in the way of deleting goes first.
_KINDS: Final = (
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicybindings",
    "validatingadmissionpolicies",
    "clusterrolebindings",
    "clusterroles",
)
_DEFINITIONS: Final = ("accesspolicies", "approvalrequests", "protectedtargets")


def remove_sidegate(cluster: Cluster) -> None:
    """Return once it is gone."""
    for kind in _KINDS:
        names = cluster.kubectl("get", kind, "--output=name").stdout.split()
        ours = [name for name in names if name.partition("/")[2].startswith("sidegate")]
        if ours:
            _deleted(cluster, *ours)
    _deleted(cluster, "namespace", NAMESPACE)
    _deleted(cluster, "customresourcedefinitions", *(f"{name}.sidegate.dev" for name in _DEFINITIONS))


def _deleted(cluster: Cluster, *what: str) -> None:
    done = cluster.kubectl("delete", *what, "--ignore-not-found", "--timeout=100s", timeout_s=110)
    assert done.returncode == 0, done.stderr
