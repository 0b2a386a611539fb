"""What `sidegate doctor` looks at. Each module has its checks; `CHECKS` is all of them, in the order in which they are told.

A check is a title and a generator of results over a `Patient`; another one is added by adding it here.
"""

from __future__ import annotations

from typing import Final

from sidegate_cluster.checks.admission import CHECKS as ADMISSION
from sidegate_cluster.checks.check import Check
from sidegate_cluster.checks.database import CHECKS as DATABASE
from sidegate_cluster.checks.installation import CHECKS as INSTALLATION
from sidegate_cluster.checks.ports import CHECKS as PORTS
from sidegate_cluster.checks.rights import CHECKS as RIGHTS
from sidegate_cluster.checks.side_doors import CHECKS as SIDE_DOORS
from sidegate_cluster.checks.targets import CHECKS as TARGETS

CHECKS: Final[tuple[Check, ...]] = (*INSTALLATION, *ADMISSION, *RIGHTS, *TARGETS, *SIDE_DOORS, *PORTS, *DATABASE)
