"""How long an answer about a token is remembered, and that nonsense never reaches the API server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from sidegate_operator.api_client import Unreachable
from sidegate_operator.gateway.asking import Caller
from sidegate_operator.gateway.authentication import KEPT_S, REFUSAL_KEPT_S, Authentication
from sidegate_operator.gateway.problem import Kind, Refusal
from tests.unit.operator.gateway.test_asking import review, token

NOW = 1_795_600_000.0


@dataclass
class ApiServer:
    """Answers reviews, and counts them. Its clocks are the test's."""

    answer: dict[str, Any] = field(default_factory=review)
    asked: int = 0
    at: float = 0.0
    is_up: bool = True

    async def create(self, _: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.is_up:
            raise Unreachable("down", "start it")
        return self.answer

    def authentication(self) -> Authentication:
        return Authentication(self.create, lambda: NOW + self.at, lambda: self.at)


GOOD = token(exp=NOW + 3600)


async def test_an_answer_is_remembered_for_half_a_minute_and_no_longer() -> None:
    api = ApiServer()
    authentication = api.authentication()
    for at, asked in ((0.0, 1), (KEPT_S - 0.1, 1), (KEPT_S, 2)):
        api.at = at
        assert await authentication.caller(GOOD) == Caller("shop", "shop-db-0", "uid-0")
        assert api.asked == asked


async def test_an_answer_isnt_remembered_beyond_the_tokens_end() -> None:
    api = ApiServer()
    authentication = api.authentication()
    ends_soon = token(exp=NOW + 5)
    assert isinstance(await authentication.caller(ends_soon), Caller)
    api.at = 5.0
    refusal = await authentication.caller(ends_soon)
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, api.asked) == (Kind.UNAUTHENTICATED, 1)


async def test_a_refusal_is_remembered_for_less() -> None:
    api = ApiServer(review(authenticated=False))
    authentication = api.authentication()
    for at, asked in ((0.0, 1), (REFUSAL_KEPT_S - 0.1, 1), (REFUSAL_KEPT_S, 2)):
        api.at = at
        assert isinstance(await authentication.caller(GOOD), Refusal)
        assert api.asked == asked


async def test_one_token_that_comes_many_times_at_once_is_reviewed_once() -> None:
    api = ApiServer()
    authentication = api.authentication()
    callers = await asyncio.gather(*(authentication.caller(GOOD) for _ in range(50)))
    assert (set(callers), api.asked) == ({Caller("shop", "shop-db-0", "uid-0")}, 1)


async def test_a_token_that_has_ended_or_doesnt_say_when_is_never_reviewed() -> None:
    api = ApiServer()
    for each in (token(exp=NOW - 1), token()):
        assert isinstance(await api.authentication().caller(each), Refusal)
    assert api.asked == 0


async def test_nobody_unknown_gets_in_while_the_api_server_cant_be_asked_and_that_isnt_remembered() -> None:
    api = ApiServer(is_up=False)
    authentication = api.authentication()
    refusal = await authentication.caller(GOOD)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is Kind.UNAVAILABLE
    api.is_up = True
    assert isinstance(await authentication.caller(GOOD), Caller)


async def test_no_token_is_kept() -> None:
    authentication = ApiServer().authentication()
    await authentication.caller(GOOD)
    assert GOOD not in repr(authentication)
