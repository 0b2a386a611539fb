"""Whatever pod it is: patched once is patched for good, nothing of it is lost or moved, and it breaks no rule that it didn't break before."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidegate_operator.plan.injection import InjectionRefused, NotOurs, PodPatch
from sidegate_operator.plan.sidecar import plan_sidecar
from tests.support.json_patch import patched
from tests.support.operator_samples import SETTINGS, sample_target
from tests.support.pod_security import restricted_problems

TARGETS = [
    sample_target(),
    sample_target({"spec": {"tls": {"client": {"secretRef": None, "plainText": "LoopbackOnly"}}, "credentials": None}}),
    sample_target({"spec": {"enforcement": {"mode": "Redirect"}}}),
    sample_target(
        {"spec": {"recording": {"store": {"volume": {"claimName": "recordings"}}}, "enforcement": {"allowOptOut": True}}}
    ),
]

OURS = {"sidegate-gate", "sidegate-redirect"}

names = st.sampled_from(
    ["postgres", "exporter", "init", "a", "sidegate-gate", "sidegate-redirect", "sidegate-config", "sidegate-state", "~/~1"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 99999) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.text(max_size=5), below, max_size=2),
    max_leaves=4,
)
uids = st.sampled_from([0, 26, 999, 64801])
contexts = st.fixed_dictionaries(
    {},
    optional={
        "runAsUser": uids,
        "runAsNonRoot": st.booleans(),
        "allowPrivilegeEscalation": st.just(False),
        "capabilities": st.just({"drop": ["ALL"]}),
        "seccompProfile": st.just({"type": "RuntimeDefault"}),
    },
)
ports = st.fixed_dictionaries(
    {"containerPort": st.sampled_from([5432, 5432, 9187, 6432, 6480])}, optional={"protocol": st.sampled_from(["TCP", "UDP"])}
)
containers = st.fixed_dictionaries(
    {"name": names, "image": st.just("postgres:18")},
    optional={
        "securityContext": contexts | st.none(),
        "ports": st.lists(ports, max_size=2) | st.none(),
        "volumeMounts": st.lists(st.fixed_dictionaries({"name": names, "mountPath": st.just("/x")}), max_size=2) | st.none(),
        "env": values,
        "restartPolicy": st.just("Always"),
    },
)
volumes = st.fixed_dictionaries({"name": names}, optional={"emptyDir": st.just({}), "hostPath": st.just({"path": "/"})})
annotations = st.dictionaries(names | st.just("sidegate.dev/injected"), st.text(max_size=5), max_size=3)
pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"labels": st.fixed_dictionaries({"app": st.just("shop-db"), "sidegate.dev/target": st.just("shop-db")})},
            optional={"annotations": annotations | st.none(), "ownerReferences": st.none() | st.just([]), "uid": values},
        ),
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(containers, min_size=1, max_size=3, unique_by=lambda each: each["name"])},
            optional={
                "initContainers": st.lists(containers, max_size=2, unique_by=lambda each: each["name"]) | st.none(),
                "volumes": st.lists(volumes, max_size=3, unique_by=lambda each: each["name"]) | st.none(),
                "securityContext": contexts | st.none(),
                "hostNetwork": st.booleans(),
                "shareProcessNamespace": st.booleans(),
                "affinity": values,
                "terminationGracePeriodSeconds": st.integers(0, 99),
            },
        ),
    }
)  # fmt: skip
targets = st.sampled_from(TARGETS)


def without_gate(pod: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The patched pod with all taken away that is the gate's, and what is empty then written as it was before."""
    result = copy.deepcopy(pod)
    had = {each["name"] for each in before["spec"].get("volumes") or []}
    spec, metadata = result["spec"], result["metadata"]
    spec["initContainers"] = [each for each in spec["initContainers"] if each["name"] not in OURS]
    spec["volumes"] = [each for each in spec["volumes"] if not each["name"].startswith("sidegate-") or each["name"] in had]
    own = {"sidegate.dev/injected", "kubectl.kubernetes.io/default-container"}
    known = before["metadata"].get("annotations") or {}
    metadata["annotations"] = {
        key: known.get(key, value) for key, value in metadata["annotations"].items() if key in known or key not in own
    }
    for place, was, field in (
        (spec, before["spec"], "initContainers"),
        (spec, before["spec"], "volumes"),
        (metadata, before["metadata"], "annotations"),
    ):
        if not place[field]:
            del place[field]
            if field in was:
                place[field] = was[field]
    return result


@given(pods, targets)
def test_patching_twice_is_patching_once(pod: dict[str, Any], target: Any) -> None:
    planned = plan_sidecar(pod, target, SETTINGS)
    if isinstance(planned, PodPatch):
        once = patched(pod, planned.operations)
        assert plan_sidecar(once, target, SETTINGS) == PodPatch("shop-db", ())
        ours = ["sidegate-redirect", "sidegate-gate"] if target.spec.enforcement.mode == "Redirect" else ["sidegate-gate"]
        assert [each["name"] for each in once["spec"]["initContainers"]][: len(ours)] == ours


@given(pods, targets)
def test_nothing_of_the_pod_is_dropped_changed_or_moved(pod: dict[str, Any], target: Any) -> None:
    before = copy.deepcopy(pod)
    planned = plan_sidecar(pod, target, SETTINGS)
    assert pod == before
    if isinstance(planned, PodPatch):
        assert without_gate(patched(pod, planned.operations), before) == before


@given(pods, targets)
def test_a_pod_with_its_gate_breaks_no_rule_that_it_did_not_break_before(pod: dict[str, Any], target: Any) -> None:
    planned = plan_sidecar(pod, target, SETTINGS)
    if isinstance(planned, PodPatch):
        problems = restricted_problems(patched(pod, planned.operations)["spec"])
        # redirection's are the price that its target's author was told of
        assert [each for each in problems if not each.startswith("sidegate-redirect: ")] == restricted_problems(pod["spec"])


@given(pods, targets)
def test_a_pod_that_gets_a_gate_leaves_the_gate_alone(pod: dict[str, Any], target: Any) -> None:
    """No other container has the gate's user, volumes, ports or name, and they share neither network nor processes with strangers."""
    planned = plan_sidecar(pod, target, SETTINGS)
    assert not isinstance(planned, NotOurs)
    if isinstance(planned, InjectionRefused):
        return
    spec = patched(pod, planned.operations)["spec"]
    assert not spec.get("hostNetwork")
    assert not spec.get("shareProcessNamespace")
    assert (spec.get("securityContext") or {}).get("runAsUser") != 64801
    everything = [*spec["initContainers"], *spec["containers"]]
    (gate,) = [each for each in everything if each["name"] == "sidegate-gate"]
    redirects = [each for each in everything if each["name"] == "sidegate-redirect"]
    assert len(redirects) == (target.spec.enforcement.mode == "Redirect")
    ours = {each["name"] for each in spec["volumes"]} & {mount["name"] for mount in gate["volumeMounts"]}
    for each in [each for each in everything if each["name"] not in OURS]:
        assert (each.get("securityContext") or {}).get("runAsUser") != 64801
        assert not ours & {mount["name"] for mount in each.get("volumeMounts") or []}
        assert not {6432, 6480} & {port["containerPort"] for port in each.get("ports") or [] if port.get("protocol") != "UDP"}


@given(pods, targets)
def test_a_pod_in_nobodys_way_gets_its_gate(pod: dict[str, Any], target: Any) -> None:
    """The other half: without what is refused for a reason, nothing is refused."""
    spec = pod["spec"]
    everything = [*(spec.get("initContainers") or []), *spec["containers"]]
    used = {each["name"] for each in [*everything, *(spec.get("volumes") or [])]}
    used |= {mount["name"] for each in everything for mount in each.get("volumeMounts") or []}
    users = {(each.get("securityContext") or {}).get("runAsUser") for each in [*everything, spec]}
    taken = {port["containerPort"] for each in everything for port in each.get("ports") or []}
    shares = spec.get("hostNetwork") or spec.get("shareProcessNamespace")
    if not (any(name.startswith("sidegate") for name in used) or 64801 in users or {6432, 6480} & taken or shares):
        assert isinstance(plan_sidecar(pod, target, SETTINGS), PodPatch)
