"""What a check is, what it finds, and what it is given to look at.

Rules it keeps: what couldn't be looked at is unknown, never fine; what is wrong comes with the way forward. Left out: how it is printed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sidegate.api.protected_target import ProtectedTarget
from sidegate_cluster.connection import Cluster
from sidegate_cluster.pages.refusals import CallError, told
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.resources import PODS, Object

if TYPE_CHECKING:
    from sidegate.setup.review import Wanted
    from sidegate.setup.server import Server

APPLY_CHART: Final = "apply the chart again: helm upgrade sidegate"


def pods_of(home: str, component: str) -> str:
    """The command that shows the pods of a component, by the labels that the chart's Deployment gives them."""
    return f"kubectl -n {home} get pods -l app.kubernetes.io/name=sidegate,app.kubernetes.io/component={component}"


def logs_of(home: str, component: str) -> str:
    return f"kubectl -n {home} logs -l app.kubernetes.io/name=sidegate,app.kubernetes.io/component={component}"


class Outcome(enum.StrEnum):
    FINE = "fine"
    ADVICE = "advice"  # nothing is broken; something is weaker than it could be
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Result:
    """One line: what was looked at and how it is; for all but what is fine, the way forward. After the last nothing else is looked at."""

    outcome: Outcome
    what: str
    way_forward: str = ""
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Database:
    """A target's own server, asked as its superuser, and what it must be like."""

    server: Server
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Patient:
    """A cluster with Sidegate in `home`. `targets` are those that are asked about, None: they couldn't be listed. `from_namespace`: where a
    pod is to try their ports, empty for nowhere. `database` is the one target's.
    """

    cluster: Cluster
    home: str
    targets: Sequence[Object] | None
    now: float
    from_namespace: str = ""
    pod_timeout_s: float = 60.0
    database: Database | None = None


Run: TypeAlias = "Callable[[Patient], Iterator[Result]]"


@dataclass(frozen=True, slots=True)
class Check:
    title: str
    run: Run

    def results(self, patient: Patient) -> Iterator[Result]:
        """All that it finds; what keeps it from looking is one of them."""
        try:
            yield from self.run(patient)
        except CallError as error:
            words = told(error)
            outcome = Outcome.UNKNOWN if error.code == 403 else Outcome.WRONG
            yield Result(outcome, words.problem, words.way_forward)


def name_of(target: Object) -> str:
    return f"{target['metadata']['namespace']}/{target['metadata']['name']}"


def enforcement(target: Object, field: str, otherwise: str) -> Any:
    return ((target.get("spec") or {}).get("enforcement") or {}).get(field, otherwise)


def pods_of_target(patient: Patient, target: Object) -> list[SeenPod] | None:
    """Those that are the target's, as the operator counts them. None: pods, or the target, can't be read."""
    try:
        parsed = ProtectedTarget.from_wire(target)
        found = patient.cluster.list(PODS, target["metadata"]["namespace"])
    except ValueError:
        return None
    except CallError as error:
        if error.code == 403:
            return None
        raise
    return [each for each in map(SeenPod.from_wire, found) if each.is_of(parsed)]


def harmless_container() -> dict[str, Any]:
    """A container that passes Pod Security `restricted`, for dry runs: of an image that there can't be."""
    security = {
        "runAsNonRoot": True,
        "runAsUser": 65534,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {"name": "nothing", "image": "sidegate.invalid/nothing", "securityContext": security}


def fine(what: str) -> Result:
    return Result(Outcome.FINE, what)


def wrong(what: str, way_forward: str) -> Result:
    return Result(Outcome.WRONG, what, way_forward)


def advice(what: str, way_forward: str) -> Result:
    return Result(Outcome.ADVICE, what, way_forward)


def unknown(what: str, way_forward: str) -> Result:
    return Result(Outcome.UNKNOWN, what, way_forward)
