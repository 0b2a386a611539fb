"""Decisions on approval requests through real admission: the webhook stamps, the guard in the API server has the last word."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sidegate.api.approval_request import ApprovalRequest
from sidegate_operator.plan.approval import sealed
from sidegate_operator.webhook.decision_key import CONFIG_MAP as KEYS
from sidegate_operator.webhook.decision_key import SECRET as KEY_SECRET
from tests.support.admission import (
    DEVELOPERS,
    NAMESPACE,
    OPERATOR,
    REGISTRATION,
    REQUESTER,
    Admission,
    in_an_hour,
    plain_pod,
    refused_with,
    request_of,
    target,
)
from tests.support.api_server import ADMIN_GROUP, CRDS
from tests.support.cluster_client import ApiError, ClusterClient
from tests.support.processes import wait_until

VERSION = "sidegate.dev/v1alpha1"


class Requests:
    """One request and the people around it. RBAC lets everyone here change every request: what refuses is admission."""

    def __init__(self, admission: Admission, namespace: str) -> None:
        self.admission, self.namespace, self.name = admission, namespace, ""

    def a(self, user: str, *groups: str) -> ClusterClient:
        return self.admission.api.admin.acting_as(user, [*groups, DEVELOPERS])

    @property
    def operator(self) -> ClusterClient:
        return self.admission.api.admin.acting_as(OPERATOR)

    def make(self, **spec: Any) -> str:
        made = self.operator.create(request_of(self.namespace, **spec))
        self.name = made["metadata"]["name"]
        return self.name

    def get(self) -> dict[str, Any]:
        return self.admission.api.admin.get(VERSION, "ApprovalRequest", self.name, namespace=self.namespace)

    def patch(self, client: ClusterClient, patch: object, subresource: str | None = None) -> dict[str, Any]:
        return client.merge_patch(VERSION, "ApprovalRequest", self.name, patch, namespace=self.namespace, subresource=subresource)

    def decide(self, client: ClusterClient, decision: str = "Approved", **more: Any) -> dict[str, Any]:
        return self.patch(client, {"spec": {"decision": decision, **more}})

    def refusal(self, client: ClusterClient, patch: object, subresource: str | None = None) -> str:
        with pytest.raises(ApiError) as caught:
            self.patch(client, patch, subresource)
        return caught.value.message

    def to_phase(self, phase: str) -> None:
        self.patch(self.operator, {"status": {"phase": phase}}, "status")


@pytest.fixture
def requests(admission: Admission, namespace: str) -> Requests:
    return Requests(admission, namespace)


APPROVE = {"spec": {"decision": "Approved"}}


# With everything in place


def test_an_approver_decides_with_kubectl_and_a_client_certificate(requests: Requests) -> None:
    """The way that people are told, from end to end."""
    requests.make()
    api = requests.admission.api
    said = api.kubectl(
        *("patch", "approvalrequest", requests.name, "-n", requests.namespace, "--type=merge"),
        *("-p", '{"spec":{"decision":"Approved","comment":"fine with me"}}'),
        kubeconfig=api.kubeconfig_for("dana", ["dba", "staff", DEVELOPERS]),
    )
    assert said.returncode == 0, said.stderr
    spec = requests.get()["spec"]
    assert "decision" not in spec
    assert "comment" not in spec
    (entry,) = spec["decisions"]
    assert (entry["by"], entry["groups"], entry["decision"], entry["comment"]) == ("dana", ["dba"], "Approved", "fine with me")


def test_the_decision_is_signed_with_the_key_that_gates_are_given(requests: Requests) -> None:
    requests.make()
    decided = ApprovalRequest.from_wire(requests.decide(requests.a("dana", "dba"), "Denied", comment="not today"))
    keys = requests.admission.api.admin.get("v1", "ConfigMap", KEYS, namespace=NAMESPACE)["data"]
    (public,) = (Ed25519PublicKey.from_public_bytes(base64.b64decode(each)) for each in keys.values())
    decision = decided.spec.decisions[0]
    assert decision.signature is not None
    public.verify(base64.b64decode(decision.signature), sealed(decided, decision.model_copy(update={"signature": None})))


def test_someone_named_by_name_decides_a_service_account_too(requests: Requests) -> None:
    for user in ("chief", "system:serviceaccount:ops:release"):
        requests.make()
        assert requests.decide(requests.a(user))["spec"]["decisions"][0]["by"] == user


def test_two_approvers_write_the_same_and_both_count(requests: Requests) -> None:
    requests.make(required=2)
    requests.decide(requests.a("dana", "dba"))
    decided = requests.decide(requests.a("dan", "dba"))
    assert [each["by"] for each in decided["spec"]["decisions"]] == ["dana", "dan"]


@pytest.mark.parametrize(
    "user",
    [
        "ann@example.com",
        "oidc:ann@example.com",
        "ANN@EXAMPLE.COM",
        "https://id.example#u-1",
        "u-1",
        "ann-admin",
        "cursor",
        "idp:Cursor",
    ],
)
@pytest.mark.parametrize("groups", [("dba",), ("dba", ADMIN_GROUP)], ids=["approver", "approver and cluster-admin"])
def test_whoever_asks_decides_nothing_whatever_else_they_are(requests: Requests, user: str, groups: tuple[str, ...]) -> None:
    requests.make()
    refused = requests.refusal(requests.a(user, *groups), APPROVE)
    assert f"`{user}` asked for it and can't decide on it; fix: ask " in refused
    assert "decisions" not in requests.get()["spec"]


@pytest.mark.parametrize("groups", [(), (ADMIN_GROUP,), ("dba-readers",)], ids=["nobody", "cluster-admin", "another group"])
def test_outsiders_decide_nothing(requests: Requests, groups: tuple[str, ...]) -> None:
    requests.make()
    refused = requests.refusal(requests.a("eve", *groups), APPROVE)
    assert "`eve` is not an approver of" in refused
    assert "fix: ask `chief` or " in refused


@pytest.mark.parametrize("account", ["system:serviceaccount:shop:agent", "system:admin", OPERATOR])
def test_service_accounts_and_components_decide_nothing(requests: Requests, account: str) -> None:
    requests.make(approvers={"groups": ["system:serviceaccounts", "dba"]})
    refused = requests.refusal(requests.a(account, "system:serviceaccounts"), APPROVE)
    assert "is no person's name" in refused


def test_nobody_decides_twice_not_even_differently(requests: Requests) -> None:
    requests.make(required=2)
    requests.decide(requests.a("dana", "dba"))
    for user in ("dana", "DANA", "oidc:dana"):
        assert "has decided on" in requests.refusal(requests.a(user, "dba"), {"spec": {"decision": "Denied"}})


@pytest.mark.parametrize("phase", ["Approved", "Denied", "Expired", "Withdrawn"])
def test_a_decision_replayed_on_an_ended_request_is_refused(requests: Requests, phase: str) -> None:
    requests.make()
    requests.to_phase(phase)
    assert f"is {phase} already; fix: a decision is final" in requests.refusal(requests.a("dana", "dba"), APPROVE)


def test_a_decision_copied_from_another_request_is_refused(requests: Requests) -> None:
    requests.make()
    entries = requests.decide(requests.a("dana", "dba"))["spec"]["decisions"]
    requests.make()
    for client in (requests.a("dana", "dba"), requests.a("dan", "dba"), requests.a("eve"), requests.operator):
        refused = requests.refusal(client, {"spec": {"decisions": entries}})
        assert "spec.decisions is written by admission, which knows who decides" in refused


def test_an_expired_request_is_decided_by_nobody(requests: Requests) -> None:
    requests.make(expiresAt="2026-01-01T00:00:00Z")
    assert "expired at 2026-01-01T00:00:00Z" in requests.refusal(requests.a("dana", "dba"), APPROVE)


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"statement": "SELECT 1"}},
        {"spec": {"statement": "SELECT 1", "decision": "Approved"}},
        {"spec": {"approvers": {"groups": ["everyone"]}}},
        {"spec": {"required": 2}},
        {"spec": {"expiresAt": "2030-01-01T00:00:00Z"}},
        {"spec": {"principal": {**REQUESTER, "username": "somebody"}}},
        {"spec": {"agent": None}},
        {"spec": {"reason": "because"}},
    ],
    ids=str,
)
def test_what_is_asked_is_changed_by_nobody(requests: Requests, patch: dict[str, Any]) -> None:
    requests.make()
    before = requests.get()["spec"]
    for client in (requests.a("dana", "dba"), requests.a("ann@example.com", ADMIN_GROUP), requests.operator):
        refused = requests.refusal(client, patch)
        assert "can be changed" in refused or "can't be changed" in refused
    assert requests.get()["spec"] == before


def test_the_status_is_the_operators_alone(requests: Requests) -> None:
    requests.make()
    forged = {"status": {"phase": "Approved", "decisions": [{"by": "dana", "decision": "Approved", "at": in_an_hour()}]}}
    for client in (requests.a("dana", "dba"), requests.a("ann@example.com", ADMIN_GROUP), requests.admission.api.admin):
        assert "the operator alone writes it" in requests.refusal(client, forged, "status")
    requests.to_phase("Withdrawn")


def test_a_request_is_made_by_the_operator_alone_and_undecided(requests: Requests) -> None:
    for client in (requests.a("dana", "dba"), requests.admission.api.admin):
        with pytest.raises(ApiError) as caught:
            client.create(request_of(requests.namespace))
        assert "made by the operator alone" in caught.value.message
    for spec in ({"decision": "Approved"}, {"decisions": [{"by": "dana", "decision": "Approved", "at": in_an_hour()}]}):
        with pytest.raises(ApiError) as caught:
            requests.operator.create(request_of(requests.namespace, **spec))
        assert "a new request can't have a decision" in caught.value.message


def test_a_request_is_deleted_by_the_operator_alone(requests: Requests) -> None:
    name = requests.make()
    for client in (requests.a("ann@example.com"), requests.admission.api.admin):
        assert refused_with(
            lambda client=client: client.delete(VERSION, "ApprovalRequest", name, namespace=requests.namespace), "isn't deleted"
        )
    all_of_them = f"/apis/{VERSION}/namespaces/{requests.namespace}/approvalrequests"
    assert refused_with(lambda: requests.admission.api.admin.request("DELETE", all_of_them), "isn't deleted")
    requests.operator.delete(VERSION, "ApprovalRequest", name, namespace=requests.namespace)


def test_owners_finalizers_and_our_labels_are_the_operators(requests: Requests) -> None:
    requests.make()
    dana = requests.a("dana", "dba")
    for metadata in (
        {"finalizers": ["a.example/b"]},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b"}]},
        {"labels": {"sidegate.dev/target": "other"}},
        {"annotations": {"sidegate.dev/x": "y"}},
    ):
        assert "fix: leave them as they are" in requests.refusal(dana, {"metadata": metadata})
    requests.patch(dana, {"metadata": {"labels": {"team": "shop"}, "annotations": {"note": "x"}}})
    requests.patch(requests.operator, {"metadata": {"labels": {"sidegate.dev/target": "shop-db"}}})
    assert "fix: leave them as they are" in requests.refusal(dana, {"metadata": {"labels": {"sidegate.dev/target": None}}})


@pytest.mark.parametrize("spec", [{"decision": "Perhaps"}, {"decision": ""}, {"comment": "fine"}], ids=str)
def test_what_is_no_decision_is_refused(requests: Requests, spec: dict[str, Any]) -> None:
    requests.make()
    assert requests.refusal(requests.a("dana", "dba"), {"spec": spec})


def test_a_dry_run_changes_nothing_and_is_not_signed(requests: Requests) -> None:
    name = requests.make()
    dana = requests.a("dana", "dba")
    path = dana.path_of(VERSION, "ApprovalRequest", name, namespace=requests.namespace)
    tried = dana.request("PATCH", path, APPROVE, query={"dryRun": "All"}, content_type="application/merge-patch+json")
    assert tried["spec"]["decisions"][0]["signature"] == "dry-run"
    assert "decisions" not in requests.get()["spec"]


def test_while_the_webhook_is_down_nothing_is_decided(requests: Requests) -> None:
    requests.make()
    dana = requests.a("dana", "dba")
    with requests.admission.webhook_down():
        assert "decide.sidegate.dev" in requests.refusal(dana, APPROVE)
        requests.patch(dana, {"metadata": {"labels": {"team": "shop"}}})
        requests.to_phase("Expired")


def test_without_a_key_decisions_are_refused_and_pods_get_their_gates(requests: Requests) -> None:
    admin = requests.admission.api.admin
    before = admin.get("v1", "Secret", KEY_SECRET, namespace=NAMESPACE)
    admin.merge_patch("v1", "Secret", KEY_SECRET, {"data": {"ed25519": "bm9uc2Vuc2U="}}, namespace=NAMESPACE)
    requests.make()
    requests.decide(requests.a("dana", "dba"))  # a replica that has the key goes on with it
    requests.admission.restart_webhook()
    requests.make()
    assert "there is no key to sign decisions with; fix: " in requests.refusal(requests.a("dana", "dba"), APPROVE)
    admin.create(target(requests.namespace))
    pod = plain_pod(requests.namespace, target="shop-db")
    pod["metadata"]["labels"] = {"app": "shop-db"}
    assert admin.create(pod)["spec"]["initContainers"][0]["name"] == "sidegate-gate"
    admin.merge_patch("v1", "Secret", KEY_SECRET, {"data": before["data"]}, namespace=NAMESPACE)
    wait_until(lambda: not refused_with(lambda: requests.decide(requests.a("dana", "dba")), "no key"), "the key to be read again")


# The guard alone: no webhook configuration, and a CRD without rules


@pytest.fixture(scope="module")
def bare(admission: Admission) -> Iterator[Admission]:
    """As after somebody took away all that stands before the guard."""
    admin = admission.api.admin
    stored = yaml.safe_load((CRDS / "sidegate.dev_approvalrequests.yaml").read_text())
    admin.delete(REGISTRATION, "MutatingWebhookConfiguration", "sidegate")
    admin.apply(without_rules(stored))
    probe = Requests(admission, admission.api.create_namespace())
    probe.make()
    wait_until(
        lambda: "ValidatingAdmissionPolicy 'sidegate-decisions'" in probe.refusal(probe.a("dana", "dba"), APPROVE),
        "webhook and rules to be gone",
        30,
    )
    yield admission
    admin.apply(stored)
    admission.apply_objects()
    wait_until(admission.is_ready, "the webhook to be trusted again", 30)
    admission.wait_until_enforced()
    wait_until(lambda: bool(probe.decide(probe.a("dana", "dba"))["spec"].get("decisions")), "decisions to be stamped again", 30)


def without_rules(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: without_rules(value) for name, value in schema.items() if name != "x-kubernetes-validations"}
    return [without_rules(each) for each in schema] if isinstance(schema, list) else schema


def entry(by: str, decision: str = "Approved", **more: Any) -> dict[str, Any]:
    return {"by": by, "groups": ["dba"], "decision": decision, "at": "2026-11-25T08:00:00Z", "signature": "c2ln", **more}


@pytest.fixture
def unguarded(bare: Admission, namespace: str) -> Requests:
    return Requests(bare, namespace)


def test_the_guard_lets_an_approvers_own_entry_pass(unguarded: Requests) -> None:
    unguarded.make(required=2)
    unguarded.patch(unguarded.a("dana", "dba"), {"spec": {"decisions": [entry("dana")]}})
    unguarded.patch(unguarded.a("dan", "dba"), {"spec": {"decisions": [entry("dana"), entry("dan")]}})
    unguarded.make()
    unguarded.patch(unguarded.a("chief"), {"spec": {"decisions": [entry("chief", groups=[])]}})


FORGED: dict[str, tuple[str, tuple[str, ...], dict[str, Any], str]] = {
    "nobody stamped it": ("dana", ("dba",), APPROVE, "nobody stamped who decided"),
    "a comment without a stamp": ("dana", ("dba",), {"spec": {"comment": "fine"}}, "nobody stamped who decided"),
    "stamped and not": (
        "dana", ("dba",), {"spec": {"decision": "Approved", "decisions": [entry("dana")]}}, "nobody stamped who decided"
    ),
    "in another's name": ("eve", (), {"spec": {"decisions": [entry("dana")]}}, "names somebody else than eve"),
    "in another's name by an approver": ("dan", ("dba",), {"spec": {"decisions": [entry("dana")]}}, "names somebody else than dan"),
    "in another's name by a cluster-admin": ("root", (ADMIN_GROUP,), {"spec": {"decisions": [entry("dana")]}}, "names somebody else"),
    "in another's name by the operator": (OPERATOR, (), {"spec": {"decisions": [entry("dana")]}}, "names somebody else"),
    "two at once": ("dana", ("dba",), {"spec": {"decisions": [entry("dana"), entry("dan")]}}, "nobody decides for others"),
    "an outsider": ("eve", (), {"spec": {"decisions": [entry("eve", groups=[])]}}, "eve is not an approver"),
    "an outsider who claims a group": ("eve", (), {"spec": {"decisions": [entry("eve")]}}, "eve is not an approver"),
    "an outsider who is cluster-admin": ("eve", (ADMIN_GROUP,), {"spec": {"decisions": [entry("eve")]}}, "eve is not an approver"),
    "the one who asks": ("ann@example.com", ("dba",), {"spec": {"decisions": [entry("ann@example.com")]}}, "asked for it"),
    "the one who asks, cluster-admin": (
        "ann@example.com", ("dba", ADMIN_GROUP), {"spec": {"decisions": [entry("ann@example.com")]}}, "asked for it"
    ),
    "the one who asks behind a prefix": ("oidc:Ann@example.com", ("dba",), {"spec": {"decisions": [entry("oidc:Ann@example.com")]}}, "asked for it"),
    "the one who asks by subject": ("https://id.example#u-1", ("dba",), {"spec": {"decisions": [entry("https://id.example#u-1")]}}, "asked for it"),
    "the one who asks by another prefix": ("corp\\u-1", ("dba",), {"spec": {"decisions": [entry("corp\\u-1")]}}, "asked for it"),
    "the one who asks by mapping": ("ann-admin", ("dba",), {"spec": {"decisions": [entry("ann-admin")]}}, "asked for it"),
    "the agent": ("cursor", ("dba",), {"spec": {"decisions": [entry("cursor")]}}, "asked for it"),
    "a service account": (
        "system:serviceaccount:shop:agent", ("dba",), {"spec": {"decisions": [entry("system:serviceaccount:shop:agent")]}}, "no person's name"
    ),
    "the operator": (OPERATOR, ("dba",), {"spec": {"decisions": [entry(OPERATOR)]}}, "no person's name"),
    "a group that isn't theirs": ("chief", (), {"spec": {"decisions": [entry("chief")]}}, "claims groups"),
    "a group that doesn't count": ("dana", ("dba", "x"), {"spec": {"decisions": [entry("dana", groups=["dba", "x"])]}}, "claims groups"),
    "no group at all": ("dana", ("dba",), {"spec": {"decisions": [entry("dana", groups=[])]}}, "claims groups"),
    "unsigned": ("dana", ("dba",), {"spec": {"decisions": [{**entry("dana"), "signature": None}]}}, "isn't signed"),
    "another statement": ("dana", ("dba",), {"spec": {"statement": "SELECT 1"}}, "what is asked can't be changed"),
    "other approvers": (
        "root", (ADMIN_GROUP,), {"spec": {"approvers": {"groups": ["x"]}, "decisions": [entry("root")]}}, "what is asked can't be changed"
    ),
    "a removed agent by the operator": (OPERATOR, (), {"spec": {"agent": None}}, "what is asked can't be changed"),
}  # fmt: skip


@pytest.mark.parametrize(("user", "groups", "patch", "words"), FORGED.values(), ids=FORGED)
def test_the_guard_alone_refuses(
    unguarded: Requests, user: str, groups: tuple[str, ...], patch: dict[str, Any], words: str
) -> None:
    unguarded.make()
    refused = unguarded.refusal(unguarded.a(user, *groups), patch)
    assert "ValidatingAdmissionPolicy 'sidegate-decisions'" in refused
    assert words in refused
    assert "fix: " in refused


SECOND: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "changed": ("dana", [entry("dana", "Denied")], "can't be changed or taken back"),
    "taken back": ("dana", [], "can't be changed or taken back"),
    "exchanged for another's": ("dan", [entry("dan")], "can't be changed or taken back"),
    "a second one by the same": ("DANA", [entry("dana"), entry("DANA", "Denied")], "has decided on it already"),
    "a second one behind a prefix": ("oidc:dana", [entry("dana"), entry("oidc:dana")], "has decided on it already"),
}


@pytest.mark.parametrize(("user", "entries", "words"), SECOND.values(), ids=SECOND)
def test_the_guard_alone_keeps_what_was_decided(
    unguarded: Requests, user: str, entries: list[dict[str, Any]], words: str
) -> None:
    unguarded.make(required=3)
    unguarded.patch(unguarded.a("dana", "dba"), {"spec": {"decisions": [entry("dana")]}})
    refused = unguarded.refusal(unguarded.a(user, "dba"), {"spec": {"decisions": entries}})
    assert words in refused


@pytest.mark.parametrize("phase", ["Approved", "Denied", "Expired", "Withdrawn"])
def test_the_guard_alone_ends_what_has_ended(unguarded: Requests, phase: str) -> None:
    unguarded.make(required=2)
    unguarded.to_phase(phase)
    assert "the request has ended" in unguarded.refusal(unguarded.a("dana", "dba"), {"spec": {"decisions": [entry("dana")]}})


@pytest.mark.parametrize(("required", "decision"), [(1, "Approved"), (3, "Denied")])
def test_the_guard_alone_counts_before_the_operator_does(unguarded: Requests, required: int, decision: str) -> None:
    """The status follows decisions, and may not have yet."""
    unguarded.make(required=required)
    unguarded.patch(unguarded.a("dana", "dba"), {"spec": {"decisions": [entry("dana", decision)]}})
    refused = unguarded.refusal(unguarded.a("dan", "dba"), {"spec": {"decisions": [entry("dana", decision), entry("dan")]}})
    assert "the request has ended" in refused
