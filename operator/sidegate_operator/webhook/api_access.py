"""What the webhook asks the API server: a handful of objects, read and replaced. The only caller of the network beside the listener.

Rules it keeps: a write that somebody else was faster with is a `Conflict`, never repeated here; the token is read anew for each request,
since the kubelet exchanges it; nothing is cached; every call ends within its timeout.

Left out: watches, patches and server-side apply.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import aiohttp
import yaml

Json = Mapping[str, Any]
ACCOUNT_DIR: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiAccessError(Exception):
    """The API server couldn't be asked, or it refused."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


class Conflict(ApiAccessError):  # noqa: N818 - a state of the world: somebody else was faster
    """The object changed since it was read, or it was made meanwhile. Read it again."""

    def __init__(self, path: str) -> None:
        super().__init__(f"`{path}` was changed by somebody else", "read it again and decide again")


class ApiServer(Protocol):
    """Objects as plain dicts, by their path."""

    async def read(self, path: str) -> Json | None:
        """None: there is no such object."""

    async def create(self, path: str, wanted: Json) -> Json:
        """In the list at `path`."""

    async def replace(self, path: str, wanted: Json) -> Json:
        """With the resource version that it was read with."""


@dataclass(slots=True)
class ApiAccess:
    """Over HTTPS. Use it as an async context manager."""

    url: str
    tls: ssl.SSLContext
    token: Callable[[], str | None]
    timeout_s: float = 3.0
    _session: aiohttp.ClientSession | None = None

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str], account: Path = ACCOUNT_DIR) -> Self:
        """As a pod: its service account's token and the cluster's authority.

        Raises:
            ApiAccessError: this isn't a pod.
        """
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
        if not host or not port or not (account / "ca.crt").exists():
            raise ApiAccessError("this process runs in no cluster", "run it in a pod, or give --kubeconfig")
        tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
        address = f"[{host}]" if ":" in host else host
        return cls(f"https://{address}:{port}", tls, lambda: (account / "token").read_text("ascii").strip())

    @classmethod
    def from_kubeconfig(cls, file: Path) -> Self:
        """The current context of a kubeconfig with certificates or a token in it."""
        document = yaml.safe_load(file.read_text("utf-8"))
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", context["cluster"])["cluster"]
        user = _named(document, "users", context["user"])["user"]
        authority = cluster.get("certificate-authority-data")
        tls = ssl.create_default_context(cadata=base64.b64decode(authority).decode() if authority else None)
        if "client-certificate-data" in user:
            load_chain(tls, base64.b64decode(user["client-certificate-data"]), base64.b64decode(user["client-key-data"]))
        token = user.get("token")
        return cls(cluster["server"], tls, lambda: token)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=self.tls))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def read(self, path: str) -> Json | None:
        return await self._request("GET", path, None, missing_is_none=True)

    async def create(self, path: str, wanted: Json) -> Json:
        made = await self._request("POST", path, wanted)
        assert made is not None
        return made

    async def replace(self, path: str, wanted: Json) -> Json:
        made = await self._request("PUT", path, wanted)
        assert made is not None
        return made

    async def _request(self, method: str, path: str, body: Json | None, *, missing_is_none: bool = False) -> Json | None:
        assert self._session is not None, "use it as an async context manager"
        token = self.token()
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            async with self._session.request(method, f"{self.url}{path}", json=body, headers=headers) as answer:
                content = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
            raise ApiAccessError(
                f"the API server can't be asked for `{path}`: {type(error).__name__} {error}", "see that it is up, and try again"
            ) from error
        if status == 404 and missing_is_none:
            return None
        if status == 409:
            raise Conflict(path)
        if status >= 400:
            raise ApiAccessError(
                f"{method} {path}: {status} {_message(content)}", "give the webhook's service account this right"
            )
        decoded: Json = json.loads(content)
        return decoded


def load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Into a context, also into one that is in use: handshakes from now on have it. `ssl` reads files alone.

    Raises:
        ssl.SSLError: they don't belong together.
    """
    if hasattr(os, "memfd_create"):  # never on a disk
        descriptor = os.memfd_create("sidegate-certificate")
        try:
            os.write(descriptor, certificate.rstrip() + b"\n" + key)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)


def _named(document: Json, family: str, name: str) -> Json:
    found: Json = next(each for each in document[family] if each["name"] == name)
    return found


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace")
