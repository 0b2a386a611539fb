"""Redirection, where a target asks for it: an init container that leads the pod's packets for the target's port to the gate's.

Rules it keeps:
- What comes from outside, over IPv4 or IPv6, is led to the gate, whatever address of the pod it was for. So is what comes from inside, and
  port-forward with it (the container runtime connects inside the pod, as root): the gate's user alone reaches the target.
- What a rule of redirection doesn't get to see (packets that belong to no connection, raw sockets) is dropped, not let through.
- It runs before the gate and everything else, and the rules stay for as long as the pod has its network. They are replaced as one, so
  that a second run changes nothing. A kernel or a runtime that refuses them keeps the pod from starting.
- The container is root and has NET_ADMIN, and nothing else: no shell, no files, no token; what it does is in the pod for everyone to read.

It leaves out which pods it can't be done in (`redirect_checks`), Unix sockets, and other ports of the target.
"""

from __future__ import annotations

from typing import Final

from sidegate.api.protected_target import EnforcementMode, ProtectedTarget
from sidegate.policy.finding import Finding, name_of, note, warning
from sidegate_operator.plan.gate_container import DEFAULT_TOKEN_DIR, GATE_UID, REDIRECT_CONTAINER, GateSettings
from sidegate_operator.plan.owned import Object

NFT: Final = "/usr/sbin/nft"
_SIZE: Final = {"cpu": "100m", "memory": "32Mi"}
NEEDS_PRIVILEGED: Final = (
    f"`{REDIRECT_CONTAINER}` has the capability NET_ADMIN, which Pod Security `baseline` and `restricted` refuse"
)
NEEDS_PRIVILEGED_WAY: Final = (
    "label the namespace `pod-security.kubernetes.io/enforce: privileged`, or write enforcement.mode: DatabaseRules"
)

# Names of the chains say what reaches them. `fib daddr type local`: addressed to the pod itself, by whichever of its addresses. A client's
# own connections to other databases' ports aren't meant. The numbers are nft's `dstnat` and `filter`; it takes no names for `output`.
# A packet without a socket, as an answer of the kernel's, has no user: it matches no `meta skuid`.
_RULES: Final = """\
add table inet sidegate
delete table inet sidegate
table inet sidegate {{
  chain arriving {{
    type nat hook prerouting priority -100; policy accept;
    tcp dport {target} redirect to :{gate}
  }}
  chain within {{
    type nat hook output priority -100; policy accept;
    fib daddr type local tcp dport {target} meta skuid != {uid} redirect to :{gate}
  }}
  chain arrived {{
    type filter hook input priority 0; policy accept;
    iifname != "lo" tcp dport {target} drop
  }}
  chain sent {{
    type filter hook output priority 0; policy accept;
    fib daddr type local tcp dport {target} meta skuid != {uid} drop
  }}
}}
"""


def redirect_rules(target_port: int, gate_port: int) -> str:
    """The rules for a pod's network, as nft reads them."""
    return _RULES.format(target=target_port, gate=gate_port, uid=GATE_UID)


def is_redirected(target: ProtectedTarget) -> bool:
    return target.spec.enforcement.mode is EnforcementMode.REDIRECT


def redirect_container(target: ProtectedTarget, settings: GateSettings) -> Object | None:
    """The init container; None where the target doesn't ask for it. The settings must name its image."""
    if not is_redirected(target):
        return None
    return {
        "name": REDIRECT_CONTAINER,
        "image": settings.redirect_image,
        "imagePullPolicy": "IfNotPresent",
        "command": [NFT],
        "args": [redirect_rules(target.spec.port, settings.gate_port)],
        "resources": {"limits": dict(_SIZE), "requests": dict(_SIZE)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "runAsUser": 0,  # capabilities that are added count for root alone (kubernetes#56374)
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "sidegate-no-token", "mountPath": DEFAULT_TOKEN_DIR, "readOnly": True}],
    }


def redirect_findings(target: ProtectedTarget) -> tuple[Finding, ...]:
    """What its author has to know."""
    if not is_redirected(target):
        return ()
    name, field = name_of(target), "spec.enforcement.mode"
    found = [warning(name, field, NEEDS_PRIVILEGED, NEEDS_PRIVILEGED_WAY)]
    if not any(each.may_replicate for each in target.spec.passthrough):
        replicas = "replicas come through the gate too, and no passthrough may replicate"
        found.append(note(name, field, replicas, "add a passthrough with mayReplicate: true, where the target has replicas"))
    return tuple(found)
