"""`sidegate-operator run`: options to settings."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from sidegate_operator.credentials import ACCOUNT_DIR, Credentials, CredentialsError
from sidegate_operator.lease import Terms
from sidegate_operator.logs import LogForm, set_up_logs
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.settings import Settings

_HELP: Final = """Keep every gate's rules, and the objects around each target, as the resources of the cluster say.

Several run beside each other; the one that holds the Lease leads, the others stand by. Ends on SIGTERM, and gives the Lease back.

Options can be given by the environment too: SIDEGATE_OPERATOR_ and the option's name, as in SIDEGATE_OPERATOR_GATE_IMAGE.

\b
EXAMPLES
  In a pod, as the chart does it:
    sidegate-operator run --gate-image registry.example/gate@sha256:...
  Beside a cluster:
    sidegate-operator run --kubeconfig admin.kubeconfig --namespace sidegate-system \\
        --health 127.0.0.1:8080 --log-format text --gate-image ...

\b
ON THE HEALTH PORT
  /healthz   503: a watch gave no sign of life for too long; a restart mends that
  /readyz    503: a line for each thing that is wrong, with the way forward
  /metrics   for Prometheus

\b
EXIT STATUS
  0  ended as told
  1  the Lease was lost, or a watch went blind: start it again, it stands by
  2  it can't start
"""


class StartFailure(click.ClickException):
    exit_code = 2

    def __init__(self, problem: object, way_forward: str) -> None:
        super().__init__(f"{problem}; fix: {way_forward}")

    def show(self, file: object = None) -> None:
        click.echo(f"sidegate-operator: {self.message}", err=True)


@click.command(
    "run",
    context_settings={"auto_envvar_prefix": "SIDEGATE_OPERATOR"},
    help=_HELP,
    short_help="lead, or stand by: keep gates and targets as the cluster's resources say",
)
@click.option(
    "--gate-image",
    required=True,
    metavar="IMAGE@DIGEST",
    help="Image of the gates that aren't given another one, pinned by digest.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Kubeconfig with a token or a client certificate. Default: the pod's service account.",
)
@click.option("--namespace", metavar="NAME", help="The operator's own namespace. Default: the pod's.")
@click.option(
    "--lease", default="sidegate-operator", show_default=True, metavar="NAME", help="Name of the Lease that the leader holds."
)
@click.option(
    "--lease-seconds",
    type=click.IntRange(3, 3600),
    default=15,
    show_default=True,
    metavar="N",
    help="How long the Lease lasts; a leader that can't renew it ends after two thirds of that.",
)
@click.option(
    "--health", default="0.0.0.0:8080", show_default=True, metavar="HOST:PORT", help="Where health and metrics are served."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    metavar="N",
    help="How many targets are worked on together.",
)
@click.option(
    "--log-format",
    type=click.Choice([each.value for each in LogForm]),
    default=LogForm.JSON.value,
    show_default=True,
    help="JSON lines, or text for people.",
)
def run(
    gate_image: str,
    kubeconfig: Path | None,
    namespace: str | None,
    lease: str,
    lease_seconds: int,
    health: str,
    workers: int,
    log_format: str,
) -> None:
    set_up_logs(LogForm(log_format))
    host, _, port = health.rpartition(":")
    if not host or not port.isdigit():
        raise StartFailure(f"`{health}` isn't an address", "write HOST:PORT, as in 0.0.0.0:8080")
    try:
        gate = GateSettings(image=gate_image, version=version("sidegate"))
    except ValueError as problem:
        raise StartFailure(problem, "give --gate-image by digest") from problem
    try:
        credentials = Credentials.from_kubeconfig(kubeconfig) if kubeconfig else Credentials.in_cluster(os.environ)
        own = namespace or _own_namespace()
    except CredentialsError as problem:
        raise StartFailure(problem, problem.way_forward) from problem
    settings = Settings(
        namespace=own,
        identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        gate=gate,
        lease=lease,
        terms=Terms(float(lease_seconds), lease_seconds * 2 / 3, lease_seconds * 2 / 15),
        health_host=host.strip("[]"),
        health_port=int(port),
        workers=workers,
    )
    from sidegate_operator.process import run as run_process  # kopf and all that it brings: only this command needs it

    try:
        raise SystemExit(asyncio.run(run_process(settings, credentials)))
    except OSError as problem:
        raise StartFailure(f"`{health}` can't be listened on: {problem}", "give another --health") from problem


def _own_namespace() -> str:
    try:
        return (ACCOUNT_DIR / "namespace").read_text("ascii").strip()
    except OSError:
        raise CredentialsError("this process runs in no pod, so it has no namespace of its own", "give --namespace") from None
