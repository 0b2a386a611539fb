"""Follow what a gate is configured by while it runs: the gate config, and whatever else has something to look at now and then.

Rules: a config that can't be read leaves the last good one in force and is reported, once for each state of the file; without a good one at
start there is none, and the gate refuses everything. A config for another target is refused: a wrong mount must not turn a gate round.
A file in a ConfigMap is switched behind a symbolic link; that is seen like any other change.

Left out: what follows from a new config; whoever is told re-checks the open sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sidegate.policy.config import ConfigError, GateConfig, decode_config
from sidegate.runtime import clock
from sidegate.runtime.tls import FileState, file_state

MAX_CONFIG_BYTES: Final = 16 * 1024 * 1024  # a ConfigMap holds 1 MiB (Kubernetes); a local one may be larger
POLL_INTERVAL_S: Final = 1.0
SETTLING_S: Final = 2.0  # a file written this recently may be written again within the same tick of its time stamp


class ConfigFile:
    """One gate config in one file. `check` looks, `current` is the config in force, `problem` is what is wrong with the file now."""

    def __init__(self, path: Path, on_config: Callable[[GateConfig], None], on_problem: Callable[[ConfigError], None]) -> None:
        self._path = path
        self._on_config = on_config
        self._on_problem = on_problem
        self._seen: FileState | None = None
        self._has_looked = False
        self._looked_at = 0.0
        self.current: GateConfig | None = None
        self.problem: ConfigError | None = None

    def check(self, is_forced: bool = False) -> None:
        """Take up the file if it changed. Tells of a config only when its revision is new, and of a problem only when it is another."""
        state = file_state(self._path)  # before the content: what changes meanwhile is seen at the next look
        is_settled = state is None or self._looked_at - state.changed_ns / 1e9 > SETTLING_S
        if self._has_looked and state == self._seen and is_settled and not is_forced:
            return
        self._has_looked = True
        self._seen = state
        self._looked_at = clock.now()
        try:
            config = self._read()
        except ConfigError as error:
            if str(self.problem) != str(error):
                self.problem = error
                self._on_problem(error)
            return
        self.problem = None
        if self.current is None or config.revision != self.current.revision:
            self.current = config
            self._on_config(config)

    def _read(self) -> GateConfig:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_CONFIG_BYTES + 1)
        except OSError as error:
            raise ConfigError(
                f"gate config `{self._path}` can't be read: {error.strerror}",
                "mount or write the config there, readable for the gate",
            ) from error
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(f"gate config `{self._path}` is over {MAX_CONFIG_BYTES} bytes", "split the target's policies")
        config = decode_config(data)
        if self.current is not None and self._name_of(config) != self._name_of(self.current):
            raise ConfigError(
                f"gate config is for target `{self._name_of(config)}`, this gate serves `{self._name_of(self.current)}`",
                "mount the right config, or start a gate of its own for the other target",
            )
        return config

    @staticmethod
    def _name_of(config: GateConfig) -> str:
        return f"{config.target.namespace}/{config.target.name}"


class Watch:
    """Runs its checks every so often, and at once when poked.

    An error of a check ends `run`: a gate that no longer follows its configuration must not go on as if it did.
    """

    def __init__(self, checks: Sequence[Callable[[], object]], interval_s: float = POLL_INTERVAL_S) -> None:
        self._checks = tuple(checks)
        self._interval_s = interval_s
        self._poked = asyncio.Event()

    def poke(self) -> None:
        self._poked.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for check in self._checks:
                check()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), self._interval_s)
            self._poked.clear()

    def poke_at_sighup(self, loop: asyncio.AbstractEventLoop) -> None:
        """As PostgreSQL and most daemons do: SIGHUP means look again now."""
        loop.add_signal_handler(signal.SIGHUP, self.poke)
