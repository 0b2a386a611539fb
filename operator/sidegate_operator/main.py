"""`sidegate-operator`: the operator's command line. `run` is the operator, `webhook` is admission; `render` prints
what would be applied, without a cluster.
"""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from sidegate.api.manifests import ManifestError, Manifests, parse_manifests
from sidegate_operator.plan.gate_config import has_errors, plan_gate_config
from sidegate_operator.probe.command import probe
from sidegate_operator.run_command import run
from sidegate_operator.webhook.command import webhook

_RENDER_HELP = """Print the objects that the operator would apply for these manifests, as YAML.

For each ProtectedTarget one ConfigMap with its gate config. Findings about targets and policies go to standard error.

\b
EXAMPLES
  sidegate-operator render --manifests manifests
  sidegate-operator render --manifests manifests | kubectl diff -f -

\b
EXIT STATUS
  0  everything is printed
  1  a target or policy has errors, and its object is left out
  2  the manifests can't be read
"""


class ManifestFailure(click.ClickException):
    exit_code = 2

    def show(self, file: object = None) -> None:
        click.echo(f"sidegate-operator: {self.message}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """The operator of Sidegate: turns ProtectedTargets and AccessPolicies into gate configs."""


main.add_command(run)
main.add_command(webhook)
main.add_command(probe)


@main.command(help=_RENDER_HELP, short_help="print what the operator would apply for manifests")
@click.option(
    "--manifests",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    metavar="DIR",
    help="directory (or file) of manifests",
)
def render(manifests: Path) -> None:
    read = _read(manifests)
    policies = [each.resource for each in read.policies]
    objects, failed = [], False
    for manifest in read.targets:
        planned = plan_gate_config(manifest.resource, policies)
        for finding in planned.findings:
            click.echo(str(finding), err=True)
        failed = failed or has_errors(planned)
        if planned.config_map is not None:
            objects.append(planned.config_map)
    if objects:
        click.echo(yaml.safe_dump_all(objects, sort_keys=False, width=10_000), nl=False)
    if failed:
        raise SystemExit(1)


def _read(place: Path) -> Manifests:
    files = sorted(each for each in place.iterdir() if each.suffix in {".yaml", ".yml"}) if place.is_dir() else [place]
    try:
        return parse_manifests([(str(file), file.read_text("utf-8")) for file in files])
    except ManifestError as error:
        raise ManifestFailure("\n".join(map(str, error.problems))) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestFailure(f"`{place}` can't be read: {error}") from error


if __name__ == "__main__":
    main()
