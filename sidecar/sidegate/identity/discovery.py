"""Where an issuer keeps its keys and endpoints: OpenID Connect Discovery 1.0, section 4, and RFC 8414.

Rules it keeps: the document's `issuer` must be the configured one, character by character (section 4.3), so that one issuer can't speak
for another; every endpoint is https, or http when the configured issuer itself is on loopback, so that a document can't send the gate
to plain services beside it. Pure. Left out: fetching (`transport`), caching (`keys`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from sidegate.identity.compact import parse_strict_json
from sidegate.identity.problem import quoted
from sidegate.policy.principal import Json

_WELL_KNOWN: Final = "/.well-known/openid-configuration"


class DiscoveryError(Exception):
    """The URL or the document can't be used. The message is safe to show."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """What Sidegate uses of a discovery document. `jwks_url` is always there, the other endpoints where the issuer offers them."""

    issuer: str
    jwks_url: str
    token_url: str | None = None
    device_authorization_url: str | None = None
    token_auth_methods: tuple[str, ...] = ("client_secret_basic",)  # the default of Discovery 1.0, section 3


def discovery_url(issuer: str) -> str:
    """Where the issuer's document is: a final slash is dropped, then the well-known path appended (section 4.1).

    Raises:
        DiscoveryError: the issuer isn't an https URL (or http on loopback) without query and fragment.
    """
    check_url(issuer, allow_query=False, allow_loopback=True)
    return issuer.removesuffix("/") + _WELL_KNOWN


def parse_discovery(document: bytes, issuer: str) -> ProviderMetadata:
    """The metadata of `issuer`, from the document found at its discovery URL.

    Raises:
        DiscoveryError: not JSON, another issuer, or an endpoint that may not be used.
    """
    try:
        value = parse_strict_json(document)
    except ValueError as error:
        raise DiscoveryError(f"the discovery document can't be read: {error}", "check the issuer's URL") from None
    if not isinstance(value, dict):
        raise DiscoveryError("the discovery document isn't a JSON object", "check the issuer's URL")
    if value.get("issuer") != issuer:
        raise DiscoveryError(
            f"the discovery document is of issuer {quoted(value.get('issuer'))}, not of {quoted(issuer)}",
            "write the issuer's URL exactly as its tokens do, final slash included",
        )
    is_loopback = is_loopback_host(urlsplit(issuer).hostname or "")
    jwks_url = _endpoint(value, "jwks_uri", is_loopback)
    if jwks_url is None:
        raise DiscoveryError(
            "the discovery document has no `jwks_uri`", "give the keys inline (`jwks`) if the issuer publishes none"
        )
    methods = value.get("token_endpoint_auth_methods_supported")
    return ProviderMetadata(
        issuer=issuer,
        jwks_url=jwks_url,
        token_url=_endpoint(value, "token_endpoint", is_loopback),
        device_authorization_url=_endpoint(value, "device_authorization_endpoint", is_loopback),
        token_auth_methods=tuple(m for m in methods if isinstance(m, str))
        if isinstance(methods, list)
        else ("client_secret_basic",),
    )


def check_url(url: str, *, allow_query: bool, allow_loopback: bool) -> SplitResult:
    """The URL's parts, if it may be fetched.

    Raises:
        DiscoveryError: another scheme than https (http on loopback where allowed), user info, a fragment, or characters no URL has.
    """
    fix = "use an https URL; http is for loopback alone"
    if not all("!" <= c <= "~" for c in url):
        raise DiscoveryError(f"{quoted(url)} has characters that no URL has", fix)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise DiscoveryError(f"{quoted(url)} isn't a URL", fix) from None
    if not host or parts.scheme not in ("https", "http"):
        raise DiscoveryError(f"{quoted(url)} isn't an https URL", fix)
    if parts.scheme == "http" and not (allow_loopback and is_loopback_host(host)):
        raise DiscoveryError(f"{quoted(url)} isn't an https URL", fix)
    if parts.username is not None or parts.password is not None or "#" in url or (not allow_query and "?" in url):
        raise DiscoveryError(f"{quoted(url)} may have no user, query or fragment", "write scheme, host and path alone")
    return parts


def is_loopback_host(host: str) -> bool:
    """Whether the name or address is this machine's own. `localhost` counts; the transport checks where it really leads."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # An IPv4 address in IPv6 clothes counts as loopback from Python 3.13 on only; it has no business in a URL.
    return address.is_loopback and not (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None)


def _endpoint(value: dict[str, Json], name: str, allow_loopback: bool) -> str | None:
    url = value.get(name)
    if url is None:
        return None
    if not isinstance(url, str):
        raise DiscoveryError(f"the discovery document's `{name}` isn't a string", "have the issuer mend its discovery document")
    check_url(url, allow_query=True, allow_loopback=allow_loopback)
    return url
