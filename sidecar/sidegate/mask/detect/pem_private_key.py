"""Private keys in PEM armour (RFC 7468) and its relatives: PKCS #1 and #8, SEC 1, OpenSSH, encrypted ones, PGP.

From the BEGIN line to the END line; without an END line to the end of the value: the rest may be the key.
"""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import Detector
from sidegate.mask.patterns import Span, compile_pattern

# Some programs write `---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----`, forms in URLs `+` for a space, and word processors join dashes.
_LINE: Final = rb"[ +][0-9A-Z +]*PRIVATE[ +]KEY(?:[ +]BLOCK)?[ +]?--"
_BEGIN: Final = rb"--[ +]?BEGIN" + _LINE

PREFILTER: Final = (_BEGIN,)

_begin: Final = compile_pattern(rb"-*" + _BEGIN + rb"-*")
_end: Final = compile_pattern(rb"--[ +]?END" + _LINE + rb"-*")


def find(text: bytes) -> list[Span]:
    found: list[Span] = []
    at = 0
    while (begin := _begin.search(text, at)) is not None:
        start, inside = begin.span()
        end = _end.search(text, inside)
        at = end.span()[1] if end is not None else len(text)
        found.append((start, at))
    return found


DETECTOR: Final = Detector(
    name="pem-private-key",
    finds="private keys in PEM form from BEGIN to END, or to the end of the value where END is missing",
    proof="the BEGIN line",
    leaves_out="a key's lines without its BEGIN line, public keys and certificates",
    prefilter=PREFILTER,
    find=find,
)
