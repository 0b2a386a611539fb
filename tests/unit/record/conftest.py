"""A recording's surroundings: a budget over a temporary directory, and an opening entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidegate.audit.events import PrincipalFields, SessionFields
from sidegate.policy.config import RecordingConfig
from sidegate.record.budget import RecordingBudget
from sidegate.record.entries import OpenedRecord

NOW = 1_795_516_530.25


@pytest.fixture
def budget(tmp_path: Path) -> RecordingBudget:
    return RecordingBudget(tmp_path, RecordingConfig())


@pytest.fixture
def opened() -> OpenedRecord:
    principal = PrincipalFields(username="ada@example.com", subject="u-1", issuer="https://idp.example", agent="cursor")
    session = SessionFields(
        id="s-1", target="shop/shop-db", source_address="10.0.0.7", database="shop", role="readonly", principal=principal
    )
    return OpenedRecord(session=session, environment="production", revision="5ad3c1f00c4e9b27", gate_version="0.1.0")
