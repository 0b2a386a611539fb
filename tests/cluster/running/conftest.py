"""What the tests of the running operator share: its account, and targets and policies to work on."""

from __future__ import annotations

import pytest

from tests.support.api_server import ApiServer
from tests.support.running_operator import OperatorAccount


@pytest.fixture
def account(api_server: ApiServer) -> OperatorAccount:
    """An operator's namespace and rights, for this test alone."""
    return OperatorAccount(api_server)
