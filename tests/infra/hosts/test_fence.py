"""The fence: whoever slept through its lease is refused; a file that can't be trusted lets nobody through."""

import asyncio
import fcntl
import os
import signal
import stat
from datetime import timedelta

import pytest

from bus import subjects
from bus.port import Bucket
from functions.core.ports import Fenced, Token, ToolError
from infra.hosts import fence as fence_module
from infra.hosts.fence import LocalFence
from infra.hosts.leases import BusLeases
from tests.infra.hosts.joined import joined, line, say

VAR, SRV = "fs:/var", "fs:/srv"


@pytest.fixture
def fence(tmp_path) -> LocalFence:
    return LocalFence(tmp_path / "fences")


def file_of(tmp_path, resource):
    return tmp_path / "fences" / subjects.target_token(resource)


def test_the_same_and_later_tokens_pass_and_an_older_one_does_not(fence):
    fence.admit({VAR: Token(1, 5)})
    fence.admit({VAR: Token(1, 5)})
    fence.admit({VAR: Token(1, 9)})

    with pytest.raises(Fenced, match=r"somebody acted on fs:/var with the later token 1/9; ours is 1/5"):
        fence.admit({VAR: Token(1, 5)})


def test_a_bucket_made_anew_has_later_tokens_although_its_revisions_are_smaller(fence):
    fence.admit({VAR: Token(1, 900)})
    fence.admit({VAR: Token(2, 3)})

    with pytest.raises(Fenced):
        fence.admit({VAR: Token(1, 901)})


def test_nothing_is_noted_when_one_of_several_is_refused(fence):
    fence.admit({SRV: Token(1, 9)})
    with pytest.raises(Fenced):
        fence.admit({VAR: Token(1, 5), SRV: Token(1, 6)})

    fence.admit({VAR: Token(1, 4)})


def test_another_instance_of_the_same_directory_knows_what_was_noted(tmp_path, fence):
    fence.admit({VAR: Token(1, 5)})

    with pytest.raises(Fenced):
        LocalFence(tmp_path / "fences").admit({VAR: Token(1, 4)})


def test_files_are_for_their_owner_only(tmp_path, fence):
    fence.admit({VAR: Token(1, 5)})

    assert stat.S_IMODE(file_of(tmp_path, VAR).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "fences").stat().st_mode) == 0o700


def cut(path):
    path.write_bytes(path.read_bytes()[:20])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("damage", [cut, flipped, longer])
def test_a_damaged_file_lets_nobody_through_until_it_is_removed(tmp_path, fence, damage):
    fence.admit({VAR: Token(1, 5)})
    path = file_of(tmp_path, VAR)
    damage(path)

    with pytest.raises(ToolError, match=f"content is damaged.*rm {path}"):
        fence.admit({VAR: Token(1, 6)})
    path.unlink()
    fence.admit({VAR: Token(1, 6)})


def test_a_process_that_was_killed_before_it_wrote_leaves_an_empty_file_which_refuses_nobody(tmp_path, fence):
    (tmp_path / "fences").mkdir()
    file_of(tmp_path, VAR).touch()

    fence.admit({VAR: Token(1, 6)})


def test_links_and_pipes_are_not_followed(tmp_path, fence):
    (tmp_path / "fences").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    file_of(tmp_path, VAR).symlink_to(elsewhere)
    os.mkfifo(file_of(tmp_path, SRV))

    with pytest.raises(ToolError, match=r"fence.*Too many levels of symbolic links"):
        fence.admit({VAR: Token(1, 6)})
    with pytest.raises(ToolError, match="it is no regular file"):
        fence.admit({SRV: Token(1, 6)})
    assert elsewhere.read_bytes() == b""


def test_a_directory_that_is_none_lets_nobody_through(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ToolError, match=r"nothing is changed without a fence: open .*must be a directory"):
        LocalFence(tmp_path / "file").admit({VAR: Token(1, 1)})


def test_a_process_that_stands_still_at_the_fence_is_named_instead_of_waited_for(tmp_path, fence, monkeypatch):
    monkeypatch.setattr(fence_module, "PATIENCE", 0.02)
    fence.admit({VAR: Token(1, 5)})
    with file_of(tmp_path, VAR).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ToolError, match=r"another process has held .*fuser -v"):
            fence.admit({VAR: Token(1, 5)})

    fence.admit({VAR: Token(1, 5)})


MANY = """
import random, sys
from pathlib import Path
from functions.core.ports import Fenced, Token
from infra.hosts.fence import LocalFence
fence, highest = LocalFence(Path(sys.argv[2])), 0
generator = random.Random(int(sys.argv[3]))
for _ in range(300):
    revision = generator.randrange(1, 10_000)
    try:
        fence.admit({"fs:/var": Token(1, revision), "fs:/srv": Token(1, revision)})
        assert revision >= highest, (revision, highest)
        highest = revision
    except Fenced:
        pass
print(highest)
"""


async def test_many_processes_at_once_end_with_the_latest_token(tmp_path):
    async with joined(tmp_path) as site:
        processes = [await site.python(MANY, str(tmp_path / "fences"), str(seed)) for seed in range(4)]
        highest = max([int(await line(process)) for process in processes])

    fence = LocalFence(tmp_path / "fences")
    fence.admit({VAR: Token(1, highest), SRV: Token(1, highest)})
    for resource in (VAR, SRV):
        with pytest.raises(Fenced):
            fence.admit({resource: Token(1, highest - 1)})


SLEEPER = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from bus.jetstream import connect
from bus.port import Bucket
from functions.core.ports import Fenced
from infra.hosts.fence import LocalFence
from infra.hosts.leases import BusLeases
from schemas.settings.bus import BusSettings
async def main():
    bus = await connect(BusSettings(url=sys.argv[1], lease_ttl=timedelta(seconds=1)), name="sleeper")
    leases = BusLeases(await bus.bucket(Bucket.LEASES), "web-1", "sleeper", timedelta(seconds=1))
    held = await leases.acquire(["fs:/var"])
    fence = LocalFence(Path(sys.argv[2]))
    fence.admit(held.tokens)
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        fence.admit(held.tokens)
        print("acted", flush=True)
    except Fenced as error:
        print(error, flush=True)
    await held.release()
    await bus.close()
asyncio.run(main())
"""


async def test_a_holder_that_was_stopped_beyond_its_lease_is_fenced_when_it_wakes(tmp_path):
    async with joined(tmp_path, lease_ttl=timedelta(seconds=1)) as site:
        sleeper = await site.python(SLEEPER, str(tmp_path / "fences"))
        assert await line(sleeper) == "held"
        sleeper.send_signal(signal.SIGSTOP)
        other = BusLeases(await site.bucket(Bucket.LEASES), "web-1", "other", timedelta(seconds=1))
        async with asyncio.timeout(20):
            while (held := await other.acquire([VAR])) is None:
                await asyncio.sleep(0.02)
        LocalFence(tmp_path / "fences").admit(held.tokens)
        await held.release()

        await say(sleeper, "go on")
        sleeper.send_signal(signal.SIGCONT)

        assert (await line(sleeper)).startswith("fenced: somebody acted on fs:/var")
