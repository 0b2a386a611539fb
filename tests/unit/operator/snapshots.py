"""Targets, policies and pods as the API server has them, and a world in which plans are carried out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.beside import Builder, nothing_beside
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.policies import reconcile_policy
from sidegate_operator.plan.reconcile import (
    LastGood,
    ObjectKey,
    Plan,
    PolicyReport,
    Probe,
    Snapshot,
    UnreadablePolicy,
    reconcile,
)
from tests.unit.api.crd_rules import merged

NOW = 1_795_600_000.0
Wire = dict[str, Any]


def target(name: str = "shop-db", **spec: Any) -> Wire:
    return {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "ProtectedTarget",
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"},
        "spec": {
            "protocol": "Postgres",
            "environment": "production",
            "selector": {"matchLabels": {"app": name}},
            "port": 5432,
            "tls": {"client": {"secretRef": {"name": "gate-tls"}}},
            "identity": {"issuers": [{"url": "https://issuer.example", "audiences": [name]}]},
            "credentials": [{"role": "readonly", "secretRef": {"name": "readonly", "key": "password"}}],
            **spec,
        },
    }


def policy(name: str = "readers", role: str = "readonly", **spec: Any) -> Wire:
    return {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"},
        "spec": {
            "targets": {"names": ["shop-db"]},
            "subjects": [{"groups": ["ai-assistants"]}],
            "grants": [{"postgres": {"databases": ["shop"], "role": role, "allow": ["Read"]}}],
            **spec,
        },
    }


def pod(
    name: str = "shop-db-0", *, app: str = "shop-db", asks_for: str | None = "shop-db", has_gate: bool = True, **metadata: Any
) -> Wire:
    labels = {"app": app} | ({"sidegate.dev/target": asks_for} if asks_for is not None else {}) | metadata.pop("labels", {})
    gate = {"name": "sidegate-gate", "restartPolicy": "Always"}
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "labels": labels, "annotations": {}, **metadata},
        "spec": {"containers": [{"name": "postgres"}], "initContainers": [gate] if has_gate else []},
        "status": {"phase": "Running", "initContainerStatuses": [{"name": "sidegate-gate", "ready": True}] if has_gate else []},
    }


@dataclass
class World:
    """What an API server and gates have; `run` reconciles the target and then the policies, and does what the plans say, which it joins."""

    target: Wire = field(default_factory=target)
    policies: list[Wire] = field(default_factory=lambda: [policy()])
    pods: list[Wire] = field(default_factory=lambda: [pod()])
    enforced: dict[str, str] = field(default_factory=dict)
    live: dict[ObjectKey, Wire] = field(default_factory=dict)
    last_good: LastGood | None = None
    probe: Probe | None = None
    unreadable: tuple[UnreadablePolicy, ...] = ()
    neighbours: tuple[ProtectedTarget, ...] = ()
    elsewhere: dict[str, tuple[PolicyReport, ...]] = field(default_factory=dict)
    beside: Builder = nothing_beside
    authority: str = ""

    def snapshot(self) -> Snapshot:
        return Snapshot(
            target=ProtectedTarget.from_wire(self.target),
            policies=tuple(map(AccessPolicy.from_wire, self.policies)),
            unreadable=self.unreadable,
            neighbours=self.neighbours,
            pods=tuple(map(SeenPod.from_wire, self.pods)),
            enforced=dict(self.enforced),
            live=copy.deepcopy(self.live),
            last_good=self.last_good,
            probe=self.probe,
            authority=self.authority,
        )

    def run(self, now: float = NOW) -> Plan:
        snapshot = self.snapshot()
        plan = reconcile(snapshot, now, self.beside)
        for each in snapshot.policies if snapshot.target.metadata.deletion_timestamp is None else ():
            name = str(each.metadata.name)
            mine = {"shop-db": plan.reports[name]} if name in plan.reports else {}
            reports = {report.target: report for report in self.elsewhere.get(name, ())} | mine
            about = reconcile_policy(each, reports, reports, now)
            assert about is not None, "it was planned with the policy as it is"
            plan = replace(plan, statuses=plan.statuses + about.statuses, events=plan.events + about.events)
        for wanted in plan.apply:
            self.live[ObjectKey.of(wanted)] = merged(self.live.get(ObjectKey.of(wanted), {}), wanted)
        for key in plan.remove:
            del self.live[key]
        for each in plan.annotate:
            (seen,) = [one for one in self.pods if one["metadata"]["uid"] == each.uid]
            seen["metadata"]["annotations"].update(each.annotations)
        for patch in plan.statuses:
            self._patch(patch.key, patch.patch)
        self.last_good = plan.last_good
        return plan

    def report(self, *names: str) -> None:
        """The gates of these pods, else of all, say that they enforce what is published."""
        config_map = self.live[ObjectKey("ConfigMap", "sidegate-shop-db")]
        for each in self.pods:
            if not names or each["metadata"]["name"] in names:
                self.enforced[each["metadata"]["uid"]] = config_map["metadata"]["annotations"]["sidegate.dev/revision"]

    def settle(self, now: float = NOW) -> None:
        """Until gates enforce what is wanted and the status says so."""
        self.run(now)
        self.report()
        self.run(now)

    def conditions(self, of: Wire | None = None) -> dict[str, tuple[str, str]]:
        """type -> (status, reason)"""
        status = (of or self.target)["status"]
        return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}

    def message(self, of_type: str, of: Wire | None = None) -> str:
        (found,) = [each["message"] for each in (of or self.target)["status"]["conditions"] if each["type"] == of_type]
        return str(found)

    def _patch(self, key: ObjectKey, patch: Any) -> None:
        resources: Sequence[Wire] = [self.target, *self.policies]
        (found,) = [each for each in resources if ObjectKey.of(each) == key]
        found.update(merged(found, patch))


Change = Callable[[World], object]


def reasons_of(plan: Plan, kind: str) -> list[str]:
    return [each.reason for each in plan.events if each.key.kind == kind]
