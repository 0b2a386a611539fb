"""Admission as it is installed: an API server of its own, since guards that hold for the whole cluster would be in other tests' way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.admission import Admission
from tests.support.api_server import ApiServer


@pytest.fixture(scope="session")
def guarded_api() -> Iterator[ApiServer]:
    """An API server for `admission`. Tests that make its admission objects go away make them again."""
    with ApiServer() as running:
        yield running


@pytest.fixture(scope="session")
def admission(guarded_api: ApiServer) -> Iterator[Admission]:
    """Installed, enforced, and the webhook answers."""
    with Admission(guarded_api) as installed:
        yield installed


@pytest.fixture
def namespace(guarded_api: ApiServer) -> str:
    """A namespace that this test alone uses."""
    return guarded_api.create_namespace()
