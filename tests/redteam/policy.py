"""The policy that the cases attack, as README.md tells it, and the gate config with it. No person is there to approve: DDL stays held, deletions end unrun after a second.

Whoever is in the group `agents` gets the database's superuser; what they may do is what the grant names. Not granted: roles, weakening
settings, server files and programs, replication, table locks, calls of functions nobody looked at, anonymous blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from sidegate.policy.config import (
    ApprovalConfig,
    ColumnMatch,
    CredentialConfig,
    GateConfig,
    GrantConfig,
    PolicyConfig,
    RuleAction,
    RuleConfig,
    StatementMatch,
    SubjectConfig,
    TargetConfig,
)
from tests.redteam.target import GATE_PASSWORD, GATE_ROLE
from tests.support.gate import NAMESPACE, gate_config
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

GROUP: Final = "agents"
MOST_DELETED: Final = 100
GRANTED: Final = (
    *("Read", "Explain", "Insert", "Update", "Delete", "Merge", "Truncate", "CopyIn", "CopyOut"),
    *("DDL", "Maintenance", "SelectForUpdate", "Listen", "Notify", "Transaction", "Session", "Cursor"),
)
DETECTORS: Final = (
    *("payment-card", "us-ssn", "email", "aws-access-key", "github-token", "slack-token", "stripe-key", "google-api-key", "jwt"),
    "pem-private-key",
)
_APPROVAL: Final = ApprovalConfig(approver_groups=("dba",))
# A case goes on behind a deletion that was held; behind DDL that is held, whose next step may be anybody's everyday work, it ends.
_SOON: Final = ApprovalConfig(approver_groups=("dba",), expires_after_s=1.0)
RULES: Final = (
    RuleConfig("columns", RuleAction.MASK, columns=(ColumnMatch("password"), ColumnMatch("ssn"))),
    RuleConfig("values", RuleAction.MASK, detectors=DETECTORS),
    RuleConfig(
        "ddl-on-prod",
        RuleAction.REQUIRE_APPROVAL,
        statements=StatementMatch(kinds=("DDL", "Maintenance", "Truncate"), schemas=("prod",)),
        approval=_APPROVAL,
    ),
    RuleConfig("locks-on-prod", RuleAction.DENY, statements=StatementMatch(kinds=("SelectForUpdate",), schemas=("prod",))),
    RuleConfig(
        "many-deleted",
        RuleAction.REQUIRE_APPROVAL,
        statements=StatementMatch(kinds=("Delete", "Truncate", "Merge"), rows_more_than=MOST_DELETED),
        approval=_SOON,
    ),
)


def redteam_config(server: PostgresServer, issuer: Issuer) -> GateConfig:
    password = server.directory / "gate.password"
    password.touch(mode=0o600)
    password.write_text(GATE_PASSWORD)
    policy = PolicyConfig(
        namespace=NAMESPACE,
        name="red-team",
        subjects=(SubjectConfig(groups=(GROUP,)),),
        grants=(GrantConfig(databases=("*",), role=GATE_ROLE, allow=GRANTED),),
        rules=RULES,
    )
    return gate_config(server, issuer, policies=[policy], change=lambda target: _as_gate(target, password))


def _as_gate(target: TargetConfig, password: Path) -> TargetConfig:
    credential = CredentialConfig(GATE_ROLE, GATE_ROLE, str(password))
    return msgspec.structs.replace(target, credentials=(credential,))
