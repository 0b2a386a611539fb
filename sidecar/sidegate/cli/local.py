"""`sidegate local`: gates on this machine from manifests."""

from __future__ import annotations

import os
from pathlib import Path

import click

_HELP = """Run gates on this machine from manifests, without a cluster.

One gate for each ProtectedTarget in the manifests, at the target's port on loopback unless --listen says otherwise. The
manifests are watched: a change takes force at once, and one that can't be used leaves the last good rules in force.

Secrets that the manifests refer to are files: SECRETS/NAME/KEY.

\b
FILES
  STATE/TARGET/gate.json      the compiled gate config
  STATE/TARGET/audit.jsonl    the audit log
  STATE/recordings/           recordings: sidegate recordings, sidegate replay
  STATE/approvals/            approval requests: sidegate approvals, approve, deny
\b
EXAMPLES
  sidegate local --manifests manifests --secrets secrets
  sidegate local --manifests examples/demo --secrets secrets \\
      --address shop-db=/var/run/postgresql:5432 --state ./state
"""


def state_directory() -> Path:
    """$SIDEGATE_STATE, or the user's state directory (XDG Base Directory Specification)."""
    named = os.environ.get("SIDEGATE_STATE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "sidegate"


@click.command(help=_HELP)
@click.option(
    "--manifests",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Directory of ProtectedTargets and AccessPolicies.",
)
@click.option(
    "--secrets", type=click.Path(path_type=Path, file_okay=False), help="Directory of Secrets. Default: MANIFESTS/secrets."
)
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), help="Default: $SIDEGATE_STATE or ~/.local/state/sidegate."
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="TARGET=HOST:PORT",
    help="Where a target really listens; HOST may be a socket's directory.",
)
@click.option("--target", "targets", multiple=True, metavar="NAME", help="Only this target; repeatable.")
@click.option("--listen", multiple=True, metavar="ADDRESS", help="HOST:PORT or unix:DIRECTORY; repeatable.")
@click.option("--metrics", metavar="HOST:PORT", help="Serve /live, /ready, /started and /metrics there.")
@click.option("--issuer-ca", metavar="FILE", help="Authorities that issuers' certificates are verified with.")
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    default="text",
    show_default=True,
    help="Form of the log on standard error.",
)
def local(
    manifests: Path, secrets: Path | None, state: Path | None, addresses: tuple[str, ...], targets: tuple[str, ...],
    listen: tuple[str, ...], metrics: str | None, issuer_ca: str | None, log_format: str,
) -> None:  # fmt: skip
    from sidegate.api.manifests import ManifestError
    from sidegate.audit.sinks import AuditError
    from sidegate.policy.config import AddressConfig
    from sidegate.runtime.listener import ListenError
    from sidegate.runtime.local import LocalError, LocalOptions, run_local
    from sidegate.runtime.logs import LogForm, set_up_logs
    from sidegate.runtime.main import run_loop

    set_up_logs(LogForm(log_format))
    places: dict[str, AddressConfig] = {}
    for text in addresses:
        name, _, address = text.partition("=")
        host, _, port = address.rpartition(":")
        if not name or not host or not port.isdigit():
            raise click.BadParameter(f"`{text}` is not TARGET=HOST:PORT", param_hint="--address")
        places[name] = AddressConfig(host, int(port))
    directory = manifests if manifests.is_dir() else manifests.parent
    options = LocalOptions(
        manifests,
        (state or state_directory()).absolute(),
        secrets or directory / "secrets",
        places,
        targets,
        listen,
        metrics,
        issuer_ca,
    )
    try:
        run_loop(lambda: run_local(options))
    except ManifestError as error:
        raise click.ClickException(str(error)) from error
    except (LocalError, ListenError, AuditError, OSError) as error:
        way = getattr(error, "way_forward", "")
        raise click.ClickException(f"{error}; {way}" if way else str(error)) from error
