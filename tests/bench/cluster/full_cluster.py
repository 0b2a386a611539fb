"""A cluster that is full: API server, admission with its real webhook process, fake nodes, and everything of a `Population`.

    with FullCluster(QUICK) as cluster:
        asyncio.run(cluster.fill())

Pods are made through admission, as they would be anywhere. Targets and policies are there before admission is, since it judges each
policy with all of its namespace; what that takes is measured apart. The operator isn't started here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from sidegate_operator.api_client import ApiClient
from sidegate_operator.credentials import Credentials
from sidegate_operator.resources import PODS
from tests.bench.cluster.fake_nodes import FakeNodes
from tests.bench.cluster.population import Object, Population, Size, nodes
from tests.support import processes
from tests.support.admission import GATE_IMAGE, NAMESPACE, Admission
from tests.support.api_server import ApiServer
from tests.support.running_operator import OperatorAccount, RunningOperator

TOGETHER: Final = 8  # requests at a time while the cluster is filled


class FullCluster:
    """`account` is the operator's, under the very name that the guards of admission are about."""

    def __init__(self, size: Size) -> None:
        self._stack: Final = contextlib.ExitStack()
        try:
            self.api: Final = self._stack.enter_context(ApiServer())
            self.api.apply_crds()
            self.nodes: Final = self._stack.enter_context(FakeNodes(self.api.kubeconfig, self.api.directory))
            self.api.admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
            self.account: Final = OperatorAccount(self.api, NAMESPACE, "sidegate-operator")
            for node in nodes(size):
                self.api.admin.create(node)
            names = tuple(self.api.create_namespace("bench") for _ in range(size.namespaces))
        except BaseException:
            self._stack.close()
            raise
        self.population: Final = Population(size, names)
        self.gateway_port: Final = processes.free_port()
        self._admission: Admission | None = None
        self.filled_s: Final[dict[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @property
    def admission(self) -> Admission:
        """Once it is filled."""
        assert self._admission is not None
        return self._admission

    @property
    def gateway_url(self) -> str:
        return f"https://127.0.0.1:{self.gateway_port}"

    def operator(self) -> RunningOperator:
        """Not started yet; it serves the gateway."""
        options = (
            "--gateway",
            f"127.0.0.1:{self.gateway_port}",
            "--gateway-url",
            self.gateway_url,
            "--webhook-url",
            self.admission.url,
        )
        return RunningOperator(self.account, options=(*options, "--guards-every", "1", "--gate-image", GATE_IMAGE))

    def gateway_authority(self) -> str:
        secret = self.api.admin.get("v1", "Secret", "sidegate-gateway-certificates", namespace=NAMESPACE)
        return base64.b64decode(secret["data"]["ca.crt"]).decode()

    def client(self) -> ApiClient:
        """Of a cluster-admin. Use it as an async context manager."""
        return ApiClient(Credentials.from_kubeconfig(self.api.kubeconfig))

    async def fill(self) -> None:
        """Targets, policies, then pods, until each of them runs."""
        async with self.client() as client:
            await self._timed("targets", create_all(client, self.population.targets()))
            await self._timed("policies", create_all(client, self.population.policies()))
            self._admission = self._stack.enter_context(Admission(self.api, "--gateway-url", self.gateway_url))
            await self._timed("pods", create_all(client, self.population.pods()))
            await self._timed("running", self._until_running(client))

    async def _timed(self, what: str, work: Awaitable[None]) -> None:
        began = time.perf_counter()
        await work
        self.filled_s[what] = time.perf_counter() - began

    async def _until_running(self, client: ApiClient) -> None:
        async with asyncio.timeout(300):
            while True:
                self.nodes.check()
                pods = [each for name in self.population.namespaces for each in (await client.list(PODS, name)).items]
                if len(pods) >= self.population.size.pods and all(map(_runs, pods)):
                    return
                await asyncio.sleep(0.5)


async def create_all(client: ApiClient, wanted: Iterable[Object]) -> None:
    await together(wanted, client.create)


async def together(items: Iterable[Object], work: Callable[[Object], Awaitable[object]]) -> None:
    """`work` for each, a few at a time."""
    source = iter(items)

    async def one_after_the_other() -> None:
        for each in source:
            await work(each)

    async with asyncio.TaskGroup() as group:
        for _ in range(TOGETHER):
            group.create_task(one_after_the_other())


def _runs(pod: Object) -> bool:
    has_gate = any(each["name"] == "sidegate-gate" for each in pod["spec"].get("initContainers", ()))
    return has_gate and (pod.get("status") or {}).get("phase") == "Running"
