"""AdmissionReview: what isn't one is refused, and what is answered says exactly one thing."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate_operator.webhook.review import (
    MAX_WARNINGS_LENGTH,
    Answer,
    Operation,
    Reason,
    Refusal,
    ReviewError,
    allow,
    decode_review,
    encode_answer,
    fitting_warnings,
    refuse,
)

REQUEST: dict[str, Any] = {
    "uid": "705ab4f5",
    "kind": {"group": "", "version": "v1", "kind": "Pod"},
    "resource": {"group": "", "version": "v1", "resource": "pods"},
    "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
    "requestResource": {"group": "", "version": "v1", "resource": "pods"},
    "name": "shop-db-0",
    "namespace": "shop",
    "operation": "CREATE",
    "userInfo": {"username": "ada", "uid": "7", "groups": ["dba"], "extra": {"scopes": ["a", "b"]}},
    "object": {"kind": "Pod", "metadata": {"name": "shop-db-0"}},
    "oldObject": None,
    "dryRun": False,
    "options": {"kind": "CreateOptions"},
}


def body(**changes: Any) -> bytes:
    request = {name: value for name, value in {**REQUEST, **changes}.items() if value is not ...}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def test_reads_what_the_api_server_sends() -> None:
    review = decode_review(body())
    assert (review.uid, review.operation, review.namespace, review.name) == ("705ab4f5", Operation.CREATE, "shop", "shop-db-0")
    assert (review.resource.group, review.resource.version, review.resource.resource) == ("", "v1", "pods")
    assert (review.user.username, review.user.uid, review.user.groups) == ("ada", "7", ("dba",))
    assert review.user.extra == {"scopes": ("a", "b")}
    assert review.new == {"kind": "Pod", "metadata": {"name": "shop-db-0"}}
    assert (review.old, review.subresource, review.is_dry_run) == (None, "", False)


def test_reads_what_the_api_server_leaves_out() -> None:
    review = decode_review(body(name=..., namespace=..., dryRun=..., oldObject=..., options=..., userInfo={"username": "ada"}))
    assert (review.name, review.namespace, review.user.groups) == ("", "", ())


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        body()[:-1],
        body() + b"{}",
        body().replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
        body().replace(b"AdmissionReview", b"ConversionReview"),
        body(uid=...),
        body(uid=""),
        body(uid=7),
        body(operation="PATCH"),
        body(operation=...),
        body(resource=...),
        body(resource={"group": "", "version": "v1", "resource": ""}),
        body(userInfo=...),
        body(userInfo={}),
        body(userInfo={"username": None}),
        body(userInfo={"username": "ada", "groups": "dba"}),
        body(object=None),
        body(object="pod"),
        body(operation="UPDATE"),
        body(operation="DELETE", object=None),
        body(dryRun="no"),
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":' + b"[" * 100_000,
    ],
    ids=range(26),
)
def test_refuses_what_is_no_review(malformed: bytes) -> None:
    with pytest.raises(ReviewError) as caught:
        decode_review(malformed)
    assert caught.value.way_forward


@given(st.binary(max_size=200))
def test_any_bytes_are_a_review_or_a_review_error(data: bytes) -> None:
    with pytest.raises(ReviewError):
        decode_review(data)


@given(st.integers(0, len(body()) - 1), st.integers(0, 255))
def test_a_changed_byte_never_raises_anything_else(position: int, value: int) -> None:
    changed = bytearray(body())
    changed[position] = value
    with suppress(ReviewError):
        assert decode_review(bytes(changed)).uid


def response(answer: Answer) -> dict[str, Any]:
    document = json.loads(encode_answer("705ab4f5", answer))
    assert (document["apiVersion"], document["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert document["response"]["uid"] == "705ab4f5"
    return dict(document["response"])


def test_an_answer_without_a_patch_has_no_patch_type() -> None:
    """The API server refuses an empty patch with a type (webhook/request/admissionreview.go)."""
    assert response(allow()) == {"uid": "705ab4f5", "allowed": True}


def test_a_patch_is_a_base64_json_patch() -> None:
    made = response(allow([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}], audit={"target": "shop-db"}))
    assert made["patchType"] == "JSONPatch"
    assert json.loads(base64.b64decode(made["patch"])) == [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]
    assert made["auditAnnotations"] == {"target": "shop-db"}


def test_a_refusal_says_why_in_every_place() -> None:
    made = response(refuse(Reason.INVALID, "no; fix: yes", code=422, causes=[("spec.a", "no; fix: yes")], warnings=["mind"]))
    assert made["allowed"] is False
    assert "patch" not in made
    assert made["status"] == {
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": "no; fix: yes",
        "details": {"causes": [{"reason": "FieldValueInvalid", "field": "spec.a", "message": "no; fix: yes"}]},
    }
    assert (made["warnings"], made["auditAnnotations"]) == (["mind"], {"refused": "Invalid"})


def test_a_refusal_cannot_carry_a_patch() -> None:
    with pytest.raises(ValueError, match="no patch"):
        Answer(Refusal(Reason.INVALID, "no"), ({"op": "remove", "path": "/spec"},))


@given(st.lists(st.text(max_size=2000), max_size=40))
def test_warnings_fit_and_say_how_many_are_left_out(warnings: list[str]) -> None:
    kept = fitting_warnings(warnings)
    assert sum(map(len, kept)) <= 4096
    assert not any("\n" in each or "\r" in each for each in kept)
    wanted = len({" ".join(each.split()) for each in warnings})
    left_out = int(kept[-1].split()[0]) if kept and kept[-1].endswith("lists all") else 0
    assert len(kept) - bool(left_out) + left_out == wanted


def test_many_warnings_are_counted() -> None:
    assert fitting_warnings([f"{number}" * 500 for number in range(10)])[-1] == "3 more; `sidegate policy lint` lists all"
    assert MAX_WARNINGS_LENGTH == 3800
