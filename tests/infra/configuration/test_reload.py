"""The settings file is watched: a good one is handed on with what differs, a broken one leaves the old in force."""

import asyncio
import os
import signal
from datetime import timedelta

import pytest

from infra.configuration import read
from infra.configuration.reload import ConfigurationWatch, changed_sections
from schemas.remediation import Mode
from schemas.settings.base import Settings
from schemas.settings.policy import Policy
from schemas.settings.root import Configuration
from tests.fakes import FakeClock


class Watched:
    """A settings file in a directory of its own, its watch, and what the watch told."""

    def __init__(self, directory, text: str | None, named: bool = True) -> None:
        self.path = directory / "ansai.yaml"
        self.environment = {"HOME": str(directory), "XDG_CONFIG_HOME": str(directory / "config")}
        self.told: list[frozenset[str]] = []
        self.faults: list[str] = []
        self.clock = FakeClock()
        if text is not None:
            self.write(text)
        path = str(self.path) if named else None
        self.watch = ConfigurationWatch(
            read(path, self.environment), path, environment=self.environment, changed=self.changed, broken=self.broken,
            clock=self.clock,
        )  # fmt: skip

    def write(self, text: str) -> None:
        """A new file in the old one's place, as editors and deployments write it."""
        draft = self.path.with_suffix(".new")
        draft.write_text(text)
        os.replace(draft, self.path)

    async def changed(self, configuration: Configuration, sections: frozenset[str]) -> None:
        assert configuration is self.watch.configuration
        self.told.append(sections)

    async def broken(self, text: str) -> None:
        self.faults.append(text.replace(str(self.path), "ansai.yaml"))

    async def looks(self, count: int = 2) -> None:
        for _ in range(count):
            await self.watch.look()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(text: str | None = "policy: {mode: dry_run}\n", **options) -> Watched:
        return Watched(tmp_path, text, **options)

    return make


async def test_an_unchanged_file_is_not_told(watched):
    world = watched()

    await world.looks(5)

    assert (world.told, world.faults) == ([], [])


async def test_a_changed_file_is_told_once_with_the_sections_that_differ(watched):
    world = watched()
    await world.looks()

    world.write("policy: {mode: auto}\ndisk_monitoring: {target: 70}\n")
    await world.looks(4)

    assert world.told == [frozenset({"policy", "disk_monitoring"})]
    assert world.watch.configuration.policy.mode is Mode.AUTO


async def test_a_file_that_is_still_being_written_is_not_loaded(watched):
    world = watched()
    await world.looks()

    world.path.write_text("")
    await world.watch.look()
    world.path.write_text("policy: {mode: dry_run, event_expiry: 1 min}\n")
    await world.watch.look()
    assert world.told == []
    await world.watch.look()

    assert world.told == [frozenset({"policy"})]


async def test_what_changed_between_the_start_and_the_first_look_is_noticed(watched):
    world = watched()

    world.write("policy: {mode: auto}\n")
    await world.looks()

    assert world.told == [frozenset({"policy"})]


async def test_a_change_that_means_the_same_is_not_told(watched):
    world = watched()
    await world.looks()

    world.write("# a comment\npolicy:\n  mode: dry_run\n")
    await world.looks()

    assert world.told == []


async def test_a_broken_file_leaves_the_old_settings_in_force_and_is_told_once(watched):
    world = watched("policy: {mode: auto}\n")
    await world.looks()

    world.write("policy: {mode: aut}\n")
    await world.looks(3)
    os.utime(world.path, ns=(1, 1))
    await world.looks(3)

    (fault,) = world.faults
    assert fault.startswith("ansai.yaml:1: policy.mode: must be")
    assert world.watch.configuration.policy.mode is Mode.AUTO
    assert world.told == []


async def test_another_broken_content_is_told_again(watched):
    world = watched()
    await world.looks()

    for text in ("polcy: {}\n", "bus: [\n"):
        world.write(text)
        await world.looks()

    assert [fault.split(": ")[1] for fault in world.faults] == ["polcy", "is no valid YAML"]


async def test_that_a_fault_was_mended_is_told_although_nothing_differs(watched):
    world = watched()
    await world.looks()

    world.write("polcy: {}\n")
    await world.looks()
    world.write("policy: {mode: dry_run}\n")
    await world.looks()

    assert world.told == [frozenset()]
    world.write("polcy: {}\n")
    await world.looks()
    assert len(world.faults) == 2


@pytest.mark.parametrize("named", [True, False])
async def test_a_file_that_vanished_changes_nothing_but_is_told(watched, named):
    world = watched("policy: {mode: auto}\n", named=named)
    await world.looks()

    world.path.unlink()
    await world.looks(4)

    assert world.watch.configuration.policy.mode is Mode.AUTO
    assert len(world.faults) == 1
    assert "ansai.yaml: is gone; put it back" in world.faults[0]


async def test_a_first_file_is_noticed_where_there_was_none(watched):
    world = watched(None, named=False)
    if world.watch.configuration != Configuration():
        pytest.skip("this machine has settings of its own in /etc/ansai")
    await world.looks()

    world.write("policy: {mode: auto}\n")
    await world.looks()

    assert world.told == [frozenset({"policy"})]


async def test_a_link_that_leads_elsewhere_is_noticed(watched, tmp_path):
    """As Kubernetes puts a new ConfigMap in place."""
    (tmp_path / "old").write_text("policy: {mode: dry_run}\n")
    (tmp_path / "new").write_text("policy: {mode: observe}\n")
    (tmp_path / "ansai.yaml").symlink_to("old")
    world = watched(None)
    await world.looks()

    (tmp_path / "link").symlink_to("new")
    os.replace(tmp_path / "link", tmp_path / "ansai.yaml")
    await world.looks()

    assert world.told == [frozenset({"policy"})]


async def test_variables_and_options_keep_their_place_above_the_file(watched):
    world = watched()
    world.environment["ANSAI_POLICY__MODE"] = "observe"
    await world.looks()

    world.write("policy: {mode: auto}\n")
    await world.looks()

    assert world.watch.configuration.policy.mode is Mode.OBSERVE


async def test_it_looks_once_a_second(watched):
    world = watched()
    running = asyncio.create_task(world.watch.run())
    await world.clock.until_asleep(1)
    await world.clock.advance(timedelta(seconds=2))

    world.write("policy: {mode: auto}\n")
    await world.clock.advance(timedelta(seconds=2))

    assert world.told == [frozenset({"policy"})]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_signal_makes_it_look_at_once(watched):
    world = watched()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, world.watch.wake)
    running = asyncio.create_task(world.watch.run())
    try:
        await world.clock.until_asleep(1)
        world.write("policy: {mode: auto}\n")
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(30):
            while not world.told:
                await asyncio.sleep(0.005)
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert world.told == [frozenset({"policy"})]


class ShopSettings(Settings):
    shelves: int = 3


class WithShop(Configuration):
    shop: ShopSettings = ShopSettings()


def test_the_sections_that_differ_are_named():
    old = Configuration()

    assert changed_sections(old, Configuration()) == frozenset()
    assert changed_sections(old, Configuration(host="web-1", policy=Policy(mode=Mode.AUTO))) == {"host", "policy"}
    assert changed_sections(WithShop(), WithShop(shop=ShopSettings(shelves=4))) == {"shop"}


def test_a_section_that_only_one_of_both_has_differs():
    assert changed_sections(Configuration(), WithShop()) == changed_sections(WithShop(), Configuration()) == {"shop"}
