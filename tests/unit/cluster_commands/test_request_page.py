"""An ApprovalRequest of a cluster on the page that approvers know."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sidegate.cli.request_view import request_lines
from sidegate_cluster.pages.request_page import RequestPage, UnreadableError, request_page

NOW = 1_795_600_000.0
WIRE: dict[str, Any] = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "ApprovalRequest",
    "metadata": {
        "name": "ar-1",
        "namespace": "shop",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 2,
        "creationTimestamp": "2026-11-25T09:46:30Z",
        "labels": {"sidegate.dev/target": "shop-db"},
        "annotations": {"example.com/note": "x"},
        "managedFields": [{"manager": "m"}],
    },
    "spec": {
        "target": "shop-db",
        "principal": {"issuer": "https://id.example", "subject": "u-1", "username": "ann", "kubernetesUsernames": ["ann-admin"]},
        "agent": "cursor",
        "reason": "RequiresApproval: DDL in production",
        "statement": "ALTER TABLE ledger ADD COLUMN note text",
        "parameters": [{"name": "$1", "type": "int4", "text": "5"}],
        "fingerprint": "0123456789abcdef0123456789abcdef",
        "rule": {"namespace": "shop", "policy": "p", "name": "r"},
        "approvers": {"groups": ["dba"]},
        "required": 2,
        "expiresAt": "2026-11-25T10:46:30Z",
        "decisions": [
            {"by": "dana", "groups": ["dba"], "decision": "Approved", "at": "2026-11-25T09:47:00Z", "signature": "c2ln"}
        ],
    },
    "status": {
        "phase": "Pending",
        "approvals": "1/2",
        "decisions": [
            {"by": "dana", "groups": ["dba"], "decision": "Approved", "at": "2026-11-25T09:47:00Z", "signature": "c2ln"}
        ],
        "conditions": [],
        "observedGeneration": 2,
    },
}


def changed(**parts: dict[str, Any]) -> dict[str, Any]:
    wire = copy.deepcopy(WIRE)
    for part, values in parts.items():
        wire[part] = {**wire[part], **values}
    return wire


def lines(page: RequestPage) -> list[str]:
    return list(request_lines(page.hold, page.document, NOW, 200, is_whole=True))


def test_everything_asked_and_decided_is_on_the_page() -> None:
    page = request_page(WIRE)
    text = "\n".join(lines(page))
    for part in ("ann through cursor", "shop/shop-db", "shop/p#r (RequiresApproval): DDL in production", "$1 (int4) = '5'"):
        assert part in text
    assert "approved   by dana of dba, 2026-11-25 09:47:00 UTC" in text
    assert (page.hold.approvals, page.hold.required, page.resource_version) == (1, 2, "7")


def test_a_request_that_nobody_has_looked_at_is_pending() -> None:
    wire = changed()
    del wire["status"]
    page = request_page(wire)
    assert (page.hold.phase.value, page.hold.approvals) == ("Pending", 0)
    assert page.stamped() == ("dana",)  # stamped, and not yet counted


@pytest.mark.parametrize(
    "wire",
    [
        changed(spec={"silently": "drop the table"}),
        changed(spec={"principal": {**WIRE["spec"]["principal"], "onBehalfOf": "somebody"}}),
        changed(spec={"parameters": [{"name": "$1", "text": "5", "truth": "6"}]}),
        changed(spec={"statement": ""}),
        changed(spec={"expiresAt": "soon"}),
        changed(status={"phase": "Perhaps"}),
        {**changed(), "kind": "Other"},
    ],
    ids=["field", "field of the requester", "field of a value", "no statement", "no time", "phase", "kind"],
)
def test_what_this_version_can_t_show_whole_it_doesn_t_show(wire: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError, match="can't be shown whole"):
        request_page(wire)


def test_the_same_request_with_another_decision_asks_the_same_and_any_other_change_doesn_t() -> None:
    page = request_page(WIRE)
    decided = request_page(changed(metadata={"resourceVersion": "8"}, spec={"decisions": []}, status={"approvals": "0/2"}))
    assert page.asks_the_same(decided)
    for other in (
        changed(metadata={"uid": "another"}),
        changed(spec={"statement": "DROP TABLE ledger"}),
        changed(spec={"required": 1}),
        changed(spec={"expiresAt": "2026-11-25T11:46:30Z"}),
    ):
        assert not page.asks_the_same(request_page(other))


def test_an_approved_request_may_still_be_held_unless_it_says_until_when() -> None:
    approved = changed(status={"phase": "Approved"})
    assert any("the gate holds the statement until 2026-11-25 10:46:30 UTC" in line for line in lines(request_page(approved)))
    approved["metadata"]["annotations"] = {"sidegate.dev/hold-until": "2026-11-25T09:46:31Z"}
    assert any("the gate no longer waits" in line for line in lines(request_page(approved)))
