"""What a session asks its shell to do. One `Effects` per event, carried out in this fixed order: records, audit events, bytes for the
target, bytes for the client, actions. The shell stops at the first that fails.

INVARIANT: records and audit events of a statement are durable before a byte of it reaches the target (write-ahead), and every byte for the
target carries the permit it goes under.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sidegate.approval.backend import HoldRequest
from sidegate.audit.events import AuditEvent
from sidegate.policy.decision import Permit
from sidegate.record.frame import RecordEntry


@dataclass(frozen=True, slots=True)
class Hold:
    """Ask the approval back end; answer with `Session.hold_submitted` and `Session.hold_decided`."""

    request: HoldRequest


@dataclass(frozen=True, slots=True)
class WithdrawHold:
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class ReportExecuted:
    """Tell the back end what came of an approved statement."""

    name: str
    outcome: str


@dataclass(frozen=True, slots=True)
class RefreshCatalog:
    """Bring the target's catalog (`is_forced`: read it now); answer with `Session.catalog_refreshed`."""

    is_forced: bool = True


@dataclass(frozen=True, slots=True)
class CatalogChanged:
    """A statement changed definitions: whatever the runtime keeps of this database's catalog is stale."""


@dataclass(frozen=True, slots=True)
class CancelTarget:
    """Send a CancelRequest with the target's own key. `is_told`: answer with `Session.target_cancelled` once the target has taken it."""

    is_told: bool = False


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Close both sides once everything written has gone out."""

    why: str


Action: TypeAlias = Hold | WithdrawHold | ReportExecuted | RefreshCatalog | CatalogChanged | CancelTarget | CloseSession


class Effects:
    """`decided` is for the metrics: decision, first kind and reason of each statement decided on."""

    __slots__ = ("actions", "audits", "decided", "records", "to_client", "to_target")

    def __init__(
        self,
        records: list[RecordEntry],
        audits: list[AuditEvent | bytes],
        decided: list[tuple[str, str, str]],
        to_target: list[tuple[Permit, bytes]],
        to_client: list[bytes],
        actions: list[Action],
    ) -> None:
        self.records = records
        self.audits = audits
        self.decided = decided
        self.to_target = to_target
        self.to_client = to_client
        self.actions = actions
