"""SQL understanding: text to `SqlStatement`, through PostgreSQL's own parser. The only package that imports pglast."""

from sidegate.sql.analyse import Analysis, analyse
from sidegate.sql.cache import StatementCache
from sidegate.sql.client_encoding import EncodingSet, encoding_set, names_copy_encoding
from sidegate.sql.copy_out import CopyOut, copy_out_options, copy_out_query, copy_out_relation
from sidegate.sql.disguises import is_of_table, may_disguise, shows_values
from sidegate.sql.fingerprint import Part, canonical_tokens, fingerprint
from sidegate.sql.group_floor import floored
from sidegate.sql.names import quote
from sidegate.sql.outputs import OutputColumns, query_outputs
from sidegate.sql.parse import Limits, ParseProblem
from sidegate.sql.substitution import substituted

__all__ = [
    "Analysis",
    "CopyOut",
    "EncodingSet",
    "Limits",
    "OutputColumns",
    "ParseProblem",
    "Part",
    "StatementCache",
    "analyse",
    "canonical_tokens",
    "copy_out_options",
    "copy_out_query",
    "copy_out_relation",
    "encoding_set",
    "fingerprint",
    "floored",
    "is_of_table",
    "may_disguise",
    "names_copy_encoding",
    "query_outputs",
    "quote",
    "shows_values",
    "substituted",
]
