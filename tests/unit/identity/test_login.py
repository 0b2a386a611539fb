"""Login flows against the demo issuer, in virtual time, and against answers that no issuer should give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sidegate.identity.keys import IssuerKeys, fetch_metadata
from sidegate.identity.login import DevicePrompt, Login, LoginError, LoginRequest, Tokens, expiry_of
from sidegate.identity.token import TokenVerifier, VerifiedToken
from sidegate.identity.transport import Answer, HttpTransport, Transport, TransportError
from sidegate.policy.config import IdentityConfig
from tests.support.issuer import NOW, Issuer, b64


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


async def login_at(issuer: Issuer, client_id: str = "cursor", secret: str | None = "demo", **changes: Any) -> Login:
    transport = HttpTransport()
    metadata = await fetch_metadata(transport, issuer.url)
    return Login(transport, metadata, LoginRequest(issuer.url, client_id, secret, **changes))


async def verified(issuer: Issuer, token: str) -> VerifiedToken:
    verifier = TokenVerifier(IdentityConfig(issuers=(issuer.config(),)), IssuerKeys(HttpTransport()))
    found = await verifier.verify(token, issuer.clock())
    assert isinstance(found, VerifiedToken), found
    return found


class Waiting:
    """Virtual time: sleeping moves the issuer's clock; what is due at a sleep happens then."""

    def __init__(self, issuer: Issuer, events: Mapping[int, Any] | None = None) -> None:
        self.issuer = issuer
        self.events = dict(events or {})
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.issuer.clock()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        assert self.issuer.now is not None
        self.issuer.now += seconds
        if event := self.events.get(len(self.slept)):
            event()


# Client credentials


async def test_client_credentials_give_a_token_that_a_gate_accepts(issuer: Issuer) -> None:
    tokens = await (await login_at(issuer, user="ada")).client_credentials()
    found = await verified(issuer, tokens.access_token)
    assert found.claims["email"] == "ada@example.com"
    assert found.claims["act"] == {"sub": "cursor"}
    assert tokens.expires_in_s == 3600
    assert expiry_of(tokens.access_token, tokens, NOW) == NOW + 3600


async def test_a_workload_logs_in_as_itself(issuer: Issuer) -> None:
    tokens = await (await login_at(issuer, "app")).client_credentials()
    found = await verified(issuer, tokens.access_token)
    assert found.claims["groups"] == ["applications"]


@pytest.mark.parametrize("methods", [["client_secret_post"], ["client_secret_basic"], None])
async def test_the_secret_goes_the_way_the_issuer_wants(
    issuer: Issuer, methods: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    plain = issuer.core.answer

    def spy(method: str, path: str, form: Mapping[str, str], authorization: str | None) -> Any:
        reply = plain(method, path, form, authorization)
        if path == "/token":
            seen.update(form=form, authorization=authorization)
        elif path.endswith("configuration"):
            document = json.loads(reply.body)
            document.pop("token_endpoint_auth_methods_supported")
            if methods is not None:
                document["token_endpoint_auth_methods_supported"] = methods
            return type(reply).json(document)
        return reply

    monkeypatch.setattr(type(issuer.core), "answer", lambda _, *args: spy(*args))
    assert (await (await login_at(issuer)).client_credentials()).access_token
    is_basic = methods != ["client_secret_post"]
    assert (seen["authorization"] is not None) == is_basic
    assert ("client_secret" in seen["form"]) != is_basic


@pytest.mark.parametrize(
    ("client_id", "secret", "changes", "said"),
    [
        ("cursor", "wrong", {}, "invalid_client"),
        ("nobody", "demo", {}, "invalid_client"),
        ("cursor", "demo", {"user": "mallory"}, "invalid_request"),
        ("cursor", "demo", {"audience": "another-gate"}, "invalid_target"),
        ("psql", None, {}, "unauthorized_client"),
    ],
)
async def test_a_refusal_is_told_with_a_way_forward(
    issuer: Issuer, client_id: str, secret: str | None, changes: dict[str, str], said: str
) -> None:
    login = await login_at(issuer, client_id, secret, **changes)
    with pytest.raises(LoginError, match=said) as caught:
        await login.client_credentials()
    assert caught.value.way_forward
    assert secret is None or f"`{secret}`" not in str(caught.value)


def test_nothing_that_is_printed_by_accident_has_a_secret() -> None:
    request = LoginRequest("https://issuer.example", "client", "s3cret")
    tokens = Tokens("access", "identity", "refresh", 60)
    assert "s3cret" not in repr(request)
    assert repr(tokens) == "Tokens(expires_in_s=60)"


# Device flow


async def test_a_person_agrees_on_another_device(issuer: Issuer) -> None:
    login = await login_at(issuer, "psql", None, scope="openid offline_access")
    prompt = await login.start_device(NOW)
    assert prompt.verification_url == issuer.url + "/device"
    agree = {"user_code": prompt.user_code, "user": "dana"}
    waiting = Waiting(issuer, {3: lambda: issuer.core.answer("POST", "/device", agree, None)})
    tokens = await login.finish_device(prompt, waiting.clock, waiting.sleep)
    assert waiting.slept == [1, 1, 1]
    assert (await verified(issuer, tokens.access_token)).claims["groups"] == ["dba"]
    renewed = await login.refresh(tokens.refresh_token or "")
    assert (await verified(issuer, renewed.access_token)).claims["groups"] == ["dba"]
    assert renewed.refresh_token not in (None, tokens.refresh_token)
    with pytest.raises(LoginError, match="invalid_grant"):
        await login.refresh(tokens.refresh_token or "")


async def test_a_denied_login_ends(issuer: Issuer) -> None:
    login = await login_at(issuer, "psql", None)
    prompt = await login.start_device(NOW)
    deny = {"user_code": prompt.user_code, "user": "dana", "decision": "deny"}
    waiting = Waiting(issuer, {1: lambda: issuer.core.answer("POST", "/device", deny, None)})
    with pytest.raises(LoginError, match="denied at the issuer"):
        await login.finish_device(prompt, waiting.clock, waiting.sleep)


async def test_nobody_enters_the_code(issuer: Issuer) -> None:
    login = await login_at(issuer, "psql", None)
    prompt = await login.start_device(NOW)
    waiting = Waiting(issuer)
    with pytest.raises(LoginError, match="in time"):
        await login.finish_device(prompt, waiting.clock, waiting.sleep)
    assert sum(waiting.slept) <= 600


async def test_an_issuer_that_goes_away_for_a_while_is_asked_again_less_often(issuer: Issuer) -> None:
    login = await login_at(issuer, "psql", None)
    prompt = await login.start_device(NOW)
    agree = {"user_code": prompt.user_code, "user": "dana"}

    def back() -> None:
        issuer.core.answer("POST", "/device", agree, None)
        issuer.come_back()

    waiting = Waiting(issuer, {1: issuer.go_down, 4: back})
    assert (await login.finish_device(prompt, waiting.clock, waiting.sleep)).access_token
    assert waiting.slept == [1, 2, 4, 8]


class Scripted:
    """A transport whose issuer gives prepared answers, the last one for ever."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)

    async def get(self, url: str) -> Answer:
        raise TransportError("not scripted")

    async def post_form(self, url: str, fields: Mapping[str, str], authorization: str | None = None) -> Answer:
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Answer(status, body if isinstance(body, bytes) else json.dumps(body).encode())


async def scripted(issuer: Issuer, *answers: tuple[int, Any]) -> Login:
    real = await login_at(issuer, "psql", None)
    transport: Transport = Scripted(*answers)
    return Login(transport, real.metadata, real.request)


async def test_slows_down_when_asked_to(issuer: Issuer) -> None:
    slow, done = (400, {"error": "slow_down"}), (200, {"access_token": "a.b.c"})
    login = await scripted(issuer, slow, slow, (428, {"error": "authorization_pending"}), done)
    prompt = DevicePrompt("device", "USER-CODE", "https://issuer.example/device", None, NOW + 600, 5)
    waiting = Waiting(issuer)
    assert (await login.finish_device(prompt, waiting.clock, waiting.sleep)).access_token == "a.b.c"
    assert waiting.slept == [5, 10, 15, 15]


GOOD_PROMPT = {
    "device_code": "d",
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://issuer.example/device",
    "expires_in": 600,
    "interval": 5,
}


async def test_takes_googles_spelling_of_the_page(issuer: Issuer) -> None:
    answer = {"verification_url" if name == "verification_uri" else name: value for name, value in GOOD_PROMPT.items()}
    prompt = await (await scripted(issuer, (200, answer))).start_device(NOW)
    assert prompt.verification_url == "https://issuer.example/device"


@pytest.mark.parametrize(
    "changes",
    [
        {"device_code": None},
        {"device_code": ""},
        {"user_code": 7},
        {"user_code": "\x1b]0;title\x07"},
        {"user_code": "AB\nCD"},
        {"verification_uri": None},
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri": "http://issuer.example/device"},
        {"verification_uri": "https://issuer.example/\x1b[2J"},
        {"verification_uri_complete": "http://attacker.example/"},
        {"expires_in": None},
        {"expires_in": "600"},
        {"expires_in": -1},
        {"interval": "5"},
        {"interval": True},
        {"interval": 10**12},
    ],
)
async def test_refuses_a_device_answer_that_cant_be_shown_or_followed(issuer: Issuer, changes: dict[str, Any]) -> None:
    answer = {name: value for name, value in (GOOD_PROMPT | changes).items() if value is not None}
    with pytest.raises(LoginError) as caught:
        await (await scripted(issuer, (200, answer))).start_device(NOW)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, []),
        (200, {}),
        (200, {"access_token": 7}),
        (200, {"access_token": ""}),
        (200, {"access_token": "a b"}),
        (200, {"access_token": "a\nb"}),
        (200, b'{"access_token": "a", "access_token": "b"}'),
        (500, b"oops"),
        (500, {}),
        (400, {"error": 7}),
        (400, {"error": "\x1b[31m", "error_description": "two\nlines"}),
        (302, {}),
    ],
)
async def test_refuses_a_token_answer_that_is_none(issuer: Issuer, status: int, body: Any) -> None:
    with pytest.raises(LoginError) as caught:
        await (await scripted(issuer, (status, body))).client_credentials()
    assert str(caught.value).isprintable()
    assert caught.value.way_forward


async def test_an_issuer_without_a_device_flow_is_told_as_such(issuer: Issuer) -> None:
    login = await login_at(issuer, "psql", None)
    from dataclasses import replace

    without = Login(login.transport, replace(login.metadata, device_authorization_url=None), login.request)
    with pytest.raises(LoginError, match="offers no device flow"):
        await without.start_device(NOW)
    with pytest.raises(LoginError, match="no token endpoint"):
        await Login(login.transport, replace(login.metadata, token_url=None), login.request).client_credentials()


# Ends of tokens


def test_an_opaque_token_is_of_no_use_to_a_gate() -> None:
    with pytest.raises(LoginError, match="of no use to a gate") as caught:
        expiry_of("ya29.opaque", Tokens("ya29.opaque", None, None, 3600), NOW)
    assert "--use id-token" in caught.value.way_forward


def test_a_token_that_doesnt_say_when_it_ends_ends_when_the_issuer_says() -> None:
    token = ".".join(map(b64, (b'{"alg": "RS256"}', b"{}", b"signature")))
    assert expiry_of(token, Tokens(token, None, None, 60), NOW) == NOW + 60
    assert expiry_of(token, Tokens(token), NOW) == NOW
