"""Gates exchanged in place: one at a time, the next one only when the one before runs, is ready, and reports."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.gate_container import GateSettings, gate_parts
from sidegate_operator.plan.injection import INJECTED_ANNOTATION, injected_note
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.redirect import redirect_container
from sidegate_operator.plan.upgrade import EXCHANGED_ANNOTATION, SETTLE_S, Upgrade, plan_upgrade
from tests.unit.operator.snapshots import NOW, pod, target

TARGET = ProtectedTarget.from_wire(target())
OLD = GateSettings(f"registry.example/gate@sha256:{'0' * 64}", "1.0")
NEW = GateSettings(f"registry.example/gate@sha256:{'1' * 64}", "1.1")
NOTE = injected_note(TARGET, OLD, gate_parts(TARGET, OLD, {"restartPolicy": "Always"}))


def gated(name: str, image: str = OLD.image, container: str = "c-1", **changes: Any) -> SeenPod:
    wire = pod(name, annotations={INJECTED_ANNOTATION: NOTE, **changes.pop("annotations", {})})
    wire["spec"]["initContainers"][0]["image"] = image
    wire["status"]["initContainerStatuses"][0]["containerID"] = container
    return replace(SeenPod.from_wire(wire), **changes)


def everyone(*pods: SeenPod) -> dict[str, str]:
    return {each.uid: "r1" for each in pods}


def plan(*pods: SeenPod, enforced: dict[str, str] | None = None, now: float = NOW) -> Upgrade:
    return plan_upgrade(TARGET, pods, everyone(*pods) if enforced is None else enforced, NEW, now)


def exchanged(name: str = "a", container: str = "c-2", at: float = NOW, **changes: Any) -> SeenPod:
    """As the plan leaves it, some time later."""
    made = plan(gated(name), now=at).exchange
    assert made is not None
    return gated(name, NEW.image, container, annotations=dict(made.annotations), **changes)


def test_one_pod_is_exchanged_and_its_note_says_which_gate_it_has() -> None:
    found = plan(gated("a"), gated("b")).exchange
    assert found is not None
    assert (found.pod, found.uid, found.image) == ("a", "uid-a", NEW.image)
    assert OLD.image in found.note
    assert NEW.image in found.note
    assert '"gate":"1.1"' in found.annotations[INJECTED_ANNOTATION]
    assert found.annotations[EXCHANGED_ANNOTATION].startswith("c-1 left at ")


def test_the_gate_of_a_redirected_pod_is_exchanged_too() -> None:
    """Admission knows the image that sets redirection up, and the operator doesn't have to."""
    redirected = ProtectedTarget.from_wire(target(enforcement={"mode": "Redirect"}))
    admission = replace(OLD, redirect_image=f"registry.example/redirect@sha256:{'2' * 64}")
    parts = gate_parts(redirected, admission, {"restartPolicy": "Always"})
    note = injected_note(redirected, admission, replace(parts, redirect=redirect_container(redirected, admission)))
    pods = [gated("a", annotations={INJECTED_ANNOTATION: note})]
    found = plan_upgrade(redirected, pods, everyone(*pods), NEW, NOW).exchange
    assert found is not None
    assert json.loads(found.annotations[INJECTED_ANNOTATION])["template"] == json.loads(note)["template"]
    assert plan_upgrade(TARGET, pods, everyone(*pods), NEW, NOW).exchange is None


def test_what_only_calls_itself_a_gate_holds_no_upgrade_up() -> None:
    """Selected by its labels, never asked for: it would stay without a report for ever."""
    fake = replace(SeenPod.from_wire(pod("fake", asks_for=None)), gate_image=NEW.image)
    found = plan(gated("a"), fake, enforced=everyone(gated("a"))).exchange
    assert found is not None
    assert found.pod == "a"


def test_nothing_is_exchanged_where_nothing_differs() -> None:
    assert plan_upgrade(TARGET, [gated("a")], everyone(gated("a")), OLD, NOW) == Upgrade()


@pytest.mark.parametrize("note", ["", "nonsense", "[]", NOTE.replace('"template":"', '"template":"x')])
def test_a_pod_whose_gate_would_be_made_otherwise_today_waits_to_be_made_anew(note: str) -> None:
    assert plan(gated("a", annotations={INJECTED_ANNOTATION: note})) == Upgrade()


@pytest.mark.parametrize(
    ("first", "is_heard"),
    [
        (exchanged(container="c-1"), True),
        (exchanged(container="c-1", at=NOW - 999), True),
        (exchanged(is_gate_ready=False, at=NOW - 999), True),
        (exchanged(at=NOW - 999), False),
        (gated("a", NEW.image), False),
    ],
    ids=["still-the-one-before", "still-after-long", "not-ready", "silent", "new-pod-silent"],
)
def test_the_next_one_waits_for_the_one_before(first: SeenPod, is_heard: bool) -> None:
    second = gated("b")
    enforced = everyone(first, second) if is_heard else everyone(second)
    assert plan(first, second, enforced=enforced) == Upgrade()


def test_the_next_one_waits_until_reports_of_the_gate_before_count_no_more() -> None:
    first, second = exchanged(), gated("b")
    assert plan(first, second, now=NOW + 1) == Upgrade(look_again_at=NOW + SETTLE_S)
    found = plan(first, second, now=NOW + SETTLE_S).exchange
    assert found is not None
    assert found.pod == "b"


def test_a_gate_that_a_bad_image_left_behind_goes_first() -> None:
    bad = gated("b", f"registry.example/gate@sha256:{'f' * 64}", is_gate_ready=False)
    found = plan(gated("a"), bad, enforced=everyone(gated("a"))).exchange
    assert found is not None
    assert found.pod == "b"


def test_a_note_of_an_exchange_that_cant_be_is_none() -> None:
    for text in ("c-2 left at 2999-01-01T00:00:00Z", "c-2 left at nevernevernevernever", "c-2"):
        first = gated("a", NEW.image, "c-2", annotations={EXCHANGED_ANNOTATION: text})
        assert plan(first, gated("b")).exchange is not None


def test_gates_outside_are_rolled_by_their_deployment() -> None:
    tls = {
        "client": {"secretRef": {"name": "gate-tls"}},
        "target": {"mode": "VerifyFull", "caRef": {"name": "ca", "key": "ca.crt"}},
    }
    wire = target(endpoint={"host": "db.example", "port": 5432}, tls=tls)
    del wire["spec"]["selector"]
    outside = ProtectedTarget.from_wire(wire)
    assert plan_upgrade(outside, [gated("a")], everyone(gated("a")), NEW, NOW) == Upgrade()
