"""The running operator under faults: of the API server, of its watches, of its lease, of its rights. It never goes blind, and never writes
what another leader should."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.running.resources import (
    VERSION,
    gate_config,
    policies_of,
    policy,
    settled,
    target,
    wait_for_policies,
)
from tests.support.api_server import ApiServer
from tests.support.fault_proxy import FaultProxy
from tests.support.running_operator import LEASE, OperatorAccount, RunningOperator


@pytest.fixture
def proxy(api_server: ApiServer) -> Iterator[FaultProxy]:
    with FaultProxy(api_server) as running:
        yield running


@pytest.fixture
def operator(account: OperatorAccount, proxy: FaultProxy) -> Iterator[RunningOperator]:
    """Through the proxy, leading, with both its watch and kopf's open."""
    with RunningOperator(account, proxy) as running:
        running.wait_until_leading()
        settled(lambda: proxy.open_watches("accesspolicies") == 2, "its own watch of policies and kopf's")
        yield running


# Watches and the API server


def test_a_policy_deleted_while_history_was_compacted_grants_nothing_any_more(
    api_server: ApiServer, operator: RunningOperator, proxy: FaultProxy, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    for name in ("kept", "deleted"):
        api_server.admin.create(policy(namespace, name))
    wait_for_policies(api_server, namespace, {"kept", "deleted"})
    with proxy.silenced("accesspolicies"):
        api_server.admin.delete(VERSION, "AccessPolicy", "deleted", namespace=namespace)
        settled(lambda: proxy.swallowed() >= 2, "the deletion to be swallowed")
        api_server.compact()
    wait_for_policies(api_server, namespace, {"kept"})
    assert operator.is_running


@pytest.mark.parametrize("code", [500, 410])
def test_an_error_in_every_watch_of_policies_doesnt_make_it_blind(
    api_server: ApiServer, operator: RunningOperator, proxy: FaultProxy, namespace: str, code: int
) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(policy(namespace, "before"))
    wait_for_policies(api_server, namespace, {"before"})
    assert proxy.break_watches("accesspolicies", code=code) == 2
    api_server.admin.delete(VERSION, "AccessPolicy", "before", namespace=namespace)
    api_server.admin.create(policy(namespace, "after"))
    wait_for_policies(api_server, namespace, {"after"})
    if code == 500:
        operator.wait_for_line("kopf: ", "started again")
    settled(lambda: proxy.open_watches("accesspolicies") == 2, "both watches again")
    settled(lambda: operator.metric("sidegate_operator_kopf_watching") == 1, "kopf to watch every kind again")


def test_a_list_that_fails_for_a_while_is_made_again(
    api_server: ApiServer, operator: RunningOperator, proxy: FaultProxy, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    proxy.fail("GET", "accesspolicies", code=503, times=6)
    proxy.break_watches("accesspolicies", code=410)
    api_server.admin.create(policy(namespace))
    wait_for_policies(api_server, namespace, {"read"})


def test_goes_on_after_a_restart_of_the_api_server(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    api_server.admin.create(target(namespace))
    api_server.restart()
    api_server.admin.create(policy(namespace))
    wait_for_policies(api_server, namespace, {"read"}, timeout_s=60)
    assert operator.is_running
    settled(lambda: operator.page("readyz")[0] == 200, "it to be ready again")


def test_a_write_that_fails_is_tried_again(
    api_server: ApiServer, operator: RunningOperator, proxy: FaultProxy, namespace: str
) -> None:
    proxy.fail("PATCH", "configmaps", code=500, times=3)
    api_server.admin.create(target(namespace))
    wait_for_policies(api_server, namespace, set())
    assert len(operator.said("ProtectedTarget", "tried again")) >= 3


# Rights and kinds


def test_says_which_right_it_has_lost_and_goes_on_when_it_has_it_again(
    api_server: ApiServer, account: OperatorAccount, operator: RunningOperator, proxy: FaultProxy, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    account.grant(without="accesspolicies")
    settled(lambda: not _may_list_policies(api_server, account), "the right to be gone")
    proxy.break_watches("accesspolicies", code=500)  # an open watch isn't authorised again
    operator.wait_for_line("accesspolicies", "forbidden", "fix:")
    code, text = operator.page("readyz")
    assert code == 503
    assert "accesspolicies" in text
    assert operator.page("healthz")[0] == 200  # a restart would mend nothing
    assert gate_config(api_server, namespace) is not None
    account.grant()
    api_server.admin.create(policy(namespace))
    wait_for_policies(api_server, namespace, {"read"})
    operator.wait_for_line("accesspolicies.sidegate.dev: in order again")
    settled(lambda: operator.page("readyz")[0] == 200, "it to be ready again")


def test_a_right_to_write_that_is_missing_is_said_and_used_when_it_is_there(
    api_server: ApiServer, account: OperatorAccount, operator: RunningOperator, namespace: str
) -> None:
    account.grant(without="configmaps")
    settled(lambda: not _may_list_config_maps(api_server, account), "the right to be gone")
    api_server.admin.create(target(namespace))
    operator.wait_for_line("ProtectedTarget", "configmaps", "forbidden", "fix:")
    account.grant()
    wait_for_policies(api_server, namespace, set())


def test_waits_for_the_kinds_when_they_are_missing_and_says_so(api_server: ApiServer) -> None:
    with ApiServer(api_server.programs) as bare, RunningOperator(OperatorAccount(bare)) as operator:
        operator.wait_for_line("doesn't serve protectedtargets.sidegate.dev", "apply the CRDs")
        assert operator.page("readyz")[0] == 503
        bare.apply_crds()
        operator.wait_until_leading()
        namespace = bare.create_namespace()
        bare.admin.create(target(namespace))
        bare.admin.create(policy(namespace))
        wait_for_policies(bare, namespace, {"read"})
        settled(lambda: operator.metric("sidegate_operator_kopf_watching") == 1, "kopf to watch every kind", 60)


# Several of them


def test_of_two_one_leads_and_the_other_follows_at_once_when_it_ends(
    api_server: ApiServer, account: OperatorAccount, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    with RunningOperator(account) as one:
        one.wait_until_leading()
        with RunningOperator(account) as two:
            two.wait_for_line("held by")
            assert two.metric("sidegate_operator_leader") == 0
            assert two.page("readyz")[0] == 200
            holder = one.lease()["holderIdentity"]
            assert one.terminate() == 0
            assert one.said("lease: released")
            two.wait_until_leading(timeout_s=10)  # less than the lease lasts
            assert two.lease()["holderIdentity"] != holder
            api_server.admin.create(policy(namespace))
            wait_for_policies(api_server, namespace, {"read"})


def test_who_finds_the_lease_stolen_ends_and_writes_nothing_more(
    api_server: ApiServer, account: OperatorAccount, operator: RunningOperator, proxy: FaultProxy, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    wait_for_policies(api_server, namespace, set())
    thief = {"spec": {"holderIdentity": "thief"}}
    api_server.admin.merge_patch("coordination.k8s.io/v1", "Lease", LEASE, thief, namespace=account.namespace)
    assert operator.wait_until_ended(15) == 1
    assert operator.said("lease lost", "`thief` has taken the lease")
    api_server.admin.create(policy(namespace))
    assert policies_of(api_server, namespace) == set()
    assert operator.lease()["holderIdentity"] == "thief"


def test_one_that_slept_through_its_lease_writes_nothing_when_it_wakes(
    api_server: ApiServer, account: OperatorAccount, proxy: FaultProxy, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    with RunningOperator(account, proxy, lease_seconds=3) as sleeper, RunningOperator(account, lease_seconds=3) as other:
        settled(lambda: bool(sleeper.said("every kind is listed") or other.said("every kind is listed")), "one to lead")
        if not sleeper.said("every kind is listed"):
            assert other.terminate() == 0
            sleeper.wait_until_leading()
            with RunningOperator(account, lease_seconds=3) as third:
                _sleeps_through(api_server, proxy, sleeper, third, namespace)
        else:
            _sleeps_through(api_server, proxy, sleeper, other, namespace)


def _sleeps_through(
    api_server: ApiServer, proxy: FaultProxy, sleeper: RunningOperator, other: RunningOperator, namespace: str
) -> None:
    wait_for_policies(api_server, namespace, set())
    before = len(proxy.requests("PATCH", "configmaps"))
    sleeper.pause()
    other.wait_until_leading()
    api_server.admin.create(policy(namespace))
    wait_for_policies(api_server, namespace, {"read"})
    sleeper.resume()
    assert sleeper.wait_until_ended(20) == 1
    assert sleeper.said("lease lost")
    assert len(proxy.requests("PATCH", "configmaps")) == before


def test_one_that_cant_renew_ends_by_itself(api_server: ApiServer, account: OperatorAccount, proxy: FaultProxy) -> None:
    with RunningOperator(account, proxy, lease_seconds=3) as operator:
        operator.wait_until_leading()
        proxy.fail("PUT", "leases", code=500, times=1000)
        assert operator.wait_until_ended(20) == 1
        assert operator.said("lease lost", "wasn't renewed within 2 s")


def _may_list_policies(api_server: ApiServer, account: OperatorAccount) -> bool:
    return _may(api_server, account, "list", "sidegate.dev", "accesspolicies")


def _may_list_config_maps(api_server: ApiServer, account: OperatorAccount) -> bool:
    return _may(api_server, account, "patch", "", "configmaps")


def _may(api_server: ApiServer, account: OperatorAccount, verb: str, group: str, resource: str) -> bool:
    """What the API server's authorizer has seen by now."""
    user = f"system:serviceaccount:{account.namespace}:{account.name}"
    wanted = {"user": user, "groups": [], "resourceAttributes": {"verb": verb, "group": group, "resource": resource}}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": wanted}
    return bool(api_server.admin.create(review)["status"]["allowed"])
