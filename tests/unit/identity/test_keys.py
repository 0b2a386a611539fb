"""The key cache: when it fetches, when it must not, and how long it lives on what it has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping

import pytest

from sidegate.identity.jwks import VerificationKey
from sidegate.identity.keys import IssuerKeys, KeyAnswer, KeyCacheLimits
from sidegate.identity.problem import IdentityCause, IdentityProblem
from sidegate.identity.transport import Answer, HttpTransport, TransportLimits
from tests.support.issuer import NOW, Fault, Issuer

LIMITS = KeyCacheLimits(fresh_s=600, stale_s=3600, retry_s=10, unknown_key_s=30)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


class Keys:
    """A key source of one issuer, asked in a test's few words."""

    def __init__(self, issuer: Issuer, **changes: object) -> None:
        self.issuer = issuer
        self.config = issuer.config(**changes)
        self.source = IssuerKeys(HttpTransport(limits=TransportLimits(total_s=2, read_s=0.3)), LIMITS)

    async def at(self, after_s: float, key_id: str | None = None, algorithm: str = "RS256") -> KeyAnswer:
        wanted = key_id or self.issuer.core.current[algorithm].key_id
        return await self.source.find(self.config, wanted, algorithm, NOW + after_s)

    @property
    def fetches(self) -> int:
        return self.issuer.requests["/jwks"]


def found(answer: KeyAnswer) -> bool:
    return isinstance(answer, tuple) and all(isinstance(key, VerificationKey) for key in answer) and bool(answer)


def cause(answer: KeyAnswer) -> IdentityCause | None:
    return answer.cause if isinstance(answer, IdentityProblem) else None


async def test_fetches_once_while_keys_are_fresh(issuer: Issuer) -> None:
    keys = Keys(issuer)
    for after in (0, 1, 300, 599):
        assert found(await keys.at(after))
        assert found(await keys.at(after, algorithm="ES256"))
    assert keys.fetches == 1


async def test_fetches_again_when_keys_are_no_longer_fresh(issuer: Issuer) -> None:
    keys = Keys(issuer)
    await keys.at(0)
    assert found(await keys.at(600))
    assert keys.fetches == 2


async def test_a_rotated_key_is_found_at_once_after_the_interval(issuer: Issuer) -> None:
    keys = Keys(issuer)
    await keys.at(0)
    issuer.rotate()
    assert found(await keys.at(31))
    assert keys.fetches == 2


async def test_a_withdrawn_key_stops_verifying_once_keys_are_fetched_again(issuer: Issuer) -> None:
    keys = Keys(issuer)
    old = issuer.core.current["RS256"].key_id
    assert found(await keys.at(0, old))
    issuer.rotate(keep_old=False)
    assert cause(await keys.at(600, old)) == IdentityCause.UNKNOWN_KEY


async def test_made_up_key_ids_cause_one_fetch_in_an_interval(issuer: Issuer) -> None:
    keys = Keys(issuer)
    for n in range(200):
        assert cause(await keys.at(n / 10, f"made-up-{n}")) == IdentityCause.UNKNOWN_KEY
    assert keys.fetches == 1
    for n in range(200):
        await keys.at(30 + n / 10, f"made-up-{n}")
    assert keys.fetches == 2


async def test_made_up_key_ids_all_at_once_cause_one_fetch(issuer: Issuer) -> None:
    keys = Keys(issuer)
    await keys.at(0)
    answers = await asyncio.gather(*(keys.at(100, f"made-up-{n}") for n in range(50)))
    assert {cause(answer) for answer in answers} == {IdentityCause.UNKNOWN_KEY}
    assert keys.fetches == 2


async def test_many_logins_at_start_share_one_fetch(issuer: Issuer) -> None:
    keys = Keys(issuer)
    answers = await asyncio.gather(*(keys.at(0) for _ in range(50)))
    assert all(found(answer) for answer in answers)
    assert keys.fetches == 1


async def test_stale_keys_serve_for_a_bounded_time_while_the_issuer_is_down(issuer: Issuer) -> None:
    keys = Keys(issuer)
    await keys.at(0)
    issuer.go_down()
    assert found(await keys.at(700))
    assert found(await keys.at(3599))
    assert cause(await keys.at(3600)) == IdentityCause.ISSUER_UNAVAILABLE
    issuer.come_back()
    assert cause(await keys.at(3605)) == IdentityCause.ISSUER_UNAVAILABLE  # not tried again so soon
    assert found(await keys.at(3611))


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.GARBAGE, Fault.ERROR, Fault.REDIRECT, Fault.HUGE, Fault.CUT])
async def test_an_issuer_in_trouble_from_the_start_is_unavailable_and_not_asked_at_every_login(
    issuer: Issuer, fault: Fault
) -> None:
    keys = Keys(issuer)
    issuer.fault = fault
    problem = await keys.at(0)
    assert cause(problem) == IdentityCause.ISSUER_UNAVAILABLE
    assert isinstance(problem, IdentityProblem)
    assert issuer.url in problem.message
    asked = sum(issuer.requests.values())
    for after in range(1, 10):
        assert cause(await keys.at(after)) == IdentityCause.ISSUER_UNAVAILABLE
    assert sum(issuer.requests.values()) == asked
    issuer.fault = Fault.NONE
    assert found(await keys.at(10))


async def test_an_issuer_that_is_down_is_unavailable(issuer: Issuer) -> None:
    keys = Keys(issuer)
    issuer.go_down()
    assert cause(await keys.at(0)) == IdentityCause.ISSUER_UNAVAILABLE


async def test_an_empty_answer_doesnt_replace_good_keys(issuer: Issuer) -> None:
    keys = Keys(issuer)
    await keys.at(0)
    issuer.fault, issuer.garbage = Fault.GARBAGE, b'{"keys": []}'
    assert found(await keys.at(700))


async def test_a_clock_set_back_doesnt_keep_keys_for_longer(issuer: Issuer) -> None:
    keys = Keys(issuer)
    await keys.at(0)
    assert found(await keys.at(-1_000_000))
    assert keys.fetches == 2


async def test_a_clock_set_back_causes_one_fetch_even_while_the_issuer_is_down(issuer: Issuer) -> None:
    keys = Keys(issuer)
    await keys.at(0)
    issuer.fault = Fault.ERROR
    asked = sum(issuer.requests.values())
    for after in range(10):
        assert cause(await keys.at(-1_000_000 + after)) == IdentityCause.ISSUER_UNAVAILABLE
    assert sum(issuer.requests.values()) == asked + 1
    issuer.fault = Fault.NONE
    assert found(await keys.at(-1_000_000 + 10))  # the interval after the failed fetch counts from the new time


async def test_a_fetch_tried_far_in_the_future_doesnt_stand_in_the_way_once_the_clock_is_right(issuer: Issuer) -> None:
    keys = Keys(issuer)
    issuer.fault = Fault.ERROR
    assert cause(await keys.at(1_000_000)) == IdentityCause.ISSUER_UNAVAILABLE
    issuer.fault = Fault.NONE
    assert found(await keys.at(0))


@pytest.mark.parametrize("step", [0.001, 1.0, 5.0])
async def test_logins_out_of_order_and_corrected_clocks_neither_fetch_again_nor_fail(issuer: Issuer, step: float) -> None:
    keys = Keys(issuer)
    assert found(await keys.at(100))
    for n in range(20):
        assert found(await keys.at(100 - step))
        assert cause(await keys.at(100 - step * n / 20, f"made-up-{n}")) == IdentityCause.UNKNOWN_KEY
    assert keys.fetches == 1
    issuer.fault = Fault.ERROR
    assert found(await keys.at(100 - step))  # nor with an issuer that is down


async def test_a_failed_fetch_isnt_repeated_by_logins_that_come_out_of_order(issuer: Issuer) -> None:
    keys = Keys(issuer)
    issuer.fault = Fault.ERROR
    await keys.at(0)
    asked = sum(issuer.requests.values())
    for n in range(1, 50):
        assert cause(await keys.at(-n / 10)) == IdentityCause.ISSUER_UNAVAILABLE
    assert sum(issuer.requests.values()) == asked
    issuer.fault = Fault.NONE
    assert found(await keys.at(10))


async def test_the_discovered_issuer_must_be_the_configured_one(issuer: Issuer) -> None:
    keys = Keys(issuer, url=issuer.url + "/")
    problem = await keys.at(0)
    assert isinstance(problem, IdentityProblem)
    assert problem.cause == IdentityCause.ISSUER_UNAVAILABLE
    assert "final slash" in problem.way_forward


async def test_inline_keys_need_no_network(issuer: Issuer) -> None:
    keys = Keys(issuer, jwks=json.dumps(issuer.core.jwks()))
    issuer.go_down()
    assert found(await keys.at(0))
    assert found(await keys.at(10_000_000))
    assert cause(await keys.at(10_000_000, "another")) == IdentityCause.UNKNOWN_KEY
    assert not issuer.requests


@pytest.mark.parametrize("jwks", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "x"}]}', "\ud800"])
async def test_inline_keys_that_cant_be_used_verify_nothing(issuer: Issuer, jwks: str) -> None:
    keys = Keys(issuer, jwks=jwks)
    assert cause(await keys.at(0)) == IdentityCause.MISCONFIGURED
    assert cause(await keys.at(1, "x")) == IdentityCause.MISCONFIGURED
    assert not issuer.requests


async def test_one_client_that_goes_away_doesnt_end_the_fetch_of_others() -> None:
    gate = asyncio.Event()

    class Slow:
        async def get(self, url: str) -> Answer:
            await gate.wait()
            return await HttpTransport().get(url)

        async def post_form(self, url: str, fields: Mapping[str, str], authorization: str | None = None) -> Answer:
            raise AssertionError("not used")

    with Issuer() as issuer:
        source = IssuerKeys(Slow(), LIMITS)
        key_id = issuer.core.current["RS256"].key_id
        first = asyncio.create_task(source.find(issuer.config(), key_id, "RS256", NOW))
        second = asyncio.create_task(source.find(issuer.config(), key_id, "RS256", NOW))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
        assert found(await second)


async def test_close_ends_a_fetch_under_way(issuer: Issuer) -> None:
    keys = Keys(issuer)
    issuer.fault = Fault.HANG
    waiting = asyncio.create_task(keys.at(0))
    while not issuer.requests:
        await asyncio.sleep(0.005)
    await keys.source.close()
    assert cause(await waiting) == IdentityCause.ISSUER_UNAVAILABLE


async def test_a_login_doesnt_wait_for_a_hanging_issuer_while_keys_can_still_serve(issuer: Issuer) -> None:
    transport = HttpTransport(limits=TransportLimits(total_s=60, read_s=60))
    source = IssuerKeys(transport, KeyCacheLimits(fresh_s=600, stale_s=3600, patience_s=0.05))
    key_id = issuer.core.current["RS256"].key_id
    assert found(await source.find(issuer.config(), key_id, "RS256", NOW))
    issuer.fault = Fault.HANG
    async with asyncio.timeout(5):
        assert found(await source.find(issuer.config(), key_id, "RS256", NOW + 700))
        assert found(await source.find(issuer.config(), key_id, "RS256", NOW + 701))
        assert cause(await source.find(issuer.config(), "made-up", "RS256", NOW + 702)) == IdentityCause.UNKNOWN_KEY
    assert issuer.requests["/.well-known/openid-configuration"] == 2  # one fetch, shared by the three
    await source.close()
