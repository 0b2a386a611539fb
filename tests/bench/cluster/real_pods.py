"""What only real pods show: an edit of a policy until every gate enforces it, and an approval until the statement's client has its answer.

Rules: one edit, and one hold, is over before the next begins. An edit counts from before it is sent until the target's status says that
every gate enforces what followed from it, which gates report themselves; then a statement on each gate shows that it is so. An approval
counts from before the approver's patch is sent, over a connection of its own as kubectl's is, until psql says that the statement was done;
kubectl's own start isn't counted. Approvers take their time, so the gate has long been waiting.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tests.bench.cluster.gated_pods import API, NAMESPACE, Followed, GatedPods, Object, Session, gated_pods
from tests.bench.cluster.report import ClusterReport

PODS: Final = 3
TURNS: Final = 30  # as many approvals as one person may ask for in ten minutes
_THINKS_S: Final = 0.5  # the approver


@dataclass(slots=True)
class Released:
    """Milliseconds since the approver's patch was sent: its answer; a watch's sight of each phase; the client's answer."""

    patched: list[float] = field(default_factory=list)
    approved: list[float] = field(default_factory=list)
    executed: list[float] = field(default_factory=list)
    released: list[float] = field(default_factory=list)


def measure(report: ClusterReport, turns: int = TURNS) -> None:
    report.fact("real_pods", PODS)
    with gated_pods(PODS) as pods, ExitStack() as stack:
        sessions = [stack.enter_context(pods.session(each)) for each in pods.addresses]
        report.machine("real_pods_edits")
        report.samples("enforced", "s", edits(pods, sessions, turns))
        report.machine("real_pods_approvals")
        released = approvals(pods, sessions, turns)
    report.samples("approval_patched", "ms", released.patched)
    report.samples("approval_approved", "ms", released.approved)
    report.samples("approval_executed", "ms", released.executed)
    report.samples("real_release", "ms", released.released)


def edits(pods: GatedPods, sessions: Sequence[Session], turns: int) -> list[float]:
    """Seconds of each."""
    targets = Followed(pods.client, "ProtectedTarget", _enforced)
    taken: list[float] = []
    before = pods.settled_revision()
    for turn in range(turns):
        message = f"as of edit {turn} of the bench"
        began = time.perf_counter()
        pods.edit(message)
        seen = targets.after(began, partial(_is_another, before))
        taken.append(seen.at - began)
        before = seen.what
        for session in sessions:
            session.send("INSERT INTO orders (customer_id, total) VALUES (1, 5);")
            session.until(message)
    return taken


def _is_another(before: str, revision: str) -> bool:
    return revision not in {"", before}


def approvals(pods: GatedPods, sessions: Sequence[Session], turns: int) -> Released:
    requests = Followed(pods.client, "ApprovalRequest", _phase)
    approver, found = pods.approver(), Released()
    for turn in range(turns):
        session = sessions[turn % len(sessions)]
        session.send(f"UPDATE orders SET total = total WHERE id = {turn + 1};")
        name = session.until(r"approval request (ar-[-a-z0-9]+)")[1][1]
        time.sleep(_THINKS_S)
        began = time.perf_counter()
        approver.merge_patch(API, "ApprovalRequest", name, {"spec": {"decision": "Approved"}}, namespace=NAMESPACE)
        patched = time.perf_counter()
        released, _ = session.until("^UPDATE 1$")
        found.patched.append((patched - began) * 1000)
        found.approved.append((requests.when(f"{name} Approved") - began) * 1000)
        found.executed.append((requests.when(f"{name} Executed") - began) * 1000)
        found.released.append((released - began) * 1000)
    return found


def _enforced(target: Object) -> str:
    """The revision that every gate enforces; none while some don't."""
    status = target.get("status") or {}
    gates = status.get("gates") or {}
    return str(status.get("revision", "")) if gates.get("total") == gates.get("synced") == PODS else ""


def _phase(request: Object) -> str:
    return f"{request['metadata']['name']} {(request.get('status') or {}).get('phase', 'Pending')}"
