"""One HTTP request to a service of this machine."""

import contextlib
import http.client
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from schemas.remediation import ItemResult, Outcome
from schemas.text import plain


def ask(url: str, method: str, timeout: float) -> ItemResult:
    """Done when it answers 2xx within *timeout* seconds. Refused when nothing could be asked, failed otherwise.

    No proxy is used and no redirection followed. What follows a `?` is sent and never told: it may hold a secret.
    """
    parts, until = urlsplit(url), time.monotonic() + timeout
    name = plain(f"{method} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")
    try:
        addresses = _addresses(parts)
    except (OSError, ValueError) as error:
        return ItemResult(name=name, outcome=Outcome.REFUSED, reason=f"no http on loopback: {_words(error)}")
    try:
        connection = _connected(addresses, until)
    except OSError as error:
        return ItemResult(name=name, outcome=Outcome.REFUSED, reason=f"nobody answers there: {_words(error)}")
    try:
        with _ending(connection, until):
            status = _request(connection, parts, method)
    except (OSError, http.client.HTTPException) as error:
        reason = f"no answer within {timeout:g} s, or a broken one: {_words(error)}"
        return ItemResult(name=name, outcome=Outcome.FAILED, reason=reason)
    if 200 <= status < 300:
        return ItemResult(name=name, outcome=Outcome.DONE, reason=f"it answered {status}")
    unfollowed = ", and redirections are not followed" if 300 <= status < 400 else ""
    return ItemResult(name=name, outcome=Outcome.FAILED, reason=f"it answered {status}{unfollowed}")


def _addresses(parts: SplitResult) -> list[tuple[str, int]]:
    """What the host is by name or number, if that is nothing but loopback. Raises ValueError, OSError."""
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("the URL does not begin with http:// and a host")
    found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    addresses = [(str(address[0]), int(address[1])) for *_, address in found]
    strange = [host for host, _ in addresses if not ipaddress.ip_address(host.partition("%")[0]).is_loopback]
    if strange:
        raise ValueError(f"{strange[0]} is no address of loopback")
    return addresses


def _connected(addresses: list[tuple[str, int]], until: float) -> socket.socket:
    """To the first that answers: `localhost` may be two addresses, and a service listen on one. Raises OSError.

    One that hangs answers nobody: its queue of connections is full.
    """
    for place, address in enumerate(addresses, 1):
        try:
            return socket.create_connection(address, _left(until))
        except OSError:
            if place == len(addresses):
                raise
    raise OSError("the host has no address")


def _left(until: float) -> float:
    """Seconds, never 0: a socket would then not wait at all, and say that in other words."""
    return max(until - time.monotonic(), 0.001)


@contextlib.contextmanager
def _ending(connection: socket.socket, until: float) -> Iterator[None]:
    """Close it in the end, and cut it at the deadline: an answer in small drops would go on for ever."""

    def cut() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_left(until), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        connection.close()


def _request(connection: socket.socket, parts: SplitResult, method: str) -> int:
    request = http.client.HTTPConnection(parts.netloc.rpartition("@")[2])
    request.sock = connection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request.request(method, target, headers={"Connection": "close", "User-Agent": "ansai"})
    with request.getresponse() as response:
        return response.status


def _words(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return plain(strerror or str(error) or type(error).__name__)
