"""Write the documents that are made from tables in the code: `docs/reasons.md`, `docs/conditions.md`, `docs/rbac.md`,
`docs/commands.md`, `docs/coverage/postgres.md` and `docs/coverage/lineage.md`.

`--check` writes nothing and fails when a document isn't what the code says. Left out: `crds/`, which the API types make.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import click

from sidegate.cli.main import CLUSTER, VERBS
from sidegate.cli.main import main as sidegate
from sidegate.policy.reason import Reason
from sidegate.postgres.messages import CLIENT_MESSAGES, TARGET_MESSAGES, MessageType, Treatment
from sidegate.sql.lineage import ALL, QUIET, QUIET_PARTS
from sidegate_operator.permissions import Permission
from sidegate_operator.plan.conditions import ConditionReason, PolicyReason, RequestReason, TargetReason
from sidegate_operator.roles import ROLES, Role, Scope
from tools.made_files import ROOT, write_or_check

MADE_BY: Final = "<!-- Made by `make docs` from {source}. Change it there. -->\n"

TREATMENTS: Final[Mapping[Treatment, str]] = {
    Treatment.DECIDED: "carries or runs a statement: the engine decides before the target sees it",
    Treatment.TRACKED: "decoded strictly, its effect on the session's state registered, forwarded",
    Treatment.FORWARDED: "passed on unread, within limits",
    Treatment.MASKED: "rewritten where a mask applies, else passed on",
    Treatment.ANSWERED: "the gate itself answers; the other side never sees it",
    Treatment.REFUSED: "never passed on",
}


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def reasons() -> str:
    return (
        "# Reasons\n\n"
        + MADE_BY.format(source="`sidecar/sidegate/policy/reason.py`")
        + "\nEvery refusal, audit event and metric names one of these and nothing else. The way forward is what a client is told, unless"
        " the rule has words of its own.\n\n"
        + _table(("reason", "meaning", "way forward"), ((f"`{each.value}`", each.meaning, each.way_forward) for each in Reason))
    )


def conditions() -> str:
    def table(reasons: Iterable[ConditionReason]) -> str:
        rows = (each.value for each in reasons)
        return _table(
            ("condition", "status", "reason", "meaning"),
            ((f"`{each.type.value}`", each.status.value, f"`{each.reason}`", each.meaning) for each in rows),
        )

    return (
        "# Conditions\n\n"
        + MADE_BY.format(source="`operator/sidegate_operator/plan/conditions.py`")
        + "\nWhat the operator observes about its resources, in `status.conditions`. Each reason belongs to one condition and one"
        " status; the message says the meaning, the details and the way forward. When a status changes, an event with the same reason"
        " tells of it; of a resource that is seen for the first time only what isn't as it should be is told. A pod of a target that runs"
        " without a gate gets the event `PodWithoutGate`, one whose gate is exchanged for a newer one `GateExchanged`.\n"
        + "\n## ProtectedTarget\n\n"
        + table(TargetReason)
        + "\n## AccessPolicy\n\n"
        + table(PolicyReason)
        + "\n## ApprovalRequest\n\n"
        + table(RequestReason)
    )


def lineage_coverage() -> str:
    functions = ((f"`{name}`", "all" if count >= ALL else str(count)) for name, count in sorted(QUIET.items()))
    return (
        "# Quiet expressions\n\n"
        + MADE_BY.format(source="`sidecar/sidegate/sql/lineage.py`")
        + "\nAn expression over a masked column is answered, masked, where all of it is quiet: for no value does it fail, or take"
        " another way or another time. Whatever isn't here steers ([masking](../masking.md)).\n\n## Nodes of the parse tree\n\n"
        + _table(("node", "what of it"), sorted(QUIET_PARTS.items()))
        + "\n## Functions\n\nPostgreSQL's own of these names; further arguments must be constants.\n\n"
        + _table(("function", "arguments that may be values"), functions)
    )


def postgres_coverage() -> str:
    def rows(messages: Mapping[int, MessageType]) -> Iterable[tuple[str, ...]]:
        return ((f"`{each.code}`", each.name, each.treatment.value, each.note) for each in messages.values())

    heads = ("type", "message", "treatment", "note")
    return (
        "# PostgreSQL: how each message is treated\n\n"
        + MADE_BY.format(source="the tables in `sidecar/sidegate/postgres/messages.py`")
        + "\nA type that stands in neither table ends the session. Messages are named as PostgreSQL's documentation names them.\n\n"
        + "".join(f"- **{each.value}**: {TREATMENTS[each]}\n" for each in Treatment)
        + "\n## From the client\n\n"
        + _table(heads, rows(CLIENT_MESSAGES))
        + "\n## From the target\n\n"
        + _table(heads, rows(TARGET_MESSAGES))
    )


def rbac_row(role: Role, permission: Permission) -> tuple[str, ...]:
    """One rule as docs/rbac.md has it; the tests read it back."""

    def code(names: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in names)

    return (
        f"`{role.name}`",
        role.scope.value,
        f"`{permission.group}`" if permission.group else "core",
        code(permission.resources),
        code(permission.verbs),
        code(permission.names),
        permission.reason,
    )


def rbac() -> str:
    heads = ("role", "holds", "group", "resources", "verbs", "names", "reason")

    def table(is_ours: bool) -> str:
        wanted = (role for role in ROLES if (role.scope is Scope.WHERE_BOUND) is not is_ours)
        return _table(heads, (rbac_row(role, each) for role in wanted for each in role.permissions))

    aggregated = ", ".join(f"`{each.name}` with `{each.aggregate_to}`" for each in ROLES if each.aggregate_to)
    return (
        "# RBAC: who may do what\n\n"
        + MADE_BY.format(source="`operator/sidegate_operator/roles.py` and `permissions.py`")
        + "\nEvery rule that the chart installs, with its reason; a test compares this table with what the chart renders, and another one"
        " runs operator and webhook with these rights and no others.\n" + "\n## Sidegate itself\n\n"
        "Each role is bound to the service account of the same name. Nothing reads Secrets but the webhook its own two, by name. What the"
        " operator may do to pods is narrowed further by the guard `sidegate-operator-pods`, whatever RBAC says"
        " ([admission](admission.md)).\n\n" + table(is_ours=True) + "\n## People\n\n"
        "Bound by nobody until you do, in the namespaces where they belong: `kubectl -n NAMESPACE create rolebinding NAME"
        f" --clusterrole=sidegate-approver --group=GROUP`. By values of the chart these go along: {aggregated}; the first by default, the"
        " second not, since who writes policies grants access.\n\n"
        + table(is_ours=False)
        + "\nTo approve takes both: this role, and being named in the request's `spec.approvers`, which the guard `sidegate-decisions`"
        " checks. Whom you let view requests can read the statements in them.\n"
    )


def commands() -> str:
    """The help of every verb, as `sidegate VERB --help` prints it."""

    def pages(command: click.Command, parent: click.Context, level: int) -> Iterable[str]:
        context = click.Context(command, parent, command.name, terminal_width=100, max_content_width=100)
        context.help_option_names = ["-h", "--help"]
        yield f"\n{'#' * level} {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                if below is not None:
                    yield from pages(below, context, level + 1)

    root = click.Context(sidegate, info_name="sidegate")
    verbs = {name: sidegate.get_command(root, name) for name in VERBS}
    of_a_cluster = ", ".join(f"`{name}`" for name, (module, _, _) in VERBS.items() if module.startswith(CLUSTER))
    return (
        "# Commands\n\n"
        + MADE_BY.format(source="the help of each command")
        + f"\n{of_a_cluster}, and `approvals`, `approve` and `deny` in a cluster, need `sidegate[cluster]`; the others"
        " `sidegate[local]`, and `gate` no more than `sidegate[gate]`. What a command says when it fails goes to standard error:"
        " what is wrong, and the way forward.\n"
        + "".join(page for verb in verbs.values() if verb is not None for page in pages(verb, root, 2))
    )


DOCUMENTS: Final[Mapping[str, Callable[[], str]]] = {
    "docs/reasons.md": reasons,
    "docs/conditions.md": conditions,
    "docs/rbac.md": rbac,
    "docs/commands.md": commands,
    "docs/coverage/postgres.md": postgres_coverage,
    "docs/coverage/lineage.md": lineage_coverage,
}


def main(arguments: list[str]) -> int:
    return write_or_check({ROOT / name: make() for name, make in DOCUMENTS.items()}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
