"""What a gate asks of whoever keeps approvals: the operator's gateway in a cluster, files without one (`local`).

Rules for every implementation: an Approved verdict is given out once, to one caller, and is used up by that (`wait` and `take_grant`
are the only two ways to it); a client that leaves withdraws nothing, since agents time out before people decide; anything that
can't be told for certain is an `ApprovalUnavailable`, never an approval.

Pure: values and a Protocol.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from sidegate.policy.decision import ApprovalTerms
from sidegate.policy.reason import Reason
from sidegate.policy.statement import Impact


class Phase(enum.StrEnum):
    """Where a request stands, in the words of the ApprovalRequest resource. Executed: the approval is used up."""

    PENDING = "Pending"
    APPROVED = "Approved"
    DENIED = "Denied"
    EXPIRED = "Expired"
    WITHDRAWN = "Withdrawn"
    EXECUTED = "Executed"


class ApprovalUnavailable(Exception):  # noqa: N818 - a state of the world, named as the reason it becomes
    """An approval can't be asked for, or what is there can't be trusted. The statement is refused."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


class TooManyApprovals(ApprovalUnavailable):
    """The requester has too many pending, or asked for too many of late: no fault of the back end's."""


@dataclass(frozen=True, slots=True)
class ShownParameter:
    """A bound value as people see it, masked. `type` is empty when the client left it to the target. Of a binary value there is the text
    when it can be told, else its bytes in hexadecimal; NULL has neither.
    """

    type: str = ""
    is_binary: bool = False
    text: str | None = None
    hexadecimal: str | None = None
    is_masked: bool = False


@dataclass(frozen=True, slots=True)
class ShownStatement:
    """A text and the values bound to it, masked."""

    statement: str
    parameters: tuple[ShownParameter, ...] = ()


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """Everything that people need to decide on one statement, and that ties the decision to it.

    `target` and `namespace` name the ProtectedTarget. `requester_key` is `Principal.key`, `requester` the username. `statement` is masked
    text, whole: a statement that can't be shown whole can't be approved. `runs` is what its EXECUTE and FETCH lead to, `alternatives`
    what it may be instead while the target hasn't answered. INVARIANT: each is a field of its own, and no text of a client's stands in the
    same string as words of the gate's, so that no statement can add a line to what people see or take one away. `search_path` is None when
    the gate doesn't know it; so is `current_role`, which is `role` but for SET ROLE. `terms.expires_after_s` counts from `requested_at`:
    the time to decide in and to use the approval in. `hold_until` is when the gate stops waiting for it: people see it.
    """

    target: str
    namespace: str
    session_id: str
    requester_key: str
    requester: str
    agent: str | None
    reason: str
    source: str
    detail: str
    statement: str
    fingerprint: str
    impact: Impact | None
    terms: ApprovalTerms
    requested_at: float
    hold_until: float
    groups: tuple[str, ...] = ()
    environment: str | None = None
    source_address: str | None = None
    database: str = ""
    role: str = ""
    revision: str = ""
    parameters: tuple[ShownParameter, ...] = ()
    runs: tuple[ShownStatement, ...] = ()
    alternatives: tuple[ShownStatement, ...] = ()
    search_path: tuple[str, ...] | None = None
    current_role: str | None = None

    @property
    def ends_with_session(self) -> bool:
        """It is for a transaction that is open now: whoever asks again asks for another."""
        return self.reason == Reason.AWAITS_COMMIT

    @property
    def expires_at(self) -> float:
        return self.requested_at + self.terms.expires_after_s


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a request ended. Only APPROVED lets the statement run, once, until `usable_until`, and for at most `approved_rows` rows.

    EXECUTED is what others who wait on the same request get once its approval was given out. `is_over_quota`: there is no request, for
    there are too many others.
    """

    phase: Phase
    name: str
    approvers: tuple[str, ...]
    comment: str
    decided_at: float
    usable_until: float
    approved_rows: int | None = None
    is_over_quota: bool = False


class ApprovalBackend(Protocol):
    """Keeps requests and gives out verdicts. Every method may raise `ApprovalUnavailable`."""

    async def submit(self, request: HoldRequest, now: float) -> str:
        """Make a request; its name comes back. Raises `TooManyApprovals` where the requester may make none now."""

    async def wait(self, name: str) -> Verdict:
        """Return when it is decided, ended or expired. May be cancelled, which changes nothing: the request goes on.

        An APPROVED verdict is used up by being returned: later callers get EXECUTED.
        """

    async def withdraw(self, name: str, why: str, now: float) -> None:
        """Nobody wants it any more. A request that has ended stays as it is."""

    async def take_grant(self, request: HoldRequest, now: float) -> Verdict | None:
        """An approval of an earlier request for exactly this, of the same requester, that is neither used nor expired: used up by being
        returned. Requests are for the same when their fingerprints are.
        """

    async def executed(self, name: str, outcome: str, now: float) -> None:
        """What became of it: the target's command tag, or the SQLSTATE of its error."""

    async def find_pending(self, request: HoldRequest, now: float) -> str | None:
        """An earlier request for exactly this, of the same requester, if it is still to be decided: to join instead of asking twice."""
