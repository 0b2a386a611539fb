"""A Kubernetes client for tests: one call, one request, objects as plain dicts, errors with the API server's own words.

    client = ClusterClient.from_kubeconfig(path)
    client.apply({"apiVersion": "v1", "kind": "ConfigMap", ...})
    client.merge_patch("v1", "ConfigMap", "settings", {"data": {"a": "1"}}, namespace="shop")
    with client.watch("v1", "Pod", namespace="shop", resource_version=version) as events:
        for event in events: ...

Rules: nothing is retried and nothing is cached but discovery, so that a test sees what the API server said; a client is a value, and
`acting_as` gives another one that impersonates. Works for whatever cluster a kubeconfig names. Left out: protobuf, exec, port-forward
(`kubectl` is for these), exec plugins of kubeconfigs.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import yaml

Object = dict[str, Any]
FIELD_MANAGER: Final = "sidegate-tests"
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
_TIMEOUT_S: Final = 30.0


class ApiError(Exception):
    """What the API server answered instead of doing it: `status.code`, `status.reason` and `status.message` of its Status."""

    def __init__(self, method: str, path: str, status: Mapping[str, Any]) -> None:
        self.code: int = status.get("code", 0)
        self.reason: str = status.get("reason", "")
        self.message: str = status.get("message", "")
        self.causes: list[Mapping[str, Any]] = status.get("details", {}).get("causes", [])
        super().__init__(f"{method} {path}: {self.code} {self.reason}: {self.message}")


@dataclass(frozen=True, slots=True)
class ClusterClient:
    host: str
    port: int
    tls: ssl.SSLContext
    headers: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    _plurals: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict, repr=False)

    @classmethod
    def from_kubeconfig(cls, file: Path) -> Self:
        """For the current context of a kubeconfig with a client certificate or a token in it."""
        document = yaml.safe_load(file.read_text())

        def named(kind: str, name: str) -> Mapping[str, Any]:
            found: Mapping[str, Any] = next(each[kind] for each in document[f"{kind}s"] if each["name"] == name)
            return found

        def content(of: Mapping[str, Any], key: str) -> bytes | None:
            if f"{key}-data" in of:
                return base64.b64decode(of[f"{key}-data"])
            return (file.parent / of[key]).read_bytes() if key in of else None

        context = named("context", document["current-context"])
        cluster, user = named("cluster", context["cluster"]), named("user", context["user"])
        authority = content(cluster, "certificate-authority")
        tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
        certificate, key = content(user, "client-certificate"), content(user, "client-key")
        if certificate and key:
            _load(tls, certificate, key)
        address = urllib.parse.urlsplit(cluster["server"])
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        return cls(address.hostname or "", address.port or 443, tls, headers)

    def acting_as(self, user: str, groups: Sequence[str] = ()) -> Self:
        """The same client, impersonating; whoever it is must be allowed to."""
        return replace(self, headers={**self.headers, "Impersonate-User": user, "Impersonate-Group": list(groups)})

    # One request

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout_s: float = _TIMEOUT_S,
    ) -> Any:
        """The decoded answer; text when it isn't JSON.

        Raises:
            ApiError: the API server refused or failed.
            OSError: it could not be reached.
        """
        connection, answer = self._send(method, path, body, query or {}, content_type, timeout_s)
        try:
            content = answer.read()
        finally:
            connection.close()
        if not answer.getheader("Content-Type", "").startswith("application/json"):
            return content.decode()
        return json.loads(content)

    def create(self, wanted: Mapping[str, Any]) -> Object:
        path = self.path_of(wanted["apiVersion"], wanted["kind"], namespace=wanted["metadata"].get("namespace"))
        return self._object("POST", path, wanted)

    def apply(self, wanted: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Object:
        """Server-side apply, taking over the fields of others."""
        query = {"fieldManager": field_manager, "force": "true"}
        return self._object("PATCH", self._path_to(wanted), wanted, query=query, content_type=APPLY_PATCH)

    def replace(self, wanted: Mapping[str, Any], subresource: str | None = None) -> Object:
        return self._object("PUT", self._path_to(wanted, subresource), wanted)

    def merge_patch(
        self, version: str, kind: str, name: str, patch: object, *, namespace: str | None = None, subresource: str | None = None
    ) -> Object:
        path = self.path_of(version, kind, name, namespace=namespace, subresource=subresource)
        return self._object("PATCH", path, patch, content_type=MERGE_PATCH)

    def get(self, version: str, kind: str, name: str, *, namespace: str | None = None) -> Object:
        return self._object("GET", self.path_of(version, kind, name, namespace=namespace))

    def list(self, version: str, kind: str, *, namespace: str | None = None, **query: str) -> Object:
        """The list as it came: `items`, and in `metadata` the resource version to watch from."""
        return self._object("GET", self.path_of(version, kind, namespace=namespace), query=query)

    def delete(self, version: str, kind: str, name: str, *, namespace: str | None = None, grace_s: int | None = None) -> None:
        query = {} if grace_s is None else {"gracePeriodSeconds": str(grace_s)}
        self.request("DELETE", self.path_of(version, kind, name, namespace=namespace), query=query)

    def service_account_token(
        self, name: str, *, namespace: str, audience: str, lifetime_s: int = 600, pod: Mapping[str, Any] | None = None
    ) -> str:
        """A token as a pod's projected volume has it, bound to the pod that is given."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        wanted: dict[str, Any] = {"spec": {"audiences": [audience], "expirationSeconds": lifetime_s}}
        if pod is not None:
            bound = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            wanted["spec"]["boundObjectRef"] = bound
        token: str = self._object("POST", path, wanted)["status"]["token"]
        return token

    # Many answers

    @contextmanager
    def watch(
        self,
        version: str,
        kind: str,
        *,
        namespace: str | None = None,
        resource_version: str = "",
        timeout_s: float = _TIMEOUT_S,
        **query: str,
    ) -> Iterator[Iterator[Object]]:
        """The events as they come; an `ERROR` event too. They end when the API server ends them.

        Raises:
            ApiError: the watch was refused.
            TimeoutError: no event came for `timeout_s`.
        """
        path = self.path_of(version, kind, namespace=namespace)
        query = {"watch": "true", "resourceVersion": resource_version, **query}
        connection, answer = self._send("GET", path, None, query, "", timeout_s)
        try:
            yield (json.loads(line) for line in answer)
        finally:
            connection.close()

    def wait_for(
        self,
        version: str,
        kind: str,
        name: str,
        condition: Callable[[Object], bool],
        *,
        namespace: str | None = None,
        timeout_s: float = 60.0,
    ) -> Object:
        """The object, as soon as there is one and `condition` holds for it.

        Raises:
            TimeoutError: it didn't in time; ends with the object's status.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found = self.get(version, kind, name, namespace=namespace)
            except ApiError as error:
                if error.code != 404 or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            if condition(found):
                return found
            if time.monotonic() > deadline:
                status = json.dumps(found.get("status"), indent=1)
                raise TimeoutError(f"waited {timeout_s} s in vain for {kind} `{name}`; its status: {status}")
            time.sleep(0.05)

    def wait_until_gone(
        self, version: str, kind: str, name: str, *, namespace: str | None = None, timeout_s: float = 60.0
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                self.get(version, kind, name, namespace=namespace)
            except ApiError as error:
                if error.code == 404:
                    return
                raise
            time.sleep(0.05)
        raise TimeoutError(f"waited {timeout_s} s in vain for {kind} `{name}` to be gone")

    # Paths

    def path_of(
        self, version: str, kind: str, name: str | None = None, *, namespace: str | None = None, subresource: str | None = None
    ) -> str:
        """The path of a kind's list, of one object, or of its subresource.

        Raises:
            LookupError: the API server doesn't know the kind.
        """
        top = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        if (version, kind) not in self._plurals:
            for each in self.request("GET", top)["resources"]:
                if "/" not in each["name"]:
                    self._plurals[version, each["kind"]] = (each["name"], each["namespaced"])
        if (version, kind) not in self._plurals:
            raise LookupError(f"the API server has no {kind} in {version}")
        plural, namespaced = self._plurals[version, kind]
        parts = [top, *(["namespaces", namespace] if namespaced and namespace else []), plural]
        return "/".join([*parts, *([name] if name else []), *([subresource] if subresource else [])])

    def _path_to(self, wanted: Mapping[str, Any], subresource: str | None = None) -> str:
        metadata = wanted["metadata"]
        kind = wanted["apiVersion"], wanted["kind"]
        return self.path_of(*kind, metadata["name"], namespace=metadata.get("namespace"), subresource=subresource)

    def _object(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        answer: Object = self.request(method, path, body, query=query, content_type=content_type)
        return answer

    def _send(
        self, method: str, path: str, body: object, query: Mapping[str, str], content_type: str, timeout_s: float
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=self.tls)
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.putrequest(method, f"{path}?{urllib.parse.urlencode(query)}" if query else path)
            connection.putheader("Accept", "application/json")
            for name, value in self.headers.items():
                for each in [value] if isinstance(value, str) else value:
                    connection.putheader(name, each)
            if content is not None:
                connection.putheader("Content-Type", content_type)
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise ApiError(method, path, _status_of(answer.status, answer.read()))
        except BaseException:
            connection.close()
            raise
        return connection, answer


def _status_of(code: int, content: bytes) -> Mapping[str, Any]:
    """The Status that the API server answered with, or one made of what it said in plain text, as /readyz does."""
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {"code": code, "message": content.decode()}


def _load(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """`ssl` reads a client's certificate from files alone; this one is read through a file that has no name."""
    descriptor = os.memfd_create("client-certificate")
    try:
        os.write(descriptor, certificate + key)
        tls.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
