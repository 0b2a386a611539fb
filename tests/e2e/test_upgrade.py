"""A newer gate in pods as they run: the kubelet starts the gate again and nothing else, one pod after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import pytest

from tests.e2e.installed_shop import InstalledShop, digest_name, installed_shop
from tests.e2e.shop import GATE, conditions_of_start
from tests.support.cluster_node import Cluster, ClusterImage
from tests.support.processes import wait_until
from tests.support.relabelled_image import relabelled

NUMBERS = (0, 1)


@pytest.fixture(scope="module")
def installed(
    cluster: Cluster, images: Mapping[str, ClusterImage], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InstalledShop]:
    with installed_shop(cluster, images, tmp_path_factory.mktemp("helm")) as made:
        yield made


@pytest.fixture(scope="module")
def newer(images: Mapping[str, ClusterImage], cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same gate under another digest, on the node."""
    made = relabelled(images["gate"], tmp_path_factory.mktemp("newer") / "gate.tar", {"org.example.release": "next"})
    cluster.load(made)
    made.archive.unlink()
    assert made.name != digest_name("gate")
    return made.name


def database_of(pod: dict[str, Any]) -> tuple[object, ...]:
    """What changes when the database is started again, or its pod made anew."""
    state = conditions_of_start(pod)["postgres"]
    running = state["state"]["running"]["startedAt"]
    return pod["metadata"]["uid"], state["restartCount"], running, state["containerID"], state["ready"]


def gate_of(pod: dict[str, Any]) -> tuple[str, str]:
    """The image that is wanted, and the container that runs."""
    image = next(str(each["image"]) for each in pod["spec"]["initContainers"] if each["name"] == GATE)
    return image, str(conditions_of_start(pod)[GATE].get("containerID", ""))


@dataclass(slots=True)
class Statement:
    began: float
    ended: float
    status: int
    said: str


class Busy:
    """Sessions one after the other, each with one statement of 12 s, by two clients in turn: so one is always in the middle of it."""

    def __init__(self, installed: InstalledShop, number: int) -> None:
        self._installed, self._number = installed, number
        self._over = threading.Event()
        self._clients = [threading.Thread(target=self._run, args=(delay,)) for delay in (0.0, 6.0)]
        self.statements: list[Statement] = []

    def __enter__(self) -> Self:
        for each in self._clients:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._clients:
            each.join()

    def _run(self, delay: float) -> None:
        self._over.wait(delay)
        while not self._over.is_set():
            began = time.monotonic()
            with self._installed.start_psql("SELECT pg_sleep(12), 'done'", pod=self._number) as process:
                said, _ = process.communicate(timeout=60)
            self.statements.append(Statement(began, time.monotonic(), process.returncode, said.strip()))


def test_sessions_work_at_both(installed: InstalledShop) -> None:
    for number in NUMBERS:
        done = installed.psql("SELECT count(*) FROM customers", pod=number)
        assert done.stdout.strip() == "2", done.stderr


def test_only_gates_are_started_again_one_after_the_other(
    installed: InstalledShop, newer: str, figures: dict[str, float]
) -> None:
    before = {number: installed.pod(number) for number in NUMBERS}
    databases = {number: database_of(pod) for number, pod in before.items()}
    with Busy(installed, 0) as busy:
        installed.release.upgrade({**installed.values, "gate": {"image": newer}})
        began = time.monotonic()
        wait_until(lambda: gate_of(installed.pod(0))[0] == newer, "the first gate's turn", 180, 0.1)
        exchanged = time.monotonic()
        figures["gate_upgrade_first_turn_s"] = round(exchanged - began, 1)
        assert gate_of(installed.pod(1)) == gate_of(before[1])
    in_the_middle = [
        each for each in busy.statements if each.began < exchanged < each.ended and "connection to server at" not in each.said
    ]
    assert in_the_middle, _told(installed, busy.statements)
    # the last thing a session hears is that it is over; what it asked for was answered before
    assert all(each.status == 0 and "|done" in each.said for each in in_the_middle), in_the_middle
    left = gate_of(before[0])[1]
    wait_until(lambda: gate_of(installed.pod(0))[1] not in ("", left), "the first gate to run anew", 60, 0.1)
    ended = conditions_of_start(installed.pod(0))[GATE]["lastState"]["terminated"]
    assert (ended["containerID"], ended["exitCode"]) == (left, 0)  # it ended by itself, within its time
    wait_until(lambda: gate_of(installed.pod(1))[0] == newer, "the second gate's turn", 180, 0.1)
    assert gate_of(installed.pod(0))[0] == newer
    assert conditions_of_start(installed.pod(0))[GATE]["ready"] is True  # it serves before the second one's turn comes
    assert installed.psql("SELECT 1", pod=0).stdout.strip() == "1"
    left = gate_of(before[1])[1]
    wait_until(lambda: gate_of(installed.pod(1))[1] not in ("", left), "the second gate to run anew", 60, 0.1)
    figures["gate_upgrade_both_s"] = round(time.monotonic() - began, 1)
    assert {number: database_of(installed.pod(number)) for number in NUMBERS} == databases


def is_serving(installed: InstalledShop, number: int) -> bool:
    return conditions_of_start(installed.pod(number))[GATE]["ready"] is True


def answers(installed: InstalledShop, number: int) -> bool:
    return installed.psql("SELECT count(*) FROM customers", pod=number).stdout.strip() == "2"


def _told(installed: InstalledShop, statements: Sequence[Statement]) -> str:
    """For whoever reads a failure."""
    log = ("logs", "--namespace", installed.namespace, "shop-db-0", "--container", GATE, "--timestamps", "--tail=40")
    before, after = (installed.cluster.kubectl(*log, *more).stdout for more in (["--previous"], []))
    state = conditions_of_start(installed.pod(0))[GATE]
    return "\n".join(["", *map(str, statements), str(state), "before:", before, "after:", after])


def test_afterwards_everything_is_in_force_and_sessions_work(installed: InstalledShop) -> None:
    installed.wait_for_condition("Synced")
    for number in NUMBERS:  # by the pods themselves: what the target says of them comes a moment later
        ready = partial(is_serving, installed, number)
        wait_until(ready, f"the gate of pod {number} to serve again", 60, 0.1)
    for number in NUMBERS:  # the pod's status may still be that of the gate before
        wait_until(partial(answers, installed, number), f"the gate of pod {number} to answer", 60, 0.5)
    assert installed.target()["status"]["gates"]["summary"] == "2/2"
