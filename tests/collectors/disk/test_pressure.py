"""How filesystems are judged: levels, trends, deleted files, what can't be seen."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.core.run import CollectorRun
from collectors.disk import pressure
from collectors.disk.pressure import COLLECTOR, PressureMemory, absorb_held, held_due
from schemas.facts.files import DeletedOpen
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.settings.disk import DiskMonitoring
from tests.fakes import GIB, START, FakeClock, FakeOutlet, FakeProbes

EVERY = timedelta(seconds=30)
MIB = 2**20


class Watch:
    """Looks at a fake machine again and again, as the loop does."""

    def __init__(self, **settings):
        self.probes = FakeProbes()
        self.disk = self.probes.files.disk
        self.settings = DiskMonitoring(**settings)
        self.memory = PressureMemory()
        self.now = START

    def look(self, times=1, every=EVERY):
        for _ in range(times):
            reading = pressure.read(self.settings, self.probes, self.memory)
            events, self.memory = pressure.judge(self.settings, reading, self.memory, self.now)
            self.now += every
        return {event.target: event for event in events}

    def levels(self, times=1):
        return {target: event.level for target, event in self.look(times).items()}


@pytest.fixture
def watch():
    return Watch()


def test_bytes_and_inodes_are_targets_of_their_own(watch):
    watch.disk("/var", 50, total=100 * GIB, inodes=1000, inode_percent=92)
    events = watch.look()
    assert set(events) == {"bytes:/var", "inodes:/var"}
    held, counted = events["bytes:/var"], events["inodes:/var"]
    assert (held.level, held.percent, held.total, held.used, held.available) == (
        Level.OK, 50, 100 * GIB, 50 * GIB, 50 * GIB,
    )  # fmt: skip
    assert (counted.level, counted.percent, counted.total, counted.used, counted.available) == (
        Level.CRITICAL, 92, 1000, 920, 80,
    )  # fmt: skip
    assert (held.mount, held.source, held.fstype, held.resource) == ("/var", "/dev/disk1", "ext4", "bytes")


def test_a_filesystem_without_an_inode_limit_has_no_inode_target(watch):
    watch.disk("/data", inodes=0, fstype="btrfs")
    assert set(watch.look()) == {"bytes:/data"}


def test_a_filesystem_of_size_zero_is_left_out_as_df_does(watch):
    watch.disk("/odd", 0, total=0, inodes=0)
    assert watch.look() == {}


@pytest.mark.parametrize(
    ("percent", "level"),
    [
        (10, "ok"),
        (79, "ok"),
        (79.2, "warning"),
        (80, "warning"),
        (90, "critical"),
        (95, "emergency"),
        (100, "emergency"),
    ],
)
def test_levels_follow_the_thresholds_and_percentages_are_rounded_up_as_df_does(watch, percent, level):
    watch.disk("/var", percent)
    assert watch.look()["bytes:/var"].level == level


def test_percentages_count_what_ordinary_users_can_take_and_the_reserve_is_told():
    watch = Watch()
    usage = watch.disk("/var", 85, total=100 * GIB)
    watch.probes.files.usages["/var"] = usage.model_copy(update={"available": 10 * GIB})
    event = watch.look()["bytes:/var"]
    assert event.percent == 90
    assert event.findings == ("5.0 GiB are kept for root; ordinary users have 10.0 GiB",)


def test_a_worse_level_needs_a_second_read_and_says_so_meanwhile(watch):
    watch.disk("/var", 50)
    watch.look()
    watch.disk("/var", 85)
    first = watch.look()["bytes:/var"]
    assert first.level is Level.OK
    assert first.reason.endswith("warning 80 %; warning is believed after 2 reads in a row, this is number 1")
    assert watch.look()["bytes:/var"].level is Level.WARNING


def test_an_emergency_is_believed_at_once(watch):
    watch.disk("/var", 50)
    watch.look()
    watch.disk("/var", 97)
    assert watch.levels()["bytes:/var"] is Level.EMERGENCY


@pytest.mark.parametrize(
    ("percent", "level"),
    [(90, "critical"), (88, "critical"), (87, "critical"), (86, "warning"), (77, "warning"), (76, "ok")],
)
def test_a_level_is_left_three_points_below_where_it_is_entered(watch, percent, level):
    watch.disk("/var", 92)
    watch.look()
    watch.disk("/var", percent)
    assert watch.look()["bytes:/var"].level == level


def test_a_level_that_is_kept_says_why(watch):
    watch.disk("/var", 81)
    watch.look()
    watch.disk("/var", 78)
    assert watch.look()["bytes:/var"].reason == (
        "/var is 78 % full of bytes, below warning; it stays warning until 3 points below where that began"
    )


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_usage_that_stays_settles_on_one_level(before, percent):
    watch = Watch()
    watch.disk("/var", before)
    watch.look(2)
    watch.disk("/var", percent)
    watch.look(4)
    settled = watch.look()["bytes:/var"]
    for _ in range(5):
        assert watch.look()["bytes:/var"].level is settled.level


@given(st.lists(st.integers(79, 81), min_size=1, max_size=30))
def test_usage_that_trembles_around_a_threshold_changes_the_level_once(percents):
    watch, levels = Watch(), []
    for percent in [50, *percents]:
        watch.disk("/var", percent)
        levels.append(watch.look()["bytes:/var"].level)
    assert sum(before is not after for before, after in pairwise(levels)) <= 1


@given(st.floats(0, 100), st.floats(0, 100))
def test_fuller_is_never_better(one, other):
    ranks = []
    for percent in sorted((one, other)):
        watch = Watch()
        watch.disk("/var", percent)
        ranks.append(watch.look()["bytes:/var"].level.rank)
    assert ranks == sorted(ranks)


def test_easing_the_floor_never_makes_a_filesystem_look_better_than_it_is():
    watch = Watch(minimum_available="204M")  # the smallest filesystem that has this floor; eased, it would have none
    watch.disk("/var", 80.5, total=1024 * MIB)
    assert watch.levels(3)["bytes:/var"] is Level.CRITICAL


def test_little_space_is_critical_at_any_percent_until_there_is_clearly_more():
    watch = Watch(thresholds={"warning": 97, "critical": 98, "emergency": 99})
    watch.disk("/var", 95.2, total=4000 * MIB)
    assert watch.levels()["bytes:/var"] is Level.CRITICAL
    watch.disk("/var", 94.8, total=4000 * MIB)
    assert watch.levels()["bytes:/var"] is Level.CRITICAL
    watch.disk("/var", 93, total=4000 * MIB)
    assert watch.levels()["bytes:/var"] is Level.OK


def grow(watch, per_minute, minutes, *, start=50, total=100 * GIB):
    """Look every half minute while the disk fills by so many points a minute."""
    for half in range(minutes * 2 + 1):
        watch.disk("/var", start + per_minute * half / 2, total=total)
        events = watch.look()
    return events["bytes:/var"]


def test_no_trend_is_told_before_there_are_five_minutes_of_samples(watch):
    event = grow(watch, 1, 4)
    assert (event.per_second, event.per_second_day, event.seconds_to_full) == (None, None, None)


def test_growth_and_the_time_until_full_are_told(watch):
    event = grow(watch, 0.1, 30)
    assert event.per_second == pytest.approx(0.1 * GIB / 60)
    assert event.seconds_to_full == pytest.approx(47 * 600)
    assert event.level is Level.OK


def test_a_disk_that_will_be_full_in_minutes_is_an_emergency_above_warning_and_a_warning_below(watch):
    event = grow(watch, 2, 10, start=50)  # 70 %, full in 15 minutes
    assert event.level is Level.OK
    event = grow(watch, 2, 2, start=70)
    assert event.level is Level.WARNING
    assert "will be full in" in event.reason
    event = grow(watch, 2, 4, start=74)
    assert event.level is Level.EMERGENCY


def test_the_steeper_of_both_slopes_counts(watch):
    for quarter in range(40):
        watch.disk("/var", 30 + quarter)
        watch.look(every=timedelta(minutes=15))
    event = None
    for _ in range(130):
        event = watch.look()["bytes:/var"]
    assert event.per_second == 0
    assert event.per_second_day == pytest.approx(GIB / 900, rel=0.2)
    assert event.seconds_to_full == pytest.approx(event.available / event.per_second_day)


def test_a_shrinking_disk_is_never_full(watch):
    event = grow(watch, -0.5, 20)
    assert event.per_second < 0
    assert event.seconds_to_full is None


def test_a_device_that_was_exchanged_begins_without_a_past(watch):
    grow(watch, 0.1, 30)
    watch.probes.files.unmount("/var")
    watch.disk("/var", 20, device="8:77")
    assert watch.look()["bytes:/var"].per_second is None


def test_memory_stays_small_however_long_it_runs(watch):
    watch.disk("/var", 50)
    watch.look(400)
    known = watch.memory.targets["bytes:/var"]
    assert len(known.hour.samples) <= 145
    assert len(known.day.samples) <= 97
    assert len(watch.memory.model_dump_json()) < 20_000


def test_a_mount_that_cant_be_read_is_unknown_and_the_others_go_on(watch):
    watch.disk("/", 50)
    watch.disk("/var", 92)
    watch.look()
    watch.probes.files.broken["/var"] = "statvfs of /var gave no answer within 5 s"
    events = watch.look()
    assert {target: event.level.value for target, event in events.items()} == {
        "bytes:/": "ok", "inodes:/": "ok", "bytes:/var": "unknown", "inodes:/var": "unknown",
    }  # fmt: skip
    event = events["bytes:/var"]
    assert event.reason == "/var can't be read: statvfs of /var gave no answer within 5 s"
    assert (event.percent, event.used, event.available, event.mount) == (None, None, None, "/var")
    watch.probes.files.broken.clear()
    assert watch.look()["bytes:/var"].level is Level.CRITICAL


def test_servers_that_do_not_answer_never_take_the_time_of_disks_and_only_once_that_of_other_servers(
    watch, monkeypatch
):
    seconds, usage = [0.0], watch.probes.files.usage

    def slow_when_broken(point):
        seconds[0] += 5 if point in watch.probes.files.broken else 0.001
        return usage(point)

    monkeypatch.setattr(pressure, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(watch.probes.files, "usage", slow_when_broken)
    for point in ("/hung", "/hung too", "/share"):
        watch.disk(point, 92, inodes=0, fstype="nfs4")
    watch.disk("/srv", 92, inodes=0)
    watch.probes.files.broken = dict.fromkeys(("/hung", "/hung too"), "no answer within 5 s")
    first = watch.look()
    assert seconds[0] < 10
    assert "no time was left, others took 5.0 s" in first["bytes:/share"].reason
    assert first["bytes:/srv"].level is Level.CRITICAL
    watch.look()
    for _ in range(5):
        began = seconds[0]
        assert watch.levels() == {
            "bytes:/hung": "unknown", "bytes:/hung too": "unknown",
            "bytes:/share": "critical", "bytes:/srv": "critical",
        }  # fmt: skip
        assert seconds[0] - began < 10
    watch.probes.files.broken.clear()
    assert set(watch.levels().values()) == {Level.CRITICAL}


def test_of_a_mount_that_was_never_read_only_bytes_are_told(watch):
    watch.disk("/nfs", 50)
    watch.probes.files.broken["/nfs"] = "stale file handle"
    assert watch.levels() == {"bytes:/nfs": Level.UNKNOWN}


def test_what_is_no_real_filesystem_or_left_out_is_not_read(watch):
    watch.disk("/", 50)
    watch.disk("/proc", fstype="proc")
    watch.disk("/snap/core", fstype="squashfs", options=("ro",))
    watch.disk("/mnt/a", 99, device="8:1")
    assert {target.partition(":")[2] for target in watch.look()} == {"/"}
    assert watch.probes.files.calls["usage"] == 1


def test_a_thin_volume_that_looks_fine_is_unknown_because_its_pool_cant_be_seen(watch):
    watch.disk("/srv", 50, device="253:4")
    watch.probes.files.pools["253:4"] = "vg-pool0"
    event = watch.look()["bytes:/srv"]
    assert event.level is Level.UNKNOWN
    assert event.percent == 50
    assert "vg-pool0" in event.reason
    assert event.findings == ("a thin volume: its pool vg-pool0 can be full while this looks fine; see lvs",)


def test_a_thin_volume_that_is_full_itself_is_told_so(watch):
    watch.disk("/srv", 92, device="253:4")
    watch.probes.files.pools["253:4"] = "vg-pool0"
    assert watch.levels()["bytes:/srv"] is Level.CRITICAL


def test_without_sys_filesystems_are_judged_by_what_is_known(watch):
    watch.disk("/srv", 50, device="253:4")
    watch.probes.files.broken["thin_pool"] = "read /sys/dev/block: no such directory"
    event = watch.look()["bytes:/srv"]
    assert event.level is Level.OK
    assert event.findings == ("whether a thin pool lies below is not known: read /sys/dev/block: no such directory",)


@pytest.mark.parametrize("fstype", ["btrfs", "zfs"])
def test_filesystems_that_share_space_are_judged_with_a_finding(watch, fstype):
    watch.disk("/data", 50, fstype=fstype)
    event = watch.look()["bytes:/data"]
    assert event.level is Level.OK
    assert event.findings[0].startswith(fstype)


def deleted(pid, process, allocated, device=1, inode=1):
    return DeletedOpen(
        pid=pid, process=process, path="/var/log/x", device=device, inode=inode, allocated=int(allocated)
    )


def test_what_deleted_files_hold_is_told_for_their_filesystem_only(watch):
    watch.disk("/", 50)
    watch.disk("/var", 50)
    watch.memory = absorb_held(watch.memory, [deleted(123, "nginx", 1.2 * GIB)], watch.now)
    events = watch.look()
    assert events["bytes:/"].findings == ("1.2 GiB held by deleted files: pid 123 (nginx)",)
    assert events["bytes:/"].deleted_open_bytes == int(1.2 * GIB)
    assert events["bytes:/var"].deleted_open_bytes == 0
    assert events["bytes:/var"].findings == ()
    assert events["inodes:/"].findings == ()


def test_the_largest_holders_are_named_and_the_others_counted(watch):
    watch.disk("/", 50)
    files = [deleted(pid, f"worker\x1b{pid}", pid * GIB) for pid in range(1, 6)]
    watch.memory = absorb_held(watch.memory, [*files, deleted(5, "worker\x1b5", GIB)], watch.now)
    (finding,) = watch.look()["bytes:/"].findings
    assert finding == (
        "16.0 GiB held by deleted files: pid 5 (worker\\x1b5) 6.0 GiB, pid 4 (worker\\x1b4) 4.0 GiB,"
        " pid 3 (worker\\x1b3) 3.0 GiB, and 2 more"
    )


def test_when_deleted_files_cant_be_looked_for_the_figure_is_missing_and_under_pressure_it_is_said(watch):
    watch.disk("/", 50)
    watch.disk("/var", 92)
    watch.memory = absorb_held(watch.memory, ProbeError("/proc is hidden from this user"), watch.now)
    events = watch.look()
    assert events["bytes:/"].deleted_open_bytes is None
    assert events["bytes:/"].findings == ()
    assert events["bytes:/var"].findings == ("what deleted files hold is not known: /proc is hidden from this user",)


def test_an_old_answer_about_deleted_files_is_no_answer(watch):
    watch.disk("/", 50)
    watch.memory = absorb_held(watch.memory, [], watch.now)
    assert watch.look()["bytes:/"].deleted_open_bytes == 0
    watch.now += timedelta(minutes=16)
    assert watch.look()["bytes:/"].deleted_open_bytes is None


@pytest.mark.parametrize(("percent", "minutes"), [(50, 5), (92, 1)])
def test_deleted_files_are_looked_for_seldom_and_more_often_under_pressure(watch, percent, minutes):
    watch.disk("/", percent)
    watch.look()
    assert held_due(watch.settings, watch.memory, START)
    memory = absorb_held(watch.memory, [], START)
    assert not held_due(watch.settings, memory, START + timedelta(minutes=minutes, seconds=-1))
    assert held_due(watch.settings, memory, START + timedelta(minutes=minutes))
    assert held_due(watch.settings, memory, START - timedelta(days=1))  # the clock was set back


def test_memory_is_written_and_read_back_alike(watch):
    watch.disk("/srv/\udcff weird\n", 92)
    watch.look(3)
    watch.memory = absorb_held(watch.memory, [deleted(1, "x", GIB)], watch.now)
    again = PressureMemory.model_validate_json(watch.memory.model_dump_json(exclude_defaults=True))
    assert again == watch.memory
    assert again.targets["bytes:/srv/\\xff weird\n"].mount == "/srv/\udcff weird\n"


@pytest.fixture
def run():
    probes, outlet, clock = FakeProbes(), FakeOutlet(), FakeClock()
    runner = CollectorRun(COLLECTOR, DiskMonitoring(), probes, outlet, "web-1", clock=clock)
    return runner, probes.files, outlet, clock


async def test_in_the_loop_a_mount_is_told_followed_and_said_goodbye(run):
    runner, files, outlet, _ = run
    files.disk("/var", 92)
    files.disk("/mnt", 10)
    await runner.look()
    assert {event.target: event.level.value for event in outlet.take()} == {
        "bytes:/var": "critical", "inodes:/var": "ok", "bytes:/mnt": "ok", "inodes:/mnt": "ok",
    }  # fmt: skip
    files.unmount("/mnt")
    await runner.look()
    gone = outlet.take()
    assert {event.target for event in gone} == {"bytes:/mnt", "inodes:/mnt"}
    assert {event.mount for event in gone} == {"/mnt"}
    assert all("/mnt is gone" in event.reason for event in gone)
    files.disk("/var", 70)
    await runner.look()
    (healed,) = outlet.take()
    assert (healed.target, healed.level, healed.previous) == ("bytes:/var", Level.OK, Level.CRITICAL)


async def test_without_a_mount_list_every_filesystem_is_unknown(run):
    runner, files, outlet, _ = run
    files.broken["mounts"] = "/proc/self/mountinfo: permission denied"
    await runner.look()
    (event,) = outlet.take()
    assert (event.target, event.level, event.mount) == ("collector:disk.pressure", Level.UNKNOWN, "")
    files.broken.clear()
    files.disk("/var", 50)
    await runner.look()
    outlet.take()
    files.broken["mounts"] = "/proc/self/mountinfo: permission denied"
    await runner.look()
    assert {(event.target, event.mount) for event in outlet.take()} == {("bytes:/var", "/var"), ("inodes:/var", "/var")}


async def test_deleted_files_are_in_the_very_first_event_and_read_once_in_five_minutes(run):
    runner, files, outlet, clock = run
    files.disk("/", 50)
    files.deleted = [deleted(123, "nginx", 2 * GIB)]
    await runner.look()
    assert outlet.take()[0].deleted_open_bytes == 2 * GIB
    for _ in range(9):
        clock.move(EVERY)
        await runner.look()
    assert files.calls["deleted_open"] == 1
    clock.move(EVERY)
    await runner.look()
    assert files.calls["deleted_open"] == 2
