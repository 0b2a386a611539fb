from __future__ import annotations

from sidegate.sql.nodes import PLACEMENTS
from tools.coverage_sql import TARGET, build


def test_the_page_of_coverage_is_current() -> None:
    assert TARGET.read_text() == build(), "run python -m tools.coverage_sql"


def test_the_page_names_every_node() -> None:
    page = TARGET.read_text()
    assert [name for name in PLACEMENTS if f"`{name}`" not in page] == []
