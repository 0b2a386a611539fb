"""From text to statements for one session: which names are known where."""

from __future__ import annotations

import pytest

from tests.support.session import Bench


@pytest.mark.parametrize(
    ("first", "is_known"),
    [
        ("create table public.mine (id int)", True),
        ("drop table public.mine", True),
        ("create schema early", False),
        ("drop schema public", False),
        ("alter schema other rename to early", False),
        ("drop extension citext", False),
        ("set search_path = other", False),
    ],
)
def test_names_behind_a_change_of_schemas_could_be_anywhere(first: str, is_known: bool) -> None:
    judge = Bench().session.judge
    statements, problem = judge.read(f"{first}; select count(*) from orders")
    assert problem is None
    assert all(function.is_known_safe for function in statements[1].functions) is is_known
    assert (statements[1].schemas == {"public"}) is is_known
