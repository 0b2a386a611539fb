"""What the target is asked about a CASCADE, as SQL: what goes with it, and what was locked for it. Pure text.

Every name and operator is spelled in full, since the client's search_path may have its own; so no `IN`, no `CASE x WHEN`, no `JOIN USING`.
The catalogs' own numbers are the same in every version: 1247 pg_type, 1255 pg_proc, 1259 pg_class, 2604 pg_attrdef, 2606 pg_constraint,
2615 pg_namespace, 2618 pg_rewrite, 2620 pg_trigger, 3256 pg_policy, 6106 pg_publication_rel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidegate.policy.statement import CascadeRoot, Root
from sidegate.postgres.truncation import literal

MOST_OBJECTS: Final = 4096


def what_goes(roots: Iterable[CascadeRoot]) -> str:
    """Rows: catalog, object, schema (NULL: anywhere), relation, relations it is a part of, isolation level, whether it inherits."""
    return _GONE.format(roots=" UNION ALL ".join(map(_root, roots)), most=MOST_OBJECTS + 1)


def what_is_emptied(roots: Iterable[CascadeRoot]) -> str:
    """The same for TRUNCATE: tables alone."""
    return _EMPTIED.format(roots=" UNION ALL ".join(map(_root, roots)), most=MOST_OBJECTS + 1)


def _spelled(sql: str) -> str:
    return sql.replace(" = ", " OPERATOR(pg_catalog.=) ").replace(" <> ", " OPERATOR(pg_catalog.<>) ")


def _root(root: CascadeRoot) -> str:
    """Each is in one of the schemas, or a temporary one: those hide what has their name anywhere else on the path."""
    schemas = _ANY_SCHEMA if root.schemas is None else _SCHEMAS.format(", ".join(map(literal, sorted(root.schemas))) or "NULL")
    return _ROOTS[root.kind].format(name=literal(root.name), schemas=schemas, part=literal(root.part))


_ANY_SCHEMA: Final = "SELECT s.oid FROM pg_catalog.pg_namespace s"
_SCHEMAS: Final = _spelled(
    "SELECT s.oid FROM pg_catalog.pg_namespace s WHERE s.nspname = ANY (ARRAY[{}]::pg_catalog.name[])"
    " UNION ALL SELECT pg_catalog.pg_my_temp_schema()"
)
_NAMED: Final = (
    "SELECT r.oid FROM pg_catalog.pg_class r"
    " WHERE r.relname = {name}::pg_catalog.name AND r.relnamespace = ANY (ARRAY({schemas}))"
)
# With the tables that inherit, partitions, and tables of a composite type: their columns and constraints go too.
_HEIRS: Final = (
    f"(WITH RECURSIVE heir (oid) AS ({_NAMED} UNION SELECT x.oid FROM heir h CROSS JOIN LATERAL ("  # noqa: S608 - constants
    "SELECT i.inhrelid AS oid FROM pg_catalog.pg_inherits i WHERE i.inhparent = h.oid"
    " UNION ALL SELECT t.oid FROM pg_catalog.pg_class k JOIN pg_catalog.pg_class t ON t.reloftype = k.reltype"
    " WHERE k.oid = h.oid AND k.reltype <> 0) x) SELECT heir.oid FROM heir) h"
)
_ROOTS: Final = {
    kind: _spelled(sql)
    for kind, sql in {
        Root.RELATION: f"SELECT 1259::pg_catalog.oid, c.oid, 0 FROM ({_NAMED}) c",  # noqa: S608 - constants
        Root.EMPTIED: f"SELECT c.oid FROM ({_NAMED}) c",  # noqa: S608 - constants
        Root.COLUMN: f"SELECT 1259::pg_catalog.oid, a.attrelid, a.attnum::pg_catalog.int4 FROM {_HEIRS}"  # noqa: S608 - constants
        " JOIN pg_catalog.pg_attribute a ON a.attrelid = h.oid AND a.attname = {part}::pg_catalog.name",
        Root.CONSTRAINT: f"SELECT 2606::pg_catalog.oid, k.oid, 0 FROM {_HEIRS}"  # noqa: S608 - constants
        " JOIN pg_catalog.pg_constraint k ON k.conrelid = h.oid AND k.conname = {part}::pg_catalog.name",
        Root.TYPE: "SELECT 1247::pg_catalog.oid, t.oid, 0 FROM pg_catalog.pg_type t"
        " WHERE t.typname = {name}::pg_catalog.name AND t.typnamespace = ANY (ARRAY({schemas}))",
        Root.ROUTINE: "SELECT 1255::pg_catalog.oid, p.oid, 0 FROM pg_catalog.pg_proc p"
        " WHERE p.proname = {name}::pg_catalog.name AND p.pronamespace = ANY (ARRAY({schemas}))",
        Root.SCHEMA: "SELECT 2615::pg_catalog.oid, s.oid, 0 FROM pg_catalog.pg_namespace s WHERE s.oid = ANY (ARRAY({schemas}))"
        " AND (s.nspname = {name}::pg_catalog.name OR {name}::pg_catalog.name = 'pg_temp'::pg_catalog.name)",
    }.items()
}
_ISOLATION: Final = "pg_catalog.current_setting('transaction_isolation')"
# An internal trigger goes with its constraint, and a table leaves its publications unasked: neither has a home of its own.
_GONE: Final = _spelled(
    "WITH RECURSIVE gone (classid, objid, objsubid) AS (SELECT * FROM ({roots}) AS roots"  # noqa: S608 - literals are quoted
    " UNION SELECT n.* FROM gone g CROSS JOIN LATERAL ("
    "SELECT d.classid, d.objid, d.objsubid FROM pg_catalog.pg_depend d WHERE d.refclassid = g.classid AND d.refobjid = g.objid"
    " AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid)"
    " UNION ALL SELECT d.refclassid, d.refobjid, d.refobjsubid FROM pg_catalog.pg_depend d WHERE d.classid = g.classid"
    " AND d.objid = g.objid AND (g.objsubid = 0 OR d.objsubid = g.objsubid)"
    " AND d.deptype = ANY ('{{i,e}}'::pg_catalog.\"char\"[])) n)"
    " SELECT g.classid, g.objid, CASE WHEN r.oid IS NOT NULL THEN (SELECT s.nspname FROM pg_catalog.pg_namespace s"
    " WHERE s.oid = r.relnamespace)"
    " WHEN g.classid = 2606 THEN (SELECT s.nspname FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace s"
    " ON s.oid = k.connamespace WHERE k.oid = g.objid)"
    " WHEN g.classid = 2615 THEN (SELECT s.nspname FROM pg_catalog.pg_namespace s WHERE s.oid = g.objid)"
    " WHEN g.classid = 2620 OR g.classid = 6106 THEN ''"
    " ELSE (pg_catalog.pg_identify_object(g.classid, g.objid, 0)).schema::pg_catalog.name END,"
    " r.relname, ARRAY(SELECT i.indrelid FROM pg_catalog.pg_index i WHERE g.classid = 1259 AND i.indexrelid = g.objid"
    " UNION ALL SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE g.classid = 1259 AND i.inhrelid = g.objid"
    " UNION ALL SELECT u.oid FROM pg_catalog.pg_constraint k CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[k.conrelid, k.confrelid]) u (oid)"
    " WHERE g.classid = 2606 AND k.oid = g.objid"
    " UNION ALL SELECT u.oid FROM pg_catalog.pg_trigger t CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[t.tgrelid, t.tgconstrrelid]) u (oid)"
    " WHERE g.classid = 2620 AND t.oid = g.objid"
    f" UNION ALL SELECT r.oid WHERE r.oid IS NOT NULL), {_ISOLATION}, true"
    " FROM gone g LEFT JOIN LATERAL (SELECT CASE"
    " WHEN g.classid = 1259 THEN coalesce((SELECT i.indrelid FROM pg_catalog.pg_index i WHERE i.indexrelid = g.objid), g.objid)"
    " WHEN g.classid = 2606 THEN (SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.oid = g.objid)"
    " WHEN g.classid = 2620 THEN (SELECT t.tgrelid FROM pg_catalog.pg_trigger t WHERE t.oid = g.objid AND NOT t.tgisinternal)"
    " WHEN g.classid = 2618 THEN (SELECT w.ev_class FROM pg_catalog.pg_rewrite w WHERE w.oid = g.objid)"
    " WHEN g.classid = 3256 THEN (SELECT p.polrelid FROM pg_catalog.pg_policy p WHERE p.oid = g.objid)"
    " WHEN g.classid = 2604 THEN (SELECT f.adrelid FROM pg_catalog.pg_attrdef f WHERE f.oid = g.objid)"
    " END AS oid) o ON true LEFT JOIN pg_catalog.pg_class r ON r.oid = o.oid LIMIT {most}"
)
_EMPTIED: Final = _spelled(
    "WITH RECURSIVE gone (oid) AS (SELECT * FROM ({roots}) AS roots UNION SELECT n.oid FROM gone g CROSS JOIN LATERAL ("  # noqa: S608 - literals are quoted
    "SELECT i.inhrelid AS oid FROM pg_catalog.pg_inherits i WHERE i.inhparent = g.oid"
    " UNION ALL SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.contype = 'f'::pg_catalog.\"char\""
    " AND k.confrelid = g.oid) n)"
    " SELECT 1259, c.oid, s.nspname, c.relname, NULL, "
    + _ISOLATION
    + ", EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN gone p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid) FROM gone g"
    " JOIN pg_catalog.pg_class c ON c.oid = g.oid JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace LIMIT {most}"
)
LOCKS: Final = _spelled(
    "SELECT CASE WHEN l.locktype = 'relation' THEN 1259::pg_catalog.oid ELSE l.classid END,"
    " CASE WHEN l.locktype = 'relation' THEN l.relation ELSE l.objid END, c.relkind FROM pg_catalog.pg_locks l"
    " LEFT JOIN pg_catalog.pg_class c ON l.locktype = 'relation' AND c.oid = l.relation"
    " WHERE l.pid = pg_catalog.pg_backend_pid() AND l.granted AND l.mode = 'AccessExclusiveLock'"
    " AND (l.locktype = 'relation' OR l.locktype = 'object')"
)
