"""`sidegate token`: prints a token to use as the password of a gated target, and keeps it until a minute before its end.

Rules it keeps: stdout has the token and nothing else; every failure is a sentence with a way forward on stderr, and exit status 1; a secret
is never an argument of the command, where every process list shows it. Left out: verifying the token, which is the gate's job.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:  # imported when needed, so that `--help` and a kept token come fast
    from sidegate.identity.login import LoginRequest, Tokens
    from sidegate.identity.token_cache import CachedToken, TokenCache

RENEW_BEFORE_S: Final = 60.0

_HELP: Final = """Print a token to use as the password of a gated target.

Gets an access token from an OpenID Connect issuer, keeps it in the user's cache, and prints it on standard output, alone. Run it each
time a password is wanted: while the kept token has more than a minute to live, it is printed at once, without asking the issuer.

\b
EXAMPLES
  A person, with psql. The first time, a code and a page to enter it on are
  shown on standard error:
    PGPASSWORD=$(sidegate token --issuer https://login.example.com \\
        --client-id sidegate-cli --audience shop-db) psql -h shop-db shop
  An assistant or a job, with a secret in a file:
    sidegate token --issuer https://login.example.com --client-id reports \\
        --client-secret-file /run/secrets/reports --audience shop-db
  The demo:
    sidegate token --issuer http://127.0.0.1:8790 --client-id cursor \\
        --client-secret-file cursor.secret --user ada

\b
FLOWS
  device              A person agrees on a page of the issuer's (RFC 8628). The
                      default without a client secret. With the scope
                      offline_access the login is renewed without the person.
  client-credentials  The client logs in as itself (RFC 6749, section 4.4). The
                      default with a client secret.

\b
FILES
  $XDG_CACHE_HOME/sidegate/    kept tokens (or ~/.cache/sidegate/), for their
                               owner alone; remove them to log out here

\b
EXIT STATUS
  0  the token is on standard output
  1  no token; standard error says why, and what to do about it
  2  the command was used wrongly
"""


class TokenFailure(click.ClickException):
    """No token. Two lines on stderr: what is wrong, and the way forward."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward

    def show(self, file: object = None) -> None:
        _warn(self.message, self.way_forward)


@click.command("token", help=_HELP, short_help="print a token to use as the password of a gated target")
@click.option(
    "--issuer", required=True, envvar="SIDEGATE_ISSUER", metavar="URL", help="the issuer, as its tokens name it in `iss`"
)
@click.option("--client-id", required=True, envvar="SIDEGATE_CLIENT_ID", metavar="ID", help="the client registered at the issuer")
@click.option(
    "--client-secret-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="SIDEGATE_CLIENT_SECRET_FILE",
    metavar="FILE",
    help="file with the client's secret; without one the client is a public one",
)
@click.option(
    "--flow", type=click.Choice(["device", "client-credentials"]), envvar="SIDEGATE_FLOW", help="how to log in; see FLOWS"
)
@click.option("--audience", envvar="SIDEGATE_AUDIENCE", help="ask for a token for this audience (`audience`)")
@click.option("--resource", envvar="SIDEGATE_RESOURCE", metavar="URI", help="ask for a token for this resource (RFC 8707)")
@click.option(
    "--scope", envvar="SIDEGATE_SCOPE", default="openid", show_default=True, help="scopes to ask for, with spaces between"
)
@click.option(
    "--use",
    "which",
    type=click.Choice(["access-token", "id-token"]),
    envvar="SIDEGATE_TOKEN_USE",
    default="access-token",
    show_default=True,
    help="which of the issuer's tokens to print; Google's access tokens can't be verified, its ID tokens can",
)
@click.option(
    "--ca-file", type=click.Path(exists=True, dir_okay=False), envvar="SIDEGATE_CA_FILE", metavar="FILE", help="trust these CAs"
)
@click.option("--user", metavar="NAME", help="be this user; only the demo issuer takes it, which asks nobody for a password")
@click.option("--renew", is_flag=True, help="ask the issuer even while the kept token would do: after new groups, or new keys")
@click.option("--no-cache", is_flag=True, help="log in anew, and keep nothing")
def token(
    *,
    issuer: str,
    client_id: str,
    client_secret_file: Path | None,
    flow: str | None,
    audience: str | None,
    resource: str | None,
    scope: str,
    which: str,
    ca_file: str | None,
    user: str | None,
    renew: bool,
    no_cache: bool,
) -> None:
    from sidegate.identity.login import LoginRequest
    from sidegate.identity.token_cache import TokenCache, TokenCacheError, cache_directory

    secret = _read_secret(client_secret_file) if client_secret_file is not None else None
    chosen = flow or ("device" if secret is None else "client-credentials")
    if chosen == "client-credentials" and secret is None:
        raise click.UsageError("the client-credentials flow needs --client-secret-file")
    request = LoginRequest(issuer, client_id, secret, scope, audience, resource, user)
    login = _Login(request, chosen, which, ca_file, is_renewal=renew)
    directory = None if no_cache else cache_directory(os.environ)
    if directory is None:
        click.echo(login.run(None).token)
        return
    with contextlib.ExitStack() as stack:
        try:
            cache = stack.enter_context(
                TokenCache.locked(directory, issuer, client_id, chosen, which, scope, audience, resource, user)
            )
        except TokenCacheError as error:
            # A cache that isn't safe is no reason to keep somebody out, and not to be used either.
            _warn(f"the token won't be kept: {error}", error.way_forward)
            cache = None
        click.echo(login.run(cache).token)


class _Login:
    """One kind of login, and the order in which it is tried: the kept token, the refresh token, the flow."""

    def __init__(self, request: LoginRequest, flow: str, which: str, ca_file: str | None, *, is_renewal: bool) -> None:
        self._request = request
        self._flow = flow
        self._which = which
        self._ca_file = ca_file
        self._is_renewal = is_renewal

    def run(self, cache: TokenCache | None) -> CachedToken:
        from sidegate.identity.discovery import DiscoveryError
        from sidegate.identity.login import LoginError
        from sidegate.identity.token_cache import TokenCacheError
        from sidegate.identity.transport import TransportError
        from sidegate.runtime.clock import now

        kept = cache.read() if cache is not None else None
        if kept is not None and not self._is_renewal and kept.expires_at - now() > RENEW_BEFORE_S:
            return kept
        try:
            fresh = asyncio.run(self._fetch(kept.refresh_token if kept is not None else None))
        except (DiscoveryError, LoginError, TransportError) as error:
            raise TokenFailure(str(error), error.way_forward) from None
        if cache is not None:
            try:
                cache.write(fresh)
            except TokenCacheError as error:
                _warn(f"the token isn't kept: {error}", error.way_forward)
        return fresh

    async def _fetch(self, refresh_token: str | None) -> CachedToken:
        from sidegate.identity.keys import fetch_metadata
        from sidegate.identity.login import Login, LoginError
        from sidegate.identity.transport import HttpTransport
        from sidegate.runtime.clock import now

        transport = HttpTransport(self._ca_file)
        login = Login(transport, await fetch_metadata(transport, self._request.issuer), self._request)
        if refresh_token is not None:
            try:
                return self._kept(await login.refresh(refresh_token))
            except LoginError as error:
                _warn(f"the last login can't be renewed: {error}", "log in anew")
        if self._flow == "client-credentials":
            return self._kept(await login.client_credentials())
        prompt = await login.start_device(now())
        click.echo(f"To log in, open {prompt.verification_url} and enter the code {prompt.user_code}", err=True)
        if prompt.complete_url is not None:
            click.echo(f"or open {prompt.complete_url}", err=True)
        return self._kept(await login.finish_device(prompt, now, asyncio.sleep))

    def _kept(self, tokens: Tokens) -> CachedToken:
        from sidegate.identity.login import LoginError, expiry_of
        from sidegate.identity.token_cache import CachedToken
        from sidegate.runtime.clock import now

        chosen = tokens.id_token if self._which == "id-token" else tokens.access_token
        if chosen is None:
            raise LoginError("the issuer sent no ID token", "ask for the scope openid (--scope openid)")
        return CachedToken(chosen, expiry_of(chosen, tokens, now()), tokens.refresh_token)


def _read_secret(path: Path) -> str:
    try:
        secret = path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError):
        raise TokenFailure(
            f"`{path}` can't be read as text", "make it readable for you, and write only the secret into it"
        ) from None
    if not secret:
        raise TokenFailure(f"`{path}` is empty", "write the client's secret into it")
    return secret


def _warn(problem: str, way_forward: str) -> None:
    click.echo(f"sidegate token: {problem}\nhint: {way_forward}", err=True)
