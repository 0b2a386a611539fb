"""`sidegate`: the root of the command line. Verbs are imported when they are called, so that help and small verbs come at once."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from sidegate import __version__
from sidegate.cli.place import CLUSTER_PACKAGE, cluster_module

CLUSTER: Final = f"{CLUSTER_PACKAGE}.commands"
# Verb: module and attribute in sidegate.cli, or in the package for clusters; and the line that `sidegate --help` shows for it.
VERBS: Final = {
    "gate": ("gate", "gate", "Run a gate from a compiled gate config."),
    "local": ("local", "local", "Run gates on this machine from manifests, without a cluster."),
    "policy": ("policy", "policy", "Explain, check and compile policies."),
    "setup": ("setup", "setup", "Prepare a target so that only its gate gets in."),
    "approvals": ("approvals", "approvals", "List, show and watch approval requests."),
    "approve": ("approvals", "approve", "Approve a held statement."),
    "deny": ("approvals", "deny", "Deny a held statement."),
    "status": (f"{CLUSTER}.status", "status", "Show targets of a cluster: conditions, gates, pending approvals."),
    "why": (f"{CLUSTER}.why", "why", "Say why a pod has its gate, or has none."),
    "protect": (f"{CLUSTER}.protect", "protect", "Have a workload's pods made again with a gate."),
    "doctor": (f"{CLUSTER}.doctor", "doctor", "Look whether everything that protection stands on is in place."),
    "replay": ("replay", "replay", "Show a recorded session as it happened."),
    "recordings": ("recordings", "recordings", "List and verify recordings."),
    "token": ("token", "token", "Print a token to use as the password of a gated target."),
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, attribute, _ = VERBS[cmd_name]
        if module.startswith(CLUSTER):
            command = getattr(cluster_module(module.removeprefix(f"{CLUSTER_PACKAGE}.")), attribute)
            assert isinstance(command, click.Command)
            return command
        try:
            command = getattr(importlib.import_module(f"sidegate.cli.{module}"), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("sidegate"):
                raise
            raise click.ClickException(
                f"`sidegate {cmd_name}` needs the package `{error.name}`: install sidegate[local], which has everything"
            ) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sidegate")
def main() -> None:
    """Privileged access management for AI assistants and people: a gate in front of each database.

    A gate verifies who asks (OIDC), decides each statement by policy before the database sees it, masks what the answer must not show,
    holds what a person must approve, and records all of it.

    \b
    TRY IT
      sidegate local --manifests examples/demo --help
      sidegate policy explain --help
    """


if __name__ == "__main__":
    sys.exit(main())
