"""A request that waits for one of the `dba` group or for `carol`, and the people around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidegate.approval.backend import HoldRequest
from sidegate.approval.gateway import GatewayApprovals
from sidegate.policy.decision import ApprovalTerms
from sidegate.policy.statement import Impact, TableImpact
from tests.support.fake_gateway import FakeGateway
from tests.unit.approval.gates import HASTY, NOW, Clock, new_gate


@pytest.fixture
def request_of_ada() -> HoldRequest:
    return HoldRequest(
        target="shop-db",
        namespace="shop",
        session_id="s-1",
        requester_key="https://idp.example#u-ada",
        requester="ada@example.com",
        agent="cursor",
        reason="ApprovalRequired",
        source="shop/assistants#big-deletes",
        detail="deletes 5000 rows of `shop.orders`",
        statement="DELETE FROM orders\nWHERE total < 10",
        fingerprint="0123456789abcdef0123456789abcdef",
        impact=Impact(5000, (TableImpact("shop.orders", 0, 0, 5000), TableImpact("shop.items", 0, 0, 9000))),
        terms=ApprovalTerms(frozenset({"dba"}), frozenset({"carol@example.com"}), 1, 3600.0),
        requested_at=NOW,
        hold_until=NOW + 600,
        groups=("ai-assistants",),
        source_address="10.0.0.7",
        database="shop",
        role="writer",
        revision="5ad3c1f00c4e9b27",
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(tmp_path: Path, clock: Clock) -> Iterator[FakeGateway]:
    with FakeGateway(tmp_path / "gateway", clock=clock) as running:
        yield running


@pytest.fixture
def approvals(gateway: FakeGateway, clock: Clock) -> GatewayApprovals:
    return new_gate(gateway.settings, clock)


@pytest.fixture
def hasty(gateway: FakeGateway, clock: Clock) -> GatewayApprovals:
    return new_gate(gateway.settings, clock, HASTY, 0.5)
