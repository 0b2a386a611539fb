"""Who leads, over a lease that several want, with clocks that never agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate_operator.lease import Election, Step, Terms

TERMS = Terms()


@dataclass
class Cluster:
    """A lease as the API server keeps it: each write is a compare-and-swap over the resource version."""

    lease: dict[str, Any] | None = None
    version: int = 0
    writes: list[tuple[float, str]] = field(default_factory=list)

    def write(self, spec: dict[str, Any], seen: dict[str, Any] | None) -> dict[str, Any] | None:
        """None: a conflict."""
        if (seen or {}).get("metadata") != (self.lease or {}).get("metadata"):
            return None
        self.version += 1
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": spec}
        return self.lease


def attempt(election: Election, cluster: Cluster, now: float, wall: float = 1_700_000_000.0, *, is_answered: bool = True) -> Step:
    """One round as the shell makes it."""
    seen = cluster.lease
    step = election.saw(seen, now)
    if step is Step.WAIT or election.is_lost(now):
        return step
    written = cluster.write(election.wanted(wall), seen)
    if written is not None and is_answered:
        election.wrote(written, now)
    return step


def test_the_first_one_leads_and_the_second_waits() -> None:
    cluster, one, two = Cluster(), Election("one", TERMS), Election("two", TERMS)
    assert attempt(one, cluster, 0.0) is Step.CREATE
    assert attempt(two, cluster, 1.0) is Step.WAIT
    assert (one.leads(1.0), two.leads(1.0)) == (True, False)
    assert cluster.lease is not None
    assert cluster.lease["spec"]["leaseTransitions"] == 0
    assert cluster.lease["spec"]["renewTime"].endswith(".000000Z")


def test_a_leader_that_renews_keeps_the_lease_and_its_beginning() -> None:
    cluster, one, two = Cluster(), Election("one", TERMS), Election("two", TERMS)
    attempt(one, cluster, 0.0, wall=100.0)
    assert cluster.lease is not None
    began = cluster.lease["spec"]["acquireTime"]
    for second in range(2, 60, 2):
        assert attempt(one, cluster, float(second), wall=100.0 + second) is Step.RENEW
        assert attempt(two, cluster, second + 0.5) is Step.WAIT
    assert one.leads(59.0)
    assert cluster.lease["spec"]["acquireTime"] == began
    assert cluster.lease["spec"]["leaseTransitions"] == 0


def test_a_leader_that_cant_renew_stops_before_another_may_take_the_lease() -> None:
    cluster, one, two = Cluster(), Election("one", TERMS), Election("two", TERMS)
    attempt(one, cluster, 0.0)
    attempt(two, cluster, 0.1)
    assert one.leads(9.9)
    assert not one.leads(10.0)
    assert one.is_lost(10.0)
    assert attempt(two, cluster, 14.9) is Step.WAIT
    assert attempt(two, cluster, 15.2) is Step.TAKE
    assert two.leads(15.2)
    assert cluster.lease is not None
    assert cluster.lease["spec"]["leaseTransitions"] == 1


def test_a_stolen_lease_is_lost_at_once_and_for_good() -> None:
    cluster, one = Cluster(), Election("one", TERMS)
    attempt(one, cluster, 0.0)
    assert cluster.lease is not None
    cluster.write({**cluster.lease["spec"], "holderIdentity": "thief"}, cluster.lease)
    assert attempt(one, cluster, 2.0) is Step.WAIT
    assert not one.leads(2.0)
    assert one.is_lost(2.0)
    cluster.write({**cluster.lease["spec"], "holderIdentity": ""}, cluster.lease)
    attempt(one, cluster, 4.0)
    assert not one.leads(4.0)


def test_a_deleted_lease_is_lost() -> None:
    cluster, one = Cluster(), Election("one", TERMS)
    attempt(one, cluster, 0.0)
    cluster.lease = None
    attempt(one, cluster, 2.0)
    assert one.is_lost(2.0)
    assert cluster.lease is None  # it isn't made anew by who lost it


def test_a_released_lease_is_taken_at_once() -> None:
    cluster, two = Cluster(), Election("two", TERMS)
    cluster.write({"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 4}, None)
    assert attempt(two, cluster, 0.0) is Step.TAKE
    assert two.leads(0.0)


def test_a_lease_whose_taking_was_not_answered_is_taken_again() -> None:
    cluster, one = Cluster(), Election("one", TERMS)
    attempt(one, cluster, 0.0, is_answered=False)
    assert not one.leads(0.0)
    assert attempt(one, cluster, 2.0) is Step.TAKE
    assert one.leads(2.0)


def test_the_holders_clock_means_nothing() -> None:
    cluster, two = Cluster(), Election("two", TERMS)
    cluster.write({"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": "1999-01-01T00:00:00.000000Z"}, None)
    assert attempt(two, cluster, 100.0) is Step.WAIT
    assert attempt(two, cluster, 114.9) is Step.WAIT
    assert attempt(two, cluster, 115.0) is Step.TAKE


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.1, 6.0), st.sampled_from(["try", "try", "try", "unanswered", "cut off"])),
        max_size=80,
    ),
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
)
def test_there_is_never_a_second_leader(steps: list[tuple[int, float, str]], skews: list[float]) -> None:
    """Three operators whose monotonic clocks have nothing to do with each other; answers get lost, requests never arrive."""
    cluster = Cluster()
    elections = [Election(f"operator-{index}", TERMS) for index in range(3)]
    now = 0.0
    for who, span, what in steps:
        now += span
        if what != "cut off":
            attempt(elections[who], cluster, now + skews[who], is_answered=what == "try")
        leaders = [election for election, skew in zip(elections, skews, strict=True) if election.leads(now + skew)]
        assert len(leaders) <= 1
