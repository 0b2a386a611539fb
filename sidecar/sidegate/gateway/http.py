"""HTTP/1.1 as a gate speaks it to the gateway: one request and one answer on a connection (RFC 9112).

Rules it keeps:
- An answer says its length by Content-Length, once, or it isn't read: no chunks, no reading to the end, no compression.
- Redirects and interim answers are refused: the gateway sends none, and whoever does isn't it.
- Heads and bodies have a limit; what a head says of anything else is passed over, though it must be well formed.
- Nothing that comes from a file or a statement can add a line to a request.

Left out: connections, time, and what the bodies mean (`messages`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_TOKEN_BYTES: Final = 16 * 1024

NOT_MODIFIED: Final = 304

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [\t\x20-\x7e]*")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t ]*([\x20-\x7e\t]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,7}")
_SECONDS: Final = re.compile(rb"[0-9]{1,5}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750, section 2.1
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]*")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?|[0-9A-Fa-f:]+")


class AnswerError(ValueError):
    """Not an answer that the gateway would give."""


class PlaceError(ValueError):
    """Not where a gateway can be, or nothing to prove oneself with."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class Place:
    """Where the gateway is. `authority` is what the Host field says."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"https://{self.authority}"


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """`length` of the body that follows. `retry_after_s`: None when the answer has none, or one that isn't in seconds. `is_last`: the
    connection is closed behind it.
    """

    status: int
    length: int
    content_type: str = ""
    retry_after_s: float | None = None
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    head: AnswerHead
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status


def parse_place(url: str) -> Place:
    """The place that an https URL names.

    Raises:
        PlaceError: another scheme, a path, user, query or fragment, or characters no URL has.
    """
    fix = "write it as in https://sidegate-gateway.sidegate-system.svc:8443"
    if len(url) > 512 or not all("!" <= c <= "~" for c in url):
        raise PlaceError("the gateway's URL has characters that no URL has, or more than 512", fix)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise PlaceError(f"`{url}` isn't a URL: {error}", fix) from error
    if parts.scheme != "https":
        raise PlaceError(f"`{url}` isn't an https URL", fix)
    if parts.username is not None or parts.path not in ("", "/") or "?" in url or "#" in url or port == 0:
        raise PlaceError(f"`{url}` has more than scheme, host and port", fix)
    if _HOST.fullmatch(host) is None:
        raise PlaceError(f"`{url}` names no host", fix)
    return Place(host, port or 443)


def checked_token(content: bytes) -> str:
    """The token that a file holds.

    Raises:
        PlaceError: there is none, or it would be more than a token in the head of a request.
    """
    try:
        token = content.decode("ascii").strip(" \r\n\t")
    except UnicodeDecodeError:
        token = ""
    if len(content) > MAX_TOKEN_BYTES or _TOKEN.fullmatch(token) is None:
        raise PlaceError("the gate's token isn't one", "mount the pod's projected token there, with the operator's audience")
    return token


def path_of(*segments: str, **query: str | int) -> str:
    """An absolute path of names, and a query.

    Raises:
        PlaceError: a segment is no name.
    """
    for each in segments:
        if _SEGMENT.fullmatch(each) is None:
            raise PlaceError(f"`{each[:80]}` is no name", "name targets and requests as Kubernetes does")
    path = "/" + "/".join(quote(each, safe="") for each in segments)
    return f"{path}?{urlencode(query)}" if query else path


def encode_request(method: str, path: str, place: Place, token: str, body: bytes | None, *, is_last: bool = True) -> bytes:
    """A whole request, after which the connection is closed if it `is_last`. `token` is a checked one, `path` from `path_of`."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {place.authority}",
        f"Authorization: Bearer {token}",
        "Accept: application/json, application/problem+json",
        f"Connection: {'close' if is_last else 'keep-alive'}",
    ]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


def parse_head(head: bytes) -> AnswerHead:
    """The head of an answer, which ends in an empty line.

    Raises:
        AnswerError: it isn't well formed, or not what the gateway sends.
    """
    if len(head) > MAX_HEAD_BYTES or not head.endswith(b"\r\n\r\n"):
        raise AnswerError("its head is too long or cut short")
    first, *lines = head[:-4].split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise AnswerError("it doesn't begin as HTTP/1.1 does")
    status = int(status_line[1])
    if 300 <= status < 400 and status != NOT_MODIFIED:
        raise AnswerError(f"it is a redirect ({status})")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise AnswerError("a line of its head isn't one")
        fields.setdefault(field[1].lower(), []).append(field[2].rstrip(b"\t "))
    if b"transfer-encoding" in fields or any(each.lower() != b"identity" for each in fields.get(b"content-encoding", [])):
        raise AnswerError("its body is encoded")
    length = 0 if status == NOT_MODIFIED else _length(fields.get(b"content-length", []))  # RFC 9112, section 6.3: it has no body
    content_type = b",".join(fields.get(b"content-type", [])).split(b";")[0].strip().lower().decode("ascii")
    retry = fields.get(b"retry-after", [b""])[0]
    options = (
        b",".join(fields.get(b"connection", [])).lower().split(b",")
    )  # RFC 9112, section 9.3: it persists unless it says `close`
    is_last = b"close" in (each.strip(b" \t") for each in options)
    return AnswerHead(status, length, content_type, float(retry) if _SECONDS.fullmatch(retry) else None, is_last)


def _length(values: list[bytes]) -> int:
    if len(values) != 1 or _LENGTH.fullmatch(values[0]) is None:
        raise AnswerError("it doesn't say how long it is")
    length = int(values[0])
    if length > MAX_ANSWER_BYTES:
        raise AnswerError(f"it is longer than {MAX_ANSWER_BYTES} bytes")
    return length
