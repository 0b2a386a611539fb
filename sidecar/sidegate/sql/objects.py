"""Types of database objects: how a statement names one, where it lives, and what touching it means besides DDL."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from sidegate.policy.statement import StatementKind as K


class Home(enum.Enum):
    RELATION = "relation"  # a name with an optional schema, in reach of rules on tables
    PART = "part"  # of a relation: the last name is the part's
    SCHEMA = "schema"
    IN_SCHEMA = "in schema"
    BY_METHOD = "by method"  # in a schema, with an access method before the name
    NOWHERE = "nowhere"  # in no schema: only a grant for every schema covers it


@dataclass(frozen=True, slots=True)
class ObjectType:
    home: Home
    kinds: frozenset[K] = frozenset()


def _types(home: Home, names: str, *kinds: K) -> dict[str, ObjectType]:
    return {f"OBJECT_{name}": ObjectType(home, frozenset(kinds)) for name in names.split()}


OBJECT_TYPES: Final[dict[str, ObjectType]] = {
    **_types(Home.RELATION, "TABLE VIEW MATVIEW SEQUENCE INDEX"),
    **_types(Home.RELATION, "FOREIGN_TABLE", K.SERVER),
    **_types(Home.PART, "COLUMN TABCONSTRAINT DEFAULT"),
    **_types(Home.PART, "RULE TRIGGER POLICY", K.ROLES),
    **_types(Home.SCHEMA, "SCHEMA"),
    **_types(
        Home.IN_SCHEMA,
        """FUNCTION PROCEDURE ROUTINE AGGREGATE OPERATOR TYPE DOMAIN COLLATION CONVERSION STATISTIC_EXT TSPARSER TSDICTIONARY TSTEMPLATE
        TSCONFIGURATION DOMCONSTRAINT ATTRIBUTE""",
    ),
    **_types(Home.BY_METHOD, "OPCLASS OPFAMILY"),
    **_types(
        Home.NOWHERE,
        """ACCESS_METHOD AMOP AMPROC CAST DATABASE EVENT_TRIGGER EXTENSION FDW FOREIGN_SERVER LANGUAGE LARGEOBJECT PARAMETER_ACL TABLESPACE
        TRANSFORM USER_MAPPING""",
        K.SERVER,
    ),
    **_types(Home.NOWHERE, "PUBLICATION PUBLICATION_NAMESPACE PUBLICATION_REL SUBSCRIPTION", K.REPLICATION),
    **_types(Home.NOWHERE, "ROLE DEFACL", K.ROLES),
}
