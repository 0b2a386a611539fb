"""What of the client's pipeline the target hasn't got yet: Parse, Bind and Describe of a statement that may be held. Pure.

Rules it keeps:
- While something is withheld, what comes behind it is too: all of it goes out in its order, with its Execute or with whatever else needs
  the target to have it.
- The target takes no lock for a statement that may be held, and plans nothing of one that must be approved or measured, before that
  is settled: planning may run its functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidegate.policy.decision import Deny, Measure, Permit, RequireApproval
from sidegate.policy.reason import Reason
from sidegate.postgres.pipeline import Expected
from sidegate.postgres.refusal import refusal_message
from sidegate.postgres.runners import poison_bind
from sidegate.postgres.statements import Portal, Work

if TYPE_CHECKING:
    from sidegate.postgres.session import Session

MAX_WITHHELD: Final = 1000

TOGETHER: Final = (
    "send its Execute right behind its Bind, with no Sync, Flush or other statement between them, or send it as a Query"
)


class WithheldMessage:
    """A message that the target hasn't got yet. `work` is of a Bind that must be approved or measured before anything of it runs."""

    __slots__ = ("expected", "frame", "permit", "work")

    def __init__(self, permit: Permit, frame: bytes, expected: Expected, work: Work | None) -> None:
        self.permit = permit
        self.frame = frame
        self.expected = expected
        self.work = work

    def drop(self) -> None:
        if self.expected.binding is not None:
            self.expected.binding.take_back()


class Withheld:
    """Of one session; true while something is withheld."""

    __slots__ = ("_session", "messages")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.messages: list[WithheldMessage] = []

    def __bool__(self) -> bool:
        return bool(self.messages)

    def binds_another(self, executed: Portal | None) -> bool:
        """One of them must be approved or measured, and is of another portal than the one that is executed."""
        return any(entry.work is not None and entry.work.portal is not executed for entry in self.messages)

    def forward(self, frame: bytes, expected: Expected, *, may_withhold: bool = False, work: Work | None = None) -> None:
        """Send it, or withhold it: because it may have to be, or because something before it is. Of `work`, see `WithheldMessage`."""
        session = self._session
        if not (self.messages or may_withhold):
            session.send(session.grant.permit, frame, expected)
            return
        entry = WithheldMessage(session.grant.permit, frame, expected, work)
        is_much = len(self.messages) >= MAX_WITHHELD or (may_withhold and session.room.in_flight > session.room.limit)
        if is_much and not self.release():
            entry.drop()
        else:
            self.messages.append(entry)

    def release(self, executed: Portal | None = None) -> bool:
        """Send what was withheld: the portal it belongs to is executed now, or something else needs the target to have it.
        INVARIANT: a Bind that must be approved or measured goes out for its own Execute alone, since the target plans it then, which
        may run its functions. Any other is refused in its place: then this is False, and what follows up to the Sync is void.
        """
        withheld, self.messages = self.messages, []
        for index, entry in enumerate(withheld):
            work = entry.work
            if work is None or (executed is not None and work.portal is executed):
                self._session.send(entry.permit, entry.frame, entry.expected)
                continue
            work.decision = deny = _alone(work)
            self._session.journal.asked(work, self._session.judge.search_path)
            self._session.journal.decided(work, deny)
            self._poison(withheld[index:], work, refusal_message(deny))
            return False
        return True

    def refuse(self, work: Work, refusal: bytes) -> bool:
        """Refuse the portal of `work` at its Bind, when the target hasn't got that yet. False: it has, or never will."""
        for index, entry in enumerate(self.messages):
            if entry.work is not None and entry.work.portal is work.portal:
                behind, self.messages = self.messages[index:], self.messages[:index]
                self.release()
                self._poison(behind, work, refusal)
                return True
        return False

    def _poison(self, withheld: list[WithheldMessage], work: Work, refusal: bytes) -> None:
        """The target refuses the first of these, and skips what follows up to the Sync."""
        poison_bind(self._session, work, refusal)
        self._session.is_skipping = True
        for entry in withheld:
            entry.drop()

    def drop(self) -> None:
        """An earlier message of the pipeline failed: the target would skip these."""
        withheld, self.messages = self.messages, []
        for entry in withheld:
            entry.drop()


def _alone(work: Work) -> Deny:
    """Why a Bind is refused whose Execute doesn't come with it."""
    decision = work.decision
    assert isinstance(decision, (Measure, RequireApproval))
    reason = Reason.IMPACT_NOT_MEASURABLE if isinstance(decision, Measure) else Reason.APPROVAL_REQUIRED
    return Deny(
        reason, decision.source, decision.revision, "its Bind came without its Execute, and planning may run it", TOGETHER
    )
