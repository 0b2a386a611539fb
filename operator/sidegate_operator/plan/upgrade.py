"""Gates beside databases, exchanged in place: a newer image in the pod as it runs, so that no database is restarted for it.

Rules it keeps:
- Only where all but the image is as it would be made today: the pod's note of its gate has the same template. Any other pod gets the newer
  gate when it is made anew.
- One pod of a target at a time. The next one's turn is when every gate with the wanted image runs, is ready, and reports; and for one that
  was exchanged not before its container is another than the one that was left, and what that one reported counts no more.
- A gate that isn't ready goes first: exchanging it takes nothing away, and it may be what a bad image left behind.

Left out: gates outside, which their Deployment rolls; draining, which the gate does when it is told to end. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.text import Timestamp
from sidegate_operator.plan.gate_container import GateSettings, gate_parts
from sidegate_operator.plan.injection import INJECTED_ANNOTATION, injected_note
from sidegate_operator.plan.pods import CLOCK_TOLERANCE_S, SeenPod
from sidegate_operator.plan.redirect import redirect_container

EXCHANGED_ANNOTATION: Final = "sidegate.dev/exchanged"  # which container was left, and when
EXCHANGED_REASON: Final = "GateExchanged"  # of the event
SETTLE_S: Final = 40.0  # longer than a gate's last report counts
_EXCHANGED: Final = re.compile(r"(\S{0,200}) left at (\S{20})")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is written to a pod, and what people are told of it. Its uid goes along, so that no new pod of the same name is taken for it."""

    pod: str
    uid: str
    image: str
    annotations: Mapping[str, str]
    note: str


@dataclass(frozen=True, slots=True)
class Upgrade:
    """`look_again_at`: when time alone makes it the next one's turn."""

    exchange: Exchange | None = None
    look_again_at: float | None = None


def plan_upgrade(
    target: ProtectedTarget, pods: Sequence[SeenPod], enforced: Mapping[str, str], settings: GateSettings, now: float
) -> Upgrade:
    """`pods` are the target's; `enforced` as in a snapshot."""
    if target.spec.selector is None:
        return Upgrade()
    parts = gate_parts(target, settings, {"restartPolicy": "Always"})
    parts = replace(parts, redirect=redirect_container(target, settings))  # part of the template; it isn't run again
    image = str(parts.container["image"])
    with_gate = [each for each in pods if each.gate_image is not None and each.has_gate_of(target)]
    waits = []
    for each in (each for each in with_gate if each.gate_image == image):
        left = _left(each, now)
        if not each.is_gate_ready or each.uid not in enforced or (left is not None and left[0] == each.gate_container_id):
            return Upgrade()  # a change of the pod or a report brings the next look
        if left is not None and left[1] + SETTLE_S > now:
            waits.append(left[1] + SETTLE_S)
    others = [each for each in with_gate if each.gate_image != image and _template(each) == parts.template]
    if not others:
        return Upgrade()
    if waits:
        return Upgrade(look_again_at=max(waits))
    first = min(others, key=lambda each: (each.is_gate_ready, each.name))
    annotations = {
        INJECTED_ANNOTATION: injected_note(target, settings, parts),
        EXCHANGED_ANNOTATION: f"{first.gate_container_id} left at {Timestamp.from_epoch(now)}",
    }
    note = f"its gate is exchanged in place for `{image}`, before it was `{first.gate_image}`; the database goes on"
    return Upgrade(Exchange(first.name, first.uid, image, annotations, note))


def _template(pod: SeenPod) -> str | None:
    """That of the gate that was put in, as admission noted it: whoever may edit pods can at most keep their own from upgrades."""
    try:
        note = json.loads(pod.annotations.get(INJECTED_ANNOTATION, ""))
    except ValueError:
        return None
    found = note.get("template") if isinstance(note, dict) else None
    return found if isinstance(found, str) else None


def _left(pod: SeenPod, now: float) -> tuple[str, float] | None:
    """Which container was left, and when; None: none, or nothing that can be relied on."""
    found = _EXCHANGED.fullmatch(pod.annotations.get(EXCHANGED_ANNOTATION, ""))
    if found is None:
        return None
    try:
        at = Timestamp(found[2]).epoch_s
    except ValueError:
        return None
    return (found[1], at) if at <= now + CLOCK_TOLERANCE_S else None
