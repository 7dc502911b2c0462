"""One connection to the NATS server that comes back for ever, and what its errors mean to the operator."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus.port import BusError, Rejected, Unavailable
from schemas.secret import Secret
from schemas.settings.bus import BusSettings
from schemas.units import show_duration, show_size

logger = logging.getLogger(__name__)

_RECONNECT_WAIT = 0.5  # seconds between attempts at the same server
_PING_INTERVAL = 10  # seconds; two unanswered pings make a dead connection, so one is noticed within half a minute
_FLUSH_TIMEOUT = 5  # seconds
_PENDING_ANSWERS = 2 * 1024 * 1024  # bytes of acknowledgements that wait for the connection to come back

Callback = Callable[[Msg], Awaitable[None]]


class _LastingClient(Client):
    """The client of nats-py, which gives up for ever at errors that pass, and speaks plain text when asked to.

    Both are decided in methods that have no public switch.
    """

    encryption_wanted = False

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect after any error but a refused subject.

        A server that is out of connections, restarts, or has its users edited says so with an error that makes the
        base class close the connection without ever trying again.
        """
        if "permissions violation" in err_msg:
            await super()._process_err(err_msg)
            return
        await self._process_op_err(errors.Error(f"nats: {err_msg.strip(chr(39))}"))

    def _connect_command(self) -> bytes:
        """Send no credentials in plain text to a server that does not ask for TLS."""
        if self.encryption_wanted and not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        return super()._connect_command()

    @property
    def server_info_version(self) -> str:
        """As the server wrote it: the base class offers only a parsed one, which raises for some."""
        return str(self._server_info.get("version", ""))


class Connection:
    """The client, the callbacks that want to know when it is lost and back, and the texts of its errors."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = _LastingClient()
        self.on_connected: list[Callable[[], Awaitable[None]]] = []
        self.on_lost: list[Callable[[], None]] = []
        self.on_denied: list[Callable[[str], None]] = []
        self._last_error = ""
        self._refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._told_lost = False

    @property
    def connected(self) -> bool:
        return self.client.is_connected

    @property
    def server_version(self) -> str:
        return self.client.server_info_version

    async def open(self, settings: BusSettings, name: str) -> None:
        """Connect. Raises Unavailable when no server answers in time, Rejected when it won't have us."""
        deadline = settings.connect_deadline.total_seconds()
        options = connect_options(settings, self.url)
        self.client.encryption_wanted = "tls" in options
        connecting = asyncio.ensure_future(
            self.client.connect(
                servers=[server.strip() for server in self.url.split(",")],
                name=name,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RECONNECT_WAIT,  # type: ignore[arg-type]  # annotated int, used as seconds
                connect_timeout=max(1, round(deadline / 2)),
                ping_interval=_PING_INTERVAL,
                max_outstanding_pings=2,
                pending_size=_PENDING_ANSWERS,
                skip_subject_validation=True,  # `Outbox.send` looks at every subject already
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                **_revealed(options),
            )
        )
        waiting: set[asyncio.Future[Any]] = {connecting, self._refused}
        try:
            await asyncio.wait(waiting, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done() and not self._refused.done():
                connecting.result()
                return
        except errors.Error as error:
            raise Rejected(f"can't connect to {self.url}: {said(error)}") from error
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
        await self.client.close()
        if self._refused.done():
            raise Rejected(
                f"{self.url} refuses us: {self._refused.result()}; check bus.credentials and bus.tls in ansai.yaml"
            )
        raise self.unavailable(f"no answer from {self.url} in {show_duration(deadline)}")

    async def close(self) -> None:
        """Flush what is on its way, then leave; at once when there is no connection to flush to."""
        self.on_connected.clear()
        self.on_lost.clear()
        if self.client.is_closed:
            return
        try:
            await self.client.drain()
        except (errors.Error, OSError) as error:
            logger.info("left %s without a farewell: %s", self.url, said(error))
            await self.client.close()

    async def publish(
        self, subject: str, body: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hand a message to the client. Raises Unavailable, Rejected."""
        try:
            await self.client.publish(subject, body, reply, headers)
        except (errors.Error, OSError) as error:
            raise self.explain(error, f"publishing to {subject}") from error

    async def subscribe(self, subject: str, callback: Callback) -> Any:
        try:
            # No limit: dropping a message that was delivered would lose an answer or hold an event up for ack_wait.
            return await self.client.subscribe(subject, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0)
        except (errors.Error, OSError) as error:
            raise self.explain(error, f"subscribing to {subject}") from error

    async def flush(self) -> None:
        """Return when the server has seen what was sent so far. Raises Unavailable."""
        # Whoever waits may be cancelled, the library's own waiting must not: its reader dies of a pong that nobody
        # waits for any more (nats-py 2.16, _process_pong).
        flushing = asyncio.ensure_future(self.client.flush(_FLUSH_TIMEOUT))
        flushing.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard, if nobody waits
        try:
            await asyncio.shield(flushing)
        except (errors.Error, OSError, AttributeError) as error:  # AttributeError: the transport is gone already
            raise self.explain(error, "flushing") from error

    def explain(self, error: Exception, doing: str) -> BusError:
        """The library's error in our words."""
        if isinstance(error, errors.MaxPayloadError):
            return Rejected(f"{doing}: larger than the {show_size(self.client.max_payload)} that {self.url} takes")
        if isinstance(error, errors.BadSubjectError | errors.BadHeaderError):
            return Rejected(f"{doing}: {said(error)}")
        return self.unavailable(f"{doing}: {said(error)}")

    def unavailable(self, seen: str) -> Unavailable:
        cause = f" (last error: {self._last_error})" if self._last_error and not self.connected else ""
        return Unavailable(f"{seen}{cause}; is nats-server running there? start one with: ansai up")

    async def _on_error(self, error: Exception) -> None:
        text = said(error)
        if "permissions violation" in text.lower():
            logger.error("%s: %s; the role of this client does not include it", self.url, text)
            for denied in list(self.on_denied):
                denied(text)
            return
        if text == self._last_error and not self.connected:
            return  # the same reason, every half second
        self._last_error = text
        refusal = isinstance(error, ssl.SSLError | errors.SecureConnWantedError) or "authorization" in text.lower()
        if refusal and not self._refused.done():
            self._refused.set_result(text)
        logger.log(logging.WARNING if self.connected else logging.INFO, "%s: %s", self.url, text)

    async def _on_disconnected(self) -> None:
        if not self._told_lost and self.on_lost:
            self._told_lost = True
            logger.warning("lost the connection to %s; trying again until it is back", self.url)
        for lost in list(self.on_lost):
            lost()

    async def _on_reconnected(self) -> None:
        self._told_lost, self._last_error = False, ""
        logger.warning("connected to %s again", self.url)
        for connected in list(self.on_connected):
            await connected()


def said(error: Exception) -> str:
    """What a library's error says, on one line and without its prefix."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix("nats: ")


def connect_options(settings: BusSettings, url: str) -> dict[str, Any]:
    """Encryption and credentials, the secret ones still covered. Raises Rejected when a file can't be used."""
    options: dict[str, Any] = {}
    if settings.tls.wanted or "tls://" in url:
        options["tls"] = _tls_context(settings)
    credentials = settings.credentials
    if credentials.user is not None and credentials.password_file is not None:
        options |= {"user": credentials.user, "password": _secret(credentials.password_file)}
    for option, path in (
        ("nkeys_seed", credentials.nkey_seed_file),
        ("user_credentials", credentials.credentials_file),
    ):
        if path is not None:
            _require_nkeys()
            _secret(path)  # says what is wrong with the file before the client trips over it
            options[option] = str(path)
    return options


def _revealed(options: dict[str, Any]) -> dict[str, Any]:
    """As the client takes them: the only place where secrets are in the clear."""
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in options.items()}


def _tls_context(settings: BusSettings) -> ssl.SSLContext:
    tls = settings.tls
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
        if tls.certificate is not None:
            context.load_cert_chain(str(tls.certificate), str(tls.key))
    except (OSError, ssl.SSLError) as error:
        raise Rejected(f"bus.tls: can't use {tls.ca}, {tls.certificate}, {tls.key}: {said(error)}") from error
    return context


def _secret(path: Path) -> Secret:
    try:
        return Secret(path.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"bus.credentials: can't read {path}: {said(error)}") from error


def _require_nkeys() -> None:
    try:
        import nkeys  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError as error:
        raise Rejected(
            "bus.credentials: nkeys are not installed; install them with: pip install 'ansai[nkeys]'"
        ) from error
