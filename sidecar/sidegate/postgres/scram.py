"""The gate's own SCRAM client towards a target: SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677, PostgreSQL docs 54.3).

Rules it keeps: the target proves that it knows the password too, or the login fails; its messages are parsed strictly, its iteration count
is bounded both ways (a low one is a downgrade, a high one burns the gate's processor), its nonce must extend ours; where a certificate
is there, the login is bound to it (tls-server-end-point, RFC 5929). Pure: the nonce is an argument. Left out: the messages around these
(AuthenticationSASL and its kin), choosing the mechanism, the network.

Deriving keys takes about a millisecond for 4096 iterations and up to half a second at the upper bound: `ScramKeyCache` remembers them.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import re
import stringprep
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

MECHANISM: Final = "SCRAM-SHA-256"
MECHANISM_PLUS: Final = "SCRAM-SHA-256-PLUS"

_MIN_NONCE: Final = 16
_MAX_MESSAGE: Final = 4096
_BINDING_TYPE: Final = "tls-server-end-point"
_SERVER_FIRST: Final = re.compile(r"r=([!-+\--~]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,9})", re.ASCII)
_SERVER_FINAL: Final = re.compile(r"v=([A-Za-z0-9+/=]+)", re.ASCII)
_SERVER_ERROR: Final = re.compile(r"e=([!-+\--~]+)", re.ASCII)
_NONCE: Final = re.compile(r"[!-+\--~]+", re.ASCII)  # printable ASCII but the comma (RFC 5802, section 7)


class ScramError(Exception):
    """The login can't go on: the target's fault, or the credential's. Holds no password, key or nonce."""

    def __init__(self, problem: str, way_forward: str = "check that the address is the target's own") -> None:
        super().__init__(problem)
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class ScramLimits:
    """Bounds on what the target may ask for. PostgreSQL's default is 4096 iterations (RFC 7677: at least that)."""

    min_iterations: int = 4096
    max_iterations: int = 1_000_000
    min_salt_bytes: int = 8
    max_salt_bytes: int = 1024


class ScramKeys(NamedTuple):
    """What a password becomes with a salt and a count (RFC 5802, section 3): enough to log in, not to know the password."""

    client_key: bytes
    server_key: bytes


def derive_keys(password: bytes, salt: bytes, iterations: int) -> ScramKeys:
    """`password` is prepared already."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    return ScramKeys(_hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"))


class ScramKeyCache:
    """Keys by password, salt and iterations: the oldest goes when it is full. The password itself isn't kept."""

    def __init__(self, max_entries: int = 64) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[tuple[bytes, bytes, int], ScramKeys] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self, password: bytes, salt: bytes, iterations: int) -> ScramKeys:
        entry = (hashlib.sha256(password).digest(), salt, iterations)
        found = self._entries.get(entry)
        if found is None:
            found = derive_keys(password, salt, iterations)
            self._entries[entry] = found
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        else:
            self._entries.move_to_end(entry)
        return found


class _Step(enum.Enum):
    START = enum.auto()
    FIRST_SENT = enum.auto()
    FINAL_SENT = enum.auto()
    VERIFIED = enum.auto()
    FAILED = enum.auto()


class ScramClient:
    """One login: `client_first`, then `client_final`, then `verify`; each once, in this order.

    `channel_binding` is the binding's data (`tls_server_end_point`), which selects SCRAM-SHA-256-PLUS. Over TLS to a target that didn't
    offer it, say `could_bind`: a target that did offer it then notices that somebody took the offer out (RFC 5802, section 6).
    `username` stays empty for PostgreSQL, which goes by the startup packet.
    """

    def __init__(
        self,
        password: str,
        nonce: str,
        channel_binding: bytes | None = None,
        *,
        could_bind: bool = False,
        username: str = "",
        limits: ScramLimits | None = None,
        cache: ScramKeyCache | None = None,
    ) -> None:
        """Raises ScramError for a password that PostgreSQL can't have, ValueError for a nonce that is none."""
        if len(nonce) < _MIN_NONCE or not _NONCE.fullmatch(nonce):
            raise ValueError(f"a nonce has at least {_MIN_NONCE} printable ASCII characters and no comma")
        self._password = prepare_password(password)
        self._nonce = nonce
        self._binding = channel_binding
        self._limits = limits or ScramLimits()
        self._cache = cache
        flag = f"p={_BINDING_TYPE}" if channel_binding is not None else "y" if could_bind else "n"
        self._gs2_header = f"{flag},,".encode("ascii")
        escaped = username.replace("=", "=3D").replace(",", "=2C")
        self._first_bare = f"n={escaped},r={nonce}".encode()
        self._server_signature = b""
        self._step = _Step.START

    def __repr__(self) -> str:
        return f"ScramClient({self.mechanism}, {self._step.name})"

    @property
    def mechanism(self) -> str:
        return MECHANISM if self._binding is None else MECHANISM_PLUS

    def client_first(self) -> bytes:
        """The client-first-message: SASLInitialResponse's data."""
        self._advance(_Step.START, _Step.FIRST_SENT)
        return self._gs2_header + self._first_bare

    def client_final(self, server_first: bytes) -> bytes:
        """The client-final-message, which proves that the gate knows the password.

        Raises:
            ScramError: the target's message is malformed, out of bounds, or not an answer to ours.
        """
        self._advance(_Step.FIRST_SENT, _Step.FAILED)
        nonce, salt, iterations = self._parse_server_first(server_first)
        keys = (self._cache.keys if self._cache is not None else derive_keys)(self._password, salt, iterations)
        binding = base64.b64encode(self._gs2_header + (self._binding or b""))
        without_proof = b"c=" + binding + b",r=" + nonce.encode("ascii")
        auth_message = b",".join((self._first_bare, server_first, without_proof))
        signature = _hmac(hashlib.sha256(keys.client_key).digest(), auth_message)
        proof = bytes(a ^ b for a, b in zip(keys.client_key, signature, strict=True))
        self._server_signature = _hmac(keys.server_key, auth_message)
        self._step = _Step.FINAL_SENT
        return without_proof + b",p=" + base64.b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        """The target proved that it knows the password too. AuthenticationOk before this is a forgery.

        Raises:
            ScramError: it didn't, or it reports that the login failed.
        """
        self._advance(_Step.FINAL_SENT, _Step.FAILED)
        text = _text(server_final)
        refused = _SERVER_ERROR.fullmatch(text)
        if refused is not None:
            raise ScramError(f"target refused the login: `{refused[1][:80]}`", "check the credential's username and password")
        match = _SERVER_FINAL.fullmatch(text)
        if match is None:
            raise ScramError("target sent a malformed server-final-message")
        if not hmac.compare_digest(_decode(match[1], "signature"), self._server_signature):
            raise ScramError(
                "target couldn't prove that it knows the password: its signature is wrong",
                "check that nothing stands between gate and target, and that the credential is this target's",
            )
        self._step = _Step.VERIFIED

    @property
    def is_verified(self) -> bool:
        return self._step is _Step.VERIFIED

    def _parse_server_first(self, message: bytes) -> tuple[str, bytes, int]:
        text = _text(message)
        match = _SERVER_FIRST.fullmatch(text)
        if match is None:
            extra = text.startswith("m=")
            raise ScramError(
                "target demands an extension of SCRAM that the gate doesn't know"
                if extra
                else "target sent a malformed server-first-message"
            )
        nonce, iterations = match[1], int(match[3])
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ScramError("target's nonce doesn't extend the gate's: the answer belongs to another login")
        salt = _decode(match[2], "salt")
        limits = self._limits
        if not limits.min_salt_bytes <= len(salt) <= limits.max_salt_bytes:
            raise ScramError(
                f"target's salt has {len(salt)} bytes, {limits.min_salt_bytes} to {limits.max_salt_bytes} are accepted"
            )
        if not limits.min_iterations <= iterations <= limits.max_iterations:
            raise ScramError(
                f"target asks for {iterations} iterations, {limits.min_iterations} to {limits.max_iterations} are accepted",
                "set the role's password again with `scram_iterations` in that range",
            )
        return nonce, salt, iterations

    def _advance(self, expected: _Step, following: _Step) -> None:
        if self._step is not expected:
            raise RuntimeError(f"out of order: {self._step.name}, not {expected.name}")
        self._step = following


def tls_server_end_point(certificate: bytes) -> bytes:
    """The channel binding of a TLS connection: a hash of the target's certificate (DER), by the hash it is signed with.

    RFC 5929, section 4.1: MD5 and SHA-1 give way to SHA-256.

    Raises:
        ScramError: the certificate can't be read, or is signed without a hash of its own (Ed25519), for which no binding is defined.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        raise ScramError("target's certificate can't be read", "give the target a certificate signed with RSA or ECDSA") from None
    if algorithm is None:
        raise ScramError(
            "target's certificate is signed without a separate hash, so nothing can be bound to it",
            "give the target a certificate signed with RSA or ECDSA",
        )
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name, certificate).digest()


def prepare_password(password: str) -> bytes:
    """The password as PostgreSQL hashes it: SASLprep (RFC 4013), and where that refuses, the password as it is.

    PostgreSQL leaves ASCII alone, and checks the prohibited characters after mapping and before normalising.

    Raises:
        ScramError: empty, or not encodable.
    """
    if not password:
        raise ScramError("the credential's password is empty", "put the role's password into the credential's file")
    try:
        raw = password.encode("utf-8")
    except UnicodeEncodeError:
        raise ScramError("the credential's password isn't valid Unicode", "write the credential's file in UTF-8") from None
    if password.isascii():
        return raw
    mapped = [
        " " if stringprep.in_table_c12(c) else c for c in password if stringprep.in_table_c12(c) or not stringprep.in_table_b1(c)
    ]
    if not mapped or any(_is_prohibited(c) for c in mapped) or _is_mixed_direction(mapped):
        return raw
    return unicodedata.normalize("NFKC", "".join(mapped)).encode("utf-8")


def _is_prohibited(c: str) -> bool:
    """RFC 4013, section 2.3, and code points that Unicode 3.2 hadn't assigned (section 2.5)."""
    return (
        stringprep.in_table_c21_c22(c)
        or stringprep.in_table_c3(c)
        or stringprep.in_table_c4(c)
        or stringprep.in_table_c5(c)
        or stringprep.in_table_c6(c)
        or stringprep.in_table_c7(c)
        or stringprep.in_table_c8(c)
        or stringprep.in_table_c9(c)
        or stringprep.in_table_a1(c)
    )


def _is_mixed_direction(text: list[str]) -> bool:
    """RFC 3454, section 6."""
    if not any(stringprep.in_table_d1(c) for c in text):
        return False
    return any(stringprep.in_table_d2(c) for c in text) or not (
        stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    )


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _text(message: bytes) -> str:
    if len(message) > _MAX_MESSAGE or not message.isascii():
        raise ScramError("target sent a SCRAM message that is too long or not ASCII")
    return message.decode("ascii")


def _decode(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        data = b""
    # One spelling for each value: the last character may carry bits that the decoder drops.
    if base64.b64encode(data).decode("ascii") != text:
        raise ScramError(f"target's {what} isn't base64")
    return data
