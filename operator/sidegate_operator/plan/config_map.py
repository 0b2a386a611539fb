"""The ConfigMap that carries one gate's config into its pod.

Rules it keeps:
- The same gate config gives the same ConfigMap, byte for byte: applying it again changes nothing.
- What doesn't fit is no ConfigMap but a finding: a gate keeps the config it has.
- The authority of the operator's gateway goes with it, for a pod can mount what is in its own namespace only. It is public.

It leaves out compiling (`gate_config`), applying, and telling gates about a new revision.
"""

from __future__ import annotations

from typing import Final

from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.config import GateConfig, encode_config
from sidegate.policy.finding import error, name_of
from sidegate_operator.plan.gate_container import AUTHORITY_KEY, CONFIG_KEY
from sidegate_operator.plan.owned import REVISION_ANNOTATION, Planned, config_map_name, metadata

# The API server takes data of up to 1 MiB (pkg/apis/core, MaxSecretSize); server-side apply sends it with its metadata.
MAX_CONFIG_BYTES: Final = 1000 * 1024


def plan_config_map(target: ProtectedTarget, config: GateConfig, authority: str = "") -> Planned:
    """`authority`: certificates in PEM that gates verify the operator's gateway with; empty while there is none."""
    data = {CONFIG_KEY: encode_config(config).decode()}
    if authority:
        data[AUTHORITY_KEY] = authority
    size = sum(len(text.encode()) for text in data.values())
    if size > MAX_CONFIG_BYTES:
        problem = error(
            name_of(target),
            "spec",
            f"the gate config has {size} bytes, and a ConfigMap holds {MAX_CONFIG_BYTES}",
            "bind fewer policies to the target, or use patterns instead of long lists",
        )
        return Planned(None, (problem,))
    described = metadata(target, config_map_name(target), {REVISION_ANNOTATION: config.revision})
    return Planned({"apiVersion": "v1", "kind": "ConfigMap", "metadata": described, "data": data})
