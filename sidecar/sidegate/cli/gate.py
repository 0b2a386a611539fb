"""`sidegate gate`: what a pod's sidecar runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_HELP = """Run a gate from a compiled gate config.

The config is what `sidegate policy compile` or the operator made. It is watched: a new one takes force at once, also for open sessions, and
one that can't be read leaves the last good one in force. Without any, every client is refused and told why. SIGHUP looks again now, SIGTERM
ends every session in order.

Approval requests are files below STATE, decided with `sidegate approve`; with `--gateway` the operator keeps them, people decide with
kubectl, and the gate reports to every replica of the operator what it enforces. What a decision is worth is for the gate to tell: it
verifies each one's signature, and counts by the rule's own terms. When the gateway doesn't answer the gate goes on enforcing, and refuses
what would have to be approved.

\b
FILES
  STATE/recordings/NAMESPACE/TARGET/*.sgrec   one recording for each session
  STATE/approvals/                            approval requests, decided with
                                              `sidegate approve`; none with
                                              `--gateway`
  /run/sidegate/operator/token                proves to the gateway which pod
                                              this is; read for each request
  /run/sidegate/operator/ca.crt               the gateway's authority, PEM;
                                              read for each connection

\b
ENVIRONMENT
  SIDEGATE_GATEWAY, SIDEGATE_GATEWAY_TOKEN, SIDEGATE_GATEWAY_CA,
  SIDEGATE_TARGET   as the options `--gateway...`; an option comes first

\b
EXAMPLES
  sidegate policy compile --manifests manifests --target shop-db -o gate.json
  sidegate gate --config gate.json --state /var/lib/sidegate \\
      --listen 0.0.0.0:5432 --metrics 127.0.0.1:6480

\b
EXIT STATUS
  0  stopped in order
  1  it couldn't start, or couldn't go on; the last line on standard error
     says why
"""


@click.command(help=_HELP)
@click.option("--config", "config_file", type=click.Path(path_type=Path), required=True, help="The compiled gate config, JSON.")
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory for recordings and approvals."
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="HOST:PORT or unix:DIRECTORY; repeatable. Default: loopback at the target's port.",
)
@click.option("--metrics", metavar="HOST:PORT", help="Serve /live, /ready, /started and /metrics there.")
@click.option(
    "--audit", "audit_file", type=click.Path(path_type=Path), help="Append audit events to this file. Default: standard output."
)
@click.option(
    "--issuer-ca", metavar="FILE", help="Authorities that issuers' certificates are verified with. Default: the system's."
)
@click.option(
    "--gateway",
    envvar="SIDEGATE_GATEWAY",
    metavar="URL",
    help="The operator's gateway, https, host and port alone. Default: none; approval requests are files.",
)
@click.option(
    "--gateway-token",
    envvar="SIDEGATE_GATEWAY_TOKEN",
    type=click.Path(path_type=Path),
    default=Path("/run/sidegate/operator/token"),
    show_default=True,
    metavar="FILE",
    help="The gate's own token, with the audience `sidegate-operator`.",
)
@click.option(
    "--gateway-ca",
    envvar="SIDEGATE_GATEWAY_CA",
    type=click.Path(path_type=Path),
    default=Path("/run/sidegate/operator/ca.crt"),
    show_default=True,
    metavar="FILE",
    help="The authority that the gateway's certificate is verified with, and no other.",
)
@click.option(
    "--gateway-target",
    envvar="SIDEGATE_TARGET",
    metavar="NAMESPACE/NAME",
    help="The target whose gate this is, to report before there is a config that says so.",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the port (SO_REUSEPORT)."
)
@click.option(
    "--finish",
    "finish_s",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="How long statements that run get for their answers when it is told to stop. Default: 15.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    default="text",
    show_default=True,
    help="Form of the log on standard error.",
)
def gate(
    config_file: Path, state: Path, listen: tuple[str, ...], metrics: str | None, audit_file: Path | None, issuer_ca: str | None,
    gateway: str | None, gateway_token: Path, gateway_ca: Path, gateway_target: str | None, workers: int, finish_s: float | None,
    log_format: str,
) -> None:  # fmt: skip
    from sidegate.approval.gateway_client import GatewaySettings
    from sidegate.audit.sinks import AuditError
    from sidegate.gateway.http import PlaceError, parse_place
    from sidegate.runtime.listener import ListenError
    from sidegate.runtime.logs import LogForm, set_up_logs
    from sidegate.runtime.main import FINISH_S, GateOptions, run_gate, run_loop

    set_up_logs(LogForm(log_format))
    settings = GatewaySettings(gateway, gateway_token, gateway_ca) if gateway else None
    options = GateOptions(
        config_file, state, listen, metrics, audit_file, issuer_ca, gateway=settings, gateway_target=gateway_target or None,
        finish_s=FINISH_S if finish_s is None else finish_s,
    )  # fmt: skip

    try:
        if gateway:
            parse_place(gateway)
        if workers > 1:
            from sidegate.runtime.worker import run_workers

            sys.exit(run_workers(options, workers))
        run_loop(lambda: run_gate(options))
    except (ListenError, AuditError, PlaceError, OSError) as error:
        way = getattr(error, "way_forward", "")
        raise click.ClickException(f"{error}; {way}" if way else str(error)) from error
