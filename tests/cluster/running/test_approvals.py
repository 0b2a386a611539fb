"""The running operator and approval requests: a decision counts when its seal verifies with a key that admission published."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidegate.api.approval_request import ApprovalRequest
from sidegate.api.text import Timestamp
from sidegate_operator.api_client import ApiClient
from sidegate_operator.apply import Writer
from sidegate_operator.cluster import Cluster
from sidegate_operator.credentials import Credentials
from sidegate_operator.decision_keys import DECISION_KEYS
from sidegate_operator.handlers.approvals import ApprovalWork
from sidegate_operator.plan.approval import sealed
from sidegate_operator.plan.approval_lifecycle import Keeping
from sidegate_operator.resources import APPROVAL_REQUESTS
from tests.cluster.running.resources import VERSION, settled
from tests.support.api_server import ApiServer
from tests.support.running_operator import OperatorAccount, RunningOperator
from tests.unit.operator.approval_objects import entry, stored_request


@pytest.fixture(scope="module")
def operator(api_server: ApiServer) -> Iterator[RunningOperator]:
    with RunningOperator(OperatorAccount(api_server)) as running:
        running.wait_until_leading()
        yield running


def publish(api_server: ApiServer, operator: RunningOperator, key: Ed25519PrivateKey) -> None:
    """As admission does it."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    metadata = {
        "name": DECISION_KEYS,
        "namespace": operator.account.namespace,
        "labels": {"app.kubernetes.io/managed-by": "sidegate"},
    }
    data = {hashlib.sha256(public).hexdigest()[:16]: base64.b64encode(public).decode()}
    api_server.admin.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def request(api_server: ApiServer, namespace: str, name: str = "ar-1", *, lasts_s: float = 3600.0) -> dict[str, Any]:
    found = stored_request(name, expiresAt=str(Timestamp.from_epoch(time.time() + lasts_s)))  # noqa: TID251 - what the operator reads
    metadata = {"name": name, "namespace": namespace}
    return api_server.admin.create({**found, "metadata": metadata})


def decide(api_server: ApiServer, stored: dict[str, Any], key: Ed25519PrivateKey) -> None:
    """As admission stamps it."""
    made = entry("dora@example.com", at=time.time())  # noqa: TID251 - what the operator reads
    unsealed = {**stored, "spec": {**stored["spec"], "decisions": [made]}}
    read = ApprovalRequest.from_wire(unsealed)
    made["signature"] = base64.b64encode(key.sign(sealed(read, read.spec.decisions[0]))).decode()
    api_server.admin.replace({**stored, "spec": {**stored["spec"], "decisions": [made]}})


def phase(api_server: ApiServer, namespace: str, name: str = "ar-1") -> str | None:
    found = api_server.admin.get(VERSION, "ApprovalRequest", name, namespace=namespace).get("status", {})
    value: str | None = found.get("phase") if found.get("conditions") else None  # the operator's, not the default
    return value


def test_a_sealed_decision_approves(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    key = Ed25519PrivateKey.generate()
    publish(api_server, operator, key)
    stored = request(api_server, namespace)
    decide(api_server, stored, key)
    settled(lambda: phase(api_server, namespace) == "Approved", "the approval")


def test_a_decision_sealed_with_another_key_doesnt_count_until_that_key_is_published(
    api_server: ApiServer, operator: RunningOperator, namespace: str
) -> None:
    publish(api_server, operator, Ed25519PrivateKey.generate())
    another = Ed25519PrivateKey.generate()
    stored = request(api_server, namespace)
    decide(api_server, stored, another)

    def looked_at() -> bool:
        found = api_server.admin.get(VERSION, "ApprovalRequest", "ar-1", namespace=namespace)
        generation: int = found["metadata"]["generation"]
        return bool(found.get("status", {}).get("observedGeneration") == generation)

    settled(looked_at, "the decision to be looked at")
    assert api_server.admin.get(VERSION, "ApprovalRequest", "ar-1", namespace=namespace)["status"]["phase"] == "Pending"
    publish(api_server, operator, another)
    settled(lambda: phase(api_server, namespace) == "Approved", "the approval")


def test_time_ends_a_request_that_nobody_decides(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    request(api_server, namespace, lasts_s=2.0)
    settled(lambda: phase(api_server, namespace) == "Expired", "the request to expire")


# What goes. The API server writes when an object was made, so here the operator's clock moves.


def made_and_ended(api_server: ApiServer, namespace: str, name: str, subject: str = "u-1", ago_s: float = 0.0) -> None:
    now = time.time()  # noqa: TID251 - what the operator reads
    who = {**stored_request()["spec"]["principal"], "subject": subject}
    found = stored_request(name, principal=who, expiresAt=str(Timestamp.from_epoch(now + 7200)))
    api_server.admin.create({**found, "metadata": {"name": name, "namespace": namespace}})
    at = str(Timestamp.from_epoch(now - ago_s))
    finished = {"type": "Finished", "status": "True", "reason": "Withdrawn", "lastTransitionTime": at}
    status = {"status": {"phase": "Withdrawn", "conditions": [finished]}}  # whatever an operator that runs beside has written
    api_server.admin.merge_patch(VERSION, "ApprovalRequest", name, status, namespace=namespace, subresource="status")


def cleaned_up(api_server: ApiServer, account: OperatorAccount, namespace: str, later_s: float, keeping: Keeping) -> set[str]:
    """What is left once the operator, with its own rights, has looked at every request at that time."""
    now = time.time() + later_s  # noqa: TID251 - what the operator reads

    async def look() -> None:
        async with ApiClient(Credentials.from_kubeconfig(api_server.kubeconfig_for_token(account.token()))) as client:
            cluster = Cluster(account.namespace)
            found = api_server.admin.list(VERSION, "ApprovalRequest", namespace=namespace)
            version = found["metadata"]["resourceVersion"]
            objects = [{"apiVersion": VERSION, "kind": "ApprovalRequest", **each} for each in found["items"]]
            cluster.stores[APPROVAL_REQUESTS].relisted(objects, version)
            writer = Writer(client, cluster.stores, lambda: True, lambda: now, "tests")
            work = ApprovalWork(cluster, writer, lambda: now, account.namespace, keeping)
            for key in cluster.stores[APPROVAL_REQUESTS].keys_within(namespace):
                await work.reconcile(key)

    asyncio.run(look())
    left = api_server.admin.list(VERSION, "ApprovalRequest", namespace=namespace)["items"]
    return {each["metadata"]["name"] for each in left}


def test_a_request_that_ended_long_ago_goes_and_not_while_it_counts(
    api_server: ApiServer, account: OperatorAccount, namespace: str
) -> None:
    made_and_ended(api_server, namespace, "ar-1", ago_s=7200)
    assert cleaned_up(api_server, account, namespace, 0.0, Keeping()) == {"ar-1"}
    assert cleaned_up(api_server, account, namespace, Keeping().counted_s + 2, Keeping()) == set()


def test_who_asks_and_withdraws_without_end_pushes_out_their_own_alone(
    api_server: ApiServer, account: OperatorAccount, namespace: str
) -> None:
    for name, subject, ago_s in (("br-1", "u-2", 900), ("br-2", "u-2", 800), *((f"ar-{n}", "u-1", 50 - n) for n in range(6))):
        made_and_ended(api_server, namespace, name, subject, ago_s)
    keeping = Keeping(max_finished_per_target=5)
    everything = {"br-1", "br-2", *(f"ar-{n}" for n in range(6))}
    assert cleaned_up(api_server, account, namespace, 0.0, keeping) == everything
    assert cleaned_up(api_server, account, namespace, keeping.counted_s + 5, keeping) == {"br-1", "br-2", "ar-3", "ar-4", "ar-5"}
