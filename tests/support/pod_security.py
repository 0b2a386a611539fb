"""Pod Security Standards, level `restricted` with all of `baseline`, as Kubernetes' documentation lists them: what a pod breaks, in words.

Written from https://kubernetes.io/docs/concepts/security/pod-security-standards/ (1.35) for Linux pods, apart from our code and from the API
server's, which tests/cluster asks as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

VOLUMES: Final = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS: Final = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
PROFILES: Final = {"RuntimeDefault", "Localhost"}


def restricted_problems(spec: Mapping[str, Any]) -> list[str]:
    """What stands between a pod's spec and the level `restricted`."""
    return [
        *_of_pod(spec),
        *(f"{each['name']}: {problem}" for each in _containers(spec) for problem in _of_container(each, spec)),
    ]


def container_problems(container: Mapping[str, Any]) -> list[str]:
    """The same for one container that may rely on nothing that its pod says."""
    return list(_of_container(container, {}))


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(field) or []


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is set"
    for volume in spec.get("volumes") or []:
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is of type {kind}"
    for sysctl in (spec.get("securityContext") or {}).get("sysctls") or []:
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"


def _of_container(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    own: Mapping[str, Any] = container.get("securityContext") or {}
    of_pod: Mapping[str, Any] = spec.get("securityContext") or {}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation isn't false"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield "not all capabilities are dropped"
    if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot isn't true"
    if own.get("runAsUser", of_pod.get("runAsUser")) == 0:
        yield "runs as root"
    if (own.get("seccompProfile") or of_pod.get("seccompProfile") or {}).get("type") not in PROFILES:
        yield "has no seccomp profile"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield "hostPort"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        for action in ("httpGet", "tcpSocket"):
            if ((container.get(probe) or {}).get(action) or {}).get("host"):
                yield f"{probe} names a host"
    for hook in (container.get("lifecycle") or {}).values():
        for action in ("httpGet", "tcpSocket"):
            if (hook.get(action) or {}).get("host"):
                yield "a lifecycle hook names a host"
