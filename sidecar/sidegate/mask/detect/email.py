"""E-mail addresses: a local part, `@` (or `%40` in a URL, or `[at]`), and a domain that ends in letters.

Any script's letters count (RFC 6531). A quoted local part, a domain without a dot and an address literal (`user@[192.0.2.1]`) are left
out: in data they are nearly always something else. So are local parts with one of `!#$&*/=?^{|}~`: what stands before it stays.
"""

from __future__ import annotations

import re
from typing import Final

from sidegate.mask.detect.detector import Detector
from sidegate.mask.patterns import Span, compile_pattern, spans_of

_LOCAL: Final = rb"[\pL\pN_%+-][\pL\pN\pM._%+'-]*"
_AT: Final = rb"(?:@|%40| ?[\[({<] ?(?i:at) ?[\])}>] ?)"
_DOT: Final = rb"(?:\.| ?[\[({<] ?(?i:dot) ?[\])}>] ?)"
_DOMAIN: Final = rb"(?:[\pL\pN_-][\pL\pN\pM_-]*" + _DOT + rb")+(?:xn--[0-9A-Za-z-]+|\pL[\pL\pM]+)"

PREFILTER: Final = (_AT + rb"[\pL\pN_-]+" + _DOT + rb"[\pL\pN_-]",)

_address: Final = compile_pattern(_LOCAL + _AT + _DOMAIN)
# `icon@2x.png`, and versions of packages: `left-pad@1.3.x`, `tool@v2.0.0-beta.rc`.
_no_domain: Final = re.compile(
    rb"[^@]*@(?:[0-9](?:\.[0-9])?x\.(?i:png|jpe?g|gif|webp|svg|avif)\Z|[vV]?[0-9]+\.(?:[0-9]+[.-]|x\Z))"
)


def find(text: bytes) -> list[Span]:
    return [span for span in spans_of(_address, text) if _no_domain.match(text, *span) is None]


DETECTOR: Final = Detector(
    name="email",
    finds="e-mail addresses, those in any script, percent-encoded in URLs and with `[at]` and `(dot)` too",
    proof="none: the shape alone",
    leaves_out="quoted local parts, domains without a dot, address literals, names of images (`@2x.png`), versions (`@1.2.x`)",
    prefilter=PREFILTER,
    find=find,
)
