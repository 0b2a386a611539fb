"""The key that decisions are signed with (Ed25519), shared by all replicas, and where its public half is found.

Rules it keeps:
- Whoever is first makes it; whoever comes second reads it. The private half is in a Secret that nobody but the webhook reads.
- The public halves are in a ConfigMap, each under its id. An older one stays there: what it signed is still open. Taking one out, which
  is a person's act, takes its decisions' force away.
- A key that can't be read is not replaced by another: a replica goes on with the one it has, and one without any refuses decisions, until
  a person has deleted the Secret.

Left out: what is signed (`sidegate.policy.seal`), and verifying.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sidegate_operator.api_client import ApiClient, ApiError, Conflict, read_or_none
from sidegate_operator.resources import CONFIG_MAPS, SECRETS, Object
from sidegate_operator.resources import DECISION_KEY as SECRET
from sidegate_operator.resources import DECISION_KEYS as CONFIG_MAP

_PRIVATE: Final = "ed25519"
_TRIES: Final = 10  # each is lost to another replica's write, and those are few
_LABELS: Final = {"app.kubernetes.io/managed-by": "sidegate", "app.kubernetes.io/part-of": "sidegate"}


@dataclass(frozen=True, slots=True)
class DecisionKey:
    private: Ed25519PrivateKey

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """From its 32 bytes.

        Raises:
            ValueError: there aren't 32.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    @property
    def public(self) -> bytes:
        """Its public half, 32 bytes."""
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.public).hexdigest()[:16]

    def seal(self, content: bytes) -> str:
        """The signature in base64."""
        return base64.b64encode(self.private.sign(content)).decode("ascii")


async def fetch_decision_key(api: ApiClient, namespace: str) -> DecisionKey:
    """The key, made when there is none, its public half published. Replicas that start together take the one that was made first.

    Raises:
        ApiError: it can't be read, made or published.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(Conflict):
            return await _fetch(api, namespace)
    return await _fetch(api, namespace)


async def _fetch(api: ApiClient, namespace: str) -> DecisionKey:
    stored = await read_or_none(api, SECRETS, namespace, SECRET)
    if stored is None:
        made = DecisionKey(Ed25519PrivateKey.generate())
        raw = made.private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        data = {_PRIVATE: base64.b64encode(raw).decode("ascii")}
        stored = await api.create({**_object("Secret", SECRET, namespace), "type": "Opaque", "data": data})
    key = _key_in(stored)
    await _publish(api, namespace, key)
    return key


def _key_in(secret: Object) -> DecisionKey:
    try:
        return DecisionKey.from_bytes(base64.b64decode((secret.get("data") or {})[_PRIVATE], validate=True))
    except (KeyError, ValueError, binascii.Error) as error:
        raise ApiError(f"the Secret `{SECRET}` holds no key", "delete it: another key is made, for new decisions") from error


async def _publish(api: ApiClient, namespace: str, key: DecisionKey) -> None:
    public = base64.b64encode(key.public).decode("ascii")
    published = await read_or_none(api, CONFIG_MAPS, namespace, CONFIG_MAP)
    if published is None:
        await api.create({**_object("ConfigMap", CONFIG_MAP, namespace), "data": {key.id: public}})
    elif (published.get("data") or {}).get(key.id) != public:
        await api.replace({**published, "data": {**(published.get("data") or {}), key.id: public}})


def _object(kind: str, name: str, namespace: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": dict(_LABELS)}}
