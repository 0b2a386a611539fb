"""Approvals over the operator's gateway: what becomes of them when it fails."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from sidegate.approval.backend import ApprovalUnavailable, HoldRequest, Phase, TooManyApprovals
from sidegate.approval.gateway import GatewayApprovals
from sidegate.approval.gateway_client import GatewayClient
from sidegate.policy.decision import ApprovalTerms
from tests.support.fake_gateway import FakeGateway, Fault
from tests.unit.approval.gates import DANA, HASTY, NOW, PATIENT, Clock, decided, new_gate, off_loop

pytestmark = pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning")  # the fake's own, see its `close`


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


async def test_a_claim_goes_over_the_connection_that_told_of_the_approval(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    name = await approvals.submit(request_of_ada, NOW)
    waiting = asyncio.create_task(decided(approvals, name))
    await off_loop(gateway.wait_for, lambda: len(gateway.came_from["wait"]) >= 2)
    await off_loop(gateway.decide, name, DANA)
    assert (await waiting).phase is Phase.APPROVED
    assert gateway.came_from["claim"] == gateway.came_from["wait"][-1:]
    assert len(set(gateway.came_from["wait"])) == len(
        gateway.came_from["wait"]
    )  # each wait has one of its own, that ends with it


async def test_a_claim_takes_another_connection_when_that_one_is_closed_behind_the_answer(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    gateway.closes = True
    name = await approvals.submit(request_of_ada, NOW)
    await off_loop(gateway.decide, name, DANA)
    assert (await decided(approvals, name)).phase is Phase.APPROVED
    assert gateway.came_from["claim"][0] not in gateway.came_from["wait"]


async def test_a_replica_that_cannot_serve_keeps_no_line(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    """Else what is asked again would go to it again, while another could answer."""
    name = await approvals.submit(request_of_ada, NOW)
    gateway.faults["wait"] = Fault.UNAVAILABLE
    waiting = asyncio.create_task(decided(approvals, name))
    await off_loop(gateway.wait_for, lambda: gateway.answered("wait", 503) >= 3)
    gateway.faults.clear()
    await off_loop(gateway.decide, name, DANA)
    assert (await waiting).phase is Phase.APPROVED
    assert len(set(gateway.came_from["wait"])) == len(gateway.came_from["wait"])


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
    # Time runs out in the pause behind the first answer: a claim that is under way then is lost.
    approvals._patience = replace(PATIENT, asking_s=3.0, first_pause_s=60.0, longest_pause_s=60.0)
    gateway.faults["claim"] = Fault.UNAVAILABLE
    with pytest.raises(ApprovalUnavailable, match="guard of decisions"):
        await decided(approvals, name)
    assert gateway.answered("claim", 503) == 1
    gateway.faults.clear()
    approvals._patience = PATIENT
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


async def test_a_quota_is_told_at_once_and_as_one(
    gateway: FakeGateway, approvals: GatewayApprovals, request_of_ada: HoldRequest
) -> None:
    gateway.faults["submit"] = Fault.OVER_QUOTA
    with pytest.raises(TooManyApprovals, match="`ada` has 20 requests pending") as caught:
        await approvals.submit(request_of_ada, NOW)
    assert "have some decided" in caught.value.way_forward
    assert gateway.requests == [("submit", 429)]
