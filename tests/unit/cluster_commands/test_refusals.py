"""An API server's refusals in words for people: texts as Kubernetes 1.33 to 1.37 write them."""

from __future__ import annotations

import json

import pytest

from sidegate_cluster.pages.refusals import CallError, told

REQUEST = 'ApprovalRequest.sidegate.dev "ar-1" is invalid: '
CASES = {
    "the webhook's own words": (
        403,
        'admission webhook "decide.sidegate.dev" denied the request: `eve` is not an approver of `ar-1`; fix: ask `chief`',
        "`eve` is not an approver of `ar-1`",
        "ask `chief`",
    ),
    "a guard's own words": (
        403,
        "approvalrequests.sidegate.dev \"ar-1\" is forbidden: ValidatingAdmissionPolicy 'sidegate-decisions' with binding"
        " 'sidegate-decisions' denied request: eve is not an approver of it; fix: have one of those decide",
        "eve is not an approver of it",
        "have one of those decide",
    ),
    "a rule of the resource": (
        422,
        REQUEST + 'spec.decision: Invalid value: "Approved": nobody stamped who decided; fix: see to the webhook',
        "nobody stamped who decided",
        "see to the webhook",
    ),
    "a rule of a whole part": (
        422,
        REQUEST + "spec: Invalid value: only decision and comment of a request can be changed; fix: leave the rest as it is",
        "only decision and comment of a request can be changed",
        "leave the rest as it is",
    ),
    "no webhook": (
        500,
        'Internal error occurred: failed calling webhook "decide.sidegate.dev": failed to call webhook: Post'
        ' "https://sidegate-webhook.sidegate-system.svc:443/decide?timeout=5s": dial tcp 10.0.0.1:443: connect: connection refused',
        "nobody can decide while Sidegate's webhook doesn't answer: connection refused",
        "see to it: kubectl -n sidegate-system get pods; `sidegate doctor` says what is wrong",
    ),
    "somebody else's webhook": (
        500,
        'Internal error occurred: failed calling webhook "check.example": context deadline exceeded',
        "the webhook check.example doesn't answer: context deadline exceeded",
        "see to it: kubectl -n sidegate-system get pods; `sidegate doctor` says what is wrong",
    ),
    "rights": (
        403,
        'approvalrequests.sidegate.dev "ar-1" is forbidden: User "eve" cannot patch resource "approvalrequests"',
        'approvalrequests.sidegate.dev "ar-1" is forbidden: User "eve" cannot patch resource "approvalrequests"',
        "have the cluster's administrator grant you that, or choose another --context",
    ),
    "no resources": (
        404,
        "the server could not find the requested resource",
        "Sidegate isn't installed in this cluster: it doesn't serve its resources",
        "install it (docs/install.md), or choose another --context; `sidegate doctor` says what is there",
    ),
    "credentials": (
        401,
        "Unauthorized",
        "the API server doesn't know you: your credentials aren't valid any more",
        "log in to the cluster again",
    ),
}


@pytest.mark.parametrize(("code", "message", "problem", "way_forward"), CASES.values(), ids=CASES)
def test_it_is_told_with_a_way_forward(code: int, message: str, problem: str, way_forward: str) -> None:
    words = told(CallError(code, "", message))
    assert (words.problem, words.way_forward) == (problem, way_forward)


@pytest.mark.parametrize("code", [0, 400, 404, 409, 418, 429, 500, 503])
def test_what_isn_t_known_is_passed_on(code: int) -> None:
    words = told(CallError(code, "", "the moon is full"))
    assert "the moon is full" in words.problem
    assert words.way_forward


def test_what_is_no_status_keeps_its_text_and_its_code() -> None:
    error = CallError.from_answer(502, b"<html>bad gateway</html>")
    assert (error.code, error.message) == (502, "<html>bad gateway</html>")
    status = {"kind": "Status", "reason": "Conflict", "message": "m", "details": {"causes": [{"field": "spec", "message": "no"}]}}
    error = CallError.from_answer(409, json.dumps(status).encode())
    assert (error.reason, error.message, error.causes) == ("Conflict", "m", (("spec", "no"),))
