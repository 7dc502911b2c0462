"""What `ansai plan` and `ansai up` draw, from a small world in memory."""

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from functions.core.plan import Plan, Rung
from functions.disk.actions import CleanPackageCache
from functions.disk.facts import Seen
from functions.disk.file_actions import RemoveFiles
from infra.cli.plan_view import bar, block, summary
from infra.cli.screen import Screen, Standing, sparkline
from infra.hosts.preview import Preview
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.facts.files import FileItem, Resource, Root, Usage
from schemas.health import Level
from schemas.heartbeat import ComponentKind, ComponentState, Heartbeat
from schemas.remediation import Finding, Gap
from tests.infra.cli.told import failed, leaking

MIB = 2**20
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def drawn(renderable) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"), markup=False)  # noqa: SIM115
    with console.file:
        console.print(renderable)
        return console.export_text()


def usage(percent: float, point: str = "/var") -> Usage:
    total = 1000 * MIB
    return Usage(
        point=point,
        device=1,
        total=total,
        used=int(total * percent / 100),
        available=int(total * (100 - percent) / 100),
        root_available=0,
        inodes_total=1000,
        inodes_used=100,
        inodes_available=900,
    )


def cache(size: int = 200 * MIB) -> Rung:
    action = CleanPackageCache(
        manager="apt", mode="clean", directory="/var/cache/apt/archives", allocated=size, files=12, at_most=False
    )
    return Rung(name="package_cache", title="Package caches", actions=(action,))


def files(count: int, size: int, name: str = "old") -> RemoveFiles:
    items = tuple(
        FileItem(path=f"{name}{number}", device=1, inode=number, mtime_ns=0, size=size, allocated=size)
        for number in range(count)
    )
    return RemoveFiles(root=Root(path="/var/tmp", device=1, inode=2), files=items, kind="temporary file")


def preview(
    percent: float = 91, over: int = 160 * MIB, plan: Plan | None = None, level: Level = Level.CRITICAL
) -> Preview:
    seen = Seen(usage=usage(percent), resource=Resource.BYTES, level=level, reason=f"/var is {percent} % full")
    gap = Gap(amount=over, unit="bytes", reason=seen.reason)
    return Preview("disk.free_space", "bytes:/var", seen, gap, plan)


def test_a_target_shows_its_bar_its_percent_and_its_level():
    text = drawn(block(preview(plan=Plan(rungs=(cache(),)))))

    assert "bytes:/var" in text
    assert "█████████████████████▉" in text
    assert "91 %" in text
    assert "critical" in text
    assert "160 MiB over target" in text


def test_rungs_that_are_needed_are_marked_and_the_others_said_to_be_not_needed():
    temp = Rung(name="temp_files", title="Old temporary files", actions=(files(3, MIB), files(2, MIB, "older")))
    lines = drawn(block(preview(plan=Plan(rungs=(cache(), temp))))).splitlines()

    (first,) = [line for line in lines if "Package caches" in line]
    (second,) = [line for line in lines if "Old temporary files" in line]
    assert "▶ would run" in first
    assert "200 MiB" in first
    assert "not needed now" in second


def test_a_rung_of_which_only_a_part_is_needed_says_how_much():
    temp = Rung(
        name="temp_files", title="Old temporary files", actions=(files(1, 150 * MIB), files(1, 90 * MIB), files(1, MIB))
    )

    text = drawn(block(preview(plan=Plan(rungs=(temp,)))))

    assert "▶ would run, 2 of 3 steps at most" in text


def test_where_nothing_presses_nothing_would_run():
    text = drawn(block(preview(percent=40, over=-300 * MIB, plan=Plan(rungs=(cache(),)), level=Level.OK)))

    assert text.count("not needed now") == 2, "once for the target, once for its rung"
    assert "would run" not in text


def test_upper_bounds_are_marked():
    action = cache().actions[0].model_copy(update={"at_most": True})
    rung = Rung(name="package_cache", title="Package caches", actions=(action,))

    assert "≤ 200 MiB" in drawn(block(preview(plan=Plan(rungs=(rung,)))))


def test_advice_says_why_it_is_only_that():
    plan = Plan(rungs=(cache(),), advice="/var is 85 % full; below critical the plan is advice")

    text = drawn(block(preview(plan=plan)))

    assert "advice only: /var is 85 % full" in text


def test_findings_come_with_their_command_and_hostile_names_as_escapes():
    finding = Finding(title="deleted but open: \x1b[2J", detail="restart it", command=("systemctl", "restart", "a b"))

    text = drawn(block(preview(plan=Plan(findings=(finding,)))))

    assert r"deleted but open: \x1b[2J" in text
    assert "systemctl restart 'a b'" in text
    assert "nothing here that may be cleaned" in text


def test_what_is_unknown_says_why():
    unknown = Preview("disk.free_space", "bytes:/mnt", None, Gap.unknown("", "x"), problem="statvfs of /mnt hangs")

    assert "statvfs of /mnt hangs" in drawn(block(unknown))
    assert "1 unknown" in drawn(summary([unknown]))


@pytest.mark.parametrize(
    ("percent", "full"), [(0, ""), (100, "█" * 8), (50, "████"), (6.25, "▌"), (150, "█" * 8), (-3, "")]
)
def test_a_bar_is_drawn_in_eighths(percent, full):
    assert bar(percent, "red", width=8).plain == full + "·" * (8 - len(full))


@pytest.mark.parametrize(
    ("samples", "drawing"),
    [((), ""), ((5,), ""), ((50, 50, 50), "▁▁▁"), ((0, 50, 100), "▁▅█"), ((50, 50.2, 50.4), "▁▁▂")],
)
def test_a_sparkline_is_flat_where_next_to_nothing_changes(samples, drawing):
    assert sparkline(samples) == drawing


# What `ansai up` shows.


@pytest.fixture
def screen():
    return Screen(Standing("web-1", "nats://127.0.0.1:4222", "dry_run", NOW))


def pressure(percent: float, level: Level) -> bytes:
    data = DiskPressure(
        target="bytes:/var", level=level, reason=f"{percent} %", observed_at=NOW, mount="/var", resource=Resource.BYTES,
        percent=percent,
    )  # fmt: skip
    return Event[DiskPressure](
        source="/x", type=DiskPressure.type_name(), subject=data.target, data=data, time=NOW
    ).body()


SUBJECT = "ansai.health.web-1.disk.pressure.0123456789abcdef"


def test_only_changes_of_level_become_events_but_every_figure_moves_the_bar(screen):
    told = [
        screen.hear(SUBJECT, pressure(*reading), NOW)
        for reading in ((50, Level.OK), (60, Level.OK), (91, Level.CRITICAL))
    ]

    assert [line is not None for line in told] == [True, False, True]
    text = drawn(screen.render())
    assert "91 %" in text
    assert sparkline((50, 60, 91)) in text
    assert text.count("bytes:/var: ") == 2


def test_a_plan_is_shown_below_the_targets(screen):
    screen.look(preview(percent=40, over=-1, plan=Plan(rungs=(cache(),)), level=Level.OK))
    screen.planning = False

    text = drawn(screen.render())

    assert "disk.free_space bytes:/var — could free 200 MiB; not needed now" in text
    assert "looking for" not in text


def test_who_runs_is_known_from_heartbeats_until_they_say_goodbye(screen):
    def beat(state: ComponentState) -> bytes:
        data = Heartbeat(
            host="web-1", component="disk-pressure", kind=ComponentKind.COLLECTOR, names=("disk.pressure",),
            started=NOW, at=NOW, state=state,
        )  # fmt: skip
        return Event[Heartbeat](source="/x", type=Heartbeat.TYPE_NAME, data=data).body()

    assert screen.hear("ansai.heartbeat.web-1.disk-pressure", beat(ComponentState.RUNNING), NOW) is None
    assert "disk.pressure" in drawn(screen.render())
    screen.hear("ansai.heartbeat.web-1.disk-pressure", beat(ComponentState.STOPPING), NOW)
    assert "starting" in drawn(screen.render())


def test_the_pane_keeps_the_last_events(screen):
    for number in range(30):
        screen.hear("ansai.dlq.disk.free_space", f"letter {number:02}".encode(), NOW + timedelta(seconds=number))

    text = drawn(screen.render())

    assert "letter 29" in text
    assert "letter 19" not in text


def test_two_signals_about_one_target_are_kept_apart_and_the_worse_one_is_shown(screen):
    """`memory.trend` and `services.state` both tell of a unit; each is new only when its own level changes."""
    about = [leaking(target="unit:nginx.service", level=Level.WARNING), failed()]
    bodies = [Event[type(data)](source="/x", type=data.type_name(), data=data, time=NOW).body() for data in about]

    told = [screen.hear("ansai.health.web-1.a.b.0123456789abcdef", body, NOW) for body in bodies * 3]

    assert [line is not None for line in told] == [True, True, False, False, False, False]
    (row,) = [line for line in drawn(screen.render()).splitlines() if line.startswith("unit:nginx.service")]
    assert "critical" in row
