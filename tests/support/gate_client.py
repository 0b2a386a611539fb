"""A gate's side of the gateway for tests: plain requests over TLS, as docs/gateway.md has them, with whatever token and authority.

    client = GateClient(port, "shop", "shop-db", token, authority_pem)
    client.post("report", {...}).status
    client.get("holds/ar-1", wait="10", version="7").body["request"]

Rules: a connection for each request, nothing is retried, errors are answers too.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GateClient:
    """`authority` in PEM: what the gateway's certificate is verified against."""

    port: int
    namespace: str
    target: str
    token: str
    authority: str

    def post(self, path: str, body: object) -> Reply:
        return self.request("POST", f"/v1/targets/{self.namespace}/{self.target}/{path}", json.dumps(body).encode())

    def get(self, path: str, **query: str) -> Reply:
        query_text = f"?{urllib.parse.urlencode(query)}" if query else ""
        return self.request("GET", f"/v1/targets/{self.namespace}/{self.target}/{path}{query_text}")

    def request(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        context = ssl.create_default_context(cadata=self.authority)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=45, context=context)
        given = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        kind = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, body, {**given, **kind, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        return Reply(answer.status, json.loads(content) if content else {}, dict(answer.headers))
