"""Google API keys, OAuth client secrets, access and refresh tokens by their prefixes."""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import Detector
from sidegate.mask.patterns import Span, compile_pattern, spans_of

PREFILTER: Final = (rb"AIza[0-9A-Za-z_-]{35}|GOCSPX-[0-9A-Za-z_-]{24}|ya29\.[0-9A-Za-z_-]{20}|1//0[0-9A-Za-z_-]{40}",)

_key: Final = compile_pattern(
    rb"AIza[0-9A-Za-z_-]{35,}|GOCSPX-[0-9A-Za-z_-]{24,}|ya29\.[0-9A-Za-z_-]{20,}|1//0[0-9A-Za-z_-]{40,}"
)


def find(text: bytes) -> list[Span]:
    return list(spans_of(_key, text))


DETECTOR: Final = Detector(
    name="google-api-key",
    finds="Google API keys (AIza), OAuth client secrets (GOCSPX-), access tokens (ya29.) and refresh tokens (1//0)",
    proof="none: the prefix and the length",
    leaves_out="private keys of service accounts (detector pem-private-key finds them)",
    prefilter=PREFILTER,
    find=find,
)
