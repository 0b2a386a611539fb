"""The operator's gateway as a product for tests: docs/gateway.md over TLS with its requests in memory, and every way to misbehave.

    with FakeGateway(directory) as gateway:
        approvals = GatewayApprovals(GatewayClient(gateway.settings), ...)
        gateway.decide(name, "dana@example.com")                        # sealed as admission does
        gateway.decide(name, "ann@example.com", sealed_by=STRANGER)     # or not
        gateway.faults["claim"] = Fault.LOSE_ANSWER
        gateway.lie = lambda told: told["spec"].update(statement="SELECT 1")
        gateway.go_down(); gateway.come_back()

Bodies are read as strictly as the protocol says, and what is stored is what the API's types make of it, defaults written out as an API server
does. It believes every decision it is given and marks the request as soon as they are enough in number: who may decide is for the gate to
find out. Operations in `faults`, `requests` and `lie_in`: report, submit, find, wait, claim, withdrawal, outcome.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import enum
import gc
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec
import trustme
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidegate.api.approval_request import ApprovalRequest
from sidegate.api.text import Timestamp
from sidegate.approval.gateway_client import GatewaySettings
from sidegate.gateway import messages
from sidegate.policy.seal import SealedDecision

T = TypeVar("T")

OPERATIONS: Final = ("report", "submit", "find", "wait", "claim", "withdrawal", "outcome")
BROKEN_OFF: Final = 599  # in `requests`: no answer
STRANGER: Final = Ed25519PrivateKey.from_private_bytes(b"s" * 32)  # a key that no answer has


class Fault(enum.Enum):
    """What it does instead of answering as it should."""

    LOSE_ANSWER = "does what it was asked, and breaks the connection off"
    UNAVAILABLE = "503, nothing done"
    BUSY = "429 with Retry-After"
    OVER_QUOTA = "429 without"
    ERROR = "500, done or not"
    HANG = "takes the request and says nothing"
    GARBAGE = "200 with something else"
    HUGE = "announces 2 MiB"
    REDIRECT = "302"
    CUT = "announces more than it sends"
    CHUNKED = "doesn't say how long it is"


class FakeGateway:
    """A running gateway of one replica. `clock` is its machine's; `targets` are those whose gates hold its token; `names` are its
    certificate's.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - between real programs
        targets: Sequence[str] = ("shop/shop-db",),
        names: Sequence[str] = ("localhost", "127.0.0.1"),
        newest_tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        self.clock = clock
        self.targets = frozenset(targets)
        self._newest_tls = newest_tls
        self.key = Ed25519PrivateKey.generate()
        self.faults: dict[str, Fault] = {}
        self.lie: Callable[[dict[str, Any]], object] | None = None
        self.lie_in = frozenset(OPERATIONS)
        self.closes = False  # its connections, behind each answer
        self.counts = True  # decisions itself, when it is asked for an approval before the operator has marked it
        self.requests: list[tuple[str, int]] = []
        self.came_from: dict[str, list[int]] = {each: [] for each in OPERATIONS}  # the gate's port at each request
        self.reports: list[messages.Report] = []
        self.outcomes: dict[str, messages.HoldOutcome] = {}
        self.withdrawals: dict[str, str] = {}
        self.can_hold, self.problem, self.next_s = True, None, 1.0
        self.objects: dict[str, dict[str, Any]] = {}
        self._version = 100
        self._lock = threading.RLock()
        self._changed: asyncio.Condition | None = None
        self._runner: web.AppRunner | None = None
        self._port = 0
        authority = trustme.CA()
        self._certificate = authority.issue_cert(*names)
        self.token_file, self.ca_file = directory / "token", directory / "ca.crt"
        self.token = "gate.token-1"
        directory.mkdir(exist_ok=True)
        self.token_file.write_text(self.token + "\n")
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-gateway", daemon=True)
        self._thread.start()
        self.come_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- life ---------------------------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def settings(self) -> GatewaySettings:
        return GatewaySettings(self.url, self.token_file, self.ca_file)

    @property
    def arguments(self) -> list[str]:
        """For the command `sidegate gate`."""
        return ["--gateway", self.url, "--gateway-token", str(self.token_file), "--gateway-ca", str(self.ca_file)]

    def go_down(self) -> None:
        """Connections are refused from now on, open ones break off; what is stored stays."""
        self._run(self._stop())

    def come_back(self) -> None:
        """At the same address, as another process that finds everything in the API."""
        self._run(self._start())

    def close(self) -> None:
        self.go_down()
        self._run(self._last_connections_gone())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        with warnings.catch_warnings():
            # asyncio lets go of a TLS connection that breaks off while it is accepted, with its transport unclosed (CPython 3.11)
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    async def _last_connections_gone(self) -> None:
        """The server knows no connection before its handshake is over, and the selector none that isn't read from. The loop knows them all, as
        soon as those that were accepted had their first turn.
        """
        known = self._loop._transports  # type: ignore[attr-defined]
        async with asyncio.timeout(15):
            for _ in range(3):
                await asyncio.sleep(0)
            while still := [each for each in list(known.values()) if each._sock is not None]:
                for each in still:
                    each.abort()
                await asyncio.sleep(0.005)
        left = asyncio.all_tasks() - {asyncio.current_task()}  # those who waited for news
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for _ in range(5):  # what was closed last is let go in the next rounds
            await asyncio.sleep(0)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self) -> None:
        if self._runner is not None:
            return
        self._changed = asyncio.Condition()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = self._newest_tls
        self._certificate.configure_cert(context)
        app = web.Application(client_max_size=messages.MAX_BODY_BYTES)
        at = "/v1/targets/{namespace}/{target}"
        for method, path, operation in (
            ("POST", "/report", self._report),
            ("POST", "/holds", self._submit),
            ("GET", "/holds", self._find),
            ("GET", "/holds/{name}", self._wait),
            ("POST", "/holds/{name}/claim", self._claim),
            ("POST", "/holds/{name}/withdrawal", self._withdrawal),
            ("POST", "/holds/{name}/outcome", self._outcome),
        ):
            app.router.add_route(method, at + path, self._guarded(operation.__name__[1:], operation), expect_handler=None)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=context, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            for each in runner.server.connections if runner.server is not None else ():
                if each.transport is not None:
                    each.transport.abort()  # TLS would wait for the other side's goodbye
            await runner.cleanup()

    # ---- what people and the operator do ------------------------------------------------------------------------------------------

    def decide(
        self,
        name: str,
        by: str,
        decision: str = "Approved",
        *,
        groups: Sequence[str] = ("dba",),
        comment: str = "",
        at: float | None = None,
        sealed_by: Ed25519PrivateKey | None = None,
        sealed_as: dict[str, Any] | None = None,
        signature: str | None = None,
        marks: bool = True,
    ) -> dict[str, Any]:
        """Add an entry to `spec.decisions`; `sealed_as` is what the seal says otherwise than the entry. `marks`: the operator follows."""
        found = self.objects[name]
        metadata, spec = found["metadata"], found["spec"]
        when = str(Timestamp.from_epoch(self.clock() if at is None else at))
        sealed = {
            "namespace": metadata["namespace"], "name": name, "uid": metadata["uid"], "fingerprint": spec["fingerprint"], "by": by,
            "groups": tuple(groups), "decision": decision, "at": when, "comment": comment, **(sealed_as or {}),
        }  # fmt: skip
        seal = (sealed_by or self.key).sign(SealedDecision(**sealed).to_bytes())
        entry = {
            "by": by, "groups": list(groups), "decision": decision, "at": when,
            "signature": base64.b64encode(seal).decode() if signature is None else signature,
        }  # fmt: skip
        if comment:
            entry["comment"] = comment
        self.change(name, lambda each: each["spec"].setdefault("decisions", []).append(entry))
        if marks:
            said = [each["decision"] for each in spec["decisions"]]
            if "Denied" in said:
                self._follow(name, "Denied")
            elif len(said) >= spec["required"]:
                self._follow(name, "Approved")
        return entry

    def _follow(self, name: str, phase: str) -> None:
        """A gate's claim may have been faster."""
        self.change(name, lambda each: each["status"].update(phase=phase) if each["status"]["phase"] == "Pending" else None)

    def mark(self, name: str, phase: str) -> None:
        self.change(name, lambda each: each["status"].update(phase=phase))

    def change(self, name: str, edit: Callable[[dict[str, Any]], object]) -> None:
        """Whatever `edit` does to the stored object; those who wait see it."""
        with self._lock:
            edit(self.objects[name])
            self._version += 1
            self.objects[name]["metadata"]["resourceVersion"] = str(self._version)
        self._run(self._notify())

    def phase(self, name: str) -> str:
        return str(self.objects[name]["status"]["phase"])

    def answered(self, operation: str, status: int = 200) -> int:
        """How often."""
        return self.requests.count((operation, status))

    def wait_for(self, what: Callable[[], object], for_s: float = 10.0) -> None:
        until = time.monotonic() + for_s
        while not what():
            if time.monotonic() > until:
                raise TimeoutError(f"the gateway has seen {self.requests}")
            time.sleep(0.01)

    def only(self) -> str:
        """The name of the one request there is, waited for."""
        self.wait_for(lambda: self.objects)
        (name,) = self.objects
        return name

    async def _notify(self) -> None:
        if self._changed is not None:
            async with self._changed:
                self._changed.notify_all()

    # ---- the protocol -------------------------------------------------------------------------------------------------------------

    def _guarded(
        self, operation: str, answer: Callable[[web.Request], Coroutine[Any, Any, web.Response]]
    ) -> Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            self.came_from[operation].append(request.transport.get_extra_info("peername")[1])
            response: web.StreamResponse | None = self._refused(request)
            fault = self.faults.get(operation)
            if response is None and fault in (None, Fault.LOSE_ANSWER):
                try:
                    response = await answer(request)
                except msgspec.ValidationError as error:
                    response = problem(400, "Unreadable", str(error))
            if fault is not None:
                response = await self._misbehave(operation, request, fault)
            assert response is not None
            if self.closes:
                response.force_close()
            if response.status != BROKEN_OFF:
                self.requests.append((operation, response.status))
            return response

        return guarded

    def _refused(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return problem(401, "TokenRefused", "the token isn't good", "mount a token with the audience sidegate-operator")
        if f"{request.match_info['namespace']}/{request.match_info['target']}" not in self.targets:
            return problem(403, "OtherTarget", "the pod is not a gate of that target")
        return None

    async def _misbehave(self, operation: str, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault:
            case Fault.UNAVAILABLE:
                return problem(503, "Unguarded", "the guard of decisions is missing", "apply the chart again")
            case Fault.BUSY:
                busy = problem(429, "Busy", "too many requests at once")
                busy.headers["Retry-After"] = "1"
                return busy
            case Fault.OVER_QUOTA:
                return problem(429, "OverQuota", "`ada` has 20 requests pending", "have some decided")
            case Fault.ERROR:
                return problem(500, "Broken", "something broke")
            case Fault.GARBAGE:
                return web.Response(text="<html>welcome</html>", content_type="application/json")
            case Fault.REDIRECT:
                return web.Response(status=302, headers={"Location": self.url})
            case Fault.HANG:
                await asyncio.sleep(60)
        assert request.transport is not None
        if fault in (Fault.HUGE, Fault.CUT):
            request.transport.write(
                f"HTTP/1.1 200 OK\r\nContent-Length: {2 << 20 if fault is Fault.HUGE else 500}\r\n\r\n{{".encode()
            )
        elif fault is Fault.CHUNKED:
            chunked = web.StreamResponse()
            await chunked.prepare(request)
            await chunked.write(b"{}")
            return chunked
        self.requests.append((operation, BROKEN_OFF))  # before the other side can know
        request.transport.close()
        return web.Response(status=BROKEN_OFF)  # goes nowhere

    async def _report(self, request: web.Request) -> web.Response:
        self.reports.append(msgspec.json.decode(await request.read(), type=messages.Report))
        return told(messages.ReportAnswer(next_s=self.next_s, can_hold=self.can_hold, problem=self.problem))

    async def _submit(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=messages.NewHold)
        with self._lock:
            before = self.objects.get(asked.name)
            wire = self._wire(request, asked)
            try:
                made: dict[str, Any] = dict(ApprovalRequest.from_wire(wire).to_wire())
            except ValueError as error:
                return problem(422, "Unusable", str(error)[:500])
            if before is not None:
                same = {**before["spec"], "decisions": None} == {**made["spec"], "decisions": None}
                return self._told("submit", before) if same else problem(409, "NameTaken", f"`{asked.name}` is another's")
            made["status"] = {"phase": "Pending"}
            self._version += 1
            made["metadata"]["resourceVersion"] = str(self._version)
            self.objects[asked.name] = made
            return self._told("submit", made, 201)

    def _wire(self, request: web.Request, asked: messages.NewHold) -> dict[str, Any]:
        metadata = {
            "name": asked.name, "namespace": request.match_info["namespace"], "uid": f"uid-{self._version}-of-{asked.name}",
            "creationTimestamp": str(Timestamp.from_epoch(self.clock())), "resourceVersion": "0", "generation": 1,
            "labels": {"sidegate.dev/target": request.match_info["target"]},
        }  # fmt: skip
        return {"apiVersion": "sidegate.dev/v1alpha1", "kind": "ApprovalRequest", "metadata": metadata, "spec": asked.spec}

    async def _find(self, request: web.Request) -> web.Response:
        query = request.query
        with self._lock:
            found = [
                each
                for each in reversed(self.objects.values())
                if each["spec"]["fingerprint"] == query["fingerprint"]
                and (each["spec"]["principal"]["issuer"], each["spec"]["principal"]["subject"])
                == (query["issuer"], query["subject"])
                and each["status"]["phase"] in ("Pending", "Approved")
            ]
            return told(messages.HeldRequests(requests=tuple(self._shown("find", each) for each in found), keys=self._keys()))

    async def _wait(self, request: web.Request) -> web.Response:
        name, version = request.match_info["name"], request.query.get("version", "")
        assert self._changed is not None
        deadline = self._loop.time() + min(float(request.query.get("wait", "0")), messages.LONGEST_WAIT_S)
        async with self._changed:
            while True:
                found = self.objects.get(name)
                if found is None:
                    return problem(404, "Unknown", f"there is no `{name}`")
                if found["metadata"]["resourceVersion"] != version:
                    return self._told("wait", found)
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._changed.wait()
                except TimeoutError:
                    return web.Response(status=304)

    async def _claim(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=messages.Claim)
        found = self.objects.get(request.match_info["name"])
        if found is None:
            return problem(404, "Unknown", "there is none")
        if (found["metadata"]["uid"], found["spec"]["fingerprint"]) != (asked.uid, asked.fingerprint):
            return problem(409, "Another", "it is another request")
        decisions = found["spec"].get("decisions", ())
        is_decided = len(decisions) >= found["spec"]["required"] and all(each["decision"] == "Approved" for each in decisions)
        return self._moved("claim", found, ("Pending", "Approved") if is_decided and self.counts else ("Approved",), "Executed")

    async def _withdrawal(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=messages.Withdrawal)
        found = self.objects.get(request.match_info["name"])
        if found is None:
            return problem(404, "Unknown", "there is none")
        self.withdrawals[request.match_info["name"]] = asked.why
        return self._moved("withdrawal", found, ("Pending", "Approved"), "Withdrawn")

    def _moved(self, operation: str, found: dict[str, Any], before: Sequence[str], after: str) -> web.Response:
        with self._lock:
            if found["status"]["phase"] not in before:
                return problem(409, "Ended", f"it is {found['status']['phase']}")
            found["status"]["phase"] = after
            self._version += 1
            found["metadata"]["resourceVersion"] = str(self._version)
        self._loop.create_task(self._notify())
        return self._told(operation, found)

    async def _outcome(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=messages.HoldOutcome)
        name = request.match_info["name"]
        found = self.objects.get(name)
        if found is None:
            return problem(404, "Unknown", "there is none")
        if found["status"]["phase"] != "Executed" or name in self.outcomes:
            return problem(409, "NotExecuted", "it wasn't executed, or has an outcome")
        self.outcomes[name] = asked
        return self._told("outcome", found)

    def _keys(self) -> dict[str, str]:
        return {"k1": base64.b64encode(self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()}

    def _shown(self, operation: str, found: dict[str, Any]) -> dict[str, Any]:
        shown = copy.deepcopy(found)
        if self.lie is not None and operation in self.lie_in:
            self.lie(shown)
        return shown

    def _told(self, operation: str, found: dict[str, Any], status: int = 200) -> web.Response:
        return told(messages.HeldRequest(request=self._shown(operation, found), keys=self._keys()), status)


def told(body: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def problem(status: int, kind: str, detail: str, way_forward: str = "") -> web.Response:
    body = messages.Problem(type=kind, title=kind, status=status, detail=detail, way_forward=way_forward)
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/problem+json")
