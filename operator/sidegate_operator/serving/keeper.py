"""Keeps a listener's certificates: a Secret that all replicas share, and the authority wherever its callers read it.

Rules it keeps:
- Every write carries the resource version that the decision was made on; who comes second reads again and decides again. So replicas
  that start together end up with one authority.
- What callers trust is looked at before the Secret is read. A bundle made of an older Secret then meets something newer, and can't take
  away an authority that was just published.

Left out: which step comes when (`authority`), and where callers read the authority (a `Publisher`).
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sidegate_operator.api_client import ApiClient, ApiError, Conflict, read_or_none
from sidegate_operator.resources import SECRETS, Object
from sidegate_operator.serving.authority import Held, Lifetimes, Step, decode_held, encode_held, next_step, take_step

LOG: Final = logging.getLogger(__name__)
_TRIES: Final = 12


class Seen(Protocol):
    """What callers trust, as it was at one moment."""

    @property
    def published(self) -> Sequence[bytes]:
        """Every place's bundle; none while a place is missing: then nothing counts as published."""

    async def publish(self, bundle: bytes) -> bool:
        """Have callers trust the bundle; whether anything had to be written.

        Raises:
            ApiError: it can't be written; `Conflict` when a place has changed since it was looked at.
        """


class Publisher(Protocol):
    async def look(self) -> Seen:
        """Raises ApiError: it can't be read."""


@dataclass(slots=True)
class SecretKeeper:
    """Call `keep` at the start and then again and again; `held` is what to serve."""

    api: ApiClient
    namespace: str
    secret: str
    names: tuple[str, ...]
    publisher: Publisher
    lifetimes: Lifetimes
    held: Held | None = None

    async def keep(self, now: float) -> Held:
        """What the Secret holds after every step that is due, with callers told.

        Raises:
            ApiError: it can't be read or written; what was held before is still `held`.
        """
        for _ in range(_TRIES):
            try:
                if await self._advance(now):
                    assert self.held is not None
                    return self.held
            except Conflict as conflict:
                LOG.info("%s: reading it again", conflict)
        raise ApiError("the certificates' Secret changes faster than it can be read", "look for two installations in one place")

    async def _advance(self, now: float) -> bool:
        """One step, and telling callers; True when none is left to take."""
        seen = await self.publisher.look()
        stored = await read_or_none(self.api, SECRETS, self.namespace, self.secret)
        held = decode_held(_decoded(stored)) if stored is not None else None
        step = next_step(held, seen.published, self.names, now, self.lifetimes)
        if step is not Step.NONE:
            held = take_step(step, held, self.names, now, self.lifetimes)
            await self._store(held, stored)
            LOG.info("certificates of %s: %s", self.secret, step.name.lower().replace("_", " "))
        assert held is not None
        self.held = held
        published_now = await seen.publish(held.bundle)
        return step is Step.NONE and not published_now

    async def _store(self, held: Held, stored: Object | None) -> None:
        data = {name: base64.b64encode(value).decode("ascii") for name, value in encode_held(held).items()}
        if stored is not None:
            await self.api.replace({**stored, "data": data})
            return
        metadata = {
            "name": self.secret,
            "namespace": self.namespace,
            "labels": {"app.kubernetes.io/managed-by": "sidegate", "app.kubernetes.io/part-of": "sidegate"},
        }
        await self.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data})


def _decoded(secret: Object) -> dict[str, bytes]:
    data = {}
    for name, value in (secret.get("data") or {}).items():
        try:
            data[name] = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            continue
    return data
