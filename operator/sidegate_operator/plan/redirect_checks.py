"""What in a pod would undo redirection, or be broken by it.

Rules it keeps:
- A container that could change the pod's packet filter, or go round it, makes redirection a claim: refused.
- What would seem to work and doesn't is refused: a probe that the gate answers instead of the database, members that replicate with
  client certificates.
- Where the packet filter knows the gate's user by another number than the gate has, the gate would be led to itself: refused.

Left out: the capabilities that a container has without asking. With SETUID, which root has by default, it can become the gate's user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from sidegate_operator.plan.gate_container import GATE_CONTAINER, REDIRECT_CONTAINER
from sidegate_operator.plan.injection import InjectionReason, InjectionRefused
from sidegate_operator.plan.pod_checks import Arrival, entries

# BPF and SYS_ADMIN load programs that see packets first (capabilities(7)); SYS_MODULE and SYS_RAWIO change the kernel.
_OF_THE_NETWORK: Final = frozenset({"ALL", "NET_ADMIN", "SYS_ADMIN", "BPF", "SYS_MODULE", "SYS_RAWIO"})
_PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")


def redirect_problem(arrival: Arrival) -> InjectionRefused | None:
    """Why redirection can't be done in the pod; None also where it isn't asked for."""
    if arrival.parts.redirect is None:
        return None
    problem = next((found for check in _CHECKS for found in check(arrival)), None)
    return None if problem is None else InjectionRefused(InjectionReason.REDIRECT_IMPOSSIBLE, problem)


def _order(arrival: Arrival) -> Iterator[str]:
    names = [each["name"] for each in entries(arrival.pod, "initContainers")]
    ours = [name for name in names if name in {GATE_CONTAINER, REDIRECT_CONTAINER}]
    if ours == [GATE_CONTAINER, REDIRECT_CONTAINER]:
        yield f"the pod's container `{REDIRECT_CONTAINER}` comes after the gate"


def _capabilities(arrival: Arrival) -> Iterator[str]:
    for each in arrival.others():
        context = each.get("securityContext") or {}
        added = {str(name).removeprefix("CAP_") for name in (context.get("capabilities") or {}).get("add") or []}
        held = sorted(added & _OF_THE_NETWORK)
        if context.get("privileged"):
            yield f"container `{each['name']}` is privileged, and could take the redirection away"
        elif held:
            yield f"container `{each['name']}` has the capability {held[0]}, and could take the redirection away"


def _user_namespace(arrival: Arrival) -> Iterator[str]:
    if arrival.pod["spec"].get("hostUsers") is False:
        yield "the pod sets hostUsers: false, where the packet filter can't be relied on to know the gate's user"


def _probes(arrival: Arrival) -> Iterator[str]:
    """A TCP probe is passed as soon as something listens, and the gate always does."""
    for each in arrival.others():
        named = {port.get("name"): port["containerPort"] for port in each.get("ports") or []}
        for probe in _PROBES:
            port = ((each.get(probe) or {}).get("tcpSocket") or {}).get("port")
            if port is not None and named.get(port, port) in {arrival.target_port, str(arrival.target_port)}:
                yield f"the {probe} of container `{each['name']}` connects to port {arrival.target_port}, where the gate would answer it"


def _cloud_native_pg(arrival: Arrival) -> Iterator[str]:
    """Its members' TLS goes from end to end, with client certificates (its documentation, "Replication")."""
    owners: list[Mapping[str, Any]] = arrival.pod["metadata"].get("ownerReferences") or []
    if any(owner.get("apiVersion", "").startswith("postgresql.cnpg.io/") for owner in owners):
        yield "CloudNativePG's members replicate with client certificates, which no gate between them can pass on"


_CHECKS: Final[tuple[Callable[[Arrival], Iterator[str]], ...]] = (
    _order,
    _capabilities,
    _user_namespace,
    _probes,
    _cloud_native_pg,
)
