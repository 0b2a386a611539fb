"""One gate: from an accepted connection to a running session, and everything the sessions of one target share. The asyncio
shell.

Order of a login: start-up packets, TLS, identity, policy, recording, then the target. So the target never sees a client that
wasn't let in, and no session is open that can't be recorded.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Final

from sidegate.approval.backend import ApprovalBackend
from sidegate.audit.events import CancelReceived, LoginRefused, PrincipalFields, SessionFields, SessionOpened, at
from sidegate.audit.sinks import AuditError, AuditSink
from sidegate.identity.keys import KeySource
from sidegate.identity.token import TokenVerifier
from sidegate.policy.config import GateConfig, PassthroughConfig, RecordingMode
from sidegate.policy.decision import Deny, Masks
from sidegate.policy.engine import Engine, SessionGrant, decide_passthrough, decide_session
from sidegate.policy.principal import Principal
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin
from sidegate.postgres.authn import AuthenticationProblem, authenticate
from sidegate.postgres.cancels import CancelKey, CancelPost, Cancels
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.catalog_reader import CatalogReader
from sidegate.postgres.duplex import ConnectionLostError, Duplex
from sidegate.postgres.edge import ClientEdge
from sidegate.postgres.greeting import read_startup, secure, take_over
from sidegate.postgres.journal import Journal
from sidegate.postgres.judge import Judge
from sidegate.postgres.login import TargetAddress, TargetLogin, TargetLoginError, cancel_at_target, connect, log_in
from sidegate.postgres.masker import Masker
from sidegate.postgres.messages import (
    AUTHENTICATION_OK,
    ClientProtocolError,
    encode_fields,
    encode_negotiate_protocol_version,
    encode_parameter_status,
    encode_ready,
    frame,
)
from sidegate.postgres.passthrough import Passthrough
from sidegate.postgres.refusal import refusal_message
from sidegate.postgres.relay import Meter, Relay, RelayServices
from sidegate.postgres.restrictions import Restrictions
from sidegate.postgres.scram import ScramKeyCache
from sidegate.postgres.session import Session
from sidegate.postgres.session_facts import READING_SETTINGS, SessionFacts, SessionLimits
from sidegate.postgres.startup import CancelRequest, StartupMessage, allowed_parameters, encoding_of
from sidegate.record.budget import RecordError, RecordingBudget
from sidegate.record.entries import MasksFields, OpenedRecord
from sidegate.record.writer import SessionRecorder
from sidegate.sql import StatementCache

log = logging.getLogger("sidegate.postgres")

STARTUP_TIMEOUT_S: Final = 15.0  # PostgreSQL's authentication_timeout is a minute; a gate faces more strangers
MAX_SESSIONS: Final = 1000
CACHED_STATEMENTS: Final = 4096


class RefusedError(Exception):
    """The client isn't let in; `deny` says why. Only within this module: towards the client it is a FATAL ErrorResponse."""

    def __init__(self, deny: Deny, username: str = "", sqlstate: str | None = None) -> None:
        super().__init__(deny.detail)
        self.deny = deny
        self.username = username
        self.sqlstate = sqlstate


@dataclass(slots=True)
class GateServices:
    """What the gate is given by the runtime. `client_tls` and `target_tls` return the context in force now."""

    now: Callable[[], float]
    keys: KeySource
    approvals: ApprovalBackend
    audit: AuditSink
    meter: Meter
    budget: Callable[[GateConfig], RecordingBudget]
    client_tls: Callable[[], ssl.SSLContext | None]
    target_tls: Callable[[], ssl.SSLContext | None]
    version: str
    post: CancelPost | None = None
    limits: SessionLimits = field(default_factory=SessionLimits)


@dataclass(slots=True)
class Login:
    """One connection on its way to a session."""

    side: Duplex
    startup: StartupMessage
    source_address: str
    is_encrypted: bool
    parameters: dict[str, str] = field(default_factory=dict)


class PostgresGate:
    """Serves one target. `config` None: there is none yet, and everyone is refused with the reason."""

    def __init__(self, services: GateServices) -> None:
        self.config: GateConfig | None = None
        self.cancels = Cancels(
            services.post, lambda: self._target_address(self.config) if self.config else None, self._cancel_matched_nothing
        )
        self._passthroughs: set[Passthrough] = set()
        self._logins: set[asyncio.Task[object]] = set()
        self._is_draining = False
        self._services = services
        self._engine: Engine | None = None
        self._statements = StatementCache(CACHED_STATEMENTS)
        self._scram_keys = ScramKeyCache()
        self._catalogs = CatalogReader(services.now)
        self._connections = 0

    # ---- configuration ------------------------------------------------------------------------------------------------------------

    def adopt(self, config: GateConfig) -> None:
        """A new revision: every open session is checked against it at once."""
        self.config = config
        self._engine = Engine(config)
        now = self._services.now()
        for relay in list(self.cancels.relays.values()):
            facts = relay.session.facts
            grant: SessionGrant | Deny = decide_session(config, facts.principal, facts.database, now, facts.role)
            if all(issuer.url != facts.principal.issuer for issuer in config.target.identity.issuers):
                grant = self._deny(Reason.IDENTITY_REFUSED, "its issuer is no longer trusted")
            relay.run(relay.session.config_changed(config, self._engine, grant, now))
        for passing in list(self._passthroughs):
            if not passing.is_granted_by(config):
                passing.end(f"revision {config.revision} lets it pass no longer")

    async def finish(self, detail: str, timeout_s: float) -> None:
        """Let nobody in any more, and give statements that run so much time for their answers. Each session ends with its own; who waits
        for an approval doesn't get any: what is approved later is for the same statement, sent again. Passthroughs aren't waited for.
        """
        self._is_draining = True
        for login in self._logins:
            login.cancel()
        finishing = list(self.cancels.relays.values())
        for relay in finishing:
            relay.finish(Reason.SESSION_ENDED, detail)
        if finishing:
            await asyncio.wait([asyncio.ensure_future(relay.done.wait()) for relay in finishing], timeout=timeout_s)

    async def drain(self, detail: str, timeout_s: float) -> None:
        """Let nobody in any more, end every session and wait until their recordings are closed."""
        self._is_draining = True
        for login in self._logins:
            login.cancel()
        ending = [relay.done for relay in self.cancels.relays.values()] + [passing.done for passing in self._passthroughs]
        for relay in list(self.cancels.relays.values()):
            relay.end(Reason.SESSION_ENDED, detail)
        for passing in list(self._passthroughs):
            passing.end(f"{Reason.SESSION_ENDED}: {detail}")
        if ending:
            await asyncio.wait([asyncio.ensure_future(done.wait()) for done in ending], timeout=timeout_s)

    def _definitions_changed(self, database: str) -> None:
        self._catalogs.forget(database)
        for relay in self.cancels.relays.values():
            if relay.session.facts.database == database:
                relay.session.judge.catalog_is_stale = True

    # ---- a connection -------------------------------------------------------------------------------------------------------------

    async def serve(self, connection: socket.socket, source_address: str) -> None:
        """From the first byte to the end of the session. A connection's failure is its own."""
        self._connections += 1
        side: Duplex | None = None
        task = asyncio.current_task()
        assert task is not None
        self._logins.add(task)
        try:
            async with asyncio.timeout(STARTUP_TIMEOUT_S):
                side, is_encrypted = await secure(connection, self._services.client_tls())
                if side is None:
                    return
                startup = await read_startup(side, is_encrypted=is_encrypted)
            if isinstance(startup, CancelRequest):
                under_way = self.cancels.take(startup.process_id, startup.key, source_address)
                if under_way:
                    await asyncio.wait(under_way)  # each is bounded by itself
                side.close()
                return
            await self._serve_login(Login(side, startup, source_address, is_encrypted))
        except RefusedError as refused:
            self._refuse(side, refused, source_address)
        except ClientProtocolError as error:
            deny = Deny(Reason.PROTOCOL_REFUSED, Builtin("startup"), self._revision(), str(error), error.way_forward)
            if side is None:  # before TLS: plain text is what it speaks
                side = await take_over(connection)
            self._refuse(side, RefusedError(deny, sqlstate=error.sqlstate), source_address)
        except (ConnectionLostError, TimeoutError, ValueError, OSError) as error:
            log.info("connection from %s ended before a session: %s", source_address, str(error) or type(error).__name__)
            if side is not None:
                side.abort()
        except asyncio.CancelledError:
            if not self._is_draining:
                raise
            self._refuse(side, RefusedError(self._deny(Reason.SESSION_ENDED, "the gate stops")), source_address)
        except Exception:
            log.exception("connection from %s ended by an error of the gate", source_address)
            if side is not None:
                side.abort()
        finally:
            self._logins.discard(task)
            if side is None:
                connection.close()
            self._connections -= 1

    def _cancel_matched_nothing(self, source_address: str) -> None:
        target = f"{self.config.target.namespace}/{self.config.target.name}" if self.config is not None else ""
        self._audit(CancelReceived(time=at(self._services.now()), source_address=source_address, target=target))

    # ---- login --------------------------------------------------------------------------------------------------------------------

    async def _serve_login(self, login: Login) -> None:
        config = self._config_or_refuse()
        if self._is_draining:
            raise RefusedError(self._deny(Reason.SESSION_ENDED, "the gate stops"))
        if self._connections > MAX_SESSIONS:
            raise RefusedError(
                self._deny(Reason.TARGET_UNAVAILABLE, f"{MAX_SESSIONS} connections are open already"), sqlstate="53300"
            )
        startup = login.startup
        passthrough = decide_passthrough(config, startup.user, login.source_address)
        if passthrough is not None and startup.must_negotiate:
            # What comes next is the target's own answer, and only 3.0 is certain to need no second negotiation
            login.startup = startup = replace(startup, minor=0)
        if startup.must_negotiate:
            login.side.write(encode_negotiate_protocol_version(startup.minor, startup.unknown_options))
        if passthrough is not None:
            await self._serve_passthrough(login, passthrough)
            return
        if startup.replication is not None:
            raise RefusedError(self._deny(Reason.PROTOCOL_REFUSED, "replication is for passthrough roles only"))
        login.parameters = allowed_parameters(startup.parameters)
        self._check_plain_text(config, login)
        try:
            async with asyncio.timeout(STARTUP_TIMEOUT_S):
                principal = await authenticate(
                    login.side, config.target.identity, TokenVerifier(config.target.identity, self._services.keys),
                    login.source_address, self._services.now,
                )  # fmt: skip
        except TimeoutError:
            deny = self._deny(Reason.IDENTITY_REFUSED, f"no token was verified within {STARTUP_TIMEOUT_S:.0f} seconds")
            raise RefusedError(deny, startup.user) from None
        if isinstance(principal, AuthenticationProblem):
            deny = Deny(Reason.IDENTITY_REFUSED, Builtin("identity"), config.revision, principal.message, principal.way_forward)
            raise RefusedError(deny, startup.user)
        await self._open_session(login, principal)

    async def _serve_passthrough(self, login: Login, entry: PassthroughConfig) -> None:
        """A role that the target itself authenticates: relayed as it is, and recorded."""
        config, startup = self._config_or_refuse(), login.startup
        if startup.replication is not None and not entry.may_replicate:
            raise RefusedError(self._deny(Reason.PROTOCOL_REFUSED, f"passthrough `{entry.name}` may not replicate"))
        fields = SessionFields(
            id=secrets.token_hex(8),
            target=f"{config.target.namespace}/{config.target.name}",
            source_address=login.source_address,
            database=startup.database,
            role=startup.user,
            passthrough=entry.name,
        )
        application = startup.parameters.get("application_name", "")
        recorder = self._open_recording(config, fields, application, self._services.now(), None)
        try:
            target = await connect(self._target_address(config))
        except TargetLoginError as error:
            self._close_refused(recorder, str(error))
            log.warning("passthrough `%s` for %s: %s", entry.name, login.source_address, error)
            raise RefusedError(self._deny(Reason.TARGET_UNAVAILABLE, "")) from error  # nobody has proven who they are yet
        except BaseException:
            self._close_refused(recorder, "it ended before the target answered")
            raise
        passing = Passthrough(fields, login.side, target, recorder, config.target.recording.mode, self._services)
        try:
            self._audit_opened(fields, config.revision, recorder, application, is_encrypted=login.is_encrypted)
            self._enter()
        except BaseException:
            target.abort()
            self._close_refused(recorder, "it ended before it was open")
            raise
        self._passthroughs.add(passing)
        try:
            if self.config is not None and not passing.is_granted_by(self.config):  # the rules changed while it connected
                passing.end(f"revision {self.config.revision} lets it pass no longer")
            await passing.run(startup, self.cancels.passing)
        finally:
            self._passthroughs.discard(passing)
            self.cancels.passing.pop(passing.key, None)

    def _enter(self) -> None:
        """From here on it is a session: `drain` ends it, and no longer a login."""
        task = asyncio.current_task()
        assert task is not None
        self._logins.discard(task)

    def _check_plain_text(self, config: GateConfig, login: Login) -> None:
        if login.is_encrypted:
            return
        if config.target.client_tls.may_use_plain_text_on_loopback and is_local(login.source_address):
            return
        deny = self._deny(Reason.IDENTITY_REFUSED, "a token must not cross the network in plain text")
        raise RefusedError(
            Deny(deny.reason, deny.source, deny.revision, deny.detail, "connect with sslmode=require"), login.startup.user
        )

    async def _open_session(self, login: Login, principal: Principal) -> None:
        config, engine = self._config_or_refuse(), self._engine
        assert engine is not None
        now = self._services.now()
        startup = login.startup
        role = startup.user if any(credential.role == startup.user for credential in config.target.credentials) else None
        grant = decide_session(config, principal, startup.database, now, role)
        if isinstance(grant, Deny):
            raise RefusedError(grant, principal.username)
        session_id = secrets.token_hex(8)
        fields = SessionFields(
            id=session_id, target=f"{config.target.namespace}/{config.target.name}", source_address=login.source_address,
            database=startup.database, role=grant.role, principal=PrincipalFields.of(principal),
        )  # fmt: skip
        application = login.parameters.get("application_name", "")
        recorder = self._open_recording(config, fields, application, now, grant.masks)
        target: TargetLogin | None = None
        try:
            target = await self._log_in(config, grant, login)
            await self._run_session(config, engine, login, principal, grant, fields, recorder, target)
        except BaseException as error:
            if target is not None:
                target.side.abort()
            self._close_refused(recorder, str(error) or "it ended before it was open")
            raise

    async def _run_session(
        self, config: GateConfig, engine: Engine, login: Login, principal: Principal, grant: SessionGrant, fields: SessionFields,
        recorder: SessionRecorder | None, target: TargetLogin,
    ) -> None:  # fmt: skip
        """`config` and `engine` are those that `grant` comes from: if others are in force by now, it is checked against them."""
        services, startup = self._services, login.startup
        now = services.now()
        address = self._target_address(config)
        judge = Judge(engine, principal, startup.database, grant.role, self._statements)
        judge.restrictions = Restrictions(login.parameters, target.parameters)
        masker = Masker(judge, grant.masks, secrets.token_bytes(32), services.limits.max_row_bytes)
        journal = Journal(fields, masker.text, config.target.recording.max_result_bytes_per_statement, now)
        facts = SessionFacts(
            session_id=fields.id,
            nonce=secrets.token_hex(8),
            principal=principal,
            target=config.target.name,
            namespace=config.target.namespace,
            database=startup.database,
            role=grant.role,
        )
        session = Session(facts, config, grant, judge, masker, journal, services.limits)
        session.edge = ClientEdge(encoding_of(startup.parameters))
        loop = asyncio.get_running_loop()

        def read_catalog(is_forced: bool) -> asyncio.Task[Catalog | None]:
            return self._catalogs.read(address, grant.credential, startup.database, self._scram_keys, is_forced=is_forced)

        relay_services = RelayServices(
            now=services.now,
            approvals=services.approvals,
            audit=services.audit,
            meter=services.meter,
            read_catalog=read_catalog,
            forget_catalog=lambda: self._definitions_changed(startup.database),
            cancel_target=lambda: loop.create_task(cancel_at_target(address, target.process_id, target.key)),
        )
        relay = Relay(session, login.side, target.side, recorder, config.target.recording.mode, relay_services)
        application = login.parameters.get("application_name", "")
        self._audit_opened(fields, grant.revision, recorder, application, is_encrypted=login.is_encrypted)
        self._enter()
        key = self.cancels.mint_key(startup.minor)
        self.cancels.relays[key] = relay
        timer = None
        if principal.expires_at is not None:
            identity = config.target.identity
            left = principal.expires_at + identity.clock_skew_s + identity.session_grace_s - now
            timer = loop.call_later(max(0.0, left), relay.end, Reason.SESSION_ENDED, "the token's life is over")
        try:
            login.side.write(self._hello(target, key, session.edge.name))
            relay.start()
            if self.config is not config and self.config is not None:  # the rules changed while it logged in
                self.adopt(self.config)
            await relay.done.wait()
        finally:
            self.cancels.relays.pop(key, None)
            if timer is not None:
                timer.cancel()

    def _audit_opened(
        self, fields: SessionFields, revision: str, recorder: SessionRecorder | None, application: str, *, is_encrypted: bool
    ) -> None:
        self._audit(
            SessionOpened(
                time=at(self._services.now()),
                session=fields,
                revision=revision,
                recording=recorder.path.name if recorder else "",
                application_name=application,
                client_encrypted=is_encrypted,
            )
        )

    async def _log_in(self, config: GateConfig, grant: SessionGrant, login: Login) -> TargetLogin:
        try:
            address, database = self._target_address(config), login.startup.database
            target = await log_in(address, grant.credential, database, login.parameters, self._scram_keys)
        except TargetLoginError as error:
            log.warning("login to the target as role %s failed: %s", grant.role, error)
            detail = error.fields.get("M", "") or str(error)
            deny = Deny(Reason.TARGET_UNAVAILABLE, Builtin("login"), config.revision, detail, error.way_forward)
            raise RefusedError(deny, sqlstate=error.fields.get("C")) from error
        for name, expected in READING_SETTINGS.items():
            if target.parameters.get(name, expected).lower() != expected:
                target.side.abort()
                raise RefusedError(
                    self._deny(
                        Reason.TARGET_UNAVAILABLE,
                        f"the target has {name} `{target.parameters[name]}` for this role, not `{expected}`",
                    )
                )
        return target

    def _open_recording(
        self, config: GateConfig, fields: SessionFields, application: str, now: float, masks: Masks | None
    ) -> SessionRecorder | None:
        """`masks` None: no policy is asked about the session."""
        opened = OpenedRecord(
            session=fields,
            environment=config.target.environment,
            revision=config.revision,
            gate_version=self._services.version,
            application_name=application,
            masks=None if masks is None else MasksFields.of(masks),
        )
        try:
            return SessionRecorder.open(self._services.budget(config), opened, now)
        except RecordError as error:
            self._services.meter.recording_failed()
            log.error("recording can't be opened: %s", error)
            if config.target.recording.mode is RecordingMode.BEST_EFFORT:
                return None
            deny = Deny(Reason.RECORDING_UNAVAILABLE, Builtin("recording"), config.revision, str(error), error.way_forward)
            raise RefusedError(deny) from error

    def _close_refused(self, recorder: SessionRecorder | None, why: str) -> None:
        """A recording of nothing has its end too: without one it would look like that of a gate that died."""
        if recorder is None or recorder.failure is not None:
            return
        try:
            recorder.close(why, self._services.now())
        except RecordError as error:
            log.error("recording couldn't be closed: %s", error)

    def _hello(self, target: TargetLogin, key: CancelKey, encoding: str) -> bytes:
        parts = [AUTHENTICATION_OK]
        told = {**target.parameters, "client_encoding": encoding}
        parts += [encode_parameter_status(name, value) for name, value in told.items()]
        parts.append(frame(b"K", key[0].to_bytes(4, "big") + key[1]))
        parts.append(encode_ready("I"))
        return b"".join(parts)

    # ---- refusing -----------------------------------------------------------------------------------------------------------------

    def _config_or_refuse(self) -> GateConfig:
        if self.config is None:
            raise RefusedError(self._deny(Reason.CONFIG_MISSING, ""))
        return self.config

    def _revision(self) -> str:
        return self.config.revision if self.config is not None else ""

    def _deny(self, reason: Reason, detail: str) -> Deny:
        return Deny(reason, Builtin("login"), self._revision(), detail)

    def _refuse(self, side: Duplex | None, refused: RefusedError, source_address: str) -> None:
        deny = refused.deny
        target = f"{self.config.target.namespace}/{self.config.target.name}" if self.config is not None else ""
        self._services.meter.statement_decided("Deny", "Login", deny.reason.value)
        self._audit(
            LoginRefused(
                time=at(self._services.now()), target=target, source_address=source_address, reason=deny.reason.value,
                detail=deny.detail, source=str(deny.source), username=refused.username, revision=deny.revision,
            )
        )  # fmt: skip
        if side is None:
            return
        message = refusal_message(deny, "FATAL")
        if refused.sqlstate:
            message = encode_fields(
                b"E",
                {
                    "S": "FATAL",
                    "V": "FATAL",
                    "C": refused.sqlstate,
                    "M": f"refused by sidegate: {deny.detail}",
                    "D": f"reason {deny.reason}, by {deny.source}, at revision {deny.revision or 'none'}",
                    "H": deny.hint,
                },
            )
        side.write(message)
        side.close()

    def _audit(self, event: LoginRefused | SessionOpened | CancelReceived) -> None:
        try:
            self._services.audit.write(event)
        except AuditError as error:
            log.error("audit failed: %s", error)
            if isinstance(event, SessionOpened):
                raise RefusedError(self._deny(Reason.RECORDING_UNAVAILABLE, "the audit log can't be written")) from error

    def _target_address(self, config: GateConfig) -> TargetAddress:
        return TargetAddress(config.target.address, config.target.target_tls.mode, self._services.target_tls())


def is_local(source_address: str) -> bool:
    return source_address == "unix" or ip_address(source_address.partition("%")[0]).is_loopback
