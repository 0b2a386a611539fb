"""The gates of fake pods: a process that reports to the gateway for each of them what its pod was told, as soon as it is told.

    with ReportingGates(api, port, folder) as gates: ...

What kubelet and gate do in between takes no time here; tests/e2e measures it with real pods. Each gate has its own token, bound
to its pod, and reports again as often as a gate does. Few connections serve all of them, which is where this differs from gates.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from sidegate.gateway.messages import REPORT_EVERY_S
from sidegate_operator.api_client import ApiClient, ApiError
from sidegate_operator.credentials import Credentials
from sidegate_operator.plan.gate_container import AUDIENCE
from sidegate_operator.plan.owned import REVISION_ANNOTATION, TARGET_LABEL
from sidegate_operator.resources import PODS, SECRETS, Object
from tests.support import processes
from tests.support.admission import NAMESPACE
from tests.support.api_server import ApiServer

CONNECTIONS: Final = 16
AGAIN_S: Final = 0.25
READY: Final = "every gate has its token"


class ReportingGates:
    """INVARIANT: every gated pod that there is when it starts has a gate."""

    def __init__(self, api: ApiServer, port: int) -> None:
        self.log: Final = api.directory / "gates.log"
        command: list[str | Path] = [sys.executable, "-m", "tests.bench.cluster.reporting_gates", api.kubeconfig, str(port)]
        self.process: Final = processes.start(command, self.log)

    def __enter__(self) -> Self:
        processes.wait_until(self._is_ready, f"the gates to have tokens; their log is {self.log}", 120, 0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise processes.ChildError(f"the gates ended with {self.process.returncode}: {self.log.read_text()[-4000:]}")
        return READY in self.log.read_text()


class Gates:
    """All of them, in one loop. What waits to be reported is a pod's name; what it says is looked up when its turn comes."""

    def __init__(self, client: ApiClient, port: int) -> None:
        self._client = client
        self._url = f"https://127.0.0.1:{port}"
        self._tokens: dict[str, str] = {}  # by uid
        self._pods: dict[str, Object] = {}
        self._due: asyncio.Queue[str] = asyncio.Queue()
        self._reported: dict[str, tuple[str, float]] = {}

    async def run(self) -> None:
        listed = await self._client.list(PODS)
        mine = [each for each in listed.items if TARGET_LABEL in (each["metadata"].get("annotations") or {})]
        source = iter(mine)
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._fetch_tokens(source))
        print(READY, flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(listed.resource_version))
            group.create_task(self._again())
            tls = await self._authority()
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=tls)) as session:
                await asyncio.gather(*(self._report(session) for _ in range(CONNECTIONS)))

    async def _fetch_tokens(self, pods: object) -> None:
        for pod in pods:  # type: ignore[attr-defined]
            metadata = pod["metadata"]
            bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
            path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/default/token"
            spec = {"audiences": [AUDIENCE], "expirationSeconds": 7200, "boundObjectRef": bound}
            made = await self._client._ask("POST", path, {"spec": spec})
            self._tokens[metadata["uid"]] = made["status"]["token"]
            self._pods[metadata["uid"]] = pod
            if REVISION_ANNOTATION in (metadata.get("annotations") or {}):
                self._due.put_nowait(metadata["uid"])

    async def _authority(self) -> ssl.SSLContext:
        """As soon as the operator has made it."""
        while True:
            try:
                secret = await self._client.get(SECRETS, NAMESPACE, "sidegate-gateway-certificates")
            except ApiError:
                await asyncio.sleep(AGAIN_S)
            else:
                return ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())

    async def _follow(self, since: str) -> None:
        while True:
            async with self._client.watch(PODS, since, lifetime_s=600, silence_s=300) as events:
                async for event in events:
                    since = event.object["metadata"]["resourceVersion"]
                    uid = event.object["metadata"].get("uid", "")
                    if event.type == "MODIFIED" and uid in self._tokens:
                        before, self._pods[uid] = self._pods[uid], event.object
                        if _revision(before) != _revision(event.object):
                            self._due.put_nowait(uid)

    async def _again(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            long_ago = time.monotonic() - REPORT_EVERY_S
            for uid, (revision, at) in list(self._reported.items()):
                if at < long_ago:
                    self._reported[uid] = revision, time.monotonic()
                    self._due.put_nowait(uid)

    async def _report(self, session: aiohttp.ClientSession) -> None:
        while True:
            uid = await self._due.get()
            metadata = self._pods[uid]["metadata"]
            revision, target = _revision(self._pods[uid]), metadata["annotations"][TARGET_LABEL]
            body = {"revision": revision, "version": "bench", "sessions": 0}
            headers = {"Authorization": f"Bearer {self._tokens[uid]}"}
            url = f"{self._url}/v1/targets/{metadata['namespace']}/{target}/report"
            try:
                async with session.post(url, json=body, headers=headers) as answer:
                    said: Mapping[str, object] = await answer.json(content_type=None)
                    if answer.status != 200:
                        print(f"{metadata['name']}: {answer.status}: {said}", flush=True)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(AGAIN_S)  # no operator runs
                self._due.put_nowait(uid)
            else:
                if answer.status == 200:
                    self._reported[uid] = revision, time.monotonic()
                else:
                    await asyncio.sleep(AGAIN_S)
                    self._due.put_nowait(uid)


def _revision(pod: Object) -> str:
    revision: str = (pod["metadata"].get("annotations") or {}).get(REVISION_ANNOTATION, "")
    return revision


async def main(kubeconfig: Path, port: int) -> None:
    async with ApiClient(Credentials.from_kubeconfig(kubeconfig)) as client:
        await Gates(client, port).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
