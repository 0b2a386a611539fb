"""E-mail addresses: a local part, `@` (or `%40` in a URL), and a domain that ends in letters.

Any script's letters count (RFC 6531). A quoted local part, a domain without a dot and an address literal (`user@[192.0.2.1]`) are left
out: in data they are nearly always something else. So are local parts with one of `!#$&*/=?^{|}~`: what stands before it stays.
"""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import Detector
from sidegate.mask.patterns import Span, compile_pattern, spans_of

PREFILTER: Final = (rb"(?:@|%40)[\pL\pN_-]+\.[\pL\pN_-]",)

_address: Final = compile_pattern(rb"[\pL\pN_%+-][\pL\pN\pM._%+'-]*(?:@|%40)(?:[\pL\pN_-][\pL\pN\pM_-]*\.)+\pL[\pL\pM]+")


def find(text: bytes) -> list[Span]:
    return list(spans_of(_address, text))


DETECTOR: Final = Detector(
    name="email",
    finds="e-mail addresses, those in any script and those percent-encoded in URLs too",
    proof="none: the shape alone",
    leaves_out="quoted local parts, domains without a dot, address literals",
    prefilter=PREFILTER,
    find=find,
)
