"""The demo issuer as a product for tests: runs on a free loopback port, signs anything, and fails in every way an issuer can.

    with Issuer() as issuer:
        token = issuer.token(user="ada", exp=0)      # claims by keyword; None leaves one out
        issuer.fault = Fault.HANG                    # or issuer.go_down()
        for name, bad in issuer.bad_tokens().items(): ...

The issuer's logic is examples/demo/issuer.py; here are only the attacks and the faults. The clock starts at `NOW` and stands still unless
`now` is set, so that nothing in a test depends on the day it runs; `Issuer(now=None)` uses the machine's.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import get_default_algorithms

from examples.demo.issuer import AUDIENCE, CLIENTS, DemoIssuer, DemoServer, Handler, Reply, SigningKey
from sidegate.identity.problem import IdentityCause
from sidegate.policy.config import IssuerConfig

NOW = 1_800_000_000.0


class Fault(enum.Enum):
    """What the issuer does instead of answering."""

    NONE = "answers"
    HANG = "takes the request and says nothing"
    DRIP = "sends its answer a byte at a time, for ever"
    GARBAGE = "answers 200 with something else"
    ERROR = "answers 500"
    REDIRECT = "answers with a redirect to itself"
    HUGE = "answers with 32 MiB"
    CUT = "announces more than it sends"


class BadToken(NamedTuple):
    token: str
    cause: IdentityCause


class _FaultyHandler(Handler):
    server: _FaultyServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def reply(self, reply: Reply) -> None:
        self.server.requests[self.path] += 1
        released = self.server.released
        match self.server.fault:
            case Fault.NONE:
                super().reply(reply)
            case Fault.HANG:
                released.wait()
                self.close_connection = True
            case Fault.DRIP:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
                while not released.wait(0.02):
                    self.wfile.write(b"x")
                self.close_connection = True
            case Fault.GARBAGE:
                super().reply(Reply(200, self.server.garbage))
            case Fault.ERROR:
                super().reply(Reply.error("server_error", "down for maintenance", 500))
            case Fault.REDIRECT:
                self.send_response(302)
                self.send_header("Location", f"{self.server.url}/jwks")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case Fault.HUGE:
                super().reply(Reply(200, b" " * (32 * 1024 * 1024)))
            case Fault.CUT:
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply.body) + 1))
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client hung up, as it should on most faults
            self.close_connection = True

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()


class _FaultyServer(DemoServer):
    block_on_close = False

    def __init__(self, port: int, faults: Issuer) -> None:
        self.faults = faults
        super().__init__("127.0.0.1", port, _FaultyHandler)

    @property
    def fault(self) -> Fault:
        return self.faults.fault

    @property
    def garbage(self) -> bytes:
        return self.faults.garbage

    @property
    def requests(self) -> Counter[str]:
        return self.faults.requests

    @property
    def released(self) -> threading.Event:
        return self.faults.released


class Issuer:
    """A running issuer. Use as a context manager."""

    def __init__(self, now: float | None = NOW, audience: str = AUDIENCE, lifetime_s: int = 3600) -> None:
        self.now = now
        self.audience = audience
        self.fault = Fault.NONE
        self.garbage = b"<html>Welcome to the captive portal</html>"
        self.requests: Counter[str] = Counter()
        self.released = threading.Event()
        self._server: _FaultyServer | None = None
        self._thread: threading.Thread | None = None
        self._port = 0
        server = self._listen()
        self.core = DemoIssuer(self.url, self.clock, audience, lifetime_s)
        self._serve(server)

    def clock(self) -> float:
        return time.time() if self.now is None else self.now  # noqa: TID251 - a test against real programs needs the machine's

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_down()

    # Faults

    def go_down(self) -> None:
        """Connections are refused from now on; hanging ones end."""
        if self._server is None or self._thread is None:
            return
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    def come_back(self) -> None:
        """At the same address, with the same keys."""
        self.released = threading.Event()
        self._serve(self._listen())

    def rotate(self, *, keep_old: bool = True) -> None:
        self.core.rotate(keep_old=keep_old)

    def _listen(self) -> _FaultyServer:
        server = _FaultyServer(self._port, self)
        self._port = server.server_address[1]
        return server

    def _serve(self, server: _FaultyServer) -> None:
        server.issuer = self.core
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="issuer", daemon=True)
        self._thread.start()

    # Tokens

    def config(self, **changes: Any) -> IssuerConfig:
        """The gate's side: this issuer, accepted for its audience."""
        return IssuerConfig(**({"url": self.url, "audiences": (self.audience,)} | changes))

    def claims(self, user: str | None = "ada", client: str = "cursor", **changes: Any) -> dict[str, Any]:
        claims = self.core.claims_for(CLIENTS[client], user, self.audience, "openid") | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, user: str | None = "ada", client: str = "cursor", *, algorithm: str = "RS256", **changes: Any) -> str:
        """A genuine token, whatever its claims say."""
        return self.mint(self.claims(user, client, **changes), algorithm=algorithm)

    def mint(
        self,
        claims: Mapping[str, Any] | bytes,
        *,
        algorithm: str = "RS256",
        header: Mapping[str, Any] | bytes | None = None,
        key: SigningKey | None = None,
    ) -> str:
        """A signature of the issuer's over any bytes. `header` changes the usual one (None leaves a member out), or replaces it as bytes."""
        signing = key or self.core.current[algorithm]
        if not isinstance(header, bytes):
            members = {"alg": algorithm, "typ": "at+jwt", "kid": signing.key_id} | dict(header or {})
            header = json.dumps({name: value for name, value in members.items() if value is not None}).encode()
        payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        signed = f"{b64(header)}.{b64(payload)}"
        signature = get_default_algorithms()[algorithm].sign(signed.encode(), signing.private)
        return f"{signed}.{b64(signature)}"

    def public_pem(self, algorithm: str = "RS256") -> bytes:
        return (
            self.core.current[algorithm]
            .private.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    def forged_hs256(self, secret: bytes | None = None) -> str:
        """Signed by HMAC, with what everybody can download: the public key."""
        signing = self.core.current["RS256"]
        header = json.dumps({"alg": "HS256", "typ": "JWT", "kid": signing.key_id}).encode()
        signed = f"{b64(header)}.{b64(json.dumps(self.claims()).encode())}"
        mac = hmac.new(secret or self.public_pem(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{b64(mac)}"

    def forged_none(self, alg: str = "none") -> str:
        header = json.dumps({"alg": alg, "typ": "JWT"}).encode()
        return f"{b64(header)}.{b64(json.dumps(self.claims()).encode())}."

    def bad_tokens(self) -> dict[str, BadToken]:
        """Every kind of token that must be refused at `clock()`, with the cause it must be refused for."""
        now = self.clock()
        good = self.token()
        head, body, signature = good.split(".")
        other = b64(json.dumps(self.claims(sub="root")).encode())
        stranger = SigningKey.generate("RS256")
        impostor = SigningKey(self.core.current["RS256"].key_id, "RS256", stranger.private)
        short = SigningKey(
            self.core.current["RS256"].key_id, "RS256", rsa.generate_private_key(public_exponent=65537, key_size=1024)
        )
        curve = SigningKey(self.core.current["ES256"].key_id, "ES384", ec.generate_private_key(ec.SECP384R1()))
        own_jwk = {**stranger.public_jwk(), "kid": "mine"}
        text = json.dumps(self.claims())
        c = IdentityCause
        tokens = {
            "expired": (self.token(exp=int(now) - 31), c.EXPIRED),
            "expired long ago": (self.token(exp=1), c.EXPIRED),
            "without expiry": (self.token(exp=None), c.MISSING_CLAIM),
            "expiry as a string": (self.token(exp=str(int(now) + 60)), c.MALFORMED),
            "expiry true": (self.token(exp=True), c.MALFORMED),
            "expiry beyond all calendars": (self.token(exp=10**18), c.MALFORMED),
            "expiry infinite": (
                self.mint(json.dumps(self.claims(exp="beyond")).replace('"beyond"', "1e999").encode()),
                c.MALFORMED,
            ),
            "not before in the future": (self.token(nbf=int(now) + 600), c.NOT_YET_VALID),
            "not before as a list": (self.token(nbf=[0]), c.MALFORMED),
            "issued in the future": (self.token(iat=int(now) + 600), c.NOT_YET_VALID),
            "wrong audience": (self.token(aud="another-gate"), c.WRONG_AUDIENCE),
            "audience as a prefix": (self.token(aud=self.audience + "-2"), c.WRONG_AUDIENCE),
            "audience empty": (self.token(aud=[]), c.WRONG_AUDIENCE),
            "audience a list with a number": (self.token(aud=[self.audience, 7]), c.WRONG_AUDIENCE),
            "without audience": (self.token(aud=None), c.MISSING_CLAIM),
            "unknown issuer": (self.token(iss="https://issuer.example"), c.UNKNOWN_ISSUER),
            "issuer with a slash more": (self.token(iss=self.url + "/"), c.UNKNOWN_ISSUER),
            "issuer in a list": (self.token(iss=[self.url]), c.UNKNOWN_ISSUER),
            "without issuer": (self.token(iss=None), c.UNKNOWN_ISSUER),
            "without subject": (self.token(sub=None), c.MISSING_CLAIM),
            "subject a number": (self.token(sub=1001), c.CLAIM_REFUSED),
            "subject empty": (self.token(sub=""), c.CLAIM_REFUSED),
            "a logout token": (self.token(events={"http://schemas.openid.net/event/backchannel-logout": {}}), c.CLAIM_REFUSED),
            "algorithm none": (self.forged_none(), c.ALGORITHM_REFUSED),
            "algorithm nOnE": (self.forged_none("nOnE"), c.ALGORITHM_REFUSED),
            "algorithm missing": (self.mint(self.claims(), header={"alg": None}), c.ALGORITHM_REFUSED),
            "algorithm a list": (self.mint(self.claims(), header={"alg": ["RS256"]}), c.ALGORITHM_REFUSED),
            "algorithm HS256 with the public key": (self.forged_hs256(), c.ALGORITHM_REFUSED),
            "algorithm not in the list": (
                self.mint(self.claims(), algorithm="RS512", key=self.core.current["RS256"]),
                c.ALGORITHM_REFUSED,
            ),
            "algorithm of another key": (self.mint(self.claims(), header={"alg": "ES256"}), c.UNKNOWN_KEY),
            "algorithm of another curve": (self.mint(self.claims(), algorithm="ES384", key=curve), c.ALGORITHM_REFUSED),
            "unknown key": (self.mint(self.claims(), key=stranger), c.UNKNOWN_KEY),
            "key id that is a path": (self.mint(self.claims(), header={"kid": "../../../../dev/null"}), c.UNKNOWN_KEY),
            "key id that is a query": (self.mint(self.claims(), header={"kid": "' UNION SELECT 'key"}), c.UNKNOWN_KEY),
            "key id that is a URL": (self.mint(self.claims(), header={"kid": "https://attacker.example/jwks"}), c.UNKNOWN_KEY),
            "key id a number": (self.mint(self.claims(), header={"kid": 7}), c.HEADER_REFUSED),
            "key id empty": (self.mint(self.claims(), header={"kid": ""}), c.HEADER_REFUSED),
            "key id very long": (self.mint(self.claims(), header={"kid": "k" * 5000}), c.HEADER_REFUSED),
            "an impostor's signature": (self.mint(self.claims(), key=impostor), c.BAD_SIGNATURE),
            "a short key's signature": (self.mint(self.claims(), key=short), c.BAD_SIGNATURE),
            "claims exchanged": (f"{head}.{other}.{signature}", c.BAD_SIGNATURE),
            "signature empty": (f"{head}.{body}.", c.BAD_SIGNATURE),
            "signature cut off": (f"{head}.{body}.{b64(unb64(signature)[:-1])}", c.BAD_SIGNATURE),
            "signature with a bit changed": (f"{head}.{body}.{b64(flip(unb64(signature)))}", c.BAD_SIGNATURE),
            "embedded key": (self.mint(self.claims(), header={"jwk": own_jwk, "kid": "mine"}, key=stranger), c.HEADER_REFUSED),
            "link to a key set": (
                self.mint(self.claims(), header={"jku": "https://attacker.example/jwks"}, key=stranger),
                c.HEADER_REFUSED,
            ),
            "link to a certificate": (
                self.mint(self.claims(), header={"x5u": "https://attacker.example/c.pem"}),
                c.HEADER_REFUSED,
            ),
            "embedded certificate": (self.mint(self.claims(), header={"x5c": ["MIIB"]}), c.HEADER_REFUSED),
            "critical extension": (self.mint(self.claims(), header={"crit": ["exp"]}), c.HEADER_REFUSED),
            "unencoded payload": (self.mint(self.claims(), header={"b64": False, "crit": ["b64"]}), c.HEADER_REFUSED),
            "a token inside a token": (self.mint(good.encode(), header={"cty": "JWT"}), c.MALFORMED),
            "declared as nested": (self.mint(self.claims(), header={"cty": "JWT"}), c.HEADER_REFUSED),
            "compressed": (self.mint(self.claims(), header={"zip": "DEF"}), c.HEADER_REFUSED),
            "a type for another use": (self.mint(self.claims(), header={"typ": "logout+jwt"}), c.HEADER_REFUSED),
            "a proof of possession": (self.mint(self.claims(), header={"typ": "dpop+jwt"}), c.HEADER_REFUSED),
            "encrypted": (f"{head}.{body}.{signature}.{body}.{signature}", c.MALFORMED),
            "a claim twice": (self.mint(text.replace("{", '{"sub": "root", ', 1).encode()), c.MALFORMED),
            "a header twice": (self.mint(self.claims(), header=b'{"alg": "RS256", "alg": "none"}'), c.MALFORMED),
            "claims a list": (self.mint(b"[]"), c.MALFORMED),
            "claims not JSON": (self.mint(b"{'sub': 'ada'}"), c.MALFORMED),
            "claims not UTF-8": (self.mint(b'{"sub": "\xff"}'), c.MALFORMED),
            "claims with half a character": (self.mint(text.replace("Ada", "\\ud800").encode()), c.MALFORMED),
            "claims with NaN": (self.mint(text.replace("true", "NaN").encode()), c.MALFORMED),
            "claims nested deep": (self.mint(b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}"), c.MALFORMED),
            "claims nested deeper than all readers go": (self.token(deep=nested(40)), c.MALFORMED),
            "claims with an endless number": (self.mint(b'{"exp": ' + b"9" * 9000 + b"}"), c.MALFORMED),
            "huge": (self.token(padding="x" * 40_000), c.TOO_LARGE),
            "two parts": (f"{head}.{body}", c.MALFORMED),
            "four parts": (f"{good}.{signature}", c.MALFORMED),
            "empty": ("", c.MALFORMED),
            "a plain password": ("correct horse battery staple", c.MALFORMED),
            "a space before": (" " + good, c.MALFORMED),
            "a newline behind": (good + "\n", c.MALFORMED),
            "a NUL behind": (good + "\0", c.MALFORMED),
            "padded": (good + "=", c.MALFORMED),
            "with stray bits": (f"{head}.{stray(body)}.{signature}", c.MALFORMED),
            "in another alphabet": (f"{head}.{body}.{signature[:-2]}+/", c.MALFORMED),
            "in look-alike letters": (good.replace("e", "е", 1), c.MALFORMED),
        }
        return {name: BadToken(*pair) for name, pair in tokens.items()}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def stray(segment: str) -> str:
    """The same bytes in another spelling: one bit set that decoders drop. A segment without spare bits gets a character too many."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    if len(segment) % 4 == 0:
        return segment + "A"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) | 1]
