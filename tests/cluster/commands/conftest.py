"""The commands for a cluster, against an API server of their own: what `doctor` finds is for the whole cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.api_server import ApiServer
from tests.support.installation import Installation


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """Sidegate, installed. Tests that take a part of it away put it back."""
    with ApiServer() as api, Installation(api) as installed:
        yield installed


@pytest.fixture
def namespace(installation: Installation) -> str:
    """A namespace that this test alone uses."""
    return installation.api.create_namespace()
