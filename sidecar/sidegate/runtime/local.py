"""Gates without a cluster: manifests in a directory become gate configs in the state directory, and one gate for each target
runs from there.

The same compiler, config and gate as in a cluster; only the operator's part (compile when manifests change, write the
config) is done here. Manifests that can't be used leave the last good rules in force, and say so.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from sidegate.api.access_policy import FindingSeverity
from sidegate.api.manifests import ManifestError
from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.config import AddressConfig, GateConfig, encode_config
from sidegate.runtime.main import GateOptions, GateProcess, stop_at_signals
from sidegate.runtime.manifest_files import read_manifests
from sidegate.runtime.reload import Watch
from sidegate.runtime.tls import FileState, file_state

log = logging.getLogger("sidegate.local")


class LocalError(Exception):
    """The manifests can't be run."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """`addresses`: where targets really listen, by name. `secrets`: one directory for each Secret, one file for each key."""

    manifests: Path
    state: Path
    secrets: Path
    addresses: dict[str, AddressConfig] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    metrics: str | None = None
    issuer_ca_file: str | None = None


class LocalCompiler:
    """Compiles the manifests into the state directory, now and whenever a file of theirs changes."""

    def __init__(self, options: LocalOptions) -> None:
        self._options = options
        self._seen: tuple[tuple[str, FileState | None], ...] = ()
        self._served: set[str] = set()  # targets that have a gate: those of the first compilation

    def config_file(self, name: str) -> Path:
        return self._options.state / name / "gate.json"

    def compile(self) -> dict[str, GateConfig]:
        """Every target's config, written.

        Raises:
            ManifestError, LocalError: nothing was written.
        """
        self._seen = self._state()
        manifests = read_manifests(self._options.manifests)
        configs: dict[str, GateConfig] = {}
        failed = False
        for loaded in manifests.targets:
            target = loaded.resource
            name = str(target.metadata.name)
            if self._options.targets and name not in self._options.targets:
                continue
            placement = Placement(str(self._options.secrets.absolute()), self._options.addresses.get(name))
            policies = [policy.resource for policy in manifests.policies]
            compiled = compile_target(target, policies, placement, DETECTOR_NAMES)
            for finding in compiled.findings:
                level = logging.ERROR if finding.severity is FindingSeverity.ERROR else logging.WARNING
                log.log(level if finding.severity is not FindingSeverity.NOTE else logging.INFO, "%s", finding)
            if compiled.config is None:
                failed = True
            elif name in configs:
                raise LocalError(f"two targets are named `{name}`", "give `--target`, or targets of one namespace only")
            else:
                configs[name] = compiled.config
        if failed:
            raise LocalError(
                "the manifests don't compile", "mend the errors above; `sidegate policy lint` shows them with their lines"
            )
        if not configs:
            raise LocalError(f"no ProtectedTarget in `{self._options.manifests}`", "see examples/demo for one")
        self._served = self._served or set(configs)
        for name, config in configs.items():
            write_config(self.config_file(name), config)
        return configs

    def check(self) -> None:
        """Compile again if a manifest changed; a problem leaves the configs as they are."""
        if self._state() == self._seen:
            return
        try:
            configs = self.compile()
        except (ManifestError, LocalError, OSError) as error:
            log.error("changed manifests are not used: %s", error)
            return
        for name in sorted(configs.keys() ^ self._served):
            said = (
                "is new: restart for a gate of its own"
                if name in configs
                else "is gone: its last rules stay in force until a restart"
            )
            log.warning("target `%s` %s", name, said)

    def _state(self) -> tuple[tuple[str, FileState | None], ...]:
        place = self._options.manifests
        try:
            files = sorted(place.iterdir()) if place.is_dir() else [place]
        except OSError:  # gone or closed: `compile` says so
            files = [place]
        return tuple((str(file), file_state(file)) for file in files)


def write_config(path: Path, config: GateConfig) -> None:
    """Whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(encode_config(config))
    os.replace(fresh, path)


async def run_local(options: LocalOptions) -> None:
    """Until a signal.

    Raises:
        ManifestError, LocalError, ListenError, AuditError: it can't start.
    """
    compiler = LocalCompiler(options)
    configs = compiler.compile()
    if options.listen and len(configs) > 1:
        raise LocalError("`--listen` with more than one target", "give `--target`, or the targets' own ports")
    stop = stop_at_signals()
    loop = asyncio.get_running_loop()
    watches: list[Watch] = []
    gates: list[asyncio.Task[None]] = []
    for name in configs:
        gate_options = GateOptions(
            compiler.config_file(name),
            options.state,
            options.listen,
            options.metrics if not gates else None,
            options.state / name / "audit.jsonl",
            options.issuer_ca_file,
        )
        gates.append(loop.create_task(GateProcess(gate_options).run(stop, watches.append)))
    manifests = Watch([compiler.check])
    manifests.poke_at_sighup(loop)
    watching = loop.create_task(manifests.run())
    try:
        await asyncio.wait([*gates, watching], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        watching.cancel()
        results = await asyncio.gather(*gates, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
