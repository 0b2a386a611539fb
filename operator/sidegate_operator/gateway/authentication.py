"""Who asks, by the API server's review of their token; answers are remembered for a short while.

Rules it keeps:
- An answer is remembered for 30 s at most and never beyond the token's end; by the token's SHA-256, so that no token is kept. A refusal is
  remembered for less.
- Requests that come with the same token at once lead to one review, and few reviews run together: whoever sends nonsense to us sends it to
  us alone.
- When the API server can't be asked, nobody gets in whom nobody knows.

Left out: what the answer means (`asking`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from sidegate_operator.api_client import ApiError
from sidegate_operator.gateway.asking import Caller, caller_of, expiry, review_of
from sidegate_operator.gateway.problem import Kind, Refusal, unavailable
from sidegate_operator.resources import Object

LOG: Final = logging.getLogger(__name__)
KEPT_S: Final = 30.0
REFUSAL_KEPT_S: Final = 5.0
MAX_KEPT: Final = 8192
_TOGETHER: Final = 16


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: Caller | Refusal
    until: float  # by `elapsed`
    ends_at: float  # of the token, by `now`


@dataclass(slots=True)
class Authentication:
    """`create` has the API server answer a TokenReview, and may raise ApiError."""

    create: Callable[[Object], Awaitable[Object]]
    now: Callable[[], float]
    elapsed: Callable[[], float]
    reviews: int = 0
    _kept: dict[bytes, _Kept] = field(default_factory=dict)
    _turns: tuple[asyncio.Lock, ...] = field(default_factory=lambda: tuple(asyncio.Lock() for _ in range(_TOGETHER)))

    async def caller(self, token: str) -> Caller | Refusal:
        """Who the token's pod is."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known(digest)
        if known is not None:
            return known
        ends_at = expiry(token)
        if ends_at <= self.now():
            return Refusal(Kind.UNAUTHENTICATED, "the token has ended", "read the token's file again: the kubelet renews it")
        async with self._turns[digest[0] % _TOGETHER]:
            known = self._known(digest)
            return known if known is not None else await self._ask(token, digest, ends_at)

    async def _ask(self, token: str, digest: bytes, ends_at: float) -> Caller | Refusal:
        asked_at = self.elapsed()
        self.reviews += 1
        try:
            answer = caller_of(await self.create(review_of(token)))
        except ApiError as problem:
            LOG.warning("gateway: a token can't be reviewed: %s; fix: %s", problem, problem.way_forward)
            return unavailable("the API server can't be asked about the token")
        kept_s = KEPT_S if isinstance(answer, Caller) else REFUSAL_KEPT_S
        if len(self._kept) >= MAX_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[digest] = _Kept(answer, asked_at + kept_s, ends_at)
        return answer

    def _known(self, digest: bytes) -> Caller | Refusal | None:
        kept = self._kept.get(digest)
        if kept is None:
            return None
        if self.elapsed() >= kept.until or self.now() >= kept.ends_at:
            self._kept.pop(digest)
            return None
        return kept.answer
