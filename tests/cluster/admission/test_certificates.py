"""The webhook's certificates on a real API server: one authority for all replicas, and no request is lost while it changes."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography import x509

from sidegate_operator.api_client import ApiClient
from sidegate_operator.credentials import Credentials
from sidegate_operator.serving.authority import DAY_S, Lifetimes, is_trusted
from sidegate_operator.webhook.certificates import CertificateKeeper, Places
from tests.support import processes
from tests.support.admission import CONFIGURATIONS, NAMESPACE, REGISTRATION, SECRET, Admission, dry_run, policy
from tests.support.cluster_client import ApiError
from tests.support.processes import wait_until

RENEW_NOW = Lifetimes(authority_renewed_before_s=10_000 * DAY_S)


def now() -> float:
    return time.time()  # noqa: TID251 - the API server reads this clock


def served_certificate(port: int) -> x509.Certificate:
    return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode())


def is_signed_by(certificate: x509.Certificate, authority: bytes) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except Exception:
        return False
    return True


@contextmanager
def second_replica(admission: Admission) -> Iterator[int]:
    """Its port."""
    port = processes.free_port()
    process = processes.start(admission.command(port, "--settle", "1", "--overlap", "2"), admission.log)
    try:
        wait_until(lambda: answers_ready(admission, port), "the second replica to be ready", 30)
        yield port
    finally:
        processes.stop(process)


def answers_ready(admission: Admission, port: int) -> bool:
    try:
        return admission.ask("/readyz", port=port)[0] == 200
    except OSError:
        return False


def is_served_anew(admission: Admission, before: bytes) -> bool:
    """Whether the Secret has another authority by now, and its certificate is what handshakes get."""
    try:
        authority = admission.secret()["ca.crt"]
    except (ApiError, KeyError):
        return False
    return authority != before and is_signed_by(served_certificate(admission.port), authority)


def stage_another_authority(admission: Admission) -> None:
    """As a replica that thinks it is time."""

    async def stage() -> None:
        async with ApiClient(Credentials.from_kubeconfig(admission.api.kubeconfig)) as api:
            places = Places(NAMESPACE, SECRET, (f"sidegate-webhook.{NAMESPACE}.svc", "127.0.0.1"))
            await CertificateKeeper(api, places, RENEW_NOW).keep(now())

    asyncio.run(stage())


def test_reviews_keep_passing_while_the_authority_changes(admission: Admission, namespace: str) -> None:
    admission.restart_webhook("--settle", "1", "--overlap", "2")
    before = admission.secret()["ca.crt"]
    stop, passed, failed = threading.Event(), [], []

    def ask_all_the_time() -> None:
        while not stop.is_set():
            try:
                dry_run(admission.api.admin, policy(namespace))
                passed.append(now())
            except ApiError as error:
                failed.append(str(error))

    with second_replica(admission) as other:
        asking = threading.Thread(target=ask_all_the_time)
        asking.start()
        try:
            stage_another_authority(admission)
            wait_until(lambda: len(passed) > 0, "a first review")
            assert is_trusted(before, admission.bundles())
            wait_until(lambda: admission.secret()["ca.crt"] != before, "the new authority to be used", 30)
            after = admission.secret()["ca.crt"]
            for port in (admission.port, other):
                wait_until(lambda port=port: is_signed_by(served_certificate(port), after), "its certificate to be served", 30)
            wait_until(lambda: not any(is_trusted(before, [each]) for each in admission.bundles()), "the old one to go", 30)
            seen = len(passed)
            wait_until(lambda: len(passed) > seen + 3, "reviews under the new authority alone", 30)
            assert answers_ready(admission, other)
        finally:
            stop.set()
            asking.join()
    assert failed == []
    assert admission.is_ready()
    assert sorted(admission.secret()) == ["ca.crt", "ca.key", "tls.crt", "tls.key"]


def test_replicas_that_start_together_make_one_authority(admission: Admission) -> None:
    for kind in CONFIGURATIONS:
        made = admission.api.admin.get(REGISTRATION, kind, "sidegate")
        hooks = [
            {**hook, "rules": [{**rule, "apiGroups": ["race.example"]} for rule in hook["rules"]]} for hook in made["webhooks"]
        ]
        bare = [{**hook, "clientConfig": {"url": hook["clientConfig"]["url"]}} for hook in hooks]
        admission.api.admin.apply(
            {"apiVersion": REGISTRATION, "kind": kind, "metadata": {"name": "sidegate-race"}, "webhooks": bare}
        )

    async def race() -> list[bytes]:
        places = Places(NAMESPACE, "race", ("127.0.0.1",), ("sidegate-race",), ("sidegate-race",))
        async with ApiClient(Credentials.from_kubeconfig(admission.api.kubeconfig)) as api:
            keepers = [CertificateKeeper(api, places) for _ in range(8)]
            held = await asyncio.gather(*(keeper.keep(now()) for keeper in keepers))
            assert all(await asyncio.gather(*(keeper.is_mine(keeper.held) for keeper in keepers)))
            return [each.authority.certificate for each in held]

    authorities = asyncio.run(race())
    assert len(set(authorities)) == 1
    for kind in CONFIGURATIONS:
        admission.api.admin.delete(REGISTRATION, kind, "sidegate-race")


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_replica_is_ready_only_while_every_configuration_trusts_it(admission: Admission, kind: str) -> None:
    admission.api.admin.delete(REGISTRATION, kind, "sidegate")
    wait_until(lambda: admission.ask("/readyz")[0] == 503, "the replica to notice")
    assert "trusts my authority" in admission.ask("/readyz")[1]
    assert admission.ask("/healthz")[0] == 200
    admission.apply_objects()
    wait_until(admission.is_ready, "the new configuration to trust it")
    admission.wait_until_enforced()


def test_a_bundle_that_somebody_replaced_is_mended(admission: Admission) -> None:
    """As by a deployment tool that takes the field away."""
    configuration = admission.api.admin.get(REGISTRATION, "ValidatingWebhookConfiguration", "sidegate")
    for hook in configuration["webhooks"]:
        hook["clientConfig"].pop("caBundle")
    admission.api.admin.replace(configuration)
    authority = admission.secret()["ca.crt"]
    wait_until(lambda: is_trusted(authority, admission.bundles()), "the authority to be trusted again")
    admission.wait_until_enforced()


@pytest.mark.parametrize(
    "damage", [{"tls.key": None}, {"ca.crt": "bm9uc2Vuc2U="}], ids=["a part is missing", "a part is nonsense"]
)
def test_a_secret_that_cannot_be_used_is_made_anew(admission: Admission, namespace: str, damage: dict[str, str | None]) -> None:
    before = admission.secret()["ca.crt"]
    admission.api.admin.merge_patch("v1", "Secret", SECRET, {"data": damage}, namespace=NAMESPACE)
    wait_until(lambda: is_served_anew(admission, before), "another authority's certificate to be served")
    wait_until(admission.is_ready, "it to be trusted")
    admission.wait_until_enforced()
    dry_run(admission.api.admin, policy(namespace))


def test_a_secret_that_somebody_deleted_is_made_anew(admission: Admission) -> None:
    before = admission.secret()["ca.crt"]
    admission.api.admin.delete("v1", "Secret", SECRET, namespace=NAMESPACE)
    wait_until(lambda: is_served_anew(admission, before), "another authority's certificate to be served")
    wait_until(admission.is_ready, "it to be trusted")
    admission.wait_until_enforced()


def test_the_webhook_ends_with_exit_code_0_when_told(admission: Admission) -> None:
    assert admission.stop_webhook() == 0
    admission.start_webhook()
    admission.wait_until_enforced()
