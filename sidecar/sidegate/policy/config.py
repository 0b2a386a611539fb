"""The gate config: the compiled, self-contained form of everything one gate must know. One ConfigMap key, one revision.

`policy.compile` makes it from an accepted `ProtectedTarget` and the `AccessPolicy` objects bound to it; the gate decodes it strictly (an
unknown field is an error: an older gate must not skip a rule it doesn't know). The revision is the hash of the canonical encoding, so
equal rules have equal revisions wherever they were compiled. Secrets are never in it: only the names of files that hold them.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Final

import msgspec

from sidegate.policy.decision import MIN_GROUP_SIZE, ColumnUse, MaskStrategy

CONFIG_FORMAT: Final = 1


class ConfigError(Exception):
    """The bytes are not a gate config of this version. The gate keeps its last good config, or refuses everything."""

    def __init__(self, problem: str, way_forward: str = "compile the config again with this version of sidegate") -> None:
        super().__init__(problem)
        self.way_forward = way_forward


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    pass


class Protocol(enum.StrEnum):
    POSTGRES = "Postgres"
    KUBERNETES = "Kubernetes"
    SSH = "SSH"


class TargetTlsMode(enum.StrEnum):
    LOOPBACK = "Loopback"  # no TLS; the target must be on loopback or a Unix socket
    REQUIRE = "Require"  # TLS, certificate not verified
    VERIFY_FULL = "VerifyFull"  # TLS, chain and host name verified


class ClientAuth(enum.StrEnum):
    TOKEN_PASSWORD = "TokenPassword"  # noqa: S105 - a word for it, no secret
    OAUTH_BEARER = "OAuthBearer"


class RecordingMode(enum.StrEnum):
    REQUIRED = "Required"  # what can't be recorded isn't done
    BEST_EFFORT = "BestEffort"


class PolicyMode(enum.StrEnum):
    ENFORCE = "Enforce"
    OBSERVE = "Observe"


class RuleAction(enum.StrEnum):
    DENY = "Deny"
    REQUIRE_APPROVAL = "RequireApproval"
    MASK = "Mask"


class AddressConfig(_Part, frozen=True):
    """Where the target listens: `host` is a name, an IP address, or a directory (starts with "/") that holds its Unix socket."""

    host: str
    port: int


class ClientTlsConfig(_Part, frozen=True):
    """How clients reach the gate. Without files there is no TLS, and then only loopback and Unix sockets may send tokens."""

    cert_file: str | None = None
    key_file: str | None = None
    may_use_plain_text_on_loopback: bool = False


class TargetTlsConfig(_Part, frozen=True):
    mode: TargetTlsMode = TargetTlsMode.LOOPBACK
    ca_file: str | None = None


class ClaimsConfig(_Part, frozen=True):
    """Names of claims, dots for nested ones (`realm_access.roles`). A name that is a URL is taken whole."""

    username: str = "email"
    groups: str = "groups"
    agent: str | None = None
    environment: str | None = None


class IssuerConfig(_Part, frozen=True):
    """One OIDC issuer. `jwks` is a JWK Set as JSON text (RFC 7517); None: found by discovery (OIDC Discovery 1.0, section 4)."""

    url: str
    audiences: tuple[str, ...]
    claims: ClaimsConfig = ClaimsConfig()
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    jwks: str | None = None
    client_id: str | None = None  # offered to OAUTHBEARER clients in documentation and messages
    scope: str = "openid"


class CallerNetwork(_Part, frozen=True):
    """Callers from these networks (CIDR) are in this environment, unless a claim says otherwise."""

    environment: str
    networks: tuple[str, ...]


class IdentityConfig(_Part, frozen=True):
    issuers: tuple[IssuerConfig, ...] = ()
    client_auth: ClientAuth = ClientAuth.TOKEN_PASSWORD
    caller_networks: tuple[CallerNetwork, ...] = ()
    clock_skew_s: int = 30
    session_grace_s: int = 0  # how long a session may outlive its token


class CredentialConfig(_Part, frozen=True):
    """What the gate logs in to the target with, when a policy grants `role`. `password_file` None: the target asks for none."""

    role: str
    username: str
    password_file: str | None = None


class PassthroughConfig(_Part, frozen=True):
    """Roles that may pass without OIDC from these networks (CIDR, or "unix"): the application, replicas, backups. Still recorded."""

    name: str
    roles: tuple[str, ...]
    networks: tuple[str, ...]
    may_replicate: bool = False


class RecordingConfig(_Part, frozen=True):
    mode: RecordingMode = RecordingMode.REQUIRED
    retention_days: int = 90
    max_bytes: int = 10 * 1024**3
    max_result_bytes_per_statement: int = 64 * 1024


class HoldsConfig(_Part, frozen=True):
    timeout_s: float = 600.0
    in_transaction_timeout_s: float = 30.0
    notice_interval_s: float = 5.0


class TargetConfig(_Part, frozen=True):
    namespace: str
    name: str
    protocol: Protocol
    environment: str
    address: AddressConfig
    port: int
    client_tls: ClientTlsConfig = ClientTlsConfig()
    target_tls: TargetTlsConfig = TargetTlsConfig()
    identity: IdentityConfig = IdentityConfig()
    credentials: tuple[CredentialConfig, ...] = ()
    passthrough: tuple[PassthroughConfig, ...] = ()
    recording: RecordingConfig = RecordingConfig()
    holds: HoldsConfig = HoldsConfig()


class SubjectConfig(_Part, frozen=True):
    """One entry matches when all that it names matches. `expression`: CEL over `claims`, `username`, `groups`, `agent`, `environment`."""

    groups: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    expression: str | None = None


class WindowConfig(_Part, frozen=True):
    """Days 0 (Monday) to 6; minutes after midnight, `to` exclusive and smaller than `from` when it crosses midnight; IANA time zone."""

    days: tuple[int, ...]
    from_minute: int
    to_minute: int
    time_zone: str


class ValidityConfig(_Part, frozen=True):
    not_before: float | None = None  # seconds since the epoch
    not_after: float | None = None
    windows: tuple[WindowConfig, ...] = ()


class GrantConfig(_Part, frozen=True):
    """`databases`, `schemas`, `functions`: names or glob patterns (`*`); empty schemas: every schema."""

    databases: tuple[str, ...]
    role: str
    allow: tuple[str, ...]  # StatementKind values
    schemas: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()  # functions of their own that may be called as if known to be safe: `schema.name`


class CallerMatch(_Part, frozen=True):
    """Who calls, from where. Both lists are over the caller's environment; a caller without one is in none."""

    environments: tuple[str, ...] = ()
    not_environments: tuple[str, ...] = ()


class StatementMatch(_Part, frozen=True):
    """All that is given must match. Names fold as PostgreSQL does; glob patterns allowed."""

    kinds: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()
    schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()  # `name` or `schema.name`
    functions: tuple[str, ...] = ()
    rows_more_than: int | None = None


class BudgetConfig(_Part, frozen=True):
    """What one session may use up by the statements that the rule is about; None: not limited."""

    statements: int | None = None
    rows: int | None = None
    masked_values: int | None = None


class ColumnMatch(_Part, frozen=True):
    """`column`, `table.column` or `schema.table.column`, split into parts; None: any."""

    column: str
    table: str | None = None
    schema: str | None = None


class ApprovalConfig(_Part, frozen=True):
    approver_groups: tuple[str, ...] = ()
    approver_users: tuple[str, ...] = ()
    required: int = 1
    expires_after_s: float = 3600.0


class RuleConfig(_Part, frozen=True):
    """`Deny` and `RequireApproval` rules have `statements`, `caller` or `budget`; `Mask` rules have `columns` or `detectors`."""

    name: str
    action: RuleAction
    statements: StatementMatch | None = None
    caller: CallerMatch | None = None
    columns: tuple[ColumnMatch, ...] = ()
    detectors: tuple[str, ...] = ()
    strategy: MaskStrategy = MaskStrategy.REDACT
    use: ColumnUse = ColumnUse.REFUSED
    min_group_size: int = MIN_GROUP_SIZE
    approval: ApprovalConfig | None = None
    message: str = ""  # the policy owner's own words for whoever is refused
    budget: BudgetConfig | None = None


class PolicyConfig(_Part, frozen=True):
    namespace: str
    name: str
    mode: PolicyMode = PolicyMode.ENFORCE
    subjects: tuple[SubjectConfig, ...] = ()
    validity: ValidityConfig = ValidityConfig()
    grants: tuple[GrantConfig, ...] = ()
    rules: tuple[RuleConfig, ...] = ()


class GateConfig(_Part, frozen=True):
    """Policies are sorted by namespace and name; the engine's answer never depends on their order."""

    target: TargetConfig
    policies: tuple[PolicyConfig, ...] = ()
    format: int = CONFIG_FORMAT
    revision: str = ""

    @classmethod
    def sealed(cls, target: TargetConfig, policies: tuple[PolicyConfig, ...]) -> GateConfig:
        """With the revision of its content: `sha256:` and the first 16 hexadecimal digits are enough to tell configs apart."""
        target = msgspec.convert(msgspec.to_builtins(target), TargetConfig)  # a whole number where a float belongs becomes one
        policies = tuple(msgspec.convert(msgspec.to_builtins(policy), PolicyConfig) for policy in policies)
        ordered = tuple(sorted(policies, key=lambda policy: (policy.namespace, policy.name)))
        return cls(target=target, policies=ordered, revision=_revision(target, ordered))


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(GateConfig, strict=True)


def _revision(target: TargetConfig, policies: tuple[PolicyConfig, ...]) -> str:
    return hashlib.sha256(_encoder.encode((CONFIG_FORMAT, target, policies))).hexdigest()[:16]


def encode_config(config: GateConfig) -> bytes:
    """Canonical JSON: the same config gives the same bytes."""
    return _encoder.encode(config)


def decode_config(data: bytes) -> GateConfig:
    """Strictly decode what `encode_config` made.

    Raises:
        ConfigError: not JSON, an unknown or missing field, another format, or a revision that isn't its content's.
    """
    try:
        config = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the latter for a field's name
        raise ConfigError(f"gate config can't be read: {error}") from error
    if config.format != CONFIG_FORMAT:
        raise ConfigError(f"gate config has format {config.format}, this gate reads {CONFIG_FORMAT}")
    if config.revision != _revision(config.target, config.policies):
        raise ConfigError(f"gate config says revision `{config.revision}`, which is not that of its content")
    return config
