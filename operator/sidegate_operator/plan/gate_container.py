"""The gate's container and its volumes, alike beside a database and in a Deployment of its own.

Rules it keeps:
- It passes Pod Security `restricted` by itself, whatever the pod says: user, capabilities, seccomp and root file system are its own.
- Fields that the API server would fill in are written out, and quantities are in its canonical form: what comes back from it is equal.
- Requests equal limits, so that a Guaranteed database stays Guaranteed.
- No Kubernetes credentials: where admission would mount the pod's token stands an empty directory. The gate's own token is for the
  operator alone. Secrets of the target are mounted here and nowhere else.
- Nothing that can be missing keeps the pod from starting: ConfigMap, Secrets and the operator's authority are optional; a gate without
  them refuses everybody and says so.

What it needs to know is mostly in the ConfigMap: whatever stands here can only change with a new pod, but for the image.
It leaves out how it gets into a pod, and restart policy and readiness, which depend on where it stands.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.compile import TLS_CERT_KEY, TLS_KEY_KEY
from sidegate_operator.plan.owned import Object, config_map_name

GATE_CONTAINER: Final = "sidegate-gate"
REDIRECT_CONTAINER: Final = "sidegate-redirect"  # an init container of a target that asks for redirection
GATE_UID: Final = 64801  # the user of the gate's image
CONFIG_KEY: Final = "gate.json"
AUTHORITY_KEY: Final = "operator-ca.crt"
AUDIENCE: Final = "sidegate-operator"
TOKEN_SECONDS: Final = 600  # the least that the API server gives (pkg/apis/core/validation, validateProjectedVolumeSource)

CONFIG_DIR: Final = "/etc/sidegate"
SECRETS_DIR: Final = "/run/sidegate/secrets"
TARGET_VARIABLE: Final = "SIDEGATE_TARGET"  # whose gate it is
OPERATOR_DIR: Final = "/run/sidegate/operator"
STATE_DIR: Final = "/var/lib/sidegate"
RECORDINGS_DIR: Final = "/var/lib/sidegate/recordings"  # the gate keeps them below its state
# Where the ServiceAccount admission plugin mounts the pod's token into each container that has nothing there.
DEFAULT_TOKEN_DIR: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a directory

# Approval requests and sockets; a full one refuses, while an evicted pod would take the database with it. Counts as the gate's memory.
STATE_BYTES: Final = "32Mi"
READABLE: Final = 0o444  # the gate isn't root and may have no group of its own; nobody else mounts these

_BINARY: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL: Final = ("m", "", "k", "M", "G", "T", "P", "E")


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the operator gives every gate it makes.

    `image` is pinned by digest; a target may name another one. `gateway` is the https URL at which gates reach the operator, empty while
    there is none. `scrapers` are the namespaces that may read metrics. `redirect_image` has nft, pinned
    too; empty, no target may ask for redirection.
    """

    image: str
    version: str
    gateway: str = ""
    listen_host: str = "0.0.0.0"  # noqa: S104 - clients come from outside the pod; `[::]` where pods have IPv6 alone
    gate_port: int = 6432
    health_port: int = 6480
    replicas: int = 2
    scrapers: tuple[str, ...] = ()
    redirect_image: str = ""

    def __post_init__(self) -> None:
        for image in (self.image, *([self.redirect_image] if self.redirect_image else [])):
            if re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", image) is None:
                raise ValueError(
                    f"image `{image}` isn't pinned: write repository and digest, as in `registry.example/gate@sha256:...`"
                )


@dataclass(frozen=True, slots=True)
class GateParts:
    """The container, the volumes it mounts, and the init container that leads packets to it, where the target asks for one."""

    container: Object
    volumes: tuple[Object, ...]
    redirect: Object | None = None

    @property
    def template(self) -> str:
        """A hash over all but images: while it stays, a newer gate can take over in the pod as it runs, by its image alone."""
        containers = [self.container, *([self.redirect] if self.redirect is not None else [])]
        fixed = [{name: value for name, value in each.items() if name != "image"} for each in containers]
        text = json.dumps([*fixed, *self.volumes], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def gate_parts(target: ProtectedTarget, settings: GateSettings, extra: Mapping[str, object]) -> GateParts:
    """The gate of this target. `extra` are the fields of the container that depend on where it stands."""
    volumes = _volumes(target)
    mounts = [_mount(str(volume["name"])) for volume in volumes]
    gate = target.spec.gate
    resources = {"cpu": canonical_quantity(gate.resources.cpu), "memory": canonical_quantity(gate.resources.memory)}
    container: Object = {
        "name": GATE_CONTAINER,
        "image": str(gate.image or settings.image),
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "gate",
            *("--config", f"{CONFIG_DIR}/{CONFIG_KEY}", "--state", STATE_DIR),
            *("--listen", f"{settings.listen_host}:{settings.gate_port}"),
            *("--metrics", f"{settings.listen_host}:{settings.health_port}", "--log-format", "json"),
        ],
        "ports": [
            {"name": "sidegate", "containerPort": settings.gate_port, "protocol": "TCP"},
            {"name": "sidegate-health", "containerPort": settings.health_port, "protocol": "TCP"},
        ],
        "resources": {"limits": resources, "requests": dict(resources)},
        # Until a sidecar has started, the database beside it doesn't. `/started` asks for the listener alone: a missing config must
        # not be what keeps it down.
        "startupProbe": {**http_get("/started", settings), "periodSeconds": 1, "failureThreshold": 30, "timeoutSeconds": 1},
        "livenessProbe": {**http_get("/live", settings), "periodSeconds": 10, "failureThreshold": 3, "timeoutSeconds": 5},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": GATE_UID,
            "runAsNonRoot": True,
            "runAsUser": GATE_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the last line says why it couldn't go on
        "volumeMounts": mounts,
        **extra,
    }
    if settings.gateway:
        container["env"] = [
            {"name": "SIDEGATE_GATEWAY", "value": settings.gateway},
            # so that it can report that it has no config
            {"name": TARGET_VARIABLE, "value": f"{target.metadata.namespace}/{target.metadata.name}"},
        ]
    return GateParts(container, volumes)


def canonical_quantity(text: str) -> str:
    """A whole quantity as the API server writes it: the largest unit that keeps it whole (apimachinery, resource.Quantity)."""
    digits = re.match(r"[0-9]+", text)
    assert digits is not None  # the API's types have checked it
    number, unit = int(digits[0]), text[digits.end() :]
    units, step = (_BINARY, 1024) if unit.endswith("i") else (_DECIMAL, 1000)
    index = units.index(unit)
    while number and number % step == 0 and index + 1 < len(units):
        number, index = number // step, index + 1
    return f"{number}{units[index]}"


def http_get(path: str, settings: GateSettings) -> Object:
    """No `host`: another than the pod's own breaks Pod Security `baseline` since 1.34."""
    return {"httpGet": {"path": path, "port": settings.health_port, "scheme": "HTTP"}, "successThreshold": 1}


_PLACES: Final[Mapping[str, tuple[str, bool]]] = {  # volume: where it is mounted, and whether the gate may write there
    "sidegate-config": (CONFIG_DIR, False),
    "sidegate-secrets": (SECRETS_DIR, False),
    "sidegate-operator": (OPERATOR_DIR, False),
    "sidegate-state": (STATE_DIR, True),
    "sidegate-recordings": (RECORDINGS_DIR, True),
    "sidegate-no-token": (DEFAULT_TOKEN_DIR, False),
}
VOLUME_NAMES: Final = frozenset(_PLACES)


def _mount(volume: str) -> Object:
    path, may_write = _PLACES[volume]
    return {"name": volume, "mountPath": path} if may_write else {"name": volume, "mountPath": path, "readOnly": True}


def _volumes(target: ProtectedTarget) -> tuple[Object, ...]:
    config_map = {"name": config_map_name(target), "optional": True}
    config = {**config_map, "items": _items({CONFIG_KEY: CONFIG_KEY}), "defaultMode": READABLE}
    token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
    authority = {**config_map, "items": _items({AUTHORITY_KEY: "ca.crt"})}
    operator = {"sources": [{"serviceAccountToken": token}, {"configMap": authority}], "defaultMode": READABLE}
    secrets = [
        {"secret": {"name": name, "items": _items({key: f"{name}/{key}" for key in keys}), "optional": True}}
        for name, keys in secret_keys(target)
    ]
    return (
        {"name": "sidegate-config", "configMap": config},
        *([{"name": "sidegate-secrets", "projected": {"sources": secrets, "defaultMode": READABLE}}] if secrets else []),
        {"name": "sidegate-operator", "projected": operator},
        {"name": "sidegate-state", "emptyDir": {"medium": "Memory", "sizeLimit": STATE_BYTES}},
        {"name": "sidegate-recordings", **_recordings(target)},
        {"name": "sidegate-no-token", "emptyDir": {}},
    )


def _recordings(target: ProtectedTarget) -> Object:
    """On disk: `spec.recording.maxBytes`, which the gate keeps to, is far more than its memory. No sizeLimit, for the kubelet answers a
    full one by evicting the pod, database and all."""
    store = target.spec.recording.store
    if store is None or store.volume.claim_name is None:
        return {"emptyDir": {}}
    return {"persistentVolumeClaim": {"claimName": str(store.volume.claim_name)}}


def _items(paths: Mapping[str, str]) -> list[Object]:
    return [{"key": key, "path": path} for key, path in paths.items()]


def secret_keys(target: ProtectedTarget) -> Sequence[tuple[str, tuple[str, ...]]]:
    """Each Secret that the target names, with the keys its gate reads, in order."""
    spec, found = target.spec, set[tuple[str, str]]()
    if spec.tls is not None:
        if spec.tls.client.secret_ref is not None:
            found |= {(spec.tls.client.secret_ref.name, key) for key in (TLS_CERT_KEY, TLS_KEY_KEY)}
        if spec.tls.target.ca_ref is not None:
            found.add((spec.tls.target.ca_ref.name, spec.tls.target.ca_ref.key))
    found |= {(each.secret_ref.name, each.secret_ref.key) for each in spec.credentials if each.secret_ref is not None}
    names = sorted({str(name) for name, _ in found})
    return [(name, tuple(sorted(str(key) for of, key in found if of == name))) for name in names]
