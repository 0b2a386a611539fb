"""Slack tokens (bot, user, app, refresh, configuration, session) and incoming webhook addresses."""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import Detector
from sidegate.mask.patterns import Span, compile_pattern, spans_of

_HEAD: Final = (
    rb"xox[a-z](?:\.xox[a-z])?-[0-9A-Za-z]|xapp-[0-9]-[0-9A-Za-z]|hooks\.slack\.com/(?:services|workflows|triggers)/[0-9A-Za-z]"
)

PREFILTER: Final = (_HEAD,)

_token: Final = compile_pattern(
    rb"xoxd-[0-9A-Za-z][0-9A-Za-z%/+=_-]{8,}"  # cookies, which are base64, percent-encoded or not
    rb"|xox[a-z](?:\.xox[a-z])?-[0-9A-Za-z][0-9A-Za-z-]{8,}"
    rb"|xapp-[0-9]-[0-9A-Za-z][0-9A-Za-z-]{8,}"
    rb"|hooks\.slack\.com/(?:services|workflows|triggers)/[0-9A-Za-z][0-9A-Za-z/_-]{8,}"
)


def find(text: bytes) -> list[Span]:
    return list(spans_of(_token, text))


DETECTOR: Final = Detector(
    name="slack-token",
    finds="Slack tokens (xoxb-, xoxp-, xoxa-, xoxe-, xoxs-, ..., xapp-) and webhook addresses",
    proof="none: the prefix",
    leaves_out="signing secrets and verification tokens, which have no prefix",
    prefilter=PREFILTER,
    find=find,
)
