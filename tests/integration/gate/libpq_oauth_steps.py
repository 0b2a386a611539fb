"""Run as a program: log in by OAUTHBEARER with the libpq that psycopg brings. Arguments: port, database, issuer, token.

libpq gets tokens by a flow of its own (a library that psycopg's wheel lacks) or from the application, by `PQsetAuthDataHook`; psycopg
has no binding for that, so the hook is set through ctypes. Ends with 77 when this libpq knows no OAUTHBEARER.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import psycopg
from psycopg import pq

PQAUTHDATA_OAUTH_BEARER_TOKEN = 1
AUTH_DATA_HOOK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class OAuthBearerRequest(ctypes.Structure):
    """PGoauthBearerRequest of libpq-fe.h (PostgreSQL 18)."""

    _fields_ = (
        ("openid_configuration", ctypes.c_char_p),
        ("scope", ctypes.c_char_p),
        ("async_", ctypes.c_void_p),
        ("cleanup", ctypes.c_void_p),
        ("token", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
    )


def loaded_libpq() -> Path | None:
    """The libpq of this process, not another of the system."""
    pq.version()
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.rpartition(" ")[2]
        if "/libpq" in path and ".so" in path:
            return Path(path)
    return None


def main(port: str, database: str, issuer: str, token: str) -> int:
    path = loaded_libpq()
    library = ctypes.CDLL(str(path)) if path is not None else None
    if library is None or not hasattr(library, "PQsetAuthDataHook"):
        print(f"{path} has no PQsetAuthDataHook: OAUTHBEARER needs libpq 18")
        return 77
    asked: list[str] = []
    secret = token.encode()

    def bring_token(kind: int, _connection: int | None, data: int | None) -> int:
        if kind != PQAUTHDATA_OAUTH_BEARER_TOKEN or data is None:
            return 0
        request = OAuthBearerRequest.from_address(data)
        asked.append(request.openid_configuration.decode())
        request.token = secret
        return 1

    hook = AUTH_DATA_HOOK(bring_token)
    library.PQsetAuthDataHook(hook)
    with psycopg.connect(
        host="127.0.0.1", port=port, dbname=database, user="readonly",
        oauth_issuer=issuer, oauth_client_id="psql", require_auth="oauth",
    ) as connection:  # fmt: skip
        row = connection.execute("SELECT current_user").fetchone()
    assert row is not None
    print(json.dumps({"user": row[0], "asked": asked[0], "times": len(asked)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
