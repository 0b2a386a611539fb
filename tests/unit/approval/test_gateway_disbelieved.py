"""Approvals over the operator's gateway: what the gate doesn't believe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sidegate.approval.backend import ApprovalUnavailable, HoldRequest, Phase
from sidegate.approval.gateway import GatewayApprovals
from tests.support.fake_gateway import STRANGER, FakeGateway
from tests.unit.approval.gates import DANA, DORA, NOW, Clock, decided, new_gate, off_loop

pytestmark = pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning")  # the fake's own, see its `close`


FORGED: dict[str, tuple[str, Callable[[FakeGateway, str], object]]] = {
    "the phase alone": ("too few approvals", lambda gw, name: gw.mark(name, "Approved")),
    "no seal": ("SealBroken", lambda gw, name: gw.decide(name, DANA, signature="")),
    "a seal of noise": ("SealBroken", lambda gw, name: gw.decide(name, DANA, signature="c2VhbGVk")),
    "a stranger's key": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_by=STRANGER)),
    "a denial's seal": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_as={"decision": "Denied"})),
    "another's decision": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_as={"by": DORA})),
    "a seal for another request": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_as={"name": "ar-other"})),
    "a seal for an earlier one of the name": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_as={"uid": "uid-1"})),
    "a seal for another namespace": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_as={"namespace": "x"})),
    "a seal for another statement": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_as={"fingerprint": "f" * 32})),
    "groups added": ("SealBroken", lambda gw, name: gw.decide(name, "eve", sealed_as={"groups": ()})),
    "a comment added": ("SealBroken", lambda gw, name: gw.decide(name, DANA, comment="for one row", sealed_as={"comment": ""})),
    "an older time": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_as={"at": "2026-11-24T10:00:00Z"})),
    "from before": ("OutOfTime", lambda gw, name: gw.decide(name, DANA, at=NOW - 60)),
    "from tomorrow": ("OutOfTime", lambda gw, name: gw.decide(name, DANA, at=NOW + 60)),
    "after the expiry": ("OutOfTime", lambda gw, name: gw.decide(name, DANA, at=NOW + 3601)),
    "the requester": ("Requester", lambda gw, name: gw.decide(name, "ada@example.com")),
    "the requester behind a prefix": ("Requester", lambda gw, name: gw.decide(name, "oidc:ada@example.com")),
    "the requester in capitals": ("Requester", lambda gw, name: gw.decide(name, "ADA@example.com")),
    "the requester's subject": ("Requester", lambda gw, name: gw.decide(name, "https://idp.example#u-ada")),
    "the requester's agent": ("Requester", lambda gw, name: gw.decide(name, "cursor")),
    "the requester's name in the cluster": (
        "Requester",
        lambda gw, name: (
            gw.change(name, lambda each: each["spec"]["principal"].update(kubernetesUsernames=["kube-ada"])),
            gw.decide(name, "kube-ada"),
        ),
    ),
    "no approver": ("NotAnApprover", lambda gw, name: gw.decide(name, "eve@example.com", groups=["system:masters", "DBA"])),
    "an approver in capitals": ("NotAnApprover", lambda gw, name: gw.decide(name, "CAROL@example.com", groups=[])),
    "a service account": ("NotAPerson", lambda gw, name: gw.decide(name, "system:serviceaccount:a:b")),
    "edited approvers": (
        "isn't what the gate asked for",
        lambda gw, name: (
            gw.change(name, lambda each: each["spec"]["approvers"]["users"].append("eve")),
            gw.decide(name, "eve", groups=[]),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
async def test_a_forged_approval_runs_nothing(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest, what: str
) -> None:
    said, forge = FORGED[what]
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(forge, gateway, name)
    assert gateway.phase(name) == "Approved"
    with pytest.raises(ApprovalUnavailable, match=said):
        await decided(approvals, name)
    for each in (approvals, new_gate(gateway.settings, clock)):
        assert await each.take_grant(request_of_ada, NOW) is None
    assert gateway.answered("claim") == 0


@pytest.mark.parametrize("second", [DANA, f"oidc:{DANA}", "DANA@example.com"])
async def test_one_person_is_not_two(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest, second: str
) -> None:
    name = await approvals.submit(replace(request_of_ada, terms=replace(request_of_ada.terms, required=2)), NOW)
    await off_loop(gateway.decide, name, DANA)
    await off_loop(gateway.decide, name, second)
    with pytest.raises(ApprovalUnavailable, match="SamePerson"):
        await decided(approvals, name)


async def test_what_comes_after_a_denial_does_not_count(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA, "Denied")
    await off_loop(gateway.decide, name, DORA)
    await off_loop(gateway.mark, name, "Approved")
    assert (await decided(approvals, name)).phase is Phase.DENIED


async def test_fewer_than_required_by_the_gates_own_terms_are_too_few_whatever_the_object_says(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(replace(request_of_ada, terms=replace(request_of_ada.terms, required=2)), NOW)
    await off_loop(gateway.change, name, lambda each: each["spec"].update(required=1))
    await off_loop(gateway.decide, name, DANA)
    with pytest.raises(ApprovalUnavailable, match="isn't what the gate asked for"):
        await decided(approvals, name)
    await off_loop(gateway.change, name, lambda each: each["spec"].update(required=2))
    with pytest.raises(ApprovalUnavailable, match="too few approvals"):
        await decided(approvals, name)


SWAPPED: dict[str, Callable[[dict[str, Any]], object]] = {
    "statement": lambda it: it["spec"].update(statement="SELECT 1"),
    "hidden characters": lambda it: it["spec"].update(hiddenCharacters=["U+202E"]),
    "values": lambda it: it["spec"].update(parameters=[{"name": "$1", "text": "1"}]),
    "runs": lambda it: it["spec"].update(runs=[{"statement": "SELECT 1"}]),
    "alternatives": lambda it: it["spec"].update(alternatives=[{"statement": "SELECT 1"}]),
    "impact": lambda it: it["spec"]["impact"].update(rows=5),
    "impact's tables": lambda it: it["spec"]["impact"].pop("tables"),
    "requester": lambda it: it["spec"]["principal"].update(username="someone"),
    "agent": lambda it: it["spec"].pop("agent"),
    "reason": lambda it: it["spec"].update(reason="because"),
    "expiry": lambda it: it["spec"].update(expiresAt="2030-01-01T00:00:00Z"),
    "fingerprint": lambda it: it["spec"].update(fingerprint="f" * 32),
    "rule": lambda it: it["spec"]["rule"].update(name="other"),
    "target": lambda it: it["spec"].update(target="other"),
    "session": lambda it: it["spec"].update(sessionId="s-9"),
    "revision": lambda it: it["spec"].pop("revision"),
    "a field of a later version": lambda it: it["spec"].update(onlyRows=5),
    "a decision of a later version": lambda it: it["spec"]["decisions"][0].update(onlyFor="rows"),
    "uid": lambda it: it["metadata"].update(uid="another"),
    "name": lambda it: it["metadata"].update(name="ar-another"),
    "namespace": lambda it: it["metadata"].update(namespace="another"),
    "kind": lambda it: it.update(kind="Secret"),
    "creation": lambda it: it["metadata"].update(creationTimestamp="then"),
    "phase": lambda it: it["status"].update(phase="approved"),
    "nothing but a phase": lambda it: it.pop("spec"),
}  # fmt: skip


@pytest.mark.parametrize("what", SWAPPED)
@pytest.mark.parametrize("where", ["wait", "claim"])
async def test_an_answer_about_something_else_than_was_asked_is_refused(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest, what: str, where: str
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    gateway.lie, gateway.lie_in = SWAPPED[what], frozenset({where})
    with pytest.raises(ApprovalUnavailable, match="can't be trusted") as caught:
        await decided(approvals, name)
    assert gateway.url in caught.value.way_forward


@pytest.mark.parametrize("what", ["statement", "uid-less", "name"])
async def test_a_new_request_that_comes_back_as_another_is_refused(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest, what: str
) -> None:
    gateway.lie = {**SWAPPED, "uid-less": lambda it: it["metadata"].update(uid="")}[what]
    with pytest.raises(ApprovalUnavailable, match="can't be trusted"):
        await approvals.submit(request_of_ada, NOW)


async def test_a_claim_that_answers_without_the_decisions_is_refused(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    gateway.lie, gateway.lie_in = lambda it: it["spec"].pop("decisions"), frozenset({"claim"})
    with pytest.raises(ApprovalUnavailable, match="doesn't hold after it was taken"):
        await decided(approvals, name)


async def test_a_claim_that_is_granted_without_being_executed_is_refused(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    gateway.lie, gateway.lie_in = lambda it: it["status"].update(phase="Approved"), frozenset({"claim"})
    with pytest.raises(ApprovalUnavailable, match="doesn't hold after it was taken"):
        await decided(approvals, name)


async def test_a_decision_is_replayed_in_vain(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    first = await approvals.submit(request_of_ada, NOW)
    entry = await off_loop(gateway.decide, first, DANA)
    assert (await decided(approvals, first)).phase is Phase.APPROVED
    second = await approvals.submit(request_of_ada, NOW)

    def replay(each: dict[str, Any]) -> None:
        each["spec"]["decisions"] = [entry]
        each["status"]["phase"] = "Approved"

    await off_loop(gateway.change, second, replay)
    with pytest.raises(ApprovalUnavailable, match="SealBroken"):
        await decided(approvals, second)


async def test_a_used_request_put_back_is_not_used_again(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    assert (await decided(approvals, name)).phase is Phase.APPROVED
    await off_loop(gateway.mark, name, "Approved")
    assert (await decided(approvals, name)).phase is Phase.EXECUTED
    assert await approvals.take_grant(request_of_ada, NOW) is None
    assert gateway.answered("claim") == 1
