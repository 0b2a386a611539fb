"""Who may decide on a request, what becomes of what they write, and what else nobody may change."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sidegate.api.approval_request import ApprovalRequest, Verdict
from sidegate.api.meta import change_problems
from sidegate.gateway.people import is_same_person
from sidegate_operator.plan.approval import (
    Decider,
    RefusalReason,
    Refused,
    Stamped,
    Undecided,
    judge_update,
    sealed,
)
from tests.unit.operator.approval_objects import EXPIRES_AT, NOW, OPERATOR, OPERATORS, decided, entry, stored_request

DANA = Decider("dana@example.com", frozenset({"dba", "system:authenticated"}))
DORA = Decider("dora@example.com")
Wire = dict[str, Any]


def seal(data: bytes) -> str:
    return f"seal-{len(data)}"


def judge(old: Wire, new: Wire, who: Decider = DANA, now: float = NOW) -> Stamped | Undecided | Refused:
    before = copy.deepcopy((old, new))
    judged = judge_update(old, new, who, now, OPERATORS, seal)
    assert (old, new) == before, "judging changes neither object"
    return judged


def patched(document: Wire, patch: tuple[Mapping[str, Any], ...]) -> Wire:
    """The two operations of JSON Patch that are used (RFC 6902, 4.1 and 4.2)."""
    made = copy.deepcopy(document)
    for each in patch:
        *parents, last = each["path"].split("/")[1:]
        place = made
        for name in parents:
            place = place[name]
        if each["op"] == "remove":
            del place[last]
        elif last == "-":
            place.append(each["value"])  # type: ignore[attr-defined]
        else:
            assert each["op"] == "add"
            place[last] = each["value"]
    return made


# What is let through


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("comment", [None, "as discussed"])
def test_a_decision_becomes_an_entry_that_says_who_made_it(verdict: Verdict, comment: str | None) -> None:
    old = stored_request()
    new = decided(old, verdict.value, comment)
    judged = judge(old, new)
    assert isinstance(judged, Stamped)
    made = {"by": "dana@example.com", "groups": ["dba"], "decision": verdict.value, "at": "2026-11-25T09:46:40Z"}
    made |= {} if comment is None else {"comment": comment}
    assert patched(new, judged.patch) == judged.stamped
    (stored,) = judged.stamped["spec"]["decisions"]
    assert stored == {**made, "signature": seal(sealed(ApprovalRequest.from_wire(old), judged.decision))}
    assert not {"decision", "comment"} & judged.stamped["spec"].keys()


def test_the_patch_makes_what_is_stored_and_the_api_types_take_it() -> None:
    old = stored_request(required=3, decisions=[entry("dora@example.com")])
    new = decided(old, comment="yes")
    judged = judge(old, new)
    assert isinstance(judged, Stamped)
    assert patched(new, judged.patch) == judged.stamped
    before, after = ApprovalRequest.from_wire(old), ApprovalRequest.from_wire(judged.stamped)
    assert change_problems(before, after) == ()
    assert [str(each.by) for each in after.spec.decisions] == ["dora@example.com", "dana@example.com"]


def test_what_is_stamped_twice_stays_as_it_is() -> None:
    """Admission may ask again about the object that it stamped; nothing is left in it that could be stamped."""
    old = stored_request(required=2)
    judged = judge(old, decided(old))
    assert isinstance(judged, Stamped)
    assert judge(judged.stamped, judged.stamped) == Undecided()


def test_someone_named_by_username_needs_no_group() -> None:
    old = stored_request()
    judged = judge(old, decided(old), DORA)
    assert isinstance(judged, Stamped)
    assert (judged.decision.by, judged.decision.groups) == ("dora@example.com", ())


def test_a_second_approver_can_write_the_same_as_the_first() -> None:
    old = stored_request(required=2)
    first = judge(old, decided(old))
    assert isinstance(first, Stamped)
    second = judge(first.stamped, decided(first.stamped), DORA)
    assert isinstance(second, Stamped)
    assert [each["by"] for each in second.stamped["spec"]["decisions"]] == ["dana@example.com", "dora@example.com"]


def test_a_service_account_that_is_named_may_decide() -> None:
    bot = "system:serviceaccount:ops:on-call"
    old = stored_request(approvers={"users": [bot]})
    assert isinstance(judge(old, decided(old), Decider(bot)), Stamped)


def test_a_comment_is_stored_with_what_cannot_be_seen_as_escapes() -> None:
    old = stored_request()
    judged = judge(old, decided(old, comment="fine\x1b[2K\u202eniam"))
    assert isinstance(judged, Stamped)
    assert judged.decision.comment == "fine\\x1b[2K\\u202eniam"


@pytest.mark.parametrize(
    "change",
    [
        lambda new: new["metadata"]["labels"].update(team="red"),
        lambda new: new["metadata"].update(annotations={"example.com/ticket": "4711"}),
        lambda new: new["metadata"].update(resourceVersion="11", generation=2),
        lambda new: new.pop("status"),
        lambda new: None,
    ],
)
def test_what_decides_nothing_and_is_nobodys_passes(change: Callable[[Wire], object]) -> None:
    old = stored_request()
    new = copy.deepcopy(old)
    change(new)
    assert judge(old, new, Decider("mallory")) == Undecided()


def test_the_operator_keeps_its_own_metadata() -> None:
    old = stored_request()
    new = copy.deepcopy(old)
    new["metadata"]["labels"]["sidegate.dev/phase"] = "Approved"
    new["metadata"]["finalizers"] = ["sidegate.dev/x"]
    assert judge(old, new, Decider(OPERATOR)) == Undecided()


def test_the_seal_covers_all_that_makes_the_decision_count() -> None:
    old = stored_request()
    base = judge(old, decided(old))
    assert isinstance(base, Stamped)
    request = ApprovalRequest.from_wire(base.stamped)

    def covered(**changes: Any) -> bytes:
        return sealed(request, base.decision.model_copy(update=changes))

    texts = {
        covered(),
        covered(by="dora@example.com"),
        covered(groups=()),
        covered(decision=Verdict.DENIED),
        covered(at="2026-11-25T09:46:41Z"),
        covered(comment="no"),
        sealed(ApprovalRequest.from_wire(stored_request(metadata={"uid": "another"})), base.decision),
        sealed(ApprovalRequest.from_wire(stored_request("ar-2", metadata={"uid": "uid-of-ar-1"})), base.decision),
        sealed(ApprovalRequest.from_wire(stored_request(metadata={"namespace": "prod"})), base.decision),
        sealed(ApprovalRequest.from_wire(stored_request(fingerprint="f" * 32)), base.decision),
    }
    assert len(texts) == 10
    assert json.loads(covered())[0] == "sidegate.dev/decision/v1"


# What isn't: each reason, by whom, of which object, at what time


def edited(**fields: Any) -> Callable[[Wire], None]:
    return lambda new: new["spec"].update(fields)


def nothing(new: Wire) -> None:
    pass


def relabelled(new: Wire) -> None:
    new["metadata"]["labels"] = {}


def labelled(new: Wire) -> None:
    new["metadata"]["labels"]["team"] = "red"


def refinalized(new: Wire) -> None:
    new["metadata"]["finalizers"] = ["example.com/keep"]


def marked(new: Wire) -> None:
    new["status"] = {"phase": "Approved"}


def rekinded(new: Wire) -> None:
    new["kind"] = "AccessPolicy"


def despecced(new: Wire) -> None:
    del new["spec"]


R = RefusalReason
ANN = frozenset({"dba", "system:masters"})  # the requester is an approver and a cluster-admin
REFUSED: list[tuple[RefusalReason, Wire, Callable[[Wire], None], Decider, float, str]] = [
    (R.UNREADABLE, stored_request(required=0), nothing, DANA, NOW, "`spec.required`"),
    (R.UNREADABLE, stored_request(metadata={"uid": ""}), nothing, DANA, NOW, "has no uid"),
    (R.UNREADABLE, stored_request(), despecced, DANA, NOW, "no spec"),
    (R.UNREADABLE, stored_request(), rekinded, DANA, NOW, "another kind"),
    (R.UNSTAMPED, stored_request(decision="Approved"), nothing, DANA, NOW, "nobody stamped"),
    (R.STATUS_FORGED, stored_request(), marked, DANA, NOW, "`dana@example.com` can't write the status"),
    (R.DECISIONS_EDITED, stored_request(), edited(decisions=[entry("dana@example.com")]), DANA, NOW, "written by admission"),
    (R.DECISIONS_EDITED, stored_request(decisions=[entry("dora", "Denied")]), edited(decisions=[]), DANA, NOW, "written by admission"),
    (R.REQUEST_EDITED, stored_request(), edited(statement="SELECT 1"), DANA, NOW, "`spec.statement`"),
    (R.REQUEST_EDITED, stored_request(), edited(required=1, approvers={"users": ["eve"]}), DANA, NOW, "`spec.approvers`"),
    (R.REQUEST_EDITED, stored_request(), edited(expiresAt="2036-01-01T00:00:00Z"), Decider(OPERATOR), NOW, "`spec.expiresAt`"),
    (R.REQUEST_EDITED, stored_request(), edited(reason="harmless"), DANA, NOW, "`spec.reason`"),
    (R.METADATA_EDITED, stored_request(), relabelled, DANA, NOW, "a decision changes nothing else, and `metadata.labels`"),
    (R.METADATA_EDITED, stored_request(), labelled, DANA, NOW, "a decision changes nothing else, and `metadata.labels`"),
    (R.METADATA_EDITED, stored_request(), refinalized, DANA, NOW, "`metadata.finalizers`"),
    (R.DECISION_UNKNOWN, stored_request(), edited(decision="approved"), DANA, NOW, "`approved` is no decision"),
    (R.DECISION_UNKNOWN, stored_request(), edited(decision={"a": 1}), DANA, NOW, "is no decision"),
    (R.DECISION_UNKNOWN, stored_request(), edited(decision=None), DANA, NOW, "`None` is no decision"),
    (R.COMMENT_UNUSABLE, stored_request(), edited(comment="x" * 1025), DANA, NOW, "1024 characters"),
    (R.COMMENT_UNUSABLE, stored_request(), edited(comment="\u202e" * 300), DANA, NOW, "1024 characters"),
    (R.COMMENT_UNUSABLE, stored_request(), edited(comment=7), DANA, NOW, "1024 characters"),
    (R.REQUEST_ENDED, stored_request(status={"phase": "Approved"}), nothing, DANA, NOW, "`ar-1` is Approved already"),
    (R.REQUEST_ENDED, stored_request(status={"phase": "Withdrawn"}), nothing, DANA, NOW, "`ar-1` is Withdrawn already"),
    (R.REQUEST_ENDED, stored_request(decisions=[entry("dora@example.com")]), nothing, DANA, NOW, "is Approved already"),
    (R.REQUEST_ENDED, stored_request(required=2, decisions=[entry("dora", "Denied")]), nothing, DANA, NOW, "is Denied already"),
    (R.REQUEST_ENDED, stored_request(metadata={"deletionTimestamp": "2026-11-25T09:46:00Z"}), nothing, DANA, NOW, "being deleted"),
    (R.REQUEST_EXPIRED, stored_request(), nothing, DANA, EXPIRES_AT, "`ar-1` expired at 2026-11-25T10:46:40Z"),
    (R.NAME_UNUSABLE, stored_request(), nothing, Decider(" dana", DANA.groups), NOW, "control characters, blanks"),
    (R.NAME_UNUSABLE, stored_request(), nothing, Decider("d" * 257, DANA.groups), NOW, "256 characters"),
    (R.NAME_UNUSABLE, stored_request(), nothing, Decider("", DANA.groups), NOW, "control characters, blanks"),
    (R.REQUESTER, stored_request(), nothing, Decider("ann@example.com", ANN), NOW, "`ann@example.com` asked for it"),
    (R.REQUESTER, stored_request(), nothing, Decider("ANN@example.com", ANN), NOW, "asked for it"),
    (R.REQUESTER, stored_request(), nothing, Decider("oidc:ann@example.com", ANN), NOW, "asked for it"),
    (R.REQUESTER, stored_request(), nothing, Decider("https://id.example#u-1", ANN), NOW, "asked for it"),
    (R.REQUESTER, stored_request(), nothing, Decider("kubernetes-ann", ANN), NOW, "asked for it"),
    (R.REQUESTER, stored_request(), nothing, Decider("cursor", ANN), NOW, "asked for it"),
    (R.REQUESTER, stored_request(agent="system:serviceaccount:ai:bot"), nothing, Decider("system:serviceaccount:ai:bot", ANN), NOW, "asked"),
    (R.REQUESTER, stored_request(approvers={"users": ["ann@example.com"]}), nothing, Decider("ann@example.com"), NOW, "asked for it"),
    (R.ALREADY_DECIDED, stored_request(required=2, decisions=[entry("dana@example.com")]), nothing, DANA, NOW, "has decided on `ar-1`"),
    (R.ALREADY_DECIDED, stored_request(required=2, decisions=[entry("oidc:Dana@example.com")]), nothing, DANA, NOW, "has decided"),
    (R.NOT_A_PERSON, stored_request(), nothing, Decider(OPERATOR, DANA.groups), NOW, "is no person's name"),
    (R.NOT_A_PERSON, stored_request(), nothing, Decider("system:anonymous", DANA.groups), NOW, "is no person's name"),
    (R.NOT_A_PERSON, stored_request(), nothing, Decider("System:admin", DANA.groups), NOW, "is no person's name"),
    (R.NOT_AN_APPROVER, stored_request(), nothing, Decider("eve"), NOW, "ask `dora@example.com` or a member of `dba`"),
    (R.NOT_AN_APPROVER, stored_request(), nothing, Decider("admin", frozenset({"system:masters", "DBA"})), NOW, "not an approver"),
    (R.NOT_AN_APPROVER, stored_request(), nothing, Decider("oidc:dora@example.com"), NOW, "not an approver"),
    (R.NOT_AN_APPROVER, stored_request(approvers={"users": [f"u{n}" for n in range(20)]}), nothing, DANA, NOW, "or one of 12 others"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "old", "change", "who", "now", "text"), REFUSED, ids=[f"{n}-{each[0].value}" for n, each in enumerate(REFUSED)]
)
def test_a_decision_that_may_not_be_is_refused(
    reason: RefusalReason, old: Wire, change: Callable[[Wire], None], who: Decider, now: float, text: str
) -> None:
    new = decided(old)
    change(new)
    judged = judge(old, new, who, now)
    assert isinstance(judged, Refused)
    assert judged.reason is reason
    assert text in judged.message
    reads_well(judged)


def reads_well(refused: Refused) -> None:
    for text in (refused.problem, refused.way_forward):
        assert text
        assert not text.endswith(".")
        assert text.isprintable()
        assert re.match(r"[a-z`]", text), text
    assert refused.message.count("; fix: ") == 1
    assert len(refused.message) < 1024


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (relabelled, R.METADATA_EDITED),
        (refinalized, R.METADATA_EDITED),
        (marked, R.STATUS_FORGED),
        (edited(comment="by the way"), R.DECISION_UNKNOWN),
        (edited(decisions=[entry("dana@example.com")]), R.DECISIONS_EDITED),
        (lambda new: new["metadata"].update(annotations={"x.sidegate.dev/y": "z"}), R.METADATA_EDITED),
        (lambda new: new["metadata"].update(ownerReferences=[]), R.METADATA_EDITED),
    ],
)
def test_what_decides_nothing_may_still_not_touch_what_is_kept(change: Callable[[Wire], None], reason: RefusalReason) -> None:
    old = stored_request()
    new = copy.deepcopy(old)
    change(new)
    judged = judge(old, new)
    assert isinstance(judged, Refused)
    assert judged.reason is reason
    reads_well(judged)


def test_every_reason_is_reached() -> None:
    assert {each[0] for each in REFUSED} == set(RefusalReason)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ann", "ann", True),
        ("ann", "Ann", True),
        ("oidc:ann", "ann", True),
        ("ann", "corp\\ann", True),
        ("https://id.example#ann", "ann", True),
        ("joann", "ann", False),
        ("mary-ann@example.com", "ann@example.com", False),
        ("oidc:ann", "saml:ann", False),
        ("ann", "", False),
        ("ann:", "", False),
    ],
)
def test_names_of_one_person_are_told(one: str, other: str, same: bool) -> None:
    assert is_same_person(one, other) == is_same_person(other, one) == same
