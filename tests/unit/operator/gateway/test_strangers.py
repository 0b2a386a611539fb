"""Who gives way to whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidegate_operator.gateway.strangers import Strangers


class Lobby:
    """Strangers, and who was dropped."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self.strangers = Strangers(most, most_of_one)
        self.dropped: list[str] = []

    def arrive(self, who: str, address: str) -> None:
        gone = self.strangers.arrive(who, address, lambda: self.dropped.append(who))
        if gone is not None:
            gone()


def test_an_address_with_its_fill_pushes_out_its_own_oldest() -> None:
    lobby = Lobby(most=100, most_of_one=2)
    lobby.arrive("gate", "10.0.0.9")
    for number in range(5):
        lobby.arrive(f"flood-{number}", "10.0.0.1")
    assert lobby.dropped == ["flood-0", "flood-1", "flood-2"]
    assert len(lobby.strangers) == 3


def test_of_many_addresses_the_oldest_of_all_goes() -> None:
    lobby = Lobby(most=3, most_of_one=2)
    for number in range(5):
        lobby.arrive(f"c-{number}", f"10.0.0.{number}")
    assert lobby.dropped == ["c-0", "c-1"]


def test_who_is_known_has_no_place_to_lose() -> None:
    lobby = Lobby(most=2, most_of_one=2)
    lobby.arrive("gate", "10.0.0.9")
    assert lobby.strangers.leave("gate") is not None
    assert lobby.strangers.leave("gate") is None
    for number in range(5):
        lobby.arrive(f"c-{number}", "10.0.0.1")
    assert "gate" not in lobby.dropped


def test_with_nobody_there_nobody_is_the_oldest() -> None:
    assert Strangers(1, 1).oldest() is None


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 3)), max_size=60),
)
def test_no_bound_is_ever_passed_and_nobody_is_dropped_twice(
    most: int, most_of_one: int, steps: list[tuple[bool, int, int]]
) -> None:
    lobby, there = Lobby(most, most_of_one), dict[str, str]()
    for turn, (is_arrival, which, address) in enumerate(steps):
        if is_arrival:
            there[f"{turn}"] = f"10.0.0.{address}"
            lobby.arrive(f"{turn}", f"10.0.0.{address}")
        elif there:
            lobby.strangers.leave(sorted(there)[which % len(there)])
        kept = len(lobby.strangers)
        assert kept <= most
        assert len(set(lobby.dropped)) == len(lobby.dropped)
