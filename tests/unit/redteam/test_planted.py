"""The planted data are the same on every machine: cases name their values by row."""

from __future__ import annotations

import hashlib
from functools import cache

from tests.redteam.planted import Planted, plant, with_check_digit


@cache
def planted() -> Planted:
    return plant()


def test_the_same_bytes_come_out_everywhere() -> None:
    assert (
        hashlib.sha256(planted().sql.encode()).hexdigest() == "b82e441a70bc585a048bbaf1be624621442eb4a0db55744c40d8a5d0aec42dab"
    )


def test_no_value_is_planted_twice() -> None:
    for kind, values in planted().classes.items():
        assert len(values) == len(set(values)) > 100, kind


def test_every_card_has_its_check_digit() -> None:
    assert all(with_check_digit(card[:-1]) == card for card in planted().classes["card"])


def test_no_planted_run_can_occur_inside_hexadecimal_output() -> None:
    values = [*planted().classes["password"], *planted().classes["token"]]
    cores = [value.split("-", 1)[1] for value in values if value[:5] in ("Tulip", "Otter")]
    assert cores
    assert not any(set("abcdef") & set(core.lower()) for core in cores)
