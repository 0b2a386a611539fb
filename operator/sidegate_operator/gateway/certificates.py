"""Where gates read the gateway's authority: the ConfigMaps of their targets, which the leader writes.

Rules it keeps: an authority counts as published once every target that has a ConfigMap has it there. Nothing is written here: what is to be
published is handed on, and becomes part of each target's plan.

Left out: the Secret (`serving/keeper.py`), and which step comes when (`serving/authority.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidegate_operator.cluster import Cluster
from sidegate_operator.plan.gate_container import AUTHORITY_KEY
from sidegate_operator.plan.owned import config_map_name
from sidegate_operator.resources import CONFIG_MAPS
from sidegate_operator.store import Key


@dataclass(frozen=True, slots=True)
class Bundles:
    published: Sequence[bytes]

    async def publish(self, bundle: bytes) -> bool:
        return False  # the plans of targets publish it


@dataclass(frozen=True, slots=True)
class GateBundles:
    cluster: Cluster

    async def look(self) -> Bundles:
        found = []
        store = self.cluster.stores[CONFIG_MAPS]
        for key in self.cluster.targets.store.every_key():
            target = self.cluster.targets.readable(key)
            live = store.get(Key(key.namespace, config_map_name(target))) if target is not None else None
            if live is not None:
                found.append(str((live.get("data") or {}).get(AUTHORITY_KEY, "")).encode())
        return Bundles(tuple(found))
