"""`sidegate-operator probe`: try a target's doors once, from wherever this runs. `sidegate doctor --from-namespace` starts it in a pod.

Rules it keeps: it asks the API server nothing and needs no rights; what it found is one line of JSON, short enough for a container's
termination message, so that reading it takes no more than reading the pod.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import click

from sidegate.probe.answer import Door
from sidegate.probe.postgres import DATABASES, probe_postgres
from sidegate_operator.probe.schedule import Aim, Place, told

MAX_BYTES: Final = 4000  # of a termination message the kubelet keeps 4096
_LONGEST: Final = 400


@dataclass(frozen=True, slots=True)
class Found:
    """`unanswered`: of the places, those where nothing answers at all. `more`: phrases that found no room."""

    open_doors: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    tried: int = 0
    unanswered: tuple[str, ...] = ()
    more: int = 0

    def to_json(self) -> str:
        """Open doors come first; what doesn't fit is counted."""
        lists: dict[str, list[str]] = {"open": [], "unclear": [], "unanswered": []}
        document: dict[str, Any] = {**lists, "tried": self.tried, "more": self.more}
        for name, phrases in (("open", self.open_doors), ("unclear", self.unclear), ("unanswered", self.unanswered)):
            for each in phrases:
                document[name].append(each[:_LONGEST])
                if len(json.dumps(document)) > MAX_BYTES - 20:
                    document[name].pop()
                    document["more"] += 1
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError when it isn't one."""
        document = json.loads(text)
        try:
            lists = [tuple(str(each) for each in document[name]) for name in ("open", "unclear", "unanswered")]
            return cls(lists[0], lists[1], int(document["tried"]), lists[2], int(document["more"]))
        except (KeyError, TypeError) as error:
            raise ValueError("it isn't what a probe says") from error


async def try_doors(aim: Aim, timeout_s: float) -> Found:
    """Every place at once."""
    tries = [probe_postgres(each.host, each.port, aim.roles, timeout_s, databases=aim.databases) for each in aim.places]
    doors: list[Door] = [door for some in await asyncio.gather(*tries) for door in some]
    probe = told(aim, doors)
    silent = tuple(str(each) for each in doors if not each.database and not each.is_unclear)
    return Found(probe.open_doors, probe.unclear, len(doors), silent)


def arguments(aim: Aim) -> list[str]:
    """What to start the command with, so that it tries the same."""
    made = [f"--at={_written(each)}" for each in aim.places]
    made += [f"--role={each}" for each in aim.roles]
    made += [f"--database={each}" for each in aim.databases]
    return [*made, "--redirected"] if aim.is_redirected else made


def _written(place: Place) -> str:
    return f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}"


def _place(text: str) -> Place:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"`{text}` is no address and port", param_hint="--at")
    return Place(host.removeprefix("[").removesuffix("]"), int(port))


@click.command("probe", hidden=True, short_help="try a target's doors from here")
@click.option("--at", "places", multiple=True, required=True, metavar="HOST:PORT", help="Where; repeatable.")
@click.option("--role", "roles", multiple=True, metavar="NAME", help="As whom, beside a role that nobody has; repeatable.")
@click.option("--database", "databases", multiple=True, default=DATABASES, metavar="NAME", help="Into which; repeatable.")
@click.option("--redirected", is_flag=True, help="It is the gate that must answer.")
@click.option("--timeout", default=3.0, show_default=True, metavar="SECONDS", help="For each try.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it there too.")
def probe(
    places: Sequence[str], roles: Sequence[str], databases: Sequence[str], redirected: bool, timeout: float, output: Path | None
) -> None:
    """Try each way into a PostgreSQL server from here, without a password, and print what answers as JSON."""
    aim = Aim(tuple(map(_place, places)), tuple(roles), tuple(databases), False, redirected)
    found = asyncio.run(try_doors(aim, timeout)).to_json()
    if output is not None:
        output.write_text(found, encoding="ascii")
    click.echo(found)
