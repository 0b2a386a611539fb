"""GitHub tokens by their prefixes: personal (classic and fine-grained), OAuth, user-to-server, server-to-server, refresh.

Classic tokens end in a CRC-32 of their first 30 characters. It is not asked for: a mistyped or truncated token still gives most of a secret
away, and the prefix is rare enough by itself.
"""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import Detector
from sidegate.mask.patterns import Span, compile_pattern, spans_of

_TOKEN: Final = rb"gh[oprsu]_[0-9A-Za-z]{20}[0-9A-Za-z_]*|github_pat_[0-9A-Za-z]{16}[0-9A-Za-z_]*"

PREFILTER: Final = (rb"gh[oprsu]_[0-9A-Za-z]{20}|github_pat_[0-9A-Za-z]{16}",)

_token: Final = compile_pattern(_TOKEN)


def find(text: bytes) -> list[Span]:
    return list(spans_of(_token, text))


DETECTOR: Final = Detector(
    name="github-token",
    finds="GitHub tokens: ghp_, gho_, ghu_, ghs_, ghr_ and github_pat_",
    proof="none: the prefix (the CRC-32 of classic tokens is not asked for, so that a mistyped token is masked too)",
    leaves_out="tokens without a prefix, from before 2021",
    prefilter=PREFILTER,
    find=find,
)
