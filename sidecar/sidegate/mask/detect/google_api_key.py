"""Google API keys, OAuth client secrets and access tokens by their prefixes."""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import Detector
from sidegate.mask.patterns import Span, compile_pattern, spans_of

PREFILTER: Final = (rb"AIza[0-9A-Za-z_-]{35}|GOCSPX-[0-9A-Za-z_-]{24}|ya29\.[0-9A-Za-z_-]{20}",)

_key: Final = compile_pattern(rb"AIza[0-9A-Za-z_-]{35,}|GOCSPX-[0-9A-Za-z_-]{24,}|ya29\.[0-9A-Za-z_-]{20,}")


def find(text: bytes) -> list[Span]:
    return list(spans_of(_key, text))


DETECTOR: Final = Detector(
    name="google-api-key",
    finds="Google API keys (AIza), OAuth client secrets (GOCSPX-) and access tokens (ya29.)",
    proof="none: the prefix and the length",
    leaves_out="private keys of service accounts (detector pem-private-key finds them)",
    prefilter=PREFILTER,
    find=find,
)
