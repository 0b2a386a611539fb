"""Approvals over the operator's gateway: what the gate asks, and what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from sidegate.approval.backend import HoldRequest, Phase, Verdict
from sidegate.approval.gateway import GatewayApprovals
from tests.support.fake_gateway import FakeGateway
from tests.unit.approval.gates import DANA, NOW, PATIENT, Clock, decided, new_gate, off_loop

pytestmark = pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning")  # the fake's own, see its `close`


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
