"""A decision as the client sees it: an ErrorResponse that a person and an agent can act on. Pure.

Severity is ERROR, SQLSTATE 42501 (insufficient_privilege) for what policy denies, so that drivers raise their usual exception and the
session lives on. DETAIL says policy, rule and reason; HINT says the way forward.
"""

from __future__ import annotations

from typing import Final

from sidegate.policy.decision import Deny
from sidegate.policy.reason import Reason
from sidegate.postgres.messages import encode_fields

INSUFFICIENT_PRIVILEGE: Final = "42501"

# Reasons with an SQLSTATE of their own; everything else is insufficient_privilege.
SQLSTATES: Final = {
    Reason.STATEMENT_UNPARSABLE: "42601",  # syntax_error
    Reason.STATEMENT_TOO_LARGE: "54000",  # program_limit_exceeded
    Reason.PROTOCOL_REFUSED: "0A000",  # feature_not_supported
    Reason.APPROVAL_WITHDRAWN: "57014",  # query_canceled
    Reason.TARGET_UNAVAILABLE: "08006",  # connection_failure
    Reason.RECORDING_UNAVAILABLE: "58030",  # io_error
    Reason.CONFIG_MISSING: "57P03",  # cannot_connect_now
    Reason.IDENTITY_REFUSED: "28000",  # invalid_authorization_specification
    Reason.SESSION_ENDED: "57P01",  # admin_shutdown: drivers drop the connection and may connect again
}


def sqlstate_of(reason: Reason) -> str:
    return SQLSTATES.get(reason, INSUFFICIENT_PRIVILEGE)


def refusal_message(
    deny: Deny, severity: str = "ERROR", request: str | None = None, position: int | None = None, sqlstate: str = ""
) -> bytes:
    """ErrorResponse for `deny`. `request` names the ApprovalRequest; `position` is the character (1-based) where parsing stopped;
    `sqlstate` stands in place of the reason's.
    """
    cause = f": {deny.detail}" if deny.detail else ""
    detail = f"reason {deny.reason}, by {deny.source}, at revision {deny.revision or 'none'}"
    if request:
        detail += f", approval request {request}"
    return encode_fields(
        b"E",
        {
            "S": severity,
            "V": severity,
            "C": sqlstate or sqlstate_of(deny.reason),
            "M": f"refused by sidegate: {deny.reason.meaning}{cause}",
            "D": detail,
            "H": deny.hint,
            "P": str(position) if position else "",
        },
    )


def unknown_name_message(noun: str, name: str) -> bytes:
    """What the target says of a prepared statement (26000), portal or cursor (34000) that doesn't exist, as clients expect it.

    Said for names that this session never saw set: the target may know them all the same (a function can set them), so they never run.
    """
    sqlstate = "26000" if noun == "prepared statement" else "34000"
    what = f'{noun} "{name}"' if name or noun == "portal" else f"unnamed {noun}"
    fields = {"S": "ERROR", "V": "ERROR", "C": sqlstate, "M": f"{what} does not exist"}
    return encode_fields(b"E", fields)


def as_shown_notice(columns: tuple[str, ...]) -> bytes:
    """That masks stand in place of these columns' values while the statement runs."""
    named = ", ".join(f"`{column}`" for column in columns)
    return notice_message(
        f"masked columns sort, group and join by what is shown: {named}",
        "in this statement every value of theirs is the mask itself, so rows that differ in nothing else are one group, in any order",
        "name other columns there, or ask for `use: Allowed` on the mask",
    )


def groups_notice(smallest: int) -> bytes:
    """That groups of fewer values are left out."""
    return notice_message(
        f"groups of fewer than {smallest} values are left out",
        "the statement aggregates a masked column, and a small group tells of those in it",
        f"group more widely; `HAVING count(column) >= {smallest}` says the same",
    )


def notice_message(text: str, detail: str = "", hint: str = "") -> bytes:
    """NoticeResponse of the gate's own (SQLSTATE 01000, warning class): clients print it at once."""
    return encode_fields(b"N", {"S": "NOTICE", "V": "NOTICE", "C": "01000", "M": text, "D": detail, "H": hint})
