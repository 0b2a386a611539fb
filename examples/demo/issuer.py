"""A small OpenID Connect issuer for demonstrations and tests: discovery, keys with rotation, tokens for a handful of made-up users.

Real where it counts: RS256 and ES256 signatures, a JWK Set, client credentials, the device flow (RFC 8628), refresh tokens. Not real where
that would need a person: nobody is asked for a password, so it listens on loopback and on nothing else.

    python examples/demo/issuer.py --port 8790
    curl -s http://127.0.0.1:8790/token -d grant_type=client_credentials -d client_id=cursor -d client_secret=demo -d user=ada
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hmac
import ipaddress
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "sidegate-demo"
ALGORITHMS = ("RS256", "ES256")
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
MAX_BODY = 64 * 1024

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class User:
    """A person of the demo. The subject is not the name: names change hands, subjects never do."""

    subject: str
    email: str
    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """An OAuth client. `secret` None: a public client, which may only use the device flow. `groups`: its own, as a workload."""

    client_id: str
    secret: str | None
    algorithm: str
    acts_for_users: bool = False
    groups: tuple[str, ...] = ()


USERS = {
    "ada": User("u-1001", "ada@example.com", "Ada", ("ai-assistants",)),
    "dana": User("u-1002", "dana@example.com", "Dana", ("dba",)),
    "app": User("u-1003", "app@example.com", "Shop application", ("applications",)),
}
CLIENTS = {
    "cursor": Client("cursor", "demo", "RS256", acts_for_users=True),
    "psql": Client("psql", None, "ES256", acts_for_users=True),
    "app": Client("app", "demo", "ES256", groups=("applications",)),
}


@dataclass(frozen=True, slots=True)
class SigningKey:
    key_id: str
    algorithm: str
    private: PrivateKey

    @classmethod
    def generate(cls, algorithm: str) -> SigningKey:
        private: PrivateKey
        if algorithm == "RS256":
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        else:
            private = ec.generate_private_key(ec.SECP256R1())
        return cls(f"{algorithm.lower()}-{secrets.token_hex(4)}", algorithm, private)

    def public_jwk(self) -> dict[str, Any]:
        if isinstance(self.private, rsa.RSAPrivateKey):
            jwk: dict[str, Any] = dict(RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True))
        else:
            jwk = dict(ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True))
        jwk.pop("key_ops", None)
        return jwk | {"kid": self.key_id, "use": "sig", "alg": self.algorithm}

    def pem(self) -> str:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")


@dataclass(slots=True)
class Device:
    """One device authorization: who approved it, if anybody did."""

    client_id: str
    user_code: str
    scope: str
    audience: str
    expires_at: float
    user: str | None = None
    is_denied: bool = False
    polled_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json"

    @classmethod
    def json(cls, value: Mapping[str, Any], status: int = 200) -> Reply:
        return cls(status, json.dumps(value).encode("utf-8"))

    @classmethod
    def error(cls, code: str, description: str, status: int = 400) -> Reply:
        return cls.json({"error": code, "error_description": description}, status)


@dataclass(slots=True)
class DemoIssuer:
    """The issuer itself: requests in, replies out. `clock` gives the seconds since the epoch."""

    url: str
    clock: Callable[[], float]
    audience: str = AUDIENCE
    lifetime_s: int = 3600
    device_interval_s: int = 1
    state_dir: Path | None = None
    current: dict[str, SigningKey] = field(default_factory=dict)
    retired: list[SigningKey] = field(default_factory=list)
    devices: dict[str, Device] = field(default_factory=dict)
    refresh_tokens: dict[str, Device] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        if not self._load():
            self.rotate()

    # Keys

    def rotate(self, *, keep_old: bool = True) -> None:
        """New keys for every algorithm. The old ones stay published until the next rotation, unless told otherwise."""
        with self.lock:
            self.retired = list(self.current.values()) if keep_old else []
            self.current = {algorithm: SigningKey.generate(algorithm) for algorithm in ALGORITHMS}
            self._save()

    def jwks(self) -> dict[str, Any]:
        with self.lock:
            return {"keys": [key.public_jwk() for key in [*self.current.values(), *self.retired]]}

    def sign(self, claims: Mapping[str, Any], algorithm: str = "RS256", headers: Mapping[str, Any] | None = None) -> str:
        with self.lock:
            key = self.current[algorithm]
        return jwt.encode(dict(claims), key.private, algorithm, {"kid": key.key_id, "typ": "at+jwt", **(headers or {})})

    def _load(self) -> bool:
        path = self._keys_path()
        if path is None or not path.exists():
            return False
        for entry in json.loads(path.read_text("utf-8")):
            private = serialization.load_pem_private_key(entry["pem"].encode("ascii"), None)
            assert isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
            key = SigningKey(entry["kid"], entry["alg"], private)
            if entry["current"]:
                self.current[key.algorithm] = key
            else:
                self.retired.append(key)
        return set(self.current) == set(ALGORITHMS)

    def _save(self) -> None:
        path = self._keys_path()
        if path is None:
            return
        keys = [(key, True) for key in self.current.values()] + [(key, False) for key in self.retired]
        text = json.dumps(
            [{"kid": k.key_id, "alg": k.algorithm, "current": is_current, "pem": k.pem()} for k, is_current in keys]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        fresh.replace(path)

    def _keys_path(self) -> Path | None:
        return self.state_dir / "issuer-keys.json" if self.state_dir is not None else None

    # Requests

    def answer(self, method: str, path: str, form: Mapping[str, str], authorization: str | None) -> Reply:
        match method, path:
            case "GET", "/.well-known/openid-configuration":
                return Reply.json(self.metadata())
            case "GET", "/jwks":
                return Reply.json(self.jwks())
            case "GET", "/device":
                return Reply(200, _DEVICE_PAGE.encode("utf-8"), "text/html; charset=utf-8")
            case "POST", "/token":
                return self._token(form, authorization)
            case "POST", "/device_authorization":
                return self._start_device(form)
            case "POST", "/device":
                return self._decide_device(form)
            case "POST", "/rotate":
                self.rotate(keep_old=form.get("keep_old", "true") == "true")
                return Reply.json(self.jwks())
        return Reply.error("not_found", f"no {method} {path} here", 404)

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks",
            "token_endpoint": f"{self.url}/token",
            "device_authorization_endpoint": f"{self.url}/device_authorization",
            "authorization_endpoint": f"{self.url}/device",
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": list(ALGORITHMS),
            "grant_types_supported": ["client_credentials", "refresh_token", DEVICE_GRANT],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "scopes_supported": ["openid", "offline_access"],
        }

    def claims_for(self, client: Client, user: str | None, audience: str, scope: str) -> dict[str, Any]:
        """What a token of this issuer says. With a user, the client is the party that acts for them (RFC 8693, section 4.1)."""
        now = int(self.clock())
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + self.lifetime_s,
            "jti": secrets.token_hex(8),
            "azp": client.client_id,
            "client_id": client.client_id,
            "scope": scope,
        }
        if user is None:
            return claims | {"sub": client.client_id, "email": f"{client.client_id}@example.com", "groups": list(client.groups)}
        person = USERS[user]
        return claims | {
            "sub": person.subject,
            "email": person.email,
            "email_verified": True,
            "name": person.name,
            "groups": list(person.groups),
            "act": {"sub": client.client_id},
        }

    def _token(self, form: Mapping[str, str], authorization: str | None) -> Reply:
        client = _authenticate(form, authorization)
        if isinstance(client, Reply):
            return client
        audience = form.get("audience") or form.get("resource") or self.audience
        if audience != self.audience:
            return Reply.error("invalid_target", f"the audience is {self.audience}")
        match form.get("grant_type"):
            case "client_credentials":
                user = form.get("user")
                if client.secret is None:
                    return Reply.error("unauthorized_client", "a public client uses the device flow")
                if user is not None and (user not in USERS or not client.acts_for_users):
                    return Reply.error(
                        "invalid_request", f"user is one of {', '.join(USERS)}, and the client one that acts for users"
                    )
                return self._issue(client, user, audience, form.get("scope", "openid"))
            case "refresh_token":
                with self.lock:
                    known = self.refresh_tokens.pop(form.get("refresh_token", ""), None)
                if known is None or known.client_id != client.client_id:
                    return Reply.error("invalid_grant", "the refresh token is unknown or was used before")
                return self._issue(client, known.user, known.audience, known.scope, refreshes=known)
            case grant if grant == DEVICE_GRANT:
                return self._finish_device(client, form.get("device_code", ""))
        return Reply.error("unsupported_grant_type", "use client_credentials, refresh_token or the device flow")

    def _issue(self, client: Client, user: str | None, audience: str, scope: str, refreshes: Device | None = None) -> Reply:
        token = self.sign(self.claims_for(client, user, audience, scope), client.algorithm)
        body: dict[str, Any] = {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime_s, "scope": scope}
        if "openid" in scope.split():
            body["id_token"] = self.sign(self.claims_for(client, user, client.client_id, scope), client.algorithm, {"typ": "JWT"})
        if refreshes is not None and "offline_access" in scope.split():
            body["refresh_token"] = secrets.token_urlsafe(24)
            with self.lock:
                self.refresh_tokens[body["refresh_token"]] = refreshes
        return Reply.json(body)

    def _start_device(self, form: Mapping[str, str]) -> Reply:
        client = CLIENTS.get(form.get("client_id", ""))
        if client is None or not client.acts_for_users:
            return Reply.error("invalid_client", "the client isn't known, or doesn't act for users", 401)
        alphabet = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628, section 6.1
        code = "".join(secrets.choice(alphabet) for _ in range(8))
        device_code, user_code = secrets.token_urlsafe(24), f"{code[:4]}-{code[4:]}"
        audience = form.get("audience") or form.get("resource") or self.audience
        device = Device(client.client_id, user_code, form.get("scope", "openid"), audience, self.clock() + 600)
        with self.lock:
            self.devices[device_code] = device
        return Reply.json(
            {
                "device_code": device_code,
                "user_code": user_code,
                "verification_uri": f"{self.url}/device",
                "expires_in": 600,
                "interval": self.device_interval_s,
            }
        )

    def _decide_device(self, form: Mapping[str, str]) -> Reply:
        wanted = form.get("user_code", "").upper()
        with self.lock:
            device = next((d for d in self.devices.values() if hmac.compare_digest(d.user_code, wanted)), None)
            if device is None or form.get("user") not in USERS:
                return Reply.error("invalid_request", f"give a user_code that was shown, and a user out of {', '.join(USERS)}")
            if form.get("decision", "approve") == "approve":
                device.user = form["user"]
            else:
                device.is_denied = True
        return Reply.json({"user_code": device.user_code, "decision": "denied" if device.is_denied else "approved"})

    def _finish_device(self, client: Client, device_code: str) -> Reply:
        with self.lock:
            device = self.devices.get(device_code)
            if device is None or device.client_id != client.client_id:
                return Reply.error("invalid_grant", "the device code is unknown")
            now = self.clock()
            too_soon, device.polled_at = now - device.polled_at < self.device_interval_s, now
            if now >= device.expires_at:
                return Reply.error("expired_token", "nobody approved in time")
            if device.is_denied:
                return Reply.error("access_denied", "the user denied it")
            if device.user is None:
                return Reply.error("slow_down" if too_soon else "authorization_pending", "waiting for the user")
            del self.devices[device_code]
        return self._issue(client, device.user, device.audience, device.scope, refreshes=device)


def _authenticate(form: Mapping[str, str], authorization: str | None) -> Client | Reply:
    """RFC 6749, section 2.3.1: credentials in the header, form-encoded, or in the form."""
    client_id, secret = form.get("client_id", ""), form.get("client_secret")
    if authorization is not None:
        try:
            scheme, _, encoded = authorization.partition(" ")
            name, _, given = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            scheme = name = given = ""
        if scheme.lower() != "basic":
            return Reply.error("invalid_client", "use basic authentication", 401)
        client_id, secret = unquote_plus(name), unquote_plus(given)
    client = CLIENTS.get(client_id)
    if client is None or (client.secret is not None and not hmac.compare_digest(client.secret.encode(), (secret or "").encode())):
        return Reply.error("invalid_client", "unknown client or wrong secret", 401)
    return client


class Handler(BaseHTTPRequestHandler):
    """HTTP in front of a DemoIssuer."""

    protocol_version = "HTTP/1.1"
    server: DemoServer
    timeout = 10

    def do_GET(self) -> None:
        self._serve("GET", {})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.reply(Reply.error("invalid_request", "the body is too large", 413))
            return
        body = self.rfile.read(int(length)).decode("utf-8", "replace")
        self._serve("POST", dict(parse_qsl(body, keep_blank_values=True)))

    def _serve(self, method: str, form: Mapping[str, str]) -> None:
        # A page in a browser can post to loopback under a name of its own (DNS rebinding); under an address it can't.
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in ("127.0.0.1", "localhost", "::1"):
            self.reply(Reply.error("invalid_request", "this issuer answers on loopback alone", 403))
            return
        self.reply(self.server.issuer.answer(method, urlsplit(self.path).path, form, self.headers.get("Authorization")))

    def reply(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:
        if self.server.is_verbose:
            super().log_message(format, *args)


class DemoServer(ThreadingHTTPServer):
    """Listens on loopback for one issuer. Port 0 takes a free one; the issuer's URL then names it."""

    daemon_threads = True
    issuer: DemoIssuer
    is_verbose = False

    def __init__(self, host: str, port: int, handler: type[Handler] = Handler) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError("this issuer asks nobody for a password, so it listens on loopback alone")
        super().__init__((host, port), handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


_DEVICE_PAGE = """<!doctype html><title>Demo issuer</title><h1>Approve a device</h1>
<form method="post"><label>Code <input name="user_code" autofocus></label> <label>I am <select name="user">
<option>ada<option>dana</select></label> <button name="decision" value="approve">Approve</button>
<button name="decision" value="deny">Deny</button></form>"""


def main() -> None:
    parser = argparse.ArgumentParser(description="A small OpenID Connect issuer for demonstrations, on loopback alone.")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8790, help="port to listen on, 0 for a free one (default: %(default)s)")
    parser.add_argument("--state", type=Path, help="directory that keeps the keys, so that tokens outlive a restart")
    parser.add_argument("--audience", default=AUDIENCE, help="audience of the tokens (default: %(default)s)")
    parser.add_argument("--lifetime", type=int, default=3600, help="seconds that a token lives (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="log each request to stderr")
    options = parser.parse_args()
    try:
        server = DemoServer(options.host, options.port)
    except (OSError, ValueError) as error:
        sys.exit(f"issuer: can't listen on {options.host} port {options.port}: {error}")
    server.is_verbose = options.verbose
    # A program of its own, outside of sidegate: this is its one clock.
    clock = time.time  # noqa: TID251 - its one clock, see above
    server.issuer = DemoIssuer(server.url, clock, options.audience, options.lifetime, state_dir=options.state)
    print(f"issuer {server.url} is ready", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
