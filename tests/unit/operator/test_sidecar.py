"""The pod patch, pod by pod: what goes in and what comes out stands in the files of `sidecar/`."""

from __future__ import annotations

import copy
import json
import os
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from sidegate_operator.plan.gate_container import GateSettings, canonical_quantity
from sidegate_operator.plan.injection import WAYS_FORWARD, InjectionReason, InjectionRefused, NotOurs, PodPatch, Untouched
from sidegate_operator.plan.sidecar import named_target, plan_sidecar
from tests.support.json_patch import patched
from tests.support.operator_samples import SAMPLES, SETTINGS, injected, sample, sample_target
from tests.support.pod_security import container_problems
from tests.unit.api.crd_rules import merged

ROOT = SAMPLES.parents[3]
GOLDEN = sorted(file.name.removesuffix(".in.yaml") for file in SAMPLES.glob("*.in.yaml"))
REFUSALS = [
    pytest.param(reason, each["refused"], each["passes"], id=f"{reason}-{number}")
    for reason, cases in sample("refusals").items()
    for number, each in enumerate(cases)
]
PLAIN = sample("plain.in")
TARGET = sample_target()


def case(change: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    target = sample_target(change.get("target")) if change.get("target", {}) is not None else None
    return merged(PLAIN, change.get("pod", {})), target


def target_of(name: str) -> Any:
    return sample_target(sample(f"{name}.target") if (SAMPLES / f"{name}.target.yaml").exists() else None)


def gate_of(pod: dict[str, Any]) -> dict[str, Any]:
    gates: list[dict[str, Any]] = [each for each in pod["spec"]["initContainers"] if each["name"] == "sidegate-gate"]
    assert len(gates) == 1
    return gates[0]


# Golden files


@pytest.mark.parametrize("name", GOLDEN)
def test_a_pod_comes_out_as_its_file_says(name: str) -> None:
    """After a wanted change: UPDATE_GOLDEN=1 pytest writes the files anew, and `git diff` shows what it means."""
    file = SAMPLES / f"{name}.out.yaml"
    out = injected(sample(f"{name}.in"), target_of(name))
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump(out, sort_keys=False, width=140))
        pytest.fail("written anew: read the difference")
    assert out == yaml.safe_load(file.read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_a_pod_that_has_its_gate_needs_no_patch(name: str) -> None:
    out = injected(sample(f"{name}.in"), target_of(name))
    assert plan_sidecar(out, target_of(name), SETTINGS) == PodPatch("shop-db", ())


# What the contract promises, each by itself


def test_the_gate_is_a_native_sidecar_before_every_other_init_container() -> None:
    out = injected(sample("cloudnativepg.in"), TARGET)
    assert [each["name"] for each in out["spec"]["initContainers"]] == ["sidegate-gate", "bootstrap-controller"]
    assert gate_of(out)["restartPolicy"] == "Always"


@pytest.mark.parametrize("before", [1, 2])
def test_a_gate_that_something_came_before_is_moved_to_the_front(before: int) -> None:
    """A template that names the gate itself, or another webhook: a sidecar before it could take its ports."""
    out = injected(sample("cloudnativepg.in"), TARGET)
    others = [{"name": f"taker-{number}", "image": "x", "restartPolicy": "Always"} for number in range(before)]
    out["spec"]["initContainers"] = [*others, *out["spec"]["initContainers"]]
    planned = plan_sidecar(out, TARGET, SETTINGS)
    assert planned == PodPatch(
        "shop-db", ({"op": "move", "from": f"/spec/initContainers/{before}", "path": "/spec/initContainers/0"},)
    )
    put_right = patched(out, planned.operations)
    names = [each["name"] for each in put_right["spec"]["initContainers"]]
    assert names == ["sidegate-gate", *(each["name"] for each in others), "bootstrap-controller"]
    assert plan_sidecar(put_right, TARGET, SETTINGS) == PodPatch("shop-db", ())


def test_redirection_and_gate_come_first_together() -> None:
    out = injected(PLAIN, REDIRECTED)
    out["spec"]["initContainers"].insert(1, {"name": "between", "image": "x"})
    out["spec"]["initContainers"].insert(0, {"name": "before", "image": "x"})
    planned = plan_sidecar(out, REDIRECTED, SETTINGS)
    assert isinstance(planned, PodPatch), planned
    names = [each["name"] for each in patched(out, planned.operations)["spec"]["initContainers"]]
    assert names == ["sidegate-redirect", "sidegate-gate", "before", "between"]


def test_the_gate_passes_restricted_pod_security_by_itself() -> None:
    """Also in a pod that says nothing about security, or the opposite: the pod's own breaches aren't the gate's."""
    pod = merged(
        PLAIN, {"spec": {"securityContext": {"runAsNonRoot": False, "runAsUser": 0, "seccompProfile": {"type": "Unconfined"}}}}
    )
    assert container_problems(gate_of(injected(pod, TARGET))) == []


def test_requests_equal_limits_so_that_a_guaranteed_pod_stays_one() -> None:
    resources = gate_of(injected(PLAIN, TARGET))["resources"]
    assert resources["requests"] == resources["limits"] == {"cpu": "250m", "memory": "256Mi"}


def test_the_gates_readiness_is_not_the_pods() -> None:
    gate = gate_of(injected(PLAIN, TARGET))
    assert "readinessProbe" not in gate
    assert gate["startupProbe"]["httpGet"]["path"] == "/started"  # of its listener alone: the database waits for it


def test_the_gate_alone_gets_secrets_and_tokens() -> None:
    out = injected(sample("zalando.in"), TARGET)
    for each in out["spec"]["containers"]:
        assert not any(mount["name"].startswith("sidegate") for mount in each["volumeMounts"])
    mounted = {mount["mountPath"]: mount for mount in gate_of(out)["volumeMounts"]}
    no_token = mounted["/var/run/secrets/kubernetes.io/serviceaccount"]
    assert no_token["readOnly"] is True
    volumes = {each["name"]: each for each in out["spec"]["volumes"]}
    assert volumes[no_token["name"]] == {"name": "sidegate-no-token", "emptyDir": {}}
    token = volumes["sidegate-operator"]["projected"]["sources"][0]["serviceAccountToken"]
    assert token == {"audience": "sidegate-operator", "expirationSeconds": 600, "path": "token"}


def test_nothing_that_is_missing_keeps_the_pod_from_starting() -> None:
    volumes = {each["name"]: each for each in injected(PLAIN, TARGET)["spec"]["volumes"]}
    assert volumes["sidegate-config"]["configMap"]["optional"] is True
    sources = volumes["sidegate-secrets"]["projected"]["sources"] + volumes["sidegate-operator"]["projected"]["sources"]
    assert all(source[kind]["optional"] for source in sources for kind in source if kind != "serviceAccountToken")


def test_secrets_lie_where_the_gate_config_says() -> None:
    sources = {each["name"]: each for each in injected(PLAIN, TARGET)["spec"]["volumes"]}["sidegate-secrets"]["projected"][
        "sources"
    ]
    assert [each["secret"]["items"] for each in sources] == [
        [{"key": "tls.crt", "path": "shop-db-gate-tls/tls.crt"}, {"key": "tls.key", "path": "shop-db-gate-tls/tls.key"}],
        [{"key": "owner", "path": "shop-db-roles/owner"}, {"key": "readonly", "path": "shop-db-roles/readonly"}],
    ]


def test_an_authority_of_the_target_is_mounted_with_the_rest() -> None:
    tls = {"client": {"secretRef": {"name": "tls"}}, "target": {"mode": "VerifyFull", "caRef": {"name": "tls", "key": "ca.crt"}}}
    target = sample_target({"spec": {"tls": tls, "credentials": None}})
    volumes = {each["name"]: each for each in injected(PLAIN, target)["spec"]["volumes"]}
    (source,) = volumes["sidegate-secrets"]["projected"]["sources"]
    assert [each["key"] for each in source["secret"]["items"]] == ["ca.crt", "tls.crt", "tls.key"]


def test_what_the_gate_writes_beside_recordings_is_bounded_memory() -> None:
    volumes = {each["name"]: each for each in injected(PLAIN, TARGET)["spec"]["volumes"]}
    assert volumes["sidegate-state"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Mi"}
    assert volumes["sidegate-recordings"]["emptyDir"] == {}  # a limit would have the kubelet evict the database


def note_of(pod: dict[str, Any]) -> dict[str, str]:
    note: dict[str, str] = json.loads(pod["metadata"]["annotations"]["sidegate.dev/injected"])
    return note


def test_a_pod_says_which_gate_it_got() -> None:
    assert note_of(injected(PLAIN, TARGET)).items() >= {"gate": "0.1.0", "target": "shop-db"}.items()


def test_what_can_change_in_a_running_pod_is_not_in_the_templates_hash() -> None:
    """The image of a container is all that can (pkg/apis/core/validation, ValidatePodUpdate)."""
    now = note_of(injected(PLAIN, TARGET))
    newer = replace(SETTINGS, image=f"registry.example/sidegate/gate@sha256:{'3' * 64}", version="0.2.0")
    assert note_of(injected(PLAIN, TARGET, newer)) == {**now, "gate": "0.2.0"}
    assert note_of(injected(PLAIN, TARGET, replace(SETTINGS, gateway="https://elsewhere")))["template"] != now["template"]
    assert note_of(injected(PLAIN, sample_target({"spec": {"credentials": None}})))["template"] != now["template"]


def test_an_annotation_that_was_copied_from_another_pod_is_put_right() -> None:
    forged = merged(PLAIN, {"metadata": {"annotations": {"sidegate.dev/injected": '{"gate":"9.9"}'}}})
    assert injected(forged, TARGET)["metadata"]["annotations"] == injected(PLAIN, TARGET)["metadata"]["annotations"]


def test_the_default_container_stays_the_pods_own_choice() -> None:
    chosen = merged(PLAIN, {"metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "exporter"}}})
    assert injected(chosen, TARGET)["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "exporter"
    assert injected(PLAIN, TARGET)["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "postgres"


# Redirection


REDIRECTED = sample_target({"spec": {"enforcement": {"mode": "Redirect"}}})


def redirect_of(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in pod["spec"]["initContainers"] if each["name"] == "sidegate-redirect")
    return found


def test_redirection_is_set_up_before_anything_runs() -> None:
    out = injected(sample("redirect.in"), target_of("redirect"))
    names = [each["name"] for each in out["spec"]["initContainers"]]
    assert names == ["sidegate-redirect", "sidegate-gate", "permissions"]


def test_redirection_breaks_pod_security_by_its_capability_and_its_user_alone() -> None:
    problems = container_problems(redirect_of(injected(PLAIN, REDIRECTED)))
    assert problems == ["capabilities are added", "runAsNonRoot isn't true", "runs as root"]


def test_a_gate_from_before_redirection_gets_it_added() -> None:
    before = injected(PLAIN, TARGET)
    after = injected(before, REDIRECTED)
    assert [each["name"] for each in after["spec"]["initContainers"]] == ["sidegate-redirect", "sidegate-gate"]
    assert note_of(after)["template"] != note_of(before)["template"]


def test_redirection_that_would_come_after_the_gate_is_refused() -> None:
    out = injected(PLAIN, REDIRECTED)
    out["spec"]["initContainers"].reverse()
    planned = plan_sidecar(out, REDIRECTED, SETTINGS)
    assert isinstance(planned, InjectionRefused)
    assert planned.reason is InjectionReason.REDIRECT_IMPOSSIBLE


def test_no_image_for_redirection_and_the_pod_is_refused_rather_than_left_open() -> None:
    planned = plan_sidecar(PLAIN, REDIRECTED, replace(SETTINGS, redirect_image=""))
    assert isinstance(planned, InjectionRefused)
    assert "--redirect-image" in planned.problem
    with pytest.raises(ValueError, match="isn't pinned"):
        replace(SETTINGS, redirect_image="redirect:1")


@pytest.mark.parametrize("field", sorted(redirect_of(injected(PLAIN, REDIRECTED)).keys() - {"name", "imagePullPolicy"}))
def test_refuses_a_redirection_that_differs_in_any_field(field: str) -> None:
    out = injected(PLAIN, REDIRECTED)
    del redirect_of(out)[field]
    planned = plan_sidecar(out, REDIRECTED, SETTINGS)
    assert isinstance(planned, InjectionRefused)
    assert planned.reason is InjectionReason.FOREIGN_GATE
    assert "sidegate-redirect" in planned.problem


# What is none of ours


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"metadata": {"annotations": None}}, Untouched.NO_TARGET),
        (
            {"metadata": {"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "x", "controller": True}]}},
            Untouched.JOB,
        ),
    ],
)
def test_leaves_alone_what_asks_for_no_gate(change: dict[str, Any], why: Untouched) -> None:
    assert plan_sidecar(merged(PLAIN, change), TARGET, SETTINGS) == NotOurs(why)


@pytest.mark.parametrize(
    "owner",
    [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "x"},
        {"apiVersion": "batch/v1", "kind": "CronJob", "name": "x", "controller": True},
        {"apiVersion": "example.com/v1", "kind": "Job", "name": "x", "controller": True},
    ],
)
def test_what_only_looks_like_a_job_gets_its_gate(owner: dict[str, Any]) -> None:
    pod = merged(PLAIN, {"metadata": {"ownerReferences": [owner]}})
    assert isinstance(plan_sidecar(pod, TARGET, SETTINGS), PodPatch)


def test_a_pod_may_opt_out_only_where_its_target_allows_it() -> None:
    pod = merged(PLAIN, {"metadata": {"labels": {"sidegate.dev/inject": "false"}}})
    allowing = sample_target({"spec": {"enforcement": {"allowOptOut": True}}})
    assert plan_sidecar(pod, allowing, SETTINGS) == NotOurs(Untouched.OPTED_OUT)
    assert isinstance(plan_sidecar(pod, TARGET, SETTINGS), PodPatch)


def test_names_the_target_by_annotation_or_label() -> None:
    assert named_target({"metadata": {}, "spec": {}}) is None
    assert named_target({"metadata": {"labels": {"sidegate.dev/target": "a"}}, "spec": {}}) == "a"
    assert named_target({"metadata": {"annotations": {"sidegate.dev/target": "a"}}, "spec": {}}) == "a"


# Refusals


@pytest.mark.parametrize(("reason", "refused", "passes"), REFUSALS)
def test_refuses_with_its_reason_and_lets_the_near_twin_pass(
    reason: str, refused: dict[str, Any], passes: dict[str, Any]
) -> None:
    pod, target = case(refused)
    before = copy.deepcopy(pod)
    planned = plan_sidecar(pod, target, SETTINGS)
    assert isinstance(planned, InjectionRefused)
    assert planned.reason == reason
    assert str(planned) == f"{planned.problem}; fix: {WAYS_FORWARD[planned.reason]}"
    assert pod == before
    assert isinstance(plan_sidecar(*case(passes), SETTINGS), PodPatch)


def test_every_reason_is_reached_and_has_a_way_forward() -> None:
    assert set(sample("refusals")) == {reason.value for reason in InjectionReason} == {reason.value for reason in WAYS_FORWARD}


@pytest.mark.parametrize("field", sorted(gate_of(injected(PLAIN, TARGET)).keys() - {"name", "imagePullPolicy"}))
def test_refuses_a_gate_that_differs_in_any_field(field: str) -> None:
    out = injected(PLAIN, TARGET)
    del gate_of(out)[field]
    planned = plan_sidecar(out, TARGET, SETTINGS)
    assert isinstance(planned, InjectionRefused)
    assert planned.reason is InjectionReason.FOREIGN_GATE
    assert field in planned.problem


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ({"imagePullPolicy": "Always"}, True),  # AlwaysPullImages
        ({"resources": {"limits": {"ephemeral-storage": "1Gi"}, "requests": {"ephemeral-storage": "1Gi"}}}, True),  # LimitRanger
        ({"resources": {"limits": {"memory": "1Gi"}}}, False),
        ({"resources": {"claims": [{"name": "gpu"}]}}, False),
        ({"command": ["sh"]}, False),
        ({"lifecycle": {"postStart": {"exec": {"command": ["sh"]}}}}, False),
        ({"volumeMounts": [{"name": "mine", "mountPath": "/etc/sidegate"}]}, False),
    ],
)
def test_takes_from_other_plugins_only_what_leaves_the_gate_as_it_is(change: dict[str, Any], passes: bool) -> None:
    out = injected(PLAIN, TARGET)
    out["spec"]["initContainers"] = [merged(gate_of(out), change)]
    assert isinstance(plan_sidecar(out, TARGET, SETTINGS), PodPatch) is passes


def test_a_second_gate_beside_a_good_one_is_refused() -> None:
    out = injected(PLAIN, TARGET)
    out["spec"]["initContainers"].append({"name": "sidegate-gate", "image": "evil:1"})
    planned = plan_sidecar(out, TARGET, SETTINGS)
    assert isinstance(planned, InjectionRefused)
    assert planned.reason is InjectionReason.FOREIGN_GATE


def test_no_pods_text_reaches_a_message_unbounded_or_with_control_characters() -> None:
    pod = merged(PLAIN, {"metadata": {"annotations": {"sidegate.dev/target": "\x1b[2J" + "x" * 100_000}}})
    planned = plan_sidecar(pod, None, SETTINGS)
    assert isinstance(planned, InjectionRefused)
    assert len(str(planned)) < 400
    assert str(planned).isprintable()


# Settings and quantities


@pytest.mark.parametrize("image", ["gate", "gate:1.0", "gate@sha256:123", f"gate@sha256:{'1' * 64}x", ""])
def test_takes_no_image_that_is_not_pinned(image: str) -> None:
    with pytest.raises(ValueError, match="isn't pinned"):
        GateSettings(image, "0.1.0")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("250m", "250m"), ("2000m", "2"), ("1500m", "1500m"), ("2000", "2k"), ("2", "2"),
        ("256Mi", "256Mi"), ("1024Mi", "1Gi"), ("1048576Ki", "1Gi"), ("1000Mi", "1000Mi"), ("1000M", "1G"), ("1024", "1024"), ("500M", "500M"),
    ],
)  # fmt: skip
def test_writes_quantities_as_the_api_server_does(text: str, canonical: str) -> None:
    """tests/cluster compares what the API server makes of them."""
    assert canonical_quantity(text) == canonical


def test_every_reason_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "injection.md").read_text()
    listed = re.findall(r"^\| `([A-Za-z]+)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(reason.value for reason in InjectionReason)


@pytest.mark.parametrize("why", ["job", "opt-out"])
def test_a_pod_that_gets_no_gate_brings_none(why: str) -> None:
    """Its owner or its label could be taken off once it runs, and then its own would count."""
    owner = {"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": True}]}
    metadata = owner if why == "job" else {"labels": {"sidegate.dev/inject": "false"}}
    target = sample_target({"spec": {"enforcement": {"allowOptOut": True}}})
    assert isinstance(plan_sidecar(merged(PLAIN, {"metadata": metadata}), target, SETTINGS), NotOurs)
    gate = {"name": "sidegate-gate", "image": "evil:1", "restartPolicy": "Always"}
    planned = plan_sidecar(merged(PLAIN, {"metadata": metadata, "spec": {"initContainers": [gate]}}), target, SETTINGS)
    assert isinstance(planned, InjectionRefused)
    assert planned.reason is InjectionReason.FOREIGN_GATE
