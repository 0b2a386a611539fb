"""What in a pod would be in the gate's way, or let the pod's other containers into the gate.

Rules it keeps:
- Each check answers alone, with the first thing it finds; `pod_problem` gives the first of all. Nothing found: the gate guards itself.
- What stands under one of the gate's names is the gate's own only if it is equal, field by field, to what would be put there now.

It leaves out what the pod asks for (`sidecar`), and what can't be seen in a pod: the user that an image names, the ports nobody declares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sidegate.api.text import shown
from sidegate_operator.plan.gate_container import (
    GATE_CONTAINER,
    GATE_UID,
    REDIRECT_CONTAINER,
    VOLUME_NAMES,
    GateParts,
    GateSettings,
)
from sidegate_operator.plan.injection import InjectionReason, InjectionRefused

Pod: TypeAlias = "Mapping[str, Any]"
_Container: TypeAlias = "Mapping[str, Any]"
OUR_NAMES: Final = frozenset({GATE_CONTAINER, REDIRECT_CONTAINER})
_CONTAINER_LISTS: Final = ("initContainers", "containers", "ephemeralContainers")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A pod, and the gate that is to join it. `target_port` is where the target listens."""

    pod: Pod
    target_port: int
    settings: GateSettings
    parts: GateParts

    def others(self) -> Iterator[_Container]:
        """Every container but those under the gate's names."""
        for kind in _CONTAINER_LISTS:
            yield from (each for each in entries(self.pod, kind) if each["name"] not in OUR_NAMES)


def pod_problem(arrival: Arrival) -> InjectionRefused | None:
    """Why the gate can't join the pod."""
    return next((found for check in _CHECKS if (found := check(arrival)) is not None), None)


def entries(pod: Pod, field: str) -> list[Mapping[str, Any]]:
    """A list of the pod's spec: empty, absent and null are one to the API."""
    found: list[Mapping[str, Any]] = pod["spec"].get(field) or []
    return found


def _system(arrival: Arrival) -> InjectionRefused | None:
    system = (arrival.pod["spec"].get("os") or {}).get("name", "linux")
    return None if system == "linux" else InjectionRefused(InjectionReason.NOT_LINUX, f"the pod runs on {shown(system)}")


def _network(arrival: Arrival) -> InjectionRefused | None:
    """The gate's ports would be the node's, and every such pod would be on the target's loopback."""
    if not arrival.pod["spec"].get("hostNetwork"):
        return None
    return InjectionRefused(InjectionReason.HOST_NETWORK, "the pod uses the node's network")


def _processes(arrival: Arrival) -> InjectionRefused | None:
    """/proc/PID/root leads into the gate's files, Secrets included (proc(5))."""
    for field in ("shareProcessNamespace", "hostPID"):
        if arrival.pod["spec"].get(field):
            return InjectionRefused(
                InjectionReason.SHARED_PROCESSES, f"the pod sets {field}, which opens the gate's process to others"
            )
    return None


def _user(arrival: Arrival) -> InjectionRefused | None:
    """Redirection tells the gate's packets from others' by their user."""
    candidates = [("the pod", arrival.pod["spec"]), *((f"container `{each['name']}`", each) for each in arrival.others())]
    for name, each in candidates:
        if (each.get("securityContext") or {}).get("runAsUser") == GATE_UID:
            return InjectionRefused(InjectionReason.SAME_USER, f"{name} runs as user {GATE_UID}, which is the gate's")
    return None


def _name(arrival: Arrival) -> InjectionRefused | None:
    for kind in ("containers", "ephemeralContainers"):
        for each in entries(arrival.pod, kind):
            if each["name"] in OUR_NAMES:
                problem = f"one of the pod's {kind} is called `{each['name']}`"
                return InjectionRefused(InjectionReason.CONTAINER_NAME_TAKEN, problem)
    wanted = {GATE_CONTAINER: arrival.parts.container, REDIRECT_CONTAINER: arrival.parts.redirect}
    for found in entries(arrival.pod, "initContainers"):
        if found["name"] not in wanted:
            continue
        ours = wanted[found["name"]]
        if ours is None:
            problem = f"the pod's container `{found['name']}` redirects, and the target doesn't ask for it"
            return InjectionRefused(InjectionReason.FOREIGN_GATE, problem)
        different = sorted(_differences(found, ours))
        if different:
            return InjectionRefused(
                InjectionReason.FOREIGN_GATE,
                f"the pod's container `{found['name']}` isn't the target's gate, it differs in {', '.join(different)}",
            )
    return None


def _volumes(arrival: Arrival) -> InjectionRefused | None:
    wanted = {each["name"]: each for each in arrival.parts.volumes}
    for volume in entries(arrival.pod, "volumes"):
        name = volume["name"]
        if name in VOLUME_NAMES and volume != wanted.get(name):
            return InjectionRefused(InjectionReason.VOLUME_NAME_TAKEN, f"the pod's volume `{name}` isn't the gate's")
    for each in arrival.others():
        for mount in each.get("volumeMounts") or []:
            if mount["name"] in VOLUME_NAMES:
                problem = f"container `{each['name']}` mounts the gate's volume `{mount['name']}`"
                return InjectionRefused(InjectionReason.VOLUME_MOUNTED, problem)
    return None


def _ports(arrival: Arrival) -> InjectionRefused | None:
    taken = {arrival.settings.gate_port: "listens for clients", arrival.settings.health_port: "answers health checks"}
    declared = [("the target", arrival.target_port)]
    for each in arrival.others():
        ports = [port["containerPort"] for port in each.get("ports") or [] if port.get("protocol", "TCP") == "TCP"]
        declared += [(f"container `{each['name']}`", port) for port in ports]
    for name, port in declared:
        if port in taken:
            return InjectionRefused(InjectionReason.PORT_TAKEN, f"{name} has port {port}, where the gate {taken[port]}")
    return None


_CHECKS: Final[tuple[Callable[[Arrival], InjectionRefused | None], ...]] = (
    _system,
    _network,
    _processes,
    _user,
    _name,
    _volumes,
    _ports,
)


def _differences(found: _Container, wanted: _Container) -> Iterator[str]:
    """The fields that differ. AlwaysPullImages sets the pull policy and LimitRanger adds resources of other names: they may."""
    for field in (found.keys() | wanted.keys()) - {"imagePullPolicy"}:
        have: Any = found.get(field)
        want: Any = wanted.get(field)
        if field == "resources" and isinstance(have, Mapping) and have.keys() == want.keys():
            have = {kind: {name: have[kind].get(name) for name in want[kind]} for kind in want}
        if have != want:
            yield field
