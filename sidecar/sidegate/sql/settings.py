"""Settings (GUCs) that a statement changes: which are harmless to the gate and to others, and their values as PostgreSQL would store them.

Rules it keeps:
- A setting outside `HARMLESS` is `Settings`, or `Roles` where it says who the session is.
- A value is told only where it is made of constants. A list is joined by ", "; names in `search_path` are quoted where PostgreSQL would
  (flatten_set_variable_args, utils/misc/guc_funcs.c).
- `RESET ALL` and `DISCARD ALL` change the setting "all".
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidegate.policy.statement import StatementKind
from sidegate.sql.names import strings
from sidegate.sql.parse import Node

ALL: Final = "all"
SEARCH_PATH: Final = "search_path"
IDENTITY: Final = frozenset({"role", "session_authorization"})
# They neither change how a statement is read or checked, nor what others see, nor what the server spends. The planner's settings
# aren't here: which index a scan takes is the order in which it shows its rows, and an index may be of masked columns.
HARMLESS: Final = frozenset(
    {
        "application_name",
        "bytea_output",
        "check_function_bodies",
        "client_min_messages",
        "datestyle",
        "default_transaction_deferrable",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "escape_string_warning",
        "extra_float_digits",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "intervalstyle",
        "jit",
        "lc_messages",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "lock_timeout",
        "quote_all_identifiers",
        "restrict_nonsystem_relation_kind",  # only ever takes away
        # Off, it makes an error of what row security would filter; a role that bypasses it does so anyway.
        "row_security",
        "search_path",
        "seed",
        "statement_timeout",
        "synchronize_seqscans",
        "timezone",
        "transaction_deferrable",
        "transaction_isolation",
        "transaction_read_only",
        "transaction_snapshot",  # rows as another open session sees them; definitions, and masks, are those of now
        "transaction_timeout",
        "xmlbinary",
        "xmloption",
    }
)
# Harmless with these values alone: what a server does by itself, and for texts what the gate reads by. pg_dump and pg_restore set them.
_HARMLESS_VALUES: Final[dict[str, frozenset[str]]] = {
    "client_encoding": frozenset({"utf8", "utf-8", "unicode"}),
    "default_table_access_method": frozenset({"heap"}),
    "default_tablespace": frozenset({"", "pg_default"}),
    "default_with_oids": frozenset({"off", "false"}),
    "standard_conforming_strings": frozenset({"on", "true"}),
}
# An unquoted identifier that isn't a keyword is written as it is (quote_identifier); quoting too much reads the same.
_PLAIN_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*\Z")
_BOOLEAN_WORDS: Final = {1: "on", 0: "off"}


def kind_of(name: str, value: str | None) -> StatementKind:
    """What changing it makes of the statement."""
    if name in IDENTITY:
        return StatementKind.ROLES
    if name in HARMLESS or name == ALL:
        return StatementKind.SESSION
    if value is not None and value.lower() in _HARMLESS_VALUES.get(name, ()):
        return StatementKind.SESSION
    return StatementKind.SETTINGS


def constant(node: Node) -> str | None:
    """The text of a constant; None for anything else."""
    value = node.get("A_Const")
    if value is None:
        for tag, key in (("String", "sval"), ("Integer", "ival"), ("Float", "fval"), ("Boolean", "boolval")):
            if tag in node:
                return _scalar(tag, node[tag].get(key))
        return None
    if value.get("isnull"):
        return None
    for key, tag in (("sval", "String"), ("ival", "Integer"), ("fval", "Float"), ("boolval", "Boolean")):
        if key in value:
            return _scalar(tag, value[key].get(key))
    return None


def _scalar(tag: str, value: Any) -> str:
    if tag == "String":
        return str(value or "")
    if tag == "Boolean":
        return "true" if value else "false"
    return str(value if value is not None else 0)


def integer(node: Node) -> int | None:
    """The value of an integer constant; None for anything else. Zero is left out of the tree's JSON."""
    value = node.get("A_Const")
    if value is None or "ival" not in value:
        return None
    return int(value["ival"].get("ival", 0))


def changed_by(fields: Node) -> list[tuple[str, str | None]]:
    """The settings that a VariableSetStmt changes, with their new values."""
    kind = fields.get("kind", "")
    name = str(fields.get("name", "")).lower()
    arguments = fields.get("args", [])
    if kind == "VAR_RESET_ALL":
        return [(ALL, None)]
    if kind == "VAR_SET_MULTI":
        if name == "transaction snapshot":
            return [("transaction_snapshot", constant(arguments[0]) if arguments else None)]
        is_session = name == "session characteristics"
        return [_of_transaction(argument, is_session=is_session) for argument in arguments]
    if kind == "VAR_SET_VALUE":
        return [(name, _joined(name, arguments))]
    return [(name, None)]  # DEFAULT, RESET, FROM CURRENT


def of_transaction(options: list[Node]) -> list[tuple[str, str | None]]:
    """The same for the options of BEGIN."""
    return [_of_transaction(option, is_session=False) for option in options]


def _of_transaction(argument: Node, *, is_session: bool) -> tuple[str, str | None]:
    option = argument.get("DefElem", {})
    name = str(option.get("defname", ""))
    if is_session:
        name = f"default_{name}"
    value = constant(option.get("arg", {}))
    if name.endswith(("read_only", "deferrable")):
        number = integer(option.get("arg", {}))
        value = _BOOLEAN_WORDS.get(number, value) if number is not None else value
    return name, value


def _joined(name: str, arguments: list[Node]) -> str | None:
    values = [constant(argument) for argument in arguments]
    if not values or any(value is None for value in values):
        return None
    known = [value for value in values if value is not None]
    return ", ".join(map(quoted, known)) if name == SEARCH_PATH else ", ".join(known)


def is_plain_name(text: str) -> bool:
    return _PLAIN_NAME.match(text) is not None


def quoted(name: str) -> str:
    """An identifier as PostgreSQL would read it back: quoted unless plain."""
    return name if _PLAIN_NAME.match(name) else '"' + name.replace('"', '""') + '"'


def pinned_setting(select: Node) -> str | None:
    """The setting that `name` must be in a query of pg_settings by one name, and nothing else: how pg_dump sets what a server may lack."""
    sources = select.get("fromClause", [])
    relation = sources[0].get("RangeVar", {}) if len(sources) == 1 else {}
    if (
        relation.get("relname") != "pg_settings"
        or "alias" in relation
        or relation.get("schemaname", "pg_catalog") != "pg_catalog"
    ):
        return None
    test = select.get("whereClause", {}).get("A_Expr", {})
    if test.get("kind") != "AEXPR_OP" or strings(test.get("name", [])) != ["="]:
        return None
    column = test.get("lexpr", {}).get("ColumnRef", {})
    return constant(test.get("rexpr", {})) if strings(column.get("fields", [])) == ["name"] else None
