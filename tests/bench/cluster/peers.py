"""What the same objects cost the official Python client: listing all of them, as its typed models where it has any, else as dicts.

A floor to hold the operator's start against: no operator can know a cluster without reading it. Measured in a process of its own, so
that its imports and its memory are its own too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_PROGRAM: Final = """
import json, resource, sys, time
began = time.perf_counter()
from kubernetes import client, config
config.load_kube_config(sys.argv[1])
imported = time.perf_counter()
custom, core = client.CustomObjectsApi(), client.CoreV1Api()
kept = [custom.list_cluster_custom_object("sidegate.dev", "v1alpha1", each) for each in ("protectedtargets", "accesspolicies")]
listed = time.perf_counter()
kept.append(core.list_pod_for_all_namespaces())
pods = time.perf_counter()
kept.append(core.list_config_map_for_all_namespaces(label_selector="app.kubernetes.io/managed-by=sidegate"))
maps = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import_s": imported - began, "list_ours_s": listed - imported, "list_pods_s": pods - listed,
                  "list_config_maps_s": maps - pods, "all_s": maps - began, "peak_mib": peak}))
"""


def list_all(kubeconfig: Path) -> dict[str, float]:
    """Seconds of each part, and of all; and the memory that it took, in MiB.

    Raises:
        CalledProcessError: it failed.
    """
    command = [sys.executable, "-c", _PROGRAM, str(kubeconfig)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
