"""What is said of a held statement: the request to its approvers, and the notice to the client that waits. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidegate.approval.backend import HoldRequest
from sidegate.policy.decision import Deny, RequireApproval
from sidegate.policy.reason import Reason
from sidegate.policy.statement import Impact
from sidegate.postgres.refusal import notice_message
from sidegate.postgres.shown import shown_statement

if TYPE_CHECKING:
    from sidegate.postgres.session import Session
    from sidegate.postgres.statements import Work


def hold_request(session: Session, work: Work, decision: RequireApproval) -> HoldRequest:
    """What an approver is asked. The statement's fingerprint is put into `work`: what is approved is that, and nothing else."""
    holds = session.config.target.holds
    timeout_s = holds.in_transaction_timeout_s if session.status == "T" else holds.timeout_s
    work.fingerprint = session.judge.fingerprint(work, decision)
    shown, path = shown_statement(work.bound(), session.masker.text), session.judge.search_path
    return HoldRequest(
        target=session.facts.target,
        namespace=session.facts.namespace,
        session_id=session.facts.session_id,
        requester_key=session.facts.principal.key,
        requester=session.facts.principal.username,
        agent=session.facts.principal.agent,
        reason=str(decision.reason),
        source=str(decision.source),
        detail=decision.detail,
        statement=shown.statement,
        fingerprint=work.fingerprint,
        impact=work.impact,
        terms=decision.terms,
        requested_at=session.now,
        hold_until=session.now + timeout_s,
        groups=tuple(sorted(session.facts.principal.groups)),
        environment=session.facts.principal.environment,
        source_address=session.facts.principal.source_address,
        database=session.facts.database,
        role=session.facts.role,
        revision=session.config.revision,
        parameters=shown.parameters,
        runs=tuple(shown_statement(each, session.masker.text) for each in work.referred),
        alternatives=tuple(shown_statement(each, session.masker.text) for each in work.alternatives),
        search_path=path or ("pg_catalog",) if path is not None else None,  # which is searched anyway
        current_role=session.judge.current_role,
    )


def unseen_code(session: Session, work: Work, decision: RequireApproval) -> Deny | None:
    """Why approvers can't be asked: what would be stored to run later has parts that are masked for them, which could hide any code."""
    stores = any(statement.stores_code is not None or statement.kinds_of_code for statement in work.statements)
    if not stores or session.masker.text(work.text) == work.text:
        return None
    detail = "code that is stored is read by its approvers, and a mask on values would hide a part of this from them"
    way_forward = "take what looks like a secret, an address or a number of a card out of the text"
    return Deny(Reason.APPROVAL_UNAVAILABLE, decision.source, decision.revision, detail, way_forward)


def hold_notice(work: Work, name: str, *, is_first: bool) -> bytes | None:
    """A NoticeResponse: by whom the request `name` must be approved. None when the statement isn't held."""
    decision = work.decision
    if not isinstance(decision, RequireApproval):
        return None
    who = ", ".join(sorted(decision.terms.approver_groups | decision.terms.approver_users))
    return notice_message(
        f"{'held' if is_first else 'still held'} by sidegate: approval request {name} must be approved"
        f" by {decision.terms.required} of {who}{_impact_text(work.impact)}",
        f"reason {decision.reason}, by {decision.source}, at revision {decision.revision}",
        _UNTIL_THEN if decision.at_commit else _WHENEVER,
    )


_WHENEVER: Final = "wait, or cancel to withdraw it; after a disconnect, send the same statement again once it is approved"
_UNTIL_THEN: Final = "wait, or cancel to roll the transaction back, as a disconnect does, or nobody who decides in time"


def _impact_text(impact: Impact | None) -> str:
    if impact is None:
        return ""
    return ", it would remove every row" if impact.is_truncation else f", it would change {impact.rows_affected} rows"
