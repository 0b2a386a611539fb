"""The database's own roles and host rules, reviewed as its superuser sees them, where the caller says how to get there.

Left out: the review itself (`sidegate.setup.review`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidegate.mask.plain import plain
from sidegate_cluster.checks.check import Check, Patient, Result, advice, fine, name_of, unknown, wrong


def _database(patient: Patient) -> Iterator[Result]:
    asked = patient.database
    if asked is None:
        return
    from sidegate.setup.review import review
    from sidegate.setup.server import ServerProblem

    (target,) = patient.targets or ({"metadata": {"namespace": "?", "name": "?"}},)
    name = name_of(target)
    try:
        observed = review(asked.server.facts(), asked.wanted)
    except ServerProblem as error:
        yield unknown(f"{name}: roles and host rules: {plain(str(error))}", error.way_forward)
        return
    for each in observed:
        said = wrong if each.is_door else advice
        yield said(f"{name}: {plain(each.problem)}", plain(each.way_forward))
    if not any(each.is_door for each in observed):
        yield fine(f"{name}: roles and host rules leave no door open")


CHECKS: Final = (Check("database", _database),)
