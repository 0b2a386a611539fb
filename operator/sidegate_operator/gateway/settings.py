"""What the gateway is started with, and its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sidegate_operator.plan.approval_lifecycle import Quota
from sidegate_operator.serving.authority import Lifetimes

GATEWAY_SECRET: Final = "sidegate-gateway-certificates"  # noqa: S105 - a name
# A kubelet that nobody wakes looks at a ConfigMap every minute or two, and gates come back after a span of their own.
LIFETIMES: Final = Lifetimes(settle_s=600.0, overlap_s=1800.0)


@dataclass(frozen=True, slots=True)
class Limits:
    max_connections: int = 4096
    max_unknown: int = 1024  # of them, and of handshakes that aren't done yet, those on which nobody is known
    max_unknown_of_one: int = 64  # of these, from one address
    max_per_pod: int = 320  # as many as a target may have pending, and some more
    body_s: float = 10.0
    unknown_s: float = 15.0  # how long a connection lives on which nobody was known
    handshake_s: float = 10.0
    ending_s: float = 5.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """`names`: what gates call it by, of their URL. `webhook_url`: where the API server calls admission by no Service."""

    host: str
    port: int
    names: tuple[str, ...]
    secret: str = GATEWAY_SECRET
    every_s: float = 15.0
    guards_every_s: float = 60.0
    webhook_url: str = ""
    lifetimes: Lifetimes = LIFETIMES
    limits: Limits = field(default_factory=Limits)
    quota: Quota = field(default_factory=Quota)
