"""`ProtectedTarget`: what is protected, how clients reach its gate, who vouches for them, and what the gate may log in with.

A target is gated from inside (`selector`: the gate joins its pods) or from outside (`endpoint`: a gate of its own stands before it).
Secrets are named, never contained. `sidegate.policy.compile` turns these types into the target's part of a gate config.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sidegate.api.issuer import (
    DISCOVERY,
    Algorithm,
    CallerNetworks,
    Claims,
    ClientAuth,
    Identity,
    Issuer,
)
from sidegate.api.meta import (
    MAX_BOUND,
    ApiModel,
    ApiVersion,
    ChangeConstraint,
    Conditions,
    Constraint,
    LabelSelector,
    ObjectMeta,
    ObservedGeneration,
    SecretKeyRef,
    SecretRef,
    each_once,
    unique_by,
)
from sidegate.api.names import RoleName
from sidegate.api.text import (
    LOOPBACK_HOSTS,
    AtMost,
    ByteQuantity,
    CpuQuantity,
    Duration,
    EnvironmentName,
    Host,
    ImageName,
    LabelName,
    NetworkOrSocket,
    ObjectName,
)

__all__ = [
    "DISCOVERY",
    "Algorithm",
    "CallerNetworks",
    "Claims",
    "ClientAuth",
    "ClientTls",
    "Credential",
    "Endpoint",
    "Enforcement",
    "EnforcementMode",
    "Gate",
    "GateResources",
    "GatesStatus",
    "Holds",
    "Identity",
    "Issuer",
    "NetworkPolicyMode",
    "Passthrough",
    "PlainText",
    "ProtectedTarget",
    "ProtectedTargetSpec",
    "ProtectedTargetStatus",
    "Protocol",
    "Recording",
    "RecordingMode",
    "RecordingStore",
    "RecordingVolume",
    "SideDoors",
    "TargetTls",
    "TargetTlsMode",
    "Tls",
]


class Protocol(enum.StrEnum):
    """What the target speaks."""

    POSTGRES = "Postgres"
    KUBERNETES = "Kubernetes"
    SSH = "SSH"


class PlainText(enum.StrEnum):
    """Whether clients may send their tokens without TLS."""

    REFUSED = "Refused"
    LOOPBACK_ONLY = "LoopbackOnly"


class TargetTlsMode(enum.StrEnum):
    """How the gate reaches the target."""

    LOOPBACK = "Loopback"
    REQUIRE = "Require"
    VERIFY_FULL = "VerifyFull"


class RecordingMode(enum.StrEnum):
    """What happens to a statement that can't be recorded."""

    REQUIRED = "Required"
    BEST_EFFORT = "BestEffort"


class EnforcementMode(enum.StrEnum):
    """How other ways into the target are closed."""

    DATABASE_RULES = "DatabaseRules"
    REDIRECT = "Redirect"


class NetworkPolicyMode(enum.StrEnum):
    """Whether the operator keeps a NetworkPolicy for the target."""

    MANAGED = "Managed"
    NONE = "None"


class SideDoors(enum.StrEnum):
    """What happens to exec, attach, port-forward and ephemeral containers on the target's pods."""

    REFUSE = "Refuse"
    REPORT = "Report"


class Endpoint(ApiModel):
    """Where a target that is gated from outside listens."""

    host: Annotated[Host, Field(description="Host name, IP address, or the directory of the target's Unix socket.")]
    port: Annotated[int, Field(ge=1, le=65535, description="The target's port.")]


class ClientTls(ApiModel):
    """How clients reach the gate."""

    secret_ref: Annotated[
        SecretRef | None,
        Field(
            default=None,
            description="A Secret of type kubernetes.io/tls with the gate's certificate and key. It is read again when it changes.",
        ),
    ]
    plain_text: Annotated[
        PlainText,
        Field(
            default=PlainText.REFUSED,
            description="`LoopbackOnly` lets clients on loopback and the Unix socket send tokens without TLS.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="client-tls-reachable",
            field="secretRef",
            cel="has(self.secretRef) || self.plainText == 'LoopbackOnly'",
            holds=lambda self: self.secret_ref is not None or self.plain_text is PlainText.LOOPBACK_ONLY,
            problem="no client could send a token: there is no certificate, and plain text is refused",
            way_forward="give secretRef, or write plainText: LoopbackOnly",
        ),
    )


class TargetTls(ApiModel):
    """How the gate reaches the target."""

    mode: Annotated[
        TargetTlsMode,
        Field(
            default=TargetTlsMode.LOOPBACK,
            description="`Loopback`: no TLS, on loopback or a Unix socket only. `Require`: TLS, but whoever answers is believed. "
            "`VerifyFull`: TLS with chain and host name verified.",
        ),
    ]
    ca_ref: Annotated[
        SecretKeyRef | None,
        Field(
            default=None, description="With VerifyFull: the authority's certificates (PEM). Absent: those of the gate's image."
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="ca-only-verified",
            field="caRef",
            cel="!has(self.caRef) || self.mode == 'VerifyFull'",
            holds=lambda self: self.ca_ref is None or self.mode is TargetTlsMode.VERIFY_FULL,
            problem="caRef is given, and the certificate would not be verified",
            way_forward="write mode: VerifyFull, or leave caRef out",
        ),
    )


class Tls(ApiModel):
    """Both sides' TLS."""

    client: Annotated[ClientTls, Field(description="How clients reach the gate.")]
    target: Annotated[TargetTls, Field(default=TargetTls(), description="How the gate reaches the target.")]


class Credential(ApiModel):
    """What the gate logs in to the target with, for one role that policies grant."""

    role: Annotated[RoleName, Field(description="The name by which policies grant it.")]
    username: Annotated[RoleName | None, Field(default=None, description="The target's own name for the role. Absent: the same.")]
    secret_ref: Annotated[
        SecretKeyRef | None,
        Field(default=None, description="The Secret and key with the password. Absent: the target asks the gate for none."),
    ]


class Passthrough(ApiModel):
    """Roles that pass without a token: the application, replicas, backups. The target still asks for their password; they are recorded."""

    name: Annotated[LabelName, Field(description="Its name in records.")]
    roles: Annotated[
        tuple[RoleName, ...],
        Field(min_length=1, max_length=32, json_schema_extra=each_once(), description="The target's roles, exactly."),
    ]
    from_: Annotated[
        tuple[NetworkOrSocket, ...],
        Field(
            alias="from",
            min_length=1,
            max_length=64,
            json_schema_extra=each_once(),
            description="From where: networks in CIDR form, or `unix`. Never everywhere.",
        ),
    ]
    may_replicate: Annotated[bool, Field(default=False, description="Whether they may use the replication protocol.")]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="passthrough-not-from-everywhere",
            field="from",
            cel="!self.from.exists(network, network.endsWith('/0'))",
            holds=lambda self: not any(network.endswith("/0") for network in self.from_),
            problem="these roles could come from everywhere without a token",
            way_forward="name the networks that the application's pods are in, not one that ends in /0",
        ),
    )


class Enforcement(ApiModel):
    """How other ways into the target are closed."""

    mode: Annotated[
        EnforcementMode,
        Field(
            default=EnforcementMode.DATABASE_RULES,
            description="`DatabaseRules`: roles and host rules of the database admit the gate alone. "
            "`Redirect`: the pod's packets are led to the gate as well, for which the pod needs NET_ADMIN.",
        ),
    ]
    network_policy: Annotated[
        NetworkPolicyMode,
        Field(
            default=NetworkPolicyMode.MANAGED,
            description="`Managed`: the operator keeps a NetworkPolicy that admits the gate's port alone.",
        ),
    ]
    side_doors: Annotated[
        SideDoors,
        Field(
            default=SideDoors.REFUSE,
            description="exec, attach, port-forward and ephemeral containers on the target's pods: "
            "`Refuse` without the `bypass` permission, or only `Report`.",
        ),
    ]
    allow_opt_out: Annotated[
        bool,
        Field(
            default=False,
            description='Whether a selected pod with the label `sidegate.dev/inject: "false"` stays without a gate.',
        ),
    ]


class RecordingVolume(ApiModel):
    """Recordings on a volume of the gate's pod."""

    claim_name: Annotated[
        ObjectName | None, Field(default=None, description="A PersistentVolumeClaim. Absent: a volume that goes with the pod.")
    ]


class RecordingStore(ApiModel):
    """Where recordings are kept."""

    volume: Annotated[RecordingVolume, Field(description="On a volume of the gate's pod.")]


class Recording(ApiModel):
    """How sessions are recorded."""

    mode: Annotated[
        RecordingMode,
        Field(
            default=RecordingMode.REQUIRED,
            description="`Required`: what can't be recorded isn't done. `BestEffort`: it is done, and reported.",
        ),
    ]
    store: Annotated[
        RecordingStore | None, Field(default=None, description="Where they are kept. Absent: a volume that goes with the pod.")
    ]
    retention: Annotated[
        Duration, AtMost("3650d"), Field(default=Duration("90d"), description="How long they are kept, in whole days.")
    ]
    max_bytes: Annotated[ByteQuantity, Field(default=ByteQuantity("10Gi"), description="How much room they may take.")]
    max_result_bytes: Annotated[
        ByteQuantity,
        Field(default=ByteQuantity("64Ki"), description="How much of each statement's result is recorded, as the client saw it."),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="retention-in-days",
            field="retention",
            cel="self.retention.matches('^[0-9]+d$')",
            holds=lambda self: (
                self.retention.seconds % 86400 == 0
                and self.retention.rstrip("0123456789d") == ""
                and self.retention.count("d") == 1
            ),
            problem="retention is counted in whole days",
            way_forward="write it as in `90d`",
        ),
    )

    @property
    def retention_days(self) -> int:
        return self.retention.seconds // 86400


class Holds(ApiModel):
    """How long statements wait for approval."""

    timeout: Annotated[
        Duration,
        AtMost("1d"),
        Field(
            default=Duration("10m"),
            description="How long a client is kept waiting; an approval that comes later still counts. At most 1d.",
        ),
    ]
    in_transaction_timeout: Annotated[
        Duration,
        AtMost("10m"),
        Field(
            default=Duration("30s"),
            description="The same inside a transaction block, and for one that is held at its COMMIT: it keeps its locks meanwhile. "
            "At most 10m.",
        ),
    ]
    notice_interval: Annotated[
        Duration,
        AtMost("5m"),
        Field(default=Duration("5s"), description="How often the waiting client is told that it still waits."),
    ]


class GateResources(ApiModel):
    """What the gate's container gets: requests and limits are equal, so that it never lowers its pod's quality of service."""

    cpu: Annotated[CpuQuantity, Field(default=CpuQuantity("250m"), description="CPU, as in `250m`.")]
    memory: Annotated[ByteQuantity, Field(default=ByteQuantity("256Mi"), description="Memory, as in `256Mi`.")]


class Gate(ApiModel):
    """The gate's own container."""

    resources: Annotated[
        GateResources, Field(default=GateResources(), description="CPU and memory; requests and limits are equal.")
    ]
    image: Annotated[ImageName | None, Field(default=None, description="Its image. Absent: the operator's own choice.")]


_LOCAL_CEL: Final = (
    f"(self.endpoint.host in [{', '.join(repr(host) for host in LOOPBACK_HOSTS)}] || self.endpoint.host.startsWith('/'))"
)


class ProtectedTargetSpec(ApiModel):
    """What is protected, and how its gate works."""

    protocol: Annotated[Protocol, Field(description="What the target speaks; can't be changed.")]
    environment: Annotated[
        EnvironmentName, Field(description="The target's environment, which policies select by, as in `production`.")
    ]
    selector: Annotated[
        LabelSelector | None,
        Field(
            default=None,
            description="The pods that a gate joins, in the target's namespace. Give this or `endpoint`; can't be exchanged for it.",
        ),
    ]
    endpoint: Annotated[
        Endpoint | None,
        Field(
            default=None,
            description="Where the target listens, when a gate of its own stands before it. Give this or `selector`.",
        ),
    ]
    port: Annotated[int, Field(ge=1, le=65535, description="The port that clients dial; the gate takes it over.")]
    tls: Annotated[Tls | None, Field(default=None, description="TLS on both sides. Needed for every protocol but SSH.")]
    identity: Annotated[Identity, Field(description="Who vouches for clients.")]
    credentials: Annotated[
        tuple[Credential, ...],
        Field(
            default=(),
            min_length=1,
            max_length=32,
            json_schema_extra=unique_by("role"),
            description="What the gate logs in to the target with; policies grant these by `role`.",
        ),
    ]
    passthrough: Annotated[
        tuple[Passthrough, ...],
        Field(
            default=(),
            min_length=1,
            max_length=32,
            json_schema_extra=unique_by("name"),
            description="Roles that pass without a token. PostgreSQL only.",
        ),
    ]
    enforcement: Annotated[Enforcement, Field(default=Enforcement(), description="How other ways into the target are closed.")]
    recording: Annotated[Recording, Field(default=Recording(), description="How sessions are recorded.")]
    holds: Annotated[Holds, Field(default=Holds(), description="How long statements wait for approval.")]
    gate: Annotated[Gate, Field(default=Gate(), description="The gate's own container.")]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="selector-xor-endpoint",
            field="selector",
            cel="has(self.selector) != has(self.endpoint)",
            holds=lambda self: (self.selector is None) != (self.endpoint is None),
            problem="a target is gated from inside or from outside",
            way_forward="give exactly one of selector and endpoint",
        ),
        Constraint(
            name="tls-by-protocol",
            field="tls",
            cel="has(self.tls) == (self.protocol != 'SSH')",
            holds=lambda self: (self.tls is not None) == (self.protocol is not Protocol.SSH),
            problem="tls and protocol don't fit",
            way_forward="give tls.client for Postgres and Kubernetes, and leave tls out for SSH, which has its own encryption",
        ),
        Constraint(
            name="loopback-stays-local",
            field="tls.target.mode",
            cel=f"!has(self.endpoint) || !has(self.tls) || self.tls.target.mode != 'Loopback' || {_LOCAL_CEL}",
            holds=lambda self: (
                self.endpoint is None
                or self.tls is None
                or self.tls.target.mode is not TargetTlsMode.LOOPBACK
                or self.endpoint.host.is_local
            ),
            problem="mode Loopback would send statements over the network without TLS",
            way_forward="write tls.target.mode: VerifyFull, or an endpoint.host on loopback or a Unix socket directory",
        ),
        Constraint(
            name="passthrough-postgres-only",
            field="passthrough",
            cel="!has(self.passthrough) || self.protocol == 'Postgres'",
            holds=lambda self: not self.passthrough or self.protocol is Protocol.POSTGRES,
            problem="passthrough names PostgreSQL roles",
            way_forward="leave passthrough out, or write protocol: Postgres",
        ),
        Constraint(
            name="redirect-inside-only",
            field="enforcement.mode",
            cel="!has(self.enforcement) || self.enforcement.mode != 'Redirect' || has(self.selector)",
            holds=lambda self: self.enforcement.mode is not EnforcementMode.REDIRECT or self.selector is not None,
            problem="packets of pods that a gate doesn't join can't be led to it",
            way_forward="leave mode out, or give the target a selector instead of endpoint",
        ),
    )
    change_constraints: ClassVar[tuple[ChangeConstraint, ...]] = (
        ChangeConstraint(
            name="protocol-immutable",
            field="protocol",
            cel="self.protocol == oldSelf.protocol",
            holds=lambda old, new: new.protocol is old.protocol,
            problem="protocol can't be changed",
            way_forward="make a new ProtectedTarget, move the policies to it, and delete this one",
        ),
        ChangeConstraint(
            name="side-immutable",
            field="selector",
            cel="has(self.selector) == has(oldSelf.selector)",
            holds=lambda old, new: (new.selector is None) == (old.selector is None),
            problem="selector and endpoint can't be exchanged for each other",
            way_forward="make a new ProtectedTarget, move the policies to it, and delete this one",
        ),
    )


class GatesStatus(ApiModel):
    """The target's gates, counted."""

    ready: Annotated[int, Field(default=0, ge=0, description="Gates that serve clients.")]
    synced: Annotated[int, Field(default=0, ge=0, description="Gates that enforce `status.revision`.")]
    total: Annotated[int, Field(default=0, ge=0, description="Gates there should be: one for each of its pods.")]
    summary: Annotated[str, Field(default="", max_length=24, description="Synced and total, as in `3/3`.")]


class ProtectedTargetStatus(ApiModel):
    """What the operator observes about the target."""

    conditions: Conditions
    revision: Annotated[
        str | None, Field(default=None, max_length=64, description="The gate config's revision that was published last.")
    ]
    gates: Annotated[GatesStatus | None, Field(default=None, description="The target's gates, counted.")]
    policies: Annotated[
        tuple[ObjectName, ...],
        Field(
            default=(),
            max_length=MAX_BOUND,
            json_schema_extra=each_once(),
            description=f"Policies bound to it, the first {MAX_BOUND} by name.",
        ),
    ]
    policies_count: Annotated[int, Field(default=0, ge=0, description="How many policies are bound to it.")]
    pods_without_gate: Annotated[
        tuple[ObjectName, ...],
        Field(
            default=(),
            max_length=MAX_BOUND,
            json_schema_extra=each_once(),
            description=f"Its pods that run without a gate, the first {MAX_BOUND} by name.",
        ),
    ]
    pods_without_gate_count: Annotated[int, Field(default=0, ge=0, description="How many of its pods run without a gate.")]
    observed_generation: ObservedGeneration


class ProtectedTarget(ApiModel):
    """A PostgreSQL server, a Kubernetes API or an SSH host that is protected."""

    api_version: Annotated[ApiVersion, Field(default="sidegate.dev/v1alpha1", description="`sidegate.dev/v1alpha1`.")]
    kind: Annotated[Literal["ProtectedTarget"], Field(default="ProtectedTarget", description="`ProtectedTarget`.")]
    metadata: Annotated[ObjectMeta, Field(description="Kubernetes' own metadata.")]
    spec: Annotated[ProtectedTargetSpec, Field(description="What is wanted.")]
    status: Annotated[ProtectedTargetStatus | None, Field(default=None, description="What is observed; the operator writes it.")]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="target-name-fits-a-label",
            field="metadata.name",
            cel="size(self.metadata.name) <= 63",
            holds=lambda self: len(self.metadata.name) <= 63,
            problem="pods name their target in a label, which holds 63 characters",
            way_forward="shorten metadata.name",
        ),
    )
