"""The gateway's authority on a real API server: at each step of its rotation, what gates have read is what is served."""

from __future__ import annotations

import base64
import dataclasses
import functools
import time
from typing import Any

from sidegate_operator.gateway.settings import LIFETIMES
from sidegate_operator.serving.authority import Held, Step, decode_held, encode_held, take_step
from tests.cluster.gateway.conftest import Gateways
from tests.support.admission import NAMESPACE
from tests.support.gate_client import GateClient
from tests.support.processes import wait_until

SECRET = "sidegate-gateway-certificates"
REPORT = {"revision": "", "version": "1", "sessions": 0}


def stored(gateways: Gateways) -> Held:
    data = gateways.api.admin.get("v1", "Secret", SECRET, namespace=NAMESPACE)["data"]
    held = decode_held({name: base64.b64decode(value) for name, value in data.items()})
    assert held is not None
    return held


def store(gateways: Gateways, held: Held) -> None:
    found = gateways.api.admin.get("v1", "Secret", SECRET, namespace=NAMESPACE)
    data = {name: base64.b64encode(value).decode() for name, value in encode_held(held).items()}
    gateways.api.admin.replace({**found, "data": data})


def published(gateways: Gateways, namespace: str) -> str:
    return str(gateways.api.admin.get("v1", "ConfigMap", "sidegate-shop-db", namespace=namespace)["data"]["operator-ca.crt"])


def test_gates_trust_what_is_served_at_every_step(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    before = stored(gateways)
    names = ("127.0.0.1",)
    now = time.time()  # noqa: TID251 - the operator reads this clock
    staged = take_step(Step.STAGE, before, names, now, LIFETIMES)
    assert staged.staged is not None
    store(gateways, staged)  # as a replica that thinks it is time
    next_pem = staged.staged.certificate.decode().strip()
    wait_until(lambda: next_pem in published(gateways, shop), "the next authority to be published", 20)
    read_by_gates = published(gateways, shop)
    assert before.authority.certificate.decode().strip() in read_by_gates
    wait_until(lambda: stored(gateways).staged_published_at is not None, "that to be noted", 20)
    assert stored(gateways).authority == before.authority  # and not used before gates could read it
    store(gateways, dataclasses.replace(stored(gateways), staged_published_at=now - 3600))
    wait_until(lambda: stored(gateways).authority == staged.staged, "it to be used", 20)
    for replica in (0, 1):
        client = dataclasses.replace(gateways.client(pod, replica=replica), authority=read_by_gates)
        assert client.post("report", REPORT).status == 200
        newest = dataclasses.replace(client, authority=next_pem)
        wait_until(functools.partial(_is_served, newest), "the new certificate to be served", 20)
    assert before.authority.certificate.decode().strip() in published(gateways, shop)  # until its time is over
    store(gateways, dataclasses.replace(stored(gateways), promoted_at=now - 7200))
    wait_until(lambda: published(gateways, shop).strip() == next_pem, "the old authority to go", 20)


def _is_served(client: GateClient) -> bool:
    try:
        return client.post("report", REPORT).status == 200
    except OSError:
        return False


def test_replicas_serve_certificates_of_one_authority(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    for replica in (0, 1):
        assert gateways.client(pod, replica=replica).post("report", REPORT).status == 200


def test_one_that_verifies_another_authority_doesnt_get_through(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    stranger = gateways.api.authority.pem.decode()
    assert not _is_served(dataclasses.replace(gateways.client(pod), authority=stranger))
