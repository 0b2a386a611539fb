"""How a client gets a token: client credentials (RFC 6749, section 4.4), the device flow (RFC 8628), a refresh token (section 6).

Rules it keeps: secrets go in a header or a form over https, never in a URL; what an issuer says is shown only as printable text; the
issuer's pace of polling is kept. Time and waiting are arguments. Left out: keeping tokens (`token_cache`), verifying them: that is the
gate's job, with keys that a client has no need of.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import quote, urlsplit

from sidegate.identity.compact import parse_compact, parse_strict_json
from sidegate.identity.discovery import DiscoveryError, ProviderMetadata, check_url, is_loopback_host
from sidegate.identity.problem import IdentityProblem, quoted
from sidegate.identity.transport import Transport, TransportError
from sidegate.policy.principal import Json

Clock: TypeAlias = Callable[[], float]
Sleep: TypeAlias = Callable[[float], Awaitable[object]]

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_OK: Final = 200
_DEFAULT_INTERVAL_S: Final = 5.0  # RFC 8628, section 3.2
_SLOWER_BY_S: Final = 5.0  # section 3.5
_MAX_INTERVAL_S: Final = 60.0


class LoginError(Exception):
    """No token. The message holds no secret."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """Which token is wanted, and as whom. `user` is for the demo issuer, which asks nobody for a password."""

    issuer: str
    client_id: str
    client_secret: str | None = None
    scope: str = "openid"
    audience: str | None = None  # as Auth0, Keycloak's token exchange and others name it
    resource: str | None = None  # RFC 8707
    user: str | None = None

    def __repr__(self) -> str:
        return f"LoginRequest({self.issuer!r}, {self.client_id!r})"

    def fields(self) -> dict[str, str]:
        named = {"scope": self.scope, "audience": self.audience, "resource": self.resource, "user": self.user}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the issuer gave. Kept out of repr: a traceback must not print them."""

    access_token: str
    id_token: str | None = None
    refresh_token: str | None = None
    expires_in_s: float | None = None

    def __repr__(self) -> str:
        return f"Tokens(expires_in_s={self.expires_in_s})"


@dataclass(frozen=True, slots=True)
class DevicePrompt:
    """What the person must do, and how the device finds out that they did."""

    device_code: str
    user_code: str
    verification_url: str
    complete_url: str | None
    expires_at: float
    interval_s: float


@dataclass(frozen=True, slots=True)
class Login:
    """A client at an issuer. Each method raises LoginError when the issuer refuses, TransportError when it can't be reached."""

    transport: Transport
    metadata: ProviderMetadata
    request: LoginRequest

    async def client_credentials(self) -> Tokens:
        """A token for the client itself."""
        return _tokens(await self._ask_for_tokens({"grant_type": "client_credentials", **self.request.fields()}))

    async def refresh(self, refresh_token: str) -> Tokens:
        """A new token for an old login. The answer may bring a new refresh token, or leave the old one in force."""
        wanted = {name: value for name, value in self.request.fields().items() if name in ("audience", "resource")}
        tokens = _tokens(await self._ask_for_tokens({"grant_type": "refresh_token", "refresh_token": refresh_token, **wanted}))
        return (
            tokens if tokens.refresh_token else Tokens(tokens.access_token, tokens.id_token, refresh_token, tokens.expires_in_s)
        )

    async def start_device(self, now: float) -> DevicePrompt:
        """A code for the person to enter at the issuer."""
        if self.metadata.device_authorization_url is None:
            raise LoginError(
                f"issuer {quoted(self.metadata.issuer)} offers no device flow",
                "allow the device authorization grant for the client, or use --flow client-credentials",
            )
        status, answer = await self._post(self.metadata.device_authorization_url, self.request.fields())
        if status != _OK:
            raise _refused(answer, status)
        interval = answer.get("interval", _DEFAULT_INTERVAL_S)
        expires_in = answer.get("expires_in")
        if not _is_seconds(interval) or not _is_seconds(expires_in):
            raise _unreadable("its device answer has no usable times")
        is_loopback = is_loopback_host(urlsplit(self.metadata.issuer).hostname or "")
        complete = answer.get("verification_uri_complete")
        return DevicePrompt(
            device_code=_text(answer, "device_code"),
            user_code=_text(answer, "user_code"),
            # Google answers with the name of a draft of the RFC.
            verification_url=_page(
                _text(answer, "verification_uri" if "verification_uri" in answer else "verification_url"), is_loopback
            ),
            complete_url=_page(complete, is_loopback) if isinstance(complete, str) else None,
            expires_at=now + _seconds(expires_in),
            interval_s=min(max(_seconds(interval), 1.0), _MAX_INTERVAL_S),
        )

    async def finish_device(self, prompt: DevicePrompt, clock: Clock, sleep: Sleep) -> Tokens:
        """The token, once the person has agreed. A connection that breaks is tried again until their time is over."""
        interval = prompt.interval_s
        fields = {"grant_type": DEVICE_GRANT, "device_code": prompt.device_code}
        while clock() + interval < prompt.expires_at:
            await sleep(interval)
            try:
                status, answer = await self._post(self._token_url(), fields)
            except TransportError:
                interval = min(interval * 2, _MAX_INTERVAL_S)
                continue
            if status == _OK:
                return _tokens(answer)
            match answer.get("error"):
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval = min(interval + _SLOWER_BY_S, _MAX_INTERVAL_S)
                case "access_denied":
                    raise LoginError("the login was denied at the issuer", "start again, and agree on the issuer's page")
                case "expired_token":
                    break
                case _:
                    raise _refused(answer, status)
        raise LoginError("nobody entered the code in time", "start again, and enter the code that is shown then")

    async def _ask_for_tokens(self, fields: Mapping[str, str]) -> dict[str, Json]:
        status, answer = await self._post(self._token_url(), fields)
        if status != _OK:
            raise _refused(answer, status)
        return answer

    async def _post(self, url: str, fields: Mapping[str, str]) -> tuple[int, dict[str, Json]]:
        client_id, secret = self.request.client_id, self.request.client_secret
        authorization, proof = None, {"client_id": client_id}
        if secret is not None and "client_secret_basic" in self.metadata.token_auth_methods:
            pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"  # RFC 6749, section 2.3.1
            authorization, proof = "Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii"), {}
        elif secret is not None:
            proof["client_secret"] = secret
        answer = await self.transport.post_form(url, {**fields, **proof}, authorization)
        try:
            value = parse_strict_json(answer.body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise _unreadable(f"it answered with status {answer.status} and no JSON object")
        return answer.status, value

    def _token_url(self) -> str:
        if self.metadata.token_url is None:
            raise LoginError(f"issuer {quoted(self.metadata.issuer)} has no token endpoint", "use an issuer that gives tokens")
        return self.metadata.token_url


def expiry_of(token: str, tokens: Tokens, now: float) -> float:
    """When the token ends, by its own word; where that can't be read, by the issuer's. Nothing of it is verified here.

    Raises:
        LoginError: it isn't a token that a gate could verify.
    """
    parsed = parse_compact(token)
    if isinstance(parsed, IdentityProblem):
        raise LoginError(
            f"the issuer's token is of no use to a gate: {parsed.message}",
            "ask for one in JWT form: name the gate with --audience or --resource, or send the ID token (--use id-token)",
        )
    expires_at = parsed.claims.get("exp")
    if isinstance(expires_at, int | float) and not isinstance(expires_at, bool):
        return float(expires_at)
    return now + (tokens.expires_in_s or 0.0)


def _tokens(answer: Mapping[str, Json]) -> Tokens:
    id_token, refresh_token, expires_in = answer.get("id_token"), answer.get("refresh_token"), answer.get("expires_in")
    return Tokens(
        access_token=_text(answer, "access_token"),
        id_token=id_token if isinstance(id_token, str) else None,
        refresh_token=refresh_token if isinstance(refresh_token, str) else None,
        expires_in_s=_seconds(expires_in) if _is_seconds(expires_in) else None,
    )


def _page(url: str, is_loopback: bool) -> str:
    try:
        check_url(url, allow_query=True, allow_loopback=is_loopback)
    except DiscoveryError:
        raise _unreadable("the page it sends people to isn't an https URL") from None
    return url


def _text(answer: Mapping[str, Json], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value or not all("!" <= c <= "~" for c in value):
        raise _unreadable(f"its answer has no usable `{name}`")
    return value


def _is_seconds(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 10**9


def _seconds(value: Json) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _unreadable(problem: str) -> LoginError:
    return LoginError(f"the issuer can't be understood: {problem}", "check that the URL is an OIDC issuer's")


def _refused(answer: Mapping[str, Json], status: int) -> LoginError:
    code = answer.get("error")
    description = answer.get("error_description")
    said = quoted(code) if isinstance(code, str) else f"status {status}"
    more = f", {quoted(description)}" if isinstance(description, str) else ""
    return LoginError(f"the issuer refused: {said}{more}", _WAYS.get(code if isinstance(code, str) else "", _WAYS[""]))


_WAYS: Final = {
    "invalid_client": "check the client id, and the client's secret and type at the issuer",
    "unauthorized_client": "allow this grant type for the client at the issuer",
    "invalid_scope": "ask for scopes that the client may have (--scope)",
    "invalid_target": "ask for an audience that the issuer knows (--audience or --resource)",
    "invalid_grant": "log in again",
    "": "check the client's settings at the issuer",
}
