"""The operator's client of the Kubernetes API: one call, one request; objects are plain dicts; an error says what to do about it.

Rules it keeps: nothing is retried here, since whoever calls knows whether asking again is right; every request ends within its timeout, a
watch when nothing came for as long as its caller says; what was answered is bounded in size. A caller can tell apart what the API server
refused (`Forbidden`, `NotFound`, `Conflict`, `Gone`, `Refused`), that it is busy (`Busy`), and that it wasn't reached (`Unreachable`).

Left out: protobuf, discovery, exec. Why it isn't the `kubernetes` package: docs/decisions/0010-the-operators-own-client.md.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self

import aiohttp
import msgspec

from sidegate_operator.credentials import Credentials, CredentialsError
from sidegate_operator.resources import Object, Resource, resource_of

FIELD_MANAGER: Final = "sidegate-operator"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
TIMEOUT_S: Final = 30.0
_CLOSING_S: Final = 0.1
PAGE: Final = 500  # as client-go's pager
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
# etcd takes requests of 1.5 MiB; an event holds one object, and JSON may double what protobuf stored.
MAX_EVENT_BYTES: Final = 8 * 1024 * 1024


class ApiError(Exception):
    """The API server didn't do it. `code` is its HTTP status (0: there is none), `reason` its one word."""

    def __init__(self, problem: str, way_forward: str, code: int = 0, reason: str = "") -> None:
        super().__init__(problem)
        self.way_forward = way_forward
        self.code = code
        self.reason = reason


class Unreachable(ApiError):  # noqa: N818 - a state of the world
    """Nothing, or nothing that can be read, was answered in time. What was asked for may have been done."""


class Busy(ApiError):  # noqa: N818 - a state of the world
    """It asks to come back later, or has an error of its own: 429, 500, 502, 503, 504."""


class Forbidden(ApiError):  # noqa: N818 - a state of the world
    """Our credentials are refused, or our roles don't grant it: 401, 403."""


class NotFound(ApiError):  # noqa: N818 - a state of the world
    """There is no such object, or no such kind: 404."""


class Conflict(ApiError):  # noqa: N818 - a state of the world
    """Somebody else was faster, or it exists already: 409."""


class Gone(ApiError):  # noqa: N818 - a state of the world
    """That version is no longer remembered: 410. List anew."""


class Refused(ApiError):  # noqa: N818 - a state of the world
    """It will never be done as it was asked for: 400, 422 and the like."""


_ERRORS: Final[Mapping[int, tuple[type[ApiError], str]]] = {
    401: (Forbidden, "see that the service account's token is mounted and its account exists"),
    403: (Forbidden, "grant it: apply the chart's roles again"),
    404: (NotFound, "see that it exists, and that the CRDs are applied"),
    409: (Conflict, "read it again and decide again"),
    410: (Gone, "list again"),
    429: (Busy, "ask again later"),
}


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects as of one moment, which `resource_version` names."""

    items: list[Object]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    type: str  # ADDED, MODIFIED, DELETED, BOOKMARK or ERROR
    object: Object


class ApiClient:
    """Use it as an async context manager."""

    def __init__(self, credentials: Credentials, timeout_s: float = TIMEOUT_S) -> None:
        self.credentials = credentials
        self.timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._tls: tuple[bytes | None, ssl.SSLContext] | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64, ttl_dns_cache=10))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(_CLOSING_S)  # TLS says goodbye in its own time; without it, sockets outlive the loop

    # Reading

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        return await self._ask("GET", resource.path(namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        keep: Callable[[Object], Object] | None = None,
        **selectors: str,
    ) -> Listing:
        """All of them, page by page, as of the moment of the first page; of each only what `keep` makes of it, so that no more than a page
        is ever in memory whole. `selectors`: labelSelector, fieldSelector.

        Raises:
            Gone: the first page's moment was forgotten before the last page.
        """
        items: list[Object] = []
        more = ""
        while True:
            query = {**selectors, "limit": str(PAGE)} | ({"continue": more} if more else {})
            answer = await self._ask("GET", resource.path(namespace), query=query)
            # The API server leaves kind and apiVersion out of a list's items.
            page = [{"apiVersion": resource.api_version, "kind": resource.kind, **each} for each in answer.get("items") or []]
            items += map(keep, page) if keep is not None else page
            more = answer["metadata"].get("continue", "")
            if not more:
                return Listing(items, answer["metadata"]["resourceVersion"])

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        since: str,
        *,
        lifetime_s: float,
        silence_s: float,
        namespace: str | None = None,
        **selectors: str,
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """The events after `since`, until the API server ends the watch after `lifetime_s`.

        Raises:
            Unreachable: also when nothing at all came for `silence_s`; bookmarks come about once a minute.
            ApiError: the watch was refused. An ERROR within it is an event.
        """
        query = {
            **selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(max(1, int(lifetime_s))),
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout_s, sock_read=silence_s)
        async with (
            self._answer("GET", resource.path(namespace), None, "", query, limits) as answer,
            aclosing(self._events(answer)) as events,
        ):
            try:
                yield events
            finally:
                if answer.connection is not None and answer.connection.transport is not None:
                    answer.connection.transport.abort()  # there is more to come that nobody wants

    async def _events(self, answer: aiohttp.ClientResponse) -> AsyncGenerator[WatchEvent, None]:
        parts: list[bytes] = []  # of a line that isn't whole yet
        size = 0
        while True:
            try:
                chunk = await answer.content.readany()
            except (aiohttp.ClientError, OSError) as problem:  # a timeout is an OSError
                _unreachable("watch", answer.url.path, problem)
            if not chunk:
                return  # a last line without its end was cut off: it is no event, and the next watch brings it again
            *lines, rest = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join([*parts, lines[0]])
                parts, size = [], 0
            parts.append(rest)
            size += len(rest)
            if size > MAX_EVENT_BYTES:
                raise Unreachable(f"an event of a watch has over {MAX_EVENT_BYTES} bytes", "list again")
            for line in lines:
                if line.strip():
                    found = _decoded(line)
                    yield WatchEvent(found.get("type", "ERROR"), found.get("object") or {})

    # Writing

    async def create(self, wanted: Object) -> Object:
        return await self._ask("POST", resource_of(wanted).path(wanted["metadata"].get("namespace")), wanted)

    async def replace(self, wanted: Object) -> Object:
        """Only if it is still at the resource version that `wanted` has."""
        return await self._ask("PUT", _path_to(wanted), wanted)

    async def apply(self, wanted: Object) -> Object:
        """Server-side apply as our field manager, taking over fields of others."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._ask("PATCH", _path_to(wanted), wanted, content_type=APPLY_PATCH, query=query)

    async def merge_patch(
        self, resource: Resource, namespace: str | None, name: str, patch: Object, subresource: str | None = None
    ) -> Object:
        path = resource.path(namespace, name, subresource)
        return await self._ask("PATCH", path, patch, content_type=MERGE_PATCH, query={"fieldManager": FIELD_MANAGER})

    async def strategic_patch(self, resource: Resource, namespace: str | None, name: str, patch: Object) -> Object:
        """Lists are merged by their entries' names; Kubernetes' own kinds have it alone."""
        path = resource.path(namespace, name)
        return await self._ask("PATCH", path, patch, content_type=STRATEGIC_PATCH, query={"fieldManager": FIELD_MANAGER})

    async def delete(self, resource: Resource, namespace: str | None, name: str, uid: str | None = None) -> None:
        """`uid`: only this very object, not a namesake that was made since."""
        await self._ask("DELETE", resource.path(namespace, name), {"preconditions": {"uid": uid}} if uid else None)

    # One request

    async def _ask(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        limits = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with self._answer(method, path, body, content_type, query or {}, limits) as answer:
                content = await _bounded(answer)
        except (aiohttp.ClientError, OSError) as problem:
            _unreachable(method, path, problem)
        return _decoded(content)

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        body: Object | None,
        content_type: str,
        query: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "use it as an async context manager"
        headers = {"Accept": "application/json", "User-Agent": FIELD_MANAGER}
        try:
            token, tls = self.credentials.token(), self._current_tls()
        except CredentialsError as problem:
            raise Forbidden(str(problem), problem.way_forward) from problem
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = content_type
        data = None if body is None else msgspec.json.encode(body)
        url = f"{self.credentials.url}{path}"
        try:
            answer = await self._session.request(
                method, url, data=data, headers=headers, params=query, ssl=tls, timeout=limits, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as problem:
            _unreachable(method, path, problem)
        async with answer:
            if (
                not 200 <= answer.status < 300
            ):  # redirects aren't followed: the token goes where the credentials say, nowhere else
                raise await _refusal(method, path, answer)
            yield answer

    def _current_tls(self) -> ssl.SSLContext:
        authority = self.credentials.authority_pem()
        if self._tls is None or self._tls[0] != authority:
            self._tls = authority, self.credentials.tls(authority)
        return self._tls[1]


async def read_or_none(api: ApiClient, resource: Resource, namespace: str | None, name: str) -> Object | None:
    """The object as it is now, None when there is none.

    Raises:
        ApiError: it can't be read.
    """
    try:
        return await api.get(resource, namespace, name)
    except NotFound:
        return None


def error_of(code: int, reason: str, message: str) -> ApiError:
    """The error for a Status that the API server answered with, or sent in a watch."""
    kind, way_forward = _ERRORS.get(code, (Refused, "see what the API server says, and mend the object"))
    if code >= 500:
        kind, way_forward = Busy, "ask again later; see the API server's log if it lasts"
    return kind(message, way_forward, code, reason)


async def _refusal(method: str, path: str, answer: aiohttp.ClientResponse) -> ApiError:
    try:
        content = await _bounded(answer)
    except (aiohttp.ClientError, OSError):
        content = b""
    try:
        status = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = None
    if not isinstance(status, dict):
        status = {"message": content[:500].decode("utf-8", "replace").strip() or "no reason given"}
    said = f"{method} {path}: {answer.status}: {status.get('message', 'no reason given')}"
    return error_of(answer.status, str(status.get("reason", "")), said)


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise Unreachable(f"{answer.url.path}: the answer has over {MAX_ANSWER_BYTES} bytes", "ask for less")
        parts.append(chunk)
    return b"".join(parts)


def _decoded(content: bytes) -> Object:
    try:
        found: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise Unreachable(f"the answer isn't JSON: {problem}", "see that the address is an API server's") from problem
    if not isinstance(found, dict):
        raise Unreachable("the answer isn't a JSON object", "see that the address is an API server's")
    return found


def _path_to(wanted: Object) -> str:
    metadata = wanted["metadata"]
    return resource_of(wanted).path(metadata.get("namespace"), metadata["name"])


def _unreachable(method: str, path: str, problem: BaseException) -> NoReturn:
    said = "no answer in time" if isinstance(problem, asyncio.TimeoutError) else str(problem) or type(problem).__name__
    raise Unreachable(
        f"{method} {path}: the API server wasn't reached: {said}", "see that it is up; asked again by itself"
    ) from problem
