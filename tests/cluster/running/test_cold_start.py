"""An operator that starts on a cluster that is full already: it looks at all of it before it writes, and what is in order stays as it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.running.resources import VERSION, gate_config, policy, settled, target, wait_for_policies
from tests.support.api_server import ApiServer
from tests.support.running_operator import OperatorAccount, RunningOperator

TARGETS, POLICIES = 40, 400


@pytest.fixture(scope="module")
def full_namespace(api_server: ApiServer) -> str:
    """Each policy is bound to one target, but for one that is bound to all."""
    namespace = api_server.create_namespace("full")
    names = [f"shop-{number:02}" for number in range(TARGETS)]
    wanted = [target(namespace, name) for name in names]
    wanted += [policy(namespace, f"p-{number:03}", (names[number % TARGETS],)) for number in range(POLICIES)]
    wanted.append({**policy(namespace, "everywhere"), "spec": {**policy(namespace)["spec"], "targets": {"names": names}}})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(api_server.admin.create, wanted))
    return namespace


def policies_for(number: int) -> set[str]:
    return {"everywhere", *(f"p-{each:03}" for each in range(POLICIES) if each % TARGETS == number)}


def test_brings_every_target_up_to_date_and_then_has_nothing_to_do(
    api_server: ApiServer, account: OperatorAccount, full_namespace: str
) -> None:
    with RunningOperator(account) as operator:
        operator.wait_until_leading()
        for number in range(TARGETS):
            wait_for_policies(api_server, full_namespace, policies_for(number), f"shop-{number:02}", timeout_s=60)
        settled(lambda: _everywhere(api_server, full_namespace) == TARGETS, "the status of the policy for all of them", 60)
        settled(lambda: operator.metric("sidegate_operator_queue_busy") == 0, "the queue to be empty", 60)
        assert operator.terminate() == 0
        statuses = operator.said("tried again")
        assert statuses == []
    with RunningOperator(account) as again:
        again.wait_until_leading()
        again.wait_for_line("every target is planned")
        settled(lambda: again.metric("sidegate_operator_queue_busy") == 0, "the queue to be empty", 60)
        assert again.metric("sidegate_operator_writes_total") == 0


def test_one_edit_among_hundreds_writes_what_it_concerns_and_no_more(
    api_server: ApiServer, account: OperatorAccount, full_namespace: str
) -> None:
    with RunningOperator(account) as operator:
        operator.wait_until_leading()
        wait_for_policies(api_server, full_namespace, policies_for(7), "shop-07", timeout_s=60)
        operator.wait_for_line("every target is planned")
        settled(lambda: operator.metric("sidegate_operator_queue_busy") == 0, "the queue to be empty", 60)
        applied = operator.metric("sidegate_operator_writes_total", how="apply")
        before = gate_config(api_server, full_namespace, "shop-07")
        patch = {"spec": {"mode": "Observe"}}
        api_server.admin.merge_patch(VERSION, "AccessPolicy", "p-007", patch, namespace=full_namespace)
        settled(lambda: gate_config(api_server, full_namespace, "shop-07") != before, "the edit")
        assert operator.metric("sidegate_operator_writes_total", how="apply") == applied + 1


def _everywhere(api_server: ApiServer, namespace: str) -> int:
    found = api_server.admin.get(VERSION, "AccessPolicy", "everywhere", namespace=namespace)
    count: int = found.get("status", {}).get("targetsCount", 0)
    return count
