"""What `sidegate-operator run` is started with."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidegate_operator.gateway.settings import GatewaySettings
from sidegate_operator.lease import Terms
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.watcher import WatchLimits


@dataclass(frozen=True, slots=True)
class Settings:
    """`namespace` is the operator's own: of its lease, and of the keys of admission. `identity` is unique to this process. `gateway` None:
    gates report nothing, and hold nothing.
    """

    namespace: str
    identity: str
    gate: GateSettings
    gateway: GatewaySettings | None = None
    lease: str = "sidegate-operator"
    terms: Terms = field(default_factory=Terms)
    health_host: str = "0.0.0.0"  # noqa: S104 - the kubelet and the scraper come from outside the pod
    health_port: int = 8080
    workers: int = 8
    watch: WatchLimits = field(default_factory=WatchLimits)
    stale_after_s: float = 180.0  # twice a watch's longest silence: only what hangs gets there
