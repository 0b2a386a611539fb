"""Tests that need a Kubernetes API and no node: custom resources, CEL, admission, RBAC, watches, faults of the API server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.api_server import ApiServer


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """An API server with the CRDs of `crds/`. Restart it, pause it, compact it: other tests must bear that. Don't stop it."""
    with ApiServer() as running:
        running.apply_crds()
        yield running


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A namespace that this test alone uses."""
    return api_server.create_namespace()
