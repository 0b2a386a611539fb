"""Real pods behind gates: the example `examples/statefulset`, by the chart, with more databases and a policy whose edits are timed.

    with gated_pods(3) as pods:
        pods.edit("turn 1")
        with pods.session(pods.addresses[0]) as session: ...

What is brought up is what `make cluster-demo` brings up; everything but the number of databases and their CPU request is as in the example,
the gates' own limits too.
"""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from examples.statefulset import tour
from tests.support.cluster_client import ApiError, ClusterClient

API: Final = "sidegate.dev/v1alpha1"
NAMESPACE: Final = tour.SHOP
TARGET: Final = "shop-db"
POLICY: Final = "edited"
GATE_PORT_NAME: Final = "sidegate"
TIMEOUT_S: Final = 60.0

Object = dict[str, Any]


class Seen(NamedTuple):
    """When (perf_counter) something was seen."""

    at: float
    what: str


class Session:
    """One psql in its pod, for as long as it is told statements. Its lines come with the moment at which they were read here."""

    def __init__(self, process: subprocess.Popen[str], token: str) -> None:
        self._process = process
        self._lines: queue.Queue[Seen | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.send(token)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(Seen(time.perf_counter(), line.rstrip("\n")))
        self._lines.put(None)

    def send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def until(self, pattern: str) -> tuple[float, re.Match[str]]:
        """The next line in which the pattern is found.

        Raises:
            TimeoutError: none came in time, or psql ended; with what came instead.
        """
        passed: list[str] = []
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                seen = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                seen = None
            if seen is None:
                raise TimeoutError(f"psql didn't say `{pattern}`, but:\n" + "\n".join(passed))
            found = re.search(pattern, seen.what)
            if found is not None:
                return seen.at, found
            passed.append(seen.what)


class Followed:
    """What a watch brings of one kind, told by `describe` ("" is nothing): the first moment of each."""

    def __init__(self, client: ClusterClient, kind: str, describe: Callable[[Object], str]) -> None:
        self._client, self._kind, self._describe = client, kind, describe
        self._first: dict[str, float] = {}
        self._changed = threading.Condition()
        since = client.list(API, kind, namespace=NAMESPACE)["metadata"]["resourceVersion"]
        threading.Thread(target=self._follow, args=(since,), daemon=True).start()

    def _follow(self, since: str) -> None:
        """Until the process ends, or the cluster does."""
        while True:
            try:
                watch = self._client.watch(API, self._kind, namespace=NAMESPACE, resource_version=since, timeout_s=600)
                with watch as events:
                    for event in events:
                        at, since = time.perf_counter(), event["object"]["metadata"]["resourceVersion"]
                        what = self._describe(event["object"])
                        with self._changed:
                            self._first.setdefault(what, at)
                            self._changed.notify_all()
            except (ApiError, OSError):
                return

    def when(self, what: str) -> float:
        """When it was first seen, waiting for it.

        Raises:
            TimeoutError: it wasn't in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: what in self._first, TIMEOUT_S):
                raise TimeoutError(f"no {self._kind} is seen as `{what}`; last: {list(self._first)[-3:]}")
            return self._first[what]

    def after(self, before: float, is_wanted: Callable[[str], bool]) -> Seen:
        """The first of these that was first seen after that moment."""

        def found() -> Seen | None:
            return next((Seen(at, what) for what, at in self._first.items() if at > before and is_wanted(what)), None)

        with self._changed:
            if not self._changed.wait_for(lambda: found() is not None, TIMEOUT_S):
                raise TimeoutError(f"no {self._kind} is seen as wanted; last: {list(self._first)[-3:]}")
            seen = found()
        assert seen is not None
        return seen


@dataclass(frozen=True, slots=True)
class GatedPods:
    stage: tour.Stage
    addresses: tuple[str, ...]
    gate_port: int

    @property
    def client(self) -> ClusterClient:
        return self.stage.cluster.client

    def approver(self) -> ClusterClient:
        return ClusterClient.from_kubeconfig(self.stage.people["dana"])

    def edit(self, message: str) -> None:
        """The policy's rule refuses inserts with another message."""
        self.client.merge_patch(API, "AccessPolicy", POLICY, {"spec": _rules(message)}, namespace=NAMESPACE)

    def settled_revision(self) -> str:
        """What every gate enforces, once that follows from the policy as it is."""
        self.client.wait_for(API, "AccessPolicy", POLICY, _is_synced, namespace=NAMESPACE, timeout_s=TIMEOUT_S)
        return str(self.client.get(API, "ProtectedTarget", TARGET, namespace=NAMESPACE)["status"]["revision"])

    @contextmanager
    def session(self, address: str) -> Iterator[Session]:
        """psql through the gate of one pod, verified by the Service's name as through the Service."""
        command = self.stage.psql_command(f"PGHOSTADDR={address}", f"PGPORT={self.gate_port}")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        ) as process:
            try:
                session = Session(process, self.stage.token("ada"))
                session.send("SELECT 'here' AS ready;")
                session.until("here")
                yield session
            finally:
                process.kill()


@contextmanager
def gated_pods(count: int) -> Iterator[GatedPods]:
    """Raises what the example's tour raises when it can't be brought up."""
    state = Path(tempfile.mkdtemp(prefix="sidegate-bench-"))
    request = "/spec/template/spec/containers/0/resources/requests/cpu"
    patches: list[tour.Patch] = [
        (
            "StatefulSet",
            TARGET,
            [
                {"op": "replace", "path": "/spec/replicas", "value": count},
                {"op": "add", "path": "/spec/podManagementPolicy", "value": "Parallel"},
                {"op": "replace", "path": request, "value": "100m"},
            ],
        )
    ]
    try:
        with ExitStack() as stack:
            stage = tour.bring_up(stack, state, patches)
            client = stage.cluster.client
            client.apply(_policy())
            pods = client.list("v1", "Pod", namespace=NAMESPACE, labelSelector=f"app={TARGET}")["items"]
            addresses = tuple(sorted(each["status"]["podIP"] for each in pods))
            assert len(addresses) == count, addresses
            ports = [port for each in pods[0]["spec"]["initContainers"] for port in each.get("ports", ())]
            (gate_port,) = (each["containerPort"] for each in ports if each["name"] == GATE_PORT_NAME)
            yield GatedPods(stage, addresses, gate_port)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _is_synced(policy: Object) -> bool:
    status = policy.get("status") or {}
    is_synced = any((each["type"], each["status"]) == ("Synced", "True") for each in status.get("conditions", ()))
    return is_synced and status.get("observedGeneration") == policy["metadata"]["generation"]


def _policy() -> Object:
    spec = {"targets": {"names": [TARGET]}, "subjects": [{"groups": ["ai-assistants"]}], **_rules("at first")}
    return {"apiVersion": API, "kind": "AccessPolicy", "metadata": {"name": POLICY, "namespace": NAMESPACE}, "spec": spec}


def _rules(message: str) -> Object:
    return {
        "rules": [
            {"name": "no-inserts", "match": {"statements": {"kinds": ["Insert"]}}, "action": "Deny", "message": message},
            {
                "name": "updates",
                "match": {"statements": {"kinds": ["Update"]}},
                "action": "RequireApproval",
                "approval": {"approvers": {"groups": ["dba"]}, "expiresAfter": "1h"},
            },
        ]
    }
