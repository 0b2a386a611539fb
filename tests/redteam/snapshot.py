"""Everything in a database that a statement could change, as names with digests: two snapshots that are equal mean that nothing happened.

Catalogs, relations with their files, rows of every table, databases, prepared transactions, slots, sequences, and what ALTER SYSTEM wrote.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql

Snapshot = dict[str, str]

CATALOGS: Final = [
    "pg_namespace",
    "pg_proc",
    "pg_type",
    "pg_enum",
    "pg_constraint",
    "pg_trigger",
    "pg_rewrite",
    "pg_policy",
    "pg_description",
    "pg_shdescription",
    "pg_seclabel",
    "pg_default_acl",
    "pg_index",
    "pg_inherits",
    "pg_event_trigger",
    "pg_extension",
    "pg_language",
    "pg_foreign_server",
    "pg_foreign_data_wrapper",
    "pg_foreign_table",
    "pg_user_mapping",
    "pg_publication",
    "pg_publication_rel",
    "pg_publication_namespace",
    "pg_subscription",
    "pg_cast",
    "pg_operator",
    "pg_collation",
    "pg_ts_config",
    "pg_statistic_ext",
    "pg_attrdef",
    "pg_sequence",
    "pg_conversion",
    "pg_auth_members",
    "pg_db_role_setting",
    "pg_authid",
    "pg_tablespace",
    "pg_am",
    "pg_largeobject_metadata",
    "pg_partitioned_table",
    "pg_transform",
    "pg_aggregate",
    "pg_parameter_acl",
    "pg_init_privs",
]

RELATIONS: Final = """
SELECT 'relation ' || n.nspname || '.' || c.relname, md5(concat_ws('|', c.relkind, c.relowner, c.relacl::text, c.relfilenode,
  c.reloptions::text, c.relrowsecurity, c.relforcerowsecurity, c.relpersistence, c.relispartition, c.reltablespace, c.relreplident,
  c.relpartbound::text, c.relispopulated, c.relam,
  (SELECT string_agg(concat_ws('/', a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attacl::text, a.attoptions::text, a.attisdropped,
    a.attstorage, a.attcompression, a.attstattarget, a.attidentity), ',' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid)))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_(temp|toast)' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""
OTHERS: Final = (
    "SELECT 'database ' || datname, md5(concat_ws('|', datdba, datacl::text, datallowconn, datconnlimit, datistemplate, dattablespace)) "
    "FROM pg_database WHERE datname <> 'shop_pristine'",
    "SELECT 'prepared ' || gid, owner::text FROM pg_prepared_xacts",
    "SELECT 'slot ' || slot_name, coalesce(plugin::text, slot_type) FROM pg_replication_slots",
    "SELECT 'sequence ' || schemaname || '.' || sequencename, last_value::text FROM pg_sequences",
    "SELECT 'conf ' || name, setting FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'",
)
TABLES: Final = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND relispopulated
"""


def take(admin: psycopg.Connection[Any]) -> Snapshot:
    found: dict[str, str] = {}
    for catalog in CATALOGS:
        digest = sql.SQL(
            "SELECT md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\"), '')) FROM pg_catalog.{} t"
        )
        found[f"catalog {catalog}"] = str(admin.execute(digest.format(sql.Identifier(catalog))).fetchone())
    for query in (RELATIONS, *OTHERS):
        found.update((str(name), str(value)) for name, value in admin.execute(query).fetchall())
    for schema, table in admin.execute(TABLES).fetchall():
        rows = sql.SQL("SELECT count(*), sum(hashtext(x::text)::bigint) FROM ONLY {} x").format(sql.Identifier(schema, table))
        found[f"rows {schema}.{table}"] = str(admin.execute(rows).fetchone())
    return found


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
