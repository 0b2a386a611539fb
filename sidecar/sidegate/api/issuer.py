"""Who vouches for the clients of a target: OIDC issuers, the claims that say who someone is, and where callers come from."""

from __future__ import annotations

import enum
import json
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from sidegate.api.meta import (
    ApiModel,
    each_once,
    unique_by,
)
from sidegate.api.text import (
    AtMost,
    ClaimName,
    Duration,
    EnvironmentName,
    IssuerUrl,
    Label,
    Network,
    refusal,
)

DISCOVERY: Final = "Discovery"


class ClientAuth(enum.StrEnum):
    """How a PostgreSQL client hands over its token."""

    TOKEN_PASSWORD = "TokenPassword"  # noqa: S105 - a word for it, no secret
    OAUTH_BEARER = "OAuthBearer"


class Algorithm(enum.StrEnum):
    """A signature algorithm of JSON Web Tokens (RFC 7518, RFC 8037). None and the symmetric ones can't be chosen."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    EDDSA = "EdDSA"


class Claims(ApiModel):
    """Which claims say who someone is. Dots lead into nested claims (`realm_access.roles`); a name that is a URL is taken whole."""

    username: Annotated[
        ClaimName, Field(default=ClaimName("email"), description="The claim with the username that policies and records show.")
    ]
    groups: Annotated[ClaimName, Field(default=ClaimName("groups"), description="The claim with the list of groups.")]
    agent: Annotated[
        ClaimName | None,
        Field(default=None, description="The claim that names the agent acting for the person, as in `azp` or `act.sub`."),
    ]
    environment: Annotated[
        ClaimName | None, Field(default=None, description="The claim that says in which environment the caller is.")
    ]


def _check_jwks(text: str) -> str:
    """`Discovery`, or a JWK Set with public asymmetric keys only (RFC 7517, RFC 7518 sections 6.2.2, 6.3.2 and 6.4)."""
    if text == DISCOVERY:
        return text
    try:
        found = json.loads(text)
    except ValueError as error:
        raise refusal(
            f"jwks is neither `{DISCOVERY}` nor JSON: {error}", "paste the issuer's JWK Set, as in '{\"keys\": [...]}'"
        ) from error
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise refusal("jwks is not a JWK Set", "paste the issuer's JWK Set, as in '{\"keys\": [...]}'")
    for key in keys:
        if key.get("kty") == "oct" or "k" in key or "d" in key:
            raise refusal(
                "jwks contains a private or a shared key", "paste the public JWK Set only, and replace the key: it is exposed now"
            )
    return text


class Issuer(ApiModel):
    """One OIDC issuer whose tokens are accepted."""

    url: Annotated[IssuerUrl, Field(description="The issuer's URL, exactly as the token's `iss` claim has it.")]
    audiences: Annotated[
        tuple[Label, ...],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra=each_once(),
            description="A token must be made for one of these (`aud`).",
        ),
    ]
    claims: Annotated[Claims, Field(default=Claims(), description="Which claims say who someone is.")]
    algorithms: Annotated[
        tuple[Algorithm, ...],
        Field(
            default=(Algorithm.RS256, Algorithm.ES256),
            min_length=1,
            max_length=len(Algorithm),
            json_schema_extra=each_once(),
            description="Signature algorithms that are accepted.",
        ),
    ]
    jwks: Annotated[
        str,
        AfterValidator(_check_jwks),
        Field(
            default=DISCOVERY,
            min_length=1,
            max_length=65536,
            description="`Discovery`: the issuer's keys are fetched from it and followed as they rotate. "
            "Otherwise the public JWK Set itself, as JSON text.",
        ),
    ]
    client_id: Annotated[
        Label | None, Field(default=None, description="The client that `sidegate login` and OAUTHBEARER clients use.")
    ]
    scope: Annotated[
        str,
        Field(
            default="openid",
            pattern=r"^[!-~]+( [!-~]+)*$",
            max_length=256,
            description="The scope that they ask for, words divided by one blank.",
        ),
    ]

    @property
    def inline_jwks(self) -> str | None:
        """The JWK Set's JSON text, or None when the keys are found by discovery."""
        return None if self.jwks == DISCOVERY else self.jwks


class CallerNetworks(ApiModel):
    """Networks whose callers are in one environment."""

    environment: Annotated[EnvironmentName, Field(description="The callers' environment.")]
    networks: Annotated[
        tuple[Network, ...],
        Field(
            min_length=1, max_length=64, json_schema_extra=each_once(), description="Networks in CIDR form that they come from."
        ),
    ]


class Identity(ApiModel):
    """Who vouches for clients."""

    issuers: Annotated[
        tuple[Issuer, ...],
        Field(min_length=1, max_length=8, json_schema_extra=unique_by("url"), description="Issuers whose tokens are accepted."),
    ]
    client_auth: Annotated[
        ClientAuth,
        Field(
            default=ClientAuth.TOKEN_PASSWORD,
            description="How a PostgreSQL client hands its token over: as the password (`TokenPassword`, any driver), "
            "or by SASL OAUTHBEARER (`OAuthBearer`, libpq 18 and later).",
        ),
    ]
    caller_networks: Annotated[
        tuple[CallerNetworks, ...],
        Field(
            default=(),
            min_length=1,
            max_length=32,
            json_schema_extra=unique_by("environment"),
            description="In which environment callers are, by their network, unless the environment claim says otherwise.",
        ),
    ]
    clock_skew: Annotated[
        Duration,
        AtMost("5m"),
        Field(default=Duration("30s"), description="How far the issuer's clock and the gate's may be apart; at most 5m."),
    ]
    session_grace: Annotated[
        Duration | None,
        Field(default=None, description="How long a session may outlive its token. Absent: it ends with it."),
    ]
