"""Keeps the webhook's certificates: a Secret that all replicas share, and the caBundle of every configuration that calls us.

Rules it keeps:
- Every write carries the resource version that the decision was made on; who comes second reads again and decides again. So replicas
  that start together end up with one authority.
- The configurations are read before the Secret. A caBundle made of an older Secret then meets a newer configuration and is refused by
  its resource version, and can't take away an authority that was just published.
- Only `caBundle` is changed, and only in configurations by the given names: a missing one is not made here.
- `is_mine`: ready is who serves a certificate that every live webhook configuration trusts.

Left out: which step comes when (`authority`).
"""

from __future__ import annotations

import base64
import binascii
import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidegate_operator.api_client import ApiClient, ApiError, Conflict
from sidegate_operator.resources import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS, Object, Resource
from sidegate_operator.webhook.authority import (
    Held,
    Lifetimes,
    Step,
    decode_held,
    encode_held,
    is_same_bundle,
    is_trusted,
    next_step,
    take_step,
)
from sidegate_operator.webhook.neighbours import read_or_none

LOG: Final = logging.getLogger(__name__)
_TRIES: Final = 12
_NO_PUBLISHED: Final[tuple[bytes, ...]] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are: the Secret, the configurations that call us, and the names that the API server calls us by."""

    namespace: str
    secret: str
    names: tuple[str, ...]
    mutating: tuple[str, ...] = ("sidegate",)
    validating: tuple[str, ...] = ("sidegate",)

    @property
    def configurations(self) -> tuple[tuple[Resource, str], ...]:
        kinds = ((MUTATING_WEBHOOKS, self.mutating), (VALIDATING_WEBHOOKS, self.validating))
        return tuple((kind, name) for kind, names in kinds for name in names)


@dataclass(slots=True)
class CertificateKeeper:
    """Call `keep` at the start and then every minute; `held` is what to serve."""

    api: ApiClient
    places: Places
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    held: Held | None = None

    async def keep(self, now: float) -> Held:
        """What the Secret holds after every step that is due, with the configurations told.

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

    async def is_mine(self, serving: Held | None) -> bool:
        """Whether every configuration is there and trusts what is served.

        Raises:
            ApiError: they can't be read.
        """
        configurations = await self._configurations()
        return (
            serving is not None
            and all(configurations.values())
            and is_trusted(serving.authority.certificate, _bundles(configurations.values()))
        )

    async def _advance(self, now: float) -> bool:
        """One step, and the configurations; True when none is left to take."""
        configurations = await self._configurations()
        stored = await read_or_none(self.api, SECRETS, self.places.namespace, self.places.secret)
        held = decode_held(_decoded(stored)) if stored is not None else None
        published = _bundles(configurations.values()) if all(configurations.values()) else _NO_PUBLISHED
        step = next_step(held, published, self.places.names, now, self.lifetimes)
        if step is not Step.NONE:
            held = take_step(step, held, self.places.names, now, self.lifetimes)
            await self._store(held, stored)
            LOG.info("certificates: %s", step.name.lower().replace("_", " "))
        assert held is not None
        self.held = held
        published_now = await self._publish(held.bundle, configurations)
        return step is Step.NONE and not published_now

    async def _configurations(self) -> Mapping[str, Object | None]:
        """By kind and name."""
        return {
            f"{kind.kind}/{name}": await read_or_none(self.api, kind, None, name) for kind, name in self.places.configurations
        }

    async def _store(self, held: Held, stored: Object | None) -> None:
        data = {name: base64.b64encode(value).decode("ascii") for name, value in encode_held(held).items()}
        if stored is not None:
            await self.api.replace({**stored, "data": data})
            return
        metadata = {
            "name": self.places.secret,
            "namespace": self.places.namespace,
            "labels": {"app.kubernetes.io/managed-by": "sidegate", "app.kubernetes.io/part-of": "sidegate"},
        }
        await self.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data})

    async def _publish(self, bundle: bytes, configurations: Mapping[str, Object | None]) -> bool:
        """Whether anything had to be written."""
        encoded = base64.b64encode(bundle).decode("ascii")
        written = False
        for name, configuration in configurations.items():
            if configuration is None:
                LOG.warning("`%s` doesn't exist: no request reaches this webhook through it; fix: apply the chart again", name)
                continue
            if all(is_same_bundle(each, bundle) for each in _bundles([configuration])):
                continue
            wanted = copy.deepcopy(configuration)
            for webhook in wanted.get("webhooks") or []:
                webhook["clientConfig"]["caBundle"] = encoded
            await self.api.replace(wanted)
            written = True
        return written


def _bundles(configurations: Iterable[Object | None]) -> Sequence[bytes]:
    """Of each webhook; what can't be decoded trusts nobody."""
    found = []
    for configuration in configurations:
        for webhook in (configuration or {}).get("webhooks") or []:
            try:
                found.append(base64.b64decode(webhook["clientConfig"].get("caBundle") or "", validate=True))
            except (binascii.Error, ValueError):
                found.append(b"")
    return found


def _decoded(secret: Object) -> dict[str, bytes]:
    data = {}
    for name, value in (secret.get("data") or {}).items():
        try:
            data[name] = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            continue
    return data
