"""What is read from the files that `bus.credentials` names stays covered until the client takes it."""

import logging

import pytest

from bus.connection import connect_options
from bus.jetstream import connect
from bus.port import Rejected
from schemas.secret import Secret
from schemas.settings.bus import BusSettings, Credentials
from tests.servers import running_server

PASSWORD = "correct-horse"
USERS = f'authorization {{ users: [ {{ user: "ansai", password: "{PASSWORD}" }} ] }}'


@pytest.fixture
def settings(tmp_path):
    def with_password(text: str, url: str = "nats://127.0.0.1:1") -> BusSettings:
        (tmp_path / "password").write_text(f"{text}\n")
        return BusSettings(url=url, credentials=Credentials(user="ansai", password_file=tmp_path / "password"))

    return with_password


def test_the_options_hold_the_password_as_a_secret(settings):
    options = connect_options(settings(PASSWORD), "nats://127.0.0.1:1")

    assert options == {"user": "ansai", "password": Secret(PASSWORD)}
    assert PASSWORD not in repr(options)


async def test_the_client_gets_it_and_the_server_takes_it(settings, tmp_path):
    async with running_server(tmp_path / "nats", USERS) as server:
        bus = await connect(settings(PASSWORD, server.url), name="test")
        assert bus.connected
        await bus.close()


async def test_a_wrong_one_is_neither_told_nor_logged(settings, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with running_server(tmp_path / "nats", USERS) as server:
        with pytest.raises(Rejected, match=r"check bus\.credentials") as refused:
            await connect(settings("battery-staple", server.url), name="test")

    assert "battery-staple" not in str(refused.value) + caplog.text
