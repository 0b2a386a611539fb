"""The bodies of the gateway's requests and answers (docs/gateway.md), in JSON. Both sides read them strictly.

Rules they keep: unknown fields are refused by the side that decides (the gateway), and passed over by the side that is told (the gate),
so that an operator may be newer than its gates; every text and list has a limit; no answer has more in it than the gate needs.

Left out: HTTP itself, and what the objects in `spec` and `request` mean (`sidegate.api.approval_request`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

MAX_BODY_BYTES: Final = 512 * 1024  # of a hold: what people are shown of a statement is far less (MAX_SHOWN)
LONGEST_WAIT_S: Final = 30
REPORT_EVERY_S: Final = 10

Text = Annotated[str, msgspec.Meta(max_length=1024)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """What a gate sends."""


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What the gateway answers."""


class Report(Asked, frozen=True, kw_only=True):
    """What the gate enforces now. `revision` is empty while it has no config and refuses everything; `problem` is why a newer one isn't
    in force. `is_draining`: it takes no new sessions.
    """

    revision: Annotated[str, msgspec.Meta(max_length=64)]
    version: Annotated[str, msgspec.Meta(max_length=64)]
    sessions: Annotated[int, msgspec.Meta(ge=0)]
    is_draining: bool = False
    problem: Text | None = None


class ReportAnswer(Told, frozen=True, kw_only=True):
    """`can_hold` False: new holds are refused, for the reason in `problem`."""

    next_s: float
    can_hold: bool
    problem: str | None = None


class NewHold(Asked, frozen=True, kw_only=True):
    """`name` is the gate's choice, so that a hold that is sent twice is made once. `spec` is an ApprovalRequest's, undecided."""

    name: Name
    hold_until: Annotated[str, msgspec.Meta(max_length=40)]
    spec: dict[str, Any]


class Claim(Asked, frozen=True, kw_only=True):
    """The gate takes the approval, to run the statement now. Of several claims one is granted."""

    uid: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    fingerprint: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Withdrawal(Asked, frozen=True, kw_only=True):
    why: Text


class HoldOutcome(Asked, frozen=True, kw_only=True):
    """What became of the statement. `result` is Succeeded or Failed."""

    result: Annotated[str, msgspec.Meta(max_length=16)]
    rows: Annotated[int, msgspec.Meta(ge=0)] | None = None
    sqlstate: Annotated[str, msgspec.Meta(max_length=5)] | None = None
    message: Text | None = None


class HeldRequest(Told, frozen=True, kw_only=True):
    """Where a hold stands: the ApprovalRequest as the API server has it, and the public keys (id -> base64 of 32 bytes, Ed25519) that
    admission seals decisions with.
    """

    request: dict[str, Any]
    keys: dict[str, str]


class HeldRequests(Told, frozen=True, kw_only=True):
    """Those of one fingerprint and requester that are pending or approved, the newest first."""

    requests: tuple[dict[str, Any], ...]
    keys: dict[str, str]


class Problem(Told, frozen=True, kw_only=True):
    """The body of every answer that isn't a success, as application/problem+json (RFC 9457). `type` is a stable word for programs."""

    type: str
    title: str
    status: int
    detail: str
    way_forward: str = ""
