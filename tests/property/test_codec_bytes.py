"""Any bytes into everything that reads bytes: each fuzz target with random and damaged input, and with what the fuzzer once found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds_of
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus"


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A seed of the target with bytes changed, dropped, doubled, or another seed spliced in; or just bytes."""
    seeds = seeds_of(name)
    if not seeds or draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=400))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del data[at : at + draw(st.integers(1, 8))]
            case 2:
                data[at:at] = data[at : at + 20]
            case 3:
                data[at:at] = draw(st.sampled_from(seeds))
            case _:
                data[at : at + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\4"]))
    return bytes(data[:4000])


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_any_bytes_end_in_a_value_or_the_promised_error(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(damaged(name)))


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_is_not_found_again(name: str) -> None:
    files = sorted((CORPUS / name).glob("*"))
    for data in [*(file.read_bytes() for file in files), *seeds_of(name)]:
        TARGETS[name](data)
