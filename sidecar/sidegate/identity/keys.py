"""Keys of the configured issuers, fetched when needed and kept: inline, or by discovery and JWK Set.

Rules it keeps: one fetch at a time per issuer, shared by all who wait; an unknown key id causes a fetch at most once per interval, because
anyone can send tokens with made-up key ids; keys that can't be renewed serve on for a bounded time and no longer; a failed fetch
isn't repeated at once; a clock that is set back causes one fetch, and no login waits for it to come forward again. `now` is the
caller's, so all of it is testable without a clock. Left out: what the keys verify (`token`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, Protocol

from sidegate.identity.discovery import DiscoveryError, ProviderMetadata, discovery_url, parse_discovery
from sidegate.identity.jwks import KeySet, KeySetError, VerificationKey, parse_jwks
from sidegate.identity.problem import IdentityCause, IdentityProblem, quoted
from sidegate.identity.transport import Transport, TransportError
from sidegate.policy.config import IssuerConfig

_HTTP_OK: Final = 200


class KeySource(Protocol):
    """Where a verifier finds keys that may have signed a token."""

    async def find(self, issuer: IssuerConfig, key_id: str | None, algorithm: str, now: float) -> KeyAnswer: ...


@dataclass(frozen=True, slots=True)
class KeyCacheLimits:
    fresh_s: float = 600.0  # keys older than this are fetched again before they are used
    stale_s: float = 3600.0  # and while that fails they serve until they are this old
    retry_s: float = 10.0  # after a failed fetch, none sooner
    unknown_key_s: float = 30.0  # fetches caused by unknown key ids, none sooner after the last fetch
    clock_step_s: float = 5.0  # a time this much ahead counts as now: callers come out of order, and clocks are corrected
    patience_s: float = 2.0  # a login waits no longer for a fetch while keys that may still serve are there


KeyAnswer = tuple[VerificationKey, ...] | IdentityProblem


@dataclass(slots=True)
class _Entry:
    keys: KeySet | None = None
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    problem: IdentityProblem | None = None
    task: asyncio.Task[None] | None = field(default=None)


class IssuerKeys:
    """The key source of a gate. One object for all issuers, used from one event loop."""

    def __init__(self, transport: Transport, limits: KeyCacheLimits | None = None) -> None:
        self._transport = transport
        self._limits = limits or KeyCacheLimits()
        self._entries: dict[tuple[str, str | None], _Entry] = {}

    async def find(self, issuer: IssuerConfig, key_id: str | None, algorithm: str, now: float) -> KeyAnswer:
        """Keys that may have signed: never empty; a problem when there are none."""
        entry = self._entries.setdefault((issuer.url, issuer.jwks), _Entry())
        if issuer.jwks is not None:
            return self._find_inline(entry, issuer, issuer.jwks, key_id, algorithm)
        if not self._is_younger(entry.fetched_at, now, self._limits.fresh_s):
            await self._refresh(entry, issuer, now, self._limits.retry_s)
        if entry.keys is not None and not entry.keys.candidates(key_id, algorithm):
            await self._refresh(entry, issuer, now, self._limits.unknown_key_s)
        if entry.keys is None or not self._is_younger(entry.fetched_at, now, self._limits.stale_s):
            return entry.problem or _unavailable(issuer, "they couldn't be fetched in time", "try again in a moment")
        return entry.keys.candidates(key_id, algorithm) or _unknown_key(entry.keys, issuer, key_id, algorithm)

    async def close(self) -> None:
        """Ends every fetch under way."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _find_inline(self, entry: _Entry, issuer: IssuerConfig, jwks: str, key_id: str | None, algorithm: str) -> KeyAnswer:
        if entry.keys is None and entry.problem is None:
            try:
                entry.keys = parse_jwks(jwks.encode("utf-8", "surrogatepass"))
            except KeySetError as error:
                problem = f"the inline keys can't be used: {error}"
                entry.problem = IdentityProblem(IdentityCause.MISCONFIGURED, problem, error.way_forward)
        if entry.keys is None:
            return entry.problem or _unavailable(issuer, "none are there", "give the keys inline, or leave them to discovery")
        return entry.keys.candidates(key_id, algorithm) or _unknown_key(entry.keys, issuer, key_id, algorithm)

    async def _refresh(self, entry: _Entry, issuer: IssuerConfig, now: float, interval_s: float) -> None:
        if entry.task is None:
            if self._is_younger(entry.tried_at, now, interval_s):
                return
            entry.tried_at = now
            entry.task = asyncio.create_task(self._fetch_into(entry, issuer, now), name=f"keys of {issuer.url}")
        # `wait` leaves the task alone: neither a client that goes away nor one that loses patience ends the fetch of others.
        has_usable = entry.keys is not None and self._is_younger(entry.fetched_at, now, self._limits.stale_s)
        await asyncio.wait({entry.task}, timeout=self._limits.patience_s if has_usable else None)

    def _is_younger(self, at: float, now: float, age_s: float) -> bool:
        """A time far in the future isn't young: after a clock was set back, keys are fetched again instead of trusted for too long, and
        a fetch that was tried then doesn't stand in the way. One just ahead is: it would be fetched again at every login.
        """
        return -self._limits.clock_step_s <= now - at < age_s

    async def _fetch_into(self, entry: _Entry, issuer: IssuerConfig, now: float) -> None:
        try:
            entry.keys = await fetch_keys(self._transport, issuer.url)
            entry.fetched_at, entry.problem = now, None
        except (TransportError, DiscoveryError, KeySetError) as error:
            entry.problem = _unavailable(issuer, str(error), error.way_forward)
        finally:
            entry.task = None


async def fetch_metadata(transport: Transport, issuer: str) -> ProviderMetadata:
    """The issuer's metadata, by discovery.

    Raises:
        TransportError, DiscoveryError: it can't be had, or can't be trusted.
    """
    url = discovery_url(issuer)
    return parse_discovery(await _get(transport, url), issuer)


async def fetch_keys(transport: Transport, issuer: str) -> KeySet:
    """The issuer's keys, by discovery.

    Raises:
        TransportError, DiscoveryError, KeySetError: they can't be had, or can't be used.
    """
    metadata = await fetch_metadata(transport, issuer)
    return parse_jwks(await _get(transport, metadata.jwks_url))


async def _get(transport: Transport, url: str) -> bytes:
    answer = await transport.get(url)
    if answer.status != _HTTP_OK:
        raise TransportError(f"{quoted(url)} answered with status {answer.status}", "check the issuer's URL")
    return answer.body


def _unavailable(issuer: IssuerConfig, problem: str, way_forward: str) -> IdentityProblem:
    return IdentityProblem(
        IdentityCause.ISSUER_UNAVAILABLE, f"the keys of issuer {quoted(issuer.url)} aren't available: {problem}", way_forward
    )


def _unknown_key(keys: KeySet, issuer: IssuerConfig, key_id: str | None, algorithm: str) -> IdentityProblem:
    fitting = sum(key.fits(algorithm) for key in keys.keys)
    if key_id is None and fitting > 1:
        problem = f"token names no key (`kid`), and issuer {quoted(issuer.url)} has {fitting} that fit {quoted(algorithm)}"
    elif key_id is None:
        problem = f"issuer {quoted(issuer.url)} has no key for {quoted(algorithm)}"
    else:
        problem = f"issuer {quoted(issuer.url)} has no key {quoted(key_id)} for {quoted(algorithm)}"
    return IdentityProblem(
        IdentityCause.UNKNOWN_KEY, problem, "get a new token; if that fails too, check that the issuer is the right one"
    )
