"""One request to a server of the test's own, on loopback."""

import contextlib
import http.server
import socket
import threading
import time

import pytest

from infra.adapters.process_signals import ProcessSignals
from schemas.remediation import Outcome


class Handler(http.server.BaseHTTPRequestHandler):
    """`/status/204` answers so; `/drops` one byte at a time, for ever; all is noted."""

    def answer(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers["Host"]))
        if self.path == "/drops":
            while not self.server.over.wait(0.01):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: x\r\n"[:1])
            return
        self.send_response(int(self.path.partition("?")[0].rpartition("/")[2]))
        if "/302" in self.path:
            self.send_header("Location", "/status/200")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what is tested."""


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.over = [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def ask(server, path, method="POST", host="127.0.0.1", timeout=10.0):
    return ProcessSignals().ask(f"http://{host}:{server.server_port}{path}", method, timeout)


def test_one_that_takes_no_more_connections_gets_no_more_time_by_having_two_addresses(monkeypatch):
    """Its queue is full, as of a service that hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with contextlib.ExitStack() as waiting:
            for _ in range(3):
                client = waiting.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(listener.getsockname())
            twice = [listener.getsockname()] * 2
            monkeypatch.setattr("infra.adapters.loopback._addresses", lambda _: twice)
            began = time.monotonic()
            result = ProcessSignals().ask(f"http://localhost:{listener.getsockname()[1]}/gc", "POST", 1.0)
            assert time.monotonic() - began < 1.9
    assert (result.outcome, result.reason) == (Outcome.REFUSED, "nobody answers there: timed out")


@pytest.mark.parametrize("status", [200, 202, 204])
def test_an_answer_of_the_two_hundreds_is_done(server, status):
    result = ask(server, f"/status/{status}")

    assert (result.outcome, result.reason) == (Outcome.DONE, f"it answered {status}")
    assert result.name == f"POST http://127.0.0.1:{server.server_port}/status/{status}"


@pytest.mark.parametrize("status", [404, 500, 503])
def test_any_other_answer_is_a_failure(server, status):
    result = ask(server, f"/status/{status}")

    assert (result.outcome, result.reason) == (Outcome.FAILED, f"it answered {status}")


def test_a_redirection_is_not_followed(server):
    result = ask(server, "/status/302")

    assert (result.outcome, result.reason) == (
        Outcome.FAILED, "it answered 302, and redirections are not followed",
    )  # fmt: skip
    assert len(server.asked) == 1


def test_method_query_and_host_arrive_and_the_query_is_not_told(server):
    result = ask(server, "/gc/200?token=hunter2", "GET", "localhost")

    assert result.outcome is Outcome.DONE
    assert server.asked == [("GET", "/gc/200?token=hunter2", f"localhost:{server.server_port}")]
    assert "hunter2" not in result.model_dump_json()


def test_no_proxy_is_asked(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")

    assert ask(server, "/status/200").outcome is Outcome.DONE


def test_an_answer_that_comes_in_drops_is_cut_off_at_the_deadline(server):
    began = time.monotonic()

    result = ask(server, "/drops", timeout=0.5)

    assert result.outcome is Outcome.FAILED
    assert result.reason.startswith("no answer within 0.5 s, or a broken one")
    assert time.monotonic() - began < 5


def test_silence_is_a_failure_after_the_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = ProcessSignals().ask(f"http://127.0.0.1:{silent.getsockname()[1]}/", "GET", 0.3)

    assert result.outcome is Outcome.FAILED


def test_when_nobody_listens_nothing_was_asked():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]

    result = ProcessSignals().ask(f"http://127.0.0.1:{port}/", "GET", 5)

    assert (result.outcome, result.reason) == (Outcome.REFUSED, "nobody answers there: Connection refused")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://10.0.0.1/", "10.0.0.1 is no address of loopback"),
        ("http://[fe80::1]/", "fe80::1 is no address of loopback"),
        ("http://0.0.0.0/", "0.0.0.0 is no address of loopback"),
        ("https://127.0.0.1/", "does not begin with http://"),
        ("file:///etc/passwd", "does not begin with http://"),
        ("http:///x", "does not begin with http://"),
        ("http://127.0.0.1:99999/", "out of range"),
        ("http://127.0.0.1@10.0.0.1/", "10.0.0.1 is no address of loopback"),
    ],
)
def test_only_loopback_is_asked(url, words):
    result = ProcessSignals().ask(url, "GET", 1)

    assert result.outcome is Outcome.REFUSED
    assert words in result.reason
