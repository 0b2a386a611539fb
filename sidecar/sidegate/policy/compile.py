"""Resources into a gate config: one `ProtectedTarget` and the `AccessPolicy` objects bound to it.

Rules it keeps:
- Pure: the same resources and placement give the same config, in whatever order they come. Secrets become names of files, never values.
- A finding of severity Error means no config: a gate keeps its last good one, and never gets one that was guessed.
- Everything optional is written out here, once; the config's own defaults are never relied on for what protects.

It leaves out what makes a manifest well-formed (`sidegate.api`), and the advice to authors (`sidegate.policy.review`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidegate.api import issuer as issuer_api
from sidegate.api import protected_target as target_api
from sidegate.api import rule as api
from sidegate.api.access_policy import AccessPolicy, FindingSeverity, Validity
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy import config as wire
from sidegate.policy.decision import MIN_GROUP_SIZE, ColumnUse, MaskStrategy
from sidegate.policy.finding import Finding, error, name_of, worst_first
from sidegate.policy.review import review_bound

TLS_CERT_KEY = "tls.crt"  # the keys of a Secret of type kubernetes.io/tls
TLS_KEY_KEY = "tls.key"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a gate finds what the manifests only name.

    `secrets_dir` holds one directory for each Secret, with one file for each key, as a kubelet mounts them. The others override what
    follows from the target: its address, and single files for the gate's certificate and the target's authority.
    """

    secrets_dir: str
    address: wire.AddressConfig | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None
    target_ca_file: str | None = None

    def secret_file(self, secret: str, key: str) -> str:
        return f"{self.secrets_dir.rstrip('/')}/{secret}/{key}"


@dataclass(frozen=True, slots=True)
class Compiled:
    """INVARIANT: `config` is None exactly when a finding is an Error."""

    config: wire.GateConfig | None
    findings: tuple[Finding, ...]


def compile_target(
    target: ProtectedTarget,
    policies: Sequence[AccessPolicy],
    placement: Placement,
    detectors: frozenset[str] | None = None,
) -> Compiled:
    """The target's gate config from its own manifest and every policy there is; those not bound to it are left out.

    `detectors` are the names that the gate's mask layer knows; None: those of the API are taken to be known.
    """
    bound = [policy for policy in policies if binds(policy, target)]
    findings = list(review_bound(target, bound, detectors))
    if target.spec.protocol is not target_api.Protocol.POSTGRES:
        findings.append(
            error(
                name_of(target),
                "spec.protocol",
                f"protocol `{target.spec.protocol.value}` can't be gated by this version",
                "protect PostgreSQL targets, or wait for the release that brings this gate",
            )
        )
    if any(finding.severity is FindingSeverity.ERROR for finding in findings):
        return Compiled(None, worst_first(findings))
    config = wire.GateConfig.sealed(_target_config(target, placement), tuple(map(_policy_config, bound)))
    return Compiled(config, worst_first(findings))


def binds(policy: AccessPolicy, target: ProtectedTarget) -> bool:
    """A policy is about targets of its own namespace; everything that `spec.targets` gives must match."""
    wanted = policy.spec.targets
    if policy.metadata.namespace != target.metadata.namespace:
        return False
    if wanted.names and target.metadata.name not in wanted.names:
        return False
    if wanted.environments and target.spec.environment not in wanted.environments:
        return False
    return wanted.selector is None or wanted.selector.matches(target.metadata.labels)


def _target_config(target: ProtectedTarget, placement: Placement) -> wire.TargetConfig:
    spec = target.spec
    return wire.TargetConfig(
        namespace=str(target.metadata.namespace),
        name=str(target.metadata.name),
        protocol=wire.Protocol(spec.protocol.value),
        environment=str(spec.environment),
        address=placement.address or _address(spec),
        port=spec.port,
        client_tls=_client_tls(spec.tls, placement),
        target_tls=_target_tls(spec.tls, placement),
        identity=_identity(spec.identity),
        credentials=tuple(
            wire.CredentialConfig(
                role=str(each.role),
                username=str(each.username if each.username is not None else each.role),
                password_file=placement.secret_file(each.secret_ref.name, each.secret_ref.key) if each.secret_ref else None,
            )
            for each in sorted(spec.credentials, key=lambda each: str(each.role))
        ),
        passthrough=tuple(
            wire.PassthroughConfig(str(each.name), _strings(each.roles), _strings(each.from_), each.may_replicate)
            for each in spec.passthrough
        ),
        recording=wire.RecordingConfig(
            mode=wire.RecordingMode(spec.recording.mode.value),
            retention_days=spec.recording.retention_days,
            max_bytes=spec.recording.max_bytes.bytes,
            max_result_bytes_per_statement=spec.recording.max_result_bytes.bytes,
        ),
        holds=wire.HoldsConfig(
            timeout_s=float(spec.holds.timeout.seconds),
            in_transaction_timeout_s=float(spec.holds.in_transaction_timeout.seconds),
            notice_interval_s=float(spec.holds.notice_interval.seconds),
        ),
    )


def _address(spec: target_api.ProtectedTargetSpec) -> wire.AddressConfig:
    """A target gated from inside listens on its pod's loopback."""
    if spec.endpoint is None:
        return wire.AddressConfig("127.0.0.1", spec.port)
    return wire.AddressConfig(str(spec.endpoint.host), spec.endpoint.port)


def _client_tls(tls: target_api.Tls | None, placement: Placement) -> wire.ClientTlsConfig:
    if tls is None:
        return wire.ClientTlsConfig()
    secret = tls.client.secret_ref
    return wire.ClientTlsConfig(
        cert_file=placement.client_cert_file or (placement.secret_file(secret.name, TLS_CERT_KEY) if secret else None),
        key_file=placement.client_key_file or (placement.secret_file(secret.name, TLS_KEY_KEY) if secret else None),
        may_use_plain_text_on_loopback=tls.client.plain_text is target_api.PlainText.LOOPBACK_ONLY,
    )


def _target_tls(tls: target_api.Tls | None, placement: Placement) -> wire.TargetTlsConfig:
    if tls is None:
        return wire.TargetTlsConfig()
    ca = tls.target.ca_ref
    return wire.TargetTlsConfig(
        mode=wire.TargetTlsMode(tls.target.mode.value),
        ca_file=placement.target_ca_file or (placement.secret_file(ca.name, ca.key) if ca else None),
    )


def _identity(identity: issuer_api.Identity) -> wire.IdentityConfig:
    return wire.IdentityConfig(
        issuers=tuple(
            wire.IssuerConfig(
                url=str(each.url),
                audiences=_strings(each.audiences),
                claims=wire.ClaimsConfig(
                    username=str(each.claims.username),
                    groups=str(each.claims.groups),
                    agent=_string_or_none(each.claims.agent),
                    environment=_string_or_none(each.claims.environment),
                ),
                algorithms=tuple(algorithm.value for algorithm in each.algorithms),
                jwks=each.inline_jwks,
                client_id=_string_or_none(each.client_id),
                scope=str(each.scope),
            )
            for each in identity.issuers
        ),
        client_auth=wire.ClientAuth(identity.client_auth.value),
        caller_networks=tuple(
            wire.CallerNetwork(str(each.environment), _strings(each.networks)) for each in identity.caller_networks
        ),
        clock_skew_s=identity.clock_skew.seconds,
        session_grace_s=identity.session_grace.seconds if identity.session_grace is not None else 0,
    )


def _policy_config(policy: AccessPolicy) -> wire.PolicyConfig:
    spec = policy.spec
    return wire.PolicyConfig(
        namespace=str(policy.metadata.namespace),
        name=str(policy.metadata.name),
        mode=wire.PolicyMode(spec.mode.value),
        subjects=tuple(
            wire.SubjectConfig(
                _strings(each.groups), _strings(each.users), _strings(each.agents), _string_or_none(each.expression)
            )
            for each in spec.subjects
        ),
        validity=_validity(spec.validity),
        grants=tuple(
            wire.GrantConfig(
                databases=tuple(name.folded for name in each.postgres.databases),
                role=str(each.postgres.role),
                allow=tuple(kind.value for kind in each.postgres.allow),
                schemas=tuple(name.folded for name in each.postgres.schemas),
                functions=tuple(name.folded for name in each.postgres.functions),
            )
            for each in spec.grants
        ),
        rules=tuple(map(_rule, spec.rules)),
    )


def _validity(validity: Validity | None) -> wire.ValidityConfig:
    if validity is None:
        return wire.ValidityConfig()
    return wire.ValidityConfig(
        not_before=validity.not_before.epoch_s if validity.not_before is not None else None,
        not_after=validity.not_after.epoch_s if validity.not_after is not None else None,
        windows=tuple(
            wire.WindowConfig(
                days=tuple(sorted({index for days in each.days for index in days.indexes})),
                from_minute=each.from_.minute,
                to_minute=each.to.minute,
                time_zone=str(each.time_zone),
            )
            for each in validity.windows
        ),
    )


def _rule(rule: api.PolicyRule) -> wire.RuleConfig:
    match, mask = rule.match, rule.mask
    return wire.RuleConfig(
        name=str(rule.name),
        action=wire.RuleAction(rule.action.value),
        statements=_statements(match.statements),
        caller=wire.CallerMatch(_strings(match.caller.environments), _strings(match.caller.not_environments))
        if match.caller
        else None,
        columns=tuple(_column(each.parts) for each in match.columns),
        detectors=tuple(each.value for each in match.values.detectors) if match.values else (),
        strategy=MaskStrategy(mask.strategy.value) if mask else MaskStrategy.REDACT,
        use=ColumnUse(mask.use.value) if mask else ColumnUse.REFUSED,
        min_group_size=(mask.min_group_size if mask else None) or MIN_GROUP_SIZE,
        approval=_approval(rule.approval),
        message=str(rule.message or ""),
        budget=wire.BudgetConfig(match.budget.statements, match.budget.rows, match.budget.masked_values)
        if match.budget is not None
        else None,
    )


def _statements(match: api.StatementMatch | None) -> wire.StatementMatch | None:
    if match is None:
        return None
    return wire.StatementMatch(
        kinds=tuple(kind.value for kind in match.kinds),
        databases=tuple(name.folded for name in match.databases),
        schemas=tuple(name.folded for name in match.schemas),
        tables=tuple(name.folded for name in match.tables),
        functions=tuple(name.folded for name in match.functions),
        rows_more_than=match.rows_affected.more_than if match.rows_affected is not None else None,
    )


def _column(parts: tuple[str, ...]) -> wire.ColumnMatch:
    column, table, schema = (*reversed(parts), None, None)[:3]
    assert column is not None
    return wire.ColumnMatch(column, table, schema)


def _approval(approval: api.Approval | None) -> wire.ApprovalConfig | None:
    if approval is None:
        return None
    return wire.ApprovalConfig(
        approver_groups=_strings(approval.approvers.groups),
        approver_users=_strings(approval.approvers.users),
        required=approval.required,
        expires_after_s=float(approval.expires_after.seconds),
    )


def _strings(values: Sequence[str]) -> tuple[str, ...]:
    """Plain strings: the types of the API say how they may be written, and that is settled by now."""
    return tuple(str(value) for value in values)


def _string_or_none(value: str | None) -> str | None:
    return None if value is None else str(value)
