"""Approvals over the operator's gateway: what the gate asks, what it believes, and what becomes of it when the gateway fails or lies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidegate.approval.backend import ApprovalUnavailable, HoldRequest, Phase, Verdict
from sidegate.approval.gateway import GatewayApprovals, Patience
from sidegate.approval.gateway_client import GatewayClient, GatewaySettings
from sidegate.policy.decision import ApprovalTerms
from tests.support.fake_gateway import STRANGER, FakeGateway, Fault
from tests.unit.approval.conftest import NOW

DANA, DORA = "dana@example.com", "dora@example.com"
# Where the gateway answers, times are long and nothing waits for them; where it is to fail, the gate gives up soon.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning")  # the fake's own, see its `close`
PATIENT = Patience(asking_s=20.0, telling_s=20.0, doubting_s=0.4, first_pause_s=0.02, longest_pause_s=0.1, wait_s=2)
HASTY = replace(PATIENT, asking_s=1.0)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(tmp_path: Path, clock: Clock) -> Iterator[FakeGateway]:
    with FakeGateway(tmp_path / "gateway", clock=clock) as running:
        yield running


_bytes = itertools.count()


def new_gate(
    settings: GatewaySettings, clock: Clock, patience: Patience = PATIENT, answer_timeout_s: float = 10.0
) -> GatewayApprovals:
    """Another gate, or the same after a restart: it remembers nothing."""
    client = GatewayClient(settings, connect_timeout_s=10.0, answer_timeout_s=answer_timeout_s)
    return GatewayApprovals(client, clock=clock, random_bytes=lambda n: next(_bytes).to_bytes(n, "big"), patience=patience)


@pytest.fixture
def approvals(gateway: FakeGateway, clock: Clock) -> GatewayApprovals:
    return new_gate(gateway.settings, clock)


@pytest.fixture
def hasty(gateway: FakeGateway, clock: Clock) -> GatewayApprovals:
    return new_gate(gateway.settings, clock, HASTY, 0.5)


async def decided(approvals: GatewayApprovals, name: str) -> Verdict:
    return await asyncio.wait_for(approvals.wait(name), 25)


async def off_loop(what: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """The fake's own loop is asked from here, so not on this one."""
    return await asyncio.to_thread(what, *arguments, **more)


# ---- the way it goes --------------------------------------------------------------------------------------------------------------


async def test_an_approval_is_claimed_and_given_out_once(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    assert gateway.objects[name]["spec"]["statement"] == request_of_ada.statement
    waiting = asyncio.create_task(decided(approvals, name))
    await off_loop(gateway.wait_for, lambda: gateway.answered("wait"))
    await off_loop(gateway.decide, name, DANA, comment="as discussed")
    found = await waiting
    assert found == Verdict(Phase.APPROVED, name, (DANA,), "as discussed", found.decided_at, NOW + 3600, 14_000)
    assert found.decided_at == int(NOW)
    assert gateway.phase(name) == "Executed"
    assert (await decided(approvals, name)).phase is Phase.EXECUTED
    assert await approvals.take_grant(request_of_ada, NOW) is None
    await approvals.executed(name, "DELETE 5000", NOW)
    assert (gateway.outcomes[name].result, gateway.outcomes[name].rows) == ("Succeeded", 5000)


async def test_of_many_who_wait_one_gets_the_approval(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    waiting = [asyncio.create_task(decided(approvals, name)) for _ in range(4)]
    await off_loop(gateway.wait_for, lambda: gateway.answered("wait") >= 4)
    await off_loop(gateway.decide, name, DANA)
    assert sorted(each.phase for each in await asyncio.gather(*waiting)) == ["Approved", "Executed", "Executed", "Executed"]


async def test_an_approval_is_taken_before_the_phase_follows(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA, marks=False)
    assert (await decided(approvals, name)).phase is Phase.APPROVED
    assert gateway.phase(name) == "Executed"
    other = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, other, DANA, marks=False)
    found = await approvals.take_grant(request_of_ada, NOW)
    assert found is not None
    assert (found.phase, found.name) == (Phase.APPROVED, other)


async def test_a_gateway_that_counts_fewer_than_the_gate_is_waited_for(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    """It is a moment behind: longer than a doubt would last, the statement isn't refused, and the claim isn't pressed."""
    name = await approvals.submit(request_of_ada, NOW)
    gateway.counts = False
    await off_loop(gateway.decide, name, DANA, marks=False)
    waiting = asyncio.create_task(decided(approvals, name))
    await off_loop(gateway.wait_for, lambda: gateway.answered("claim", 409))
    await asyncio.wait({waiting}, timeout=PATIENT.doubting_s * 2)
    assert not waiting.done()
    assert gateway.answered("claim", 409) == 1
    await off_loop(gateway.mark, name, "Approved")
    assert (await waiting).phase is Phase.APPROVED


async def test_a_denial_ends_it_with_its_comment(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA, "Denied", comment="too \x1bmany")
    found = await decided(approvals, name)
    assert (found.phase, found.approvers, found.comment) == (Phase.DENIED, (DANA,), "too \\x1bmany")


async def test_two_must_approve_where_two_are_required(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    request = replace(request_of_ada, terms=replace(request_of_ada.terms, required=2))
    name = await approvals.submit(request, NOW)
    await off_loop(gateway.decide, name, DANA)
    await off_loop(gateway.decide, name, "carol@example.com", groups=())
    assert (await decided(approvals, name)).approvers == (DANA, "carol@example.com")


async def test_it_expires_by_the_gates_own_clock(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    clock.now = NOW + 3600
    assert (await decided(approvals, name)).phase is Phase.EXPIRED
    assert await approvals.take_grant(request_of_ada, clock.now) is None
    assert gateway.answered("claim") == 0


async def test_a_wait_that_is_cancelled_leaves_the_request_and_a_withdrawal_ends_it(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    waiting = asyncio.create_task(approvals.wait(name))
    await off_loop(gateway.wait_for, lambda: gateway.answered("wait"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert gateway.phase(name) == "Pending"
    await new_gate(gateway.settings, clock).withdraw(name, "a gate that didn't ask", NOW)
    assert gateway.phase(name) == "Pending"
    await approvals.withdraw(name, "cancelled by the client", NOW)
    assert (gateway.phase(name), gateway.withdrawals[name]) == ("Withdrawn", "cancelled by the client")
    assert (await decided(approvals, name)).phase is Phase.WITHDRAWN
    await approvals.withdraw(name, "again", NOW)


async def test_what_waits_is_joined_and_a_late_approval_is_a_grant_also_after_a_restart(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    later = replace(
        request_of_ada,
        requested_at=NOW + 60,
        session_id="s-2",
        source_address="10.0.0.8",
        statement="delete FROM orders WHERE total < 10",
    )
    clock.now = NOW + 60
    restarted = new_gate(gateway.settings, clock)
    assert await restarted.take_grant(later, clock.now) is None
    assert await restarted.find_pending(later, clock.now) == name
    await off_loop(gateway.decide, name, DANA)
    again = new_gate(gateway.settings, clock)
    assert await again.find_pending(later, clock.now) is None
    found = await again.take_grant(later, clock.now)
    assert found == Verdict(Phase.APPROVED, name, (DANA,), "", NOW + 60 - NOW % 1, NOW + 3600, 14_000)
    assert await again.take_grant(later, clock.now) is None
    assert await restarted.take_grant(later, clock.now) is None
    assert (await decided(restarted, name)).phase is Phase.EXECUTED
    await again.executed(name, "42501", clock.now)
    assert gateway.outcomes[name].sqlstate == "42501"


OTHERWISE: dict[str, Callable[[HoldRequest], HoldRequest]] = {
    "requester": lambda it: replace(it, requester="eve@example.com"),
    "agent": lambda it: replace(it, agent="other"),
    "environment": lambda it: replace(it, environment="laptop"),
    "rule": lambda it: replace(it, source="shop/assistants#other"),
    "approvers": lambda it: replace(it, terms=replace(it.terms, approver_groups=frozenset({"sre"}))),
    "users": lambda it: replace(it, terms=replace(it.terms, approver_users=frozenset())),
    "required": lambda it: replace(it, terms=replace(it.terms, required=2)),
    "validity": lambda it: replace(it, terms=replace(it.terms, expires_after_s=600.0)),
    "database": lambda it: replace(it, database="other"),
    "role": lambda it: replace(it, role="owner"),
    "current role": lambda it: replace(it, current_role="owner"),
    "search path": lambda it: replace(it, search_path=("evil",)),
}


@pytest.mark.parametrize("what", OTHERWISE)
async def test_no_grant_and_nothing_to_join_when_something_else_is_asked_under_the_same_fingerprint(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest, what: str
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    asked = OTHERWISE[what](request_of_ada)
    assert await new_gate(gateway.settings, clock).find_pending(asked, NOW) is None
    await off_loop(gateway.decide, name, DANA)
    assert await new_gate(gateway.settings, clock).take_grant(asked, NOW) is None
    assert gateway.answered("claim") == 0
    assert await new_gate(gateway.settings, clock).take_grant(request_of_ada, NOW) is not None


async def test_a_grant_without_the_bound_of_rows_is_none_when_rows_are_measured(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(replace(request_of_ada, impact=None), NOW)
    await off_loop(gateway.decide, name, DANA)
    assert await new_gate(gateway.settings, clock).take_grant(request_of_ada, NOW) is None


# ---- what the gate doesn't believe ------------------------------------------------------------------------------------------------

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


# ---- a gateway that fails ---------------------------------------------------------------------------------------------------------


async def test_a_claim_whose_answer_is_lost_is_lost(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    gateway.faults["claim"] = Fault.LOSE_ANSWER
    with pytest.raises(ApprovalUnavailable, match="counts as lost"):
        await decided(approvals, name)
    assert gateway.phase(name) == "Executed"
    assert len([each for each in gateway.requests if each[0] == "claim"]) == 1
    gateway.faults.clear()
    assert await approvals.take_grant(request_of_ada, NOW) is None
    assert (await decided(approvals, name)).phase is Phase.EXECUTED


async def test_a_claim_is_not_asked_again_of_another_replica(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    async def two(host: str, port: int) -> tuple[tuple[str, int], ...]:
        return ((host, port), (host, port))

    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    approvals._client = GatewayClient(gateway.settings, resolve_name=two)
    gateway.faults["claim"] = Fault.LOSE_ANSWER
    with pytest.raises(ApprovalUnavailable, match="counts as lost"):
        await decided(approvals, name)
    assert len([each for each in gateway.requests if each[0] == "claim"]) == 1


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.HANG, Fault.GARBAGE, Fault.HUGE, Fault.CUT, Fault.CHUNKED, Fault.REDIRECT])
async def test_a_claim_that_is_answered_otherwise_is_never_an_approval(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest, fault: Fault
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    approvals._patience = HASTY
    approvals._client = GatewayClient(gateway.settings, answer_timeout_s=0.5)
    gateway.faults["claim"] = fault
    with pytest.raises(ApprovalUnavailable) as caught:
        await decided(approvals, name)
    assert gateway.url in caught.value.way_forward
    assert len([each for each in gateway.requests if each[0] == "claim"]) <= 1


async def test_a_claim_that_nobody_could_serve_is_asked_again(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    gateway.faults["claim"] = Fault.UNAVAILABLE
    waiting = asyncio.create_task(decided(approvals, name))
    await off_loop(gateway.wait_for, lambda: gateway.answered("claim", 503) >= 2)
    gateway.faults.clear()
    assert (await waiting).phase is Phase.APPROVED


async def test_an_approval_that_could_not_be_asked_for_is_still_there(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    approvals._patience = HASTY
    approvals._client = GatewayClient(gateway.settings, answer_timeout_s=10.0)
    gateway.faults["claim"] = Fault.UNAVAILABLE
    with pytest.raises(ApprovalUnavailable, match="guard of decisions"):
        await decided(approvals, name)
    gateway.faults.clear()
    approvals._patience = PATIENT  # on a busy machine an answer may take its time, and a claim that isn't answered in it is lost
    assert await approvals.take_grant(request_of_ada, NOW) is not None


@pytest.mark.parametrize(
    "fault", [Fault.LOSE_ANSWER, Fault.UNAVAILABLE, Fault.BUSY, Fault.ERROR, Fault.HANG, Fault.HUGE, Fault.CUT, Fault.CHUNKED]
)
async def test_a_request_that_is_sent_twice_is_made_once(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest, fault: Fault
) -> None:
    approvals = new_gate(gateway.settings, clock, answer_timeout_s=0.5)
    gateway.faults["submit"] = fault
    asking = asyncio.create_task(approvals.submit(request_of_ada, NOW))
    if fault in (Fault.HANG, Fault.HUGE):
        await asyncio.sleep(0)
    else:
        await off_loop(gateway.wait_for, lambda: any(each[0] == "submit" for each in gateway.requests))
    gateway.faults.clear()
    name = await asyncio.wait_for(asking, 10)
    assert list(gateway.objects) == [name]


@pytest.mark.parametrize("operation", ["find", "submit"])
@pytest.mark.parametrize("fault", [*Fault, None])
async def test_a_gateway_that_fails_refuses_the_statement_in_bounded_time_and_says_where_to_look(
    gateway: FakeGateway, hasty: GatewayApprovals, request_of_ada: HoldRequest, fault: Fault | None, operation: str
) -> None:
    if fault is None:
        await off_loop(gateway.go_down)
    else:
        gateway.faults[operation] = fault
    asked = hasty.take_grant(request_of_ada, NOW) if operation == "find" else hasty.submit(request_of_ada, NOW)
    with pytest.raises(ApprovalUnavailable) as caught:
        await asyncio.wait_for(asked, 5)
    assert gateway.url in caught.value.way_forward
    if fault is Fault.UNAVAILABLE:
        assert "the guard of decisions is missing" in str(caught.value)
        assert "apply the chart again" in caught.value.way_forward


async def test_a_wait_outlives_a_gateway_that_restarts_and_one_that_fails(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    waiting = asyncio.create_task(decided(approvals, name))
    await off_loop(gateway.wait_for, lambda: gateway.answered("wait"))
    await off_loop(gateway.go_down)
    await off_loop(gateway.come_back)
    await off_loop(gateway.wait_for, lambda: gateway.answered("wait") >= 1)
    for fault in (Fault.UNAVAILABLE, Fault.BUSY, Fault.ERROR, Fault.CUT):
        seen = len(gateway.requests)
        gateway.faults["wait"] = fault
        await off_loop(gateway.change, name, lambda each: each["metadata"].update(labels={}))
        await off_loop(gateway.wait_for, lambda seen=seen: len(gateway.requests) > seen + 1)
    gateway.faults.clear()
    await off_loop(gateway.decide, name, DANA)
    assert (await waiting).phase is Phase.APPROVED


async def test_a_request_that_is_gone_is_looked_for_a_moment_and_then_refused(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    approvals = new_gate(gateway.settings, clock, replace(PATIENT, doubting_s=20.0))
    name = await approvals.submit(request_of_ada, NOW)
    kept = gateway.objects.pop(name)
    waiting = asyncio.create_task(decided(approvals, name))
    await off_loop(gateway.wait_for, lambda: gateway.answered("wait", 404))
    gateway.objects[name] = kept
    await off_loop(gateway.decide, name, DANA)
    assert (await waiting).phase is Phase.APPROVED
    del gateway.objects[name]
    approvals._patience = PATIENT
    with pytest.raises(ApprovalUnavailable, match="any more"):
        await decided(approvals, name)


async def test_a_name_that_is_anothers_is_not_taken_over(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    same = iter([0, 1])
    other = GatewayApprovals(
        GatewayClient(gateway.settings), clock=clock, patience=PATIENT,
        random_bytes=lambda n: bytes(n) if next(same) == 0 else b"\x01" * n,
    )  # fmt: skip
    gateway.objects[f"{name[:-6]}bbbbbb"] = gateway.objects[name]
    made = await other.submit(replace(request_of_ada, fingerprint="f" * 32), NOW)
    assert made.endswith("cccccc")
    assert gateway.objects[made]["spec"]["fingerprint"] == "f" * 32


async def test_a_statement_that_people_can_not_be_shown_is_not_sent(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    with pytest.raises(ApprovalUnavailable, match="can't be put to approvers"):
        await approvals.submit(replace(request_of_ada, statement="x" * 20_000), NOW)
    for namespace in ("", "../x", "a\r\nb"):
        with pytest.raises(ApprovalUnavailable, match="is no name"):
            await approvals.submit(replace(request_of_ada, namespace=namespace), NOW)
    assert gateway.requests == []


async def test_terms_without_approvers_are_nobodys_to_approve(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    asked = replace(request_of_ada, terms=ApprovalTerms(frozenset(), frozenset(), 1, 3600.0))
    with contextlib.suppress(ApprovalUnavailable):
        name = await approvals.submit(asked, NOW)
        await off_loop(gateway.decide, name, DANA)
        with pytest.raises(ApprovalUnavailable, match="NotAnApprover"):
            await decided(approvals, name)


async def test_a_wait_ends_as_expired_though_the_loops_clock_is_ahead_of_the_gates(
    gateway: FakeGateway, approvals: GatewayApprovals, clock: Clock, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    clock.now = NOW + 3599.9
    waiting = asyncio.create_task(decided(approvals, name))
    await off_loop(gateway.wait_for, lambda: gateway.answered("wait"))
    assert not (await asyncio.wait({waiting}, timeout=0.5))[0]  # the loop thinks that the time is over, the gate doesn't
    clock.now = NOW + 3600
    assert (await waiting).phase is Phase.EXPIRED
