"""What the commands about policies share: manifests read and compiled, moments, and how a command fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:  # imported when needed, so that `--help` comes fast
    from sidegate.api.manifests import Manifests
    from sidegate.api.protected_target import ProtectedTarget
    from sidegate.policy.compile import Compiled
    from sidegate.policy.config import GateConfig
    from sidegate.policy.finding import Finding

DEFAULT_SECRETS_DIR: Final = "/run/sidegate/secrets"


class Failure(click.ClickException):
    """The command can't do its work. Two lines on stderr: what is wrong, and the way forward."""

    exit_code = 2

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward

    def show(self, file: Any = None) -> None:
        from sidegate.mask.plain import plain

        click.echo(f"sidegate policy: {plain(self.message)}\nhint: {plain(self.way_forward)}", err=True)


def read_manifests(path: Path) -> Manifests:
    from sidegate.api.manifests import ManifestError
    from sidegate.mask.plain import plain
    from sidegate.runtime import manifest_files

    try:
        return manifest_files.read_manifests(path)
    except ManifestError as error:
        for problem in error.problems:
            click.echo(plain(str(problem), keeps_lines=True), err=True)
        raise Failure(f"the manifests in `{path}` can't be used", "mend what is listed above") from None


def target_named(read: Manifests, name: str | None) -> ProtectedTarget:
    targets = [each.resource for each in read.targets]
    known = ", ".join(sorted(f"`{each.metadata.namespace}/{each.metadata.name}`" for each in targets)) or "none"
    if name is None:
        if len(targets) == 1:
            return targets[0]
        raise Failure(f"there are {len(targets)} targets in the manifests", f"choose one with --target: {known}")
    namespace, _, short = name.rpartition("/")
    found = [each for each in targets if each.metadata.name == short and namespace in ("", each.metadata.namespace)]
    if len(found) != 1:
        problem = f"target `{name}` isn't in the manifests" if not found else f"target `{name}` stands in several namespaces"
        raise Failure(problem, f"choose one of {known}")
    return found[0]


def compiled_target(
    target: ProtectedTarget, read: Manifests, secrets: str = DEFAULT_SECRETS_DIR, address: str | None = None
) -> Compiled:
    from sidegate.mask.detectors import DETECTOR_NAMES
    from sidegate.policy.compile import Placement, compile_target
    from sidegate.policy.config import AddressConfig

    host, _, port = (address or "").rpartition(":")
    if address is not None and (not host or not port.isdigit()):
        raise click.BadParameter(f"`{address}` is not HOST:PORT", param_hint="--address")
    placement = Placement(secrets, AddressConfig(host, int(port)) if address is not None else None)
    return compile_target(target, [each.resource for each in read.policies], placement, DETECTOR_NAMES)


def config_of(target: ProtectedTarget, read: Manifests) -> GateConfig:
    """Of the target, or a failure that shows why there is none."""
    compiled = compiled_target(target, read)
    if compiled.config is None:
        show_errors(compiled.findings)
        raise Failure(
            f"target `{target.metadata.name}` has no config",
            "mend the errors listed above; `sidegate policy lint` shows them with their lines",
        )
    return compiled.config


def show_errors(findings: Sequence[Finding]) -> None:
    from sidegate.api.access_policy import FindingSeverity
    from sidegate.mask.plain import plain

    for finding in findings:
        if finding.severity is FindingSeverity.ERROR:
            click.echo(plain(str(finding), keeps_lines=True), err=True)


def moment_of(text: str | None, option: str = "--at") -> float:
    """None: now."""
    from sidegate.policy.cases import CaseError, moment
    from sidegate.runtime.clock import now

    if text is None:
        return now()
    try:
        return moment(text)
    except CaseError as error:
        raise click.BadParameter(f"{error}; {error.way_forward}", param_hint=option) from error
