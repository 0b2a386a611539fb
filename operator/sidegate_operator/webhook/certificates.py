"""Where the API server reads the webhook's authority: the `caBundle` of every configuration that calls us.

Rules it keeps:
- A configuration is written at the resource version it was read at, before the Secret: so a bundle made of an older Secret is refused.
- Only `caBundle` is changed, and only in configurations by the given names: a missing one is not made here.
- `is_mine`: ready is who serves a certificate that every live webhook configuration trusts.

Left out: the Secret (`serving/keeper.py`), and which step comes when (`serving/authority.py`).
"""

from __future__ import annotations

import base64
import binascii
import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidegate_operator.api_client import ApiClient, read_or_none
from sidegate_operator.resources import MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS, Object, Resource
from sidegate_operator.serving.authority import Held, Lifetimes, is_same_bundle, is_trusted
from sidegate_operator.serving.keeper import SecretKeeper

LOG: Final = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Configurations:
    """As they were read, by kind and name."""

    api: ApiClient
    found: Mapping[str, Object | None]

    @property
    def published(self) -> Sequence[bytes]:
        return _bundles(self.found.values()) if all(self.found.values()) else ()

    async def publish(self, bundle: bytes) -> bool:
        encoded = base64.b64encode(bundle).decode("ascii")
        written = False
        for name, configuration in self.found.items():
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


@dataclass(slots=True)
class CertificateKeeper:
    """Call `keep` at the start and then every minute; `held` is what to serve."""

    api: ApiClient
    places: Places
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    _keeper: SecretKeeper = field(init=False)

    def __post_init__(self) -> None:
        places = self.places
        self._keeper = SecretKeeper(self.api, places.namespace, places.secret, places.names, self, self.lifetimes)

    @property
    def held(self) -> Held | None:
        return self._keeper.held

    async def keep(self, now: float) -> Held:
        """What the Secret holds after every step that is due, with the configurations told.

        Raises:
            ApiError: it can't be read or written; what was held before is still `held`.
        """
        return await self._keeper.keep(now)

    async def is_mine(self, serving: Held | None) -> bool:
        """Whether every configuration is there and trusts what is served.

        Raises:
            ApiError: they can't be read.
        """
        seen = await self.look()
        return serving is not None and is_trusted(serving.authority.certificate, seen.published)

    async def look(self) -> Configurations:
        kinds = self.places.configurations
        return Configurations(
            self.api, {f"{kind.kind}/{name}": await read_or_none(self.api, kind, None, name) for kind, name in kinds}
        )


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
