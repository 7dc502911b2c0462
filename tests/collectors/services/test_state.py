"""How services are judged: failed, flapping, stopped on purpose, and what is remembered of them."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.core.run import CollectorRun
from collectors.services import state
from collectors.services.state import COLLECTOR, StateMemory
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.settings.services import ServiceMonitoring
from tests.fakes import FakeClock, FakeOutlet

BOOT = 1000.0  # seconds of the monotonic clock at START
EVERY = timedelta(seconds=15)
APP = "app.service"


@dataclass
class FakeUnits:
    """A systemd whose units a test changes; one that stopped and is wanted by nobody, it forgets."""

    units: dict[str, Unit] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    broken: str = ""

    def services(self, globs):
        self.asked.append(list(globs))
        if self.broken:
            raise ProbeError(self.broken)
        return list(self.units.values())


class Watch:
    """Looks at a fake systemd again and again, as the loop does."""

    def __init__(self, monkeypatch, **settings):
        self.probes = self
        self.units = FakeUnits()
        self.settings = ServiceMonitoring(**settings)
        self.memory = StateMemory()
        self.clock = FakeClock()
        monkeypatch.setattr(state, "monotonic", lambda: BOOT + self.clock.monotonic())

    def put(self, name=APP, **facts):
        self.units.units[name] = Unit(**{"name": name, "active": "active", "sub": "running", "type": "simple", **facts})

    def fail(self, name=APP, ago=0.0, **facts):
        ended = BOOT + self.clock.monotonic() - ago
        self.put(name, **{"active": "failed", "sub": "failed", "result": "exit-code", "exit_code": 1, "exit_status": 1,
                          "inactive_since": ended, "invocation": "1", **facts})  # fmt: skip

    def stop(self, name=APP):
        """As systemd tells one that it forgot and read again from its file."""
        self.put(name, active="inactive", sub="dead")

    def pass_by(self, seconds):
        self.clock.move(timedelta(seconds=seconds))

    def look(self, after=15.0):
        self.pass_by(after)
        reading = state.read(self.settings, self.probes, self.memory)
        events, self.memory = state.judge(self.settings, reading, self.memory, self.clock.now())
        self.memory = StateMemory.model_validate_json(self.memory.model_dump_json())  # as after a restart of ours
        return {event.unit: event for event in events}

    def see(self, after=15.0):
        return self.look(after)[APP]


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


def test_a_unit_that_runs_is_ok(watch):
    watch.put(active_since=BOOT, invocation="1", enabled="enabled")
    event = watch.see()
    assert (event.target, event.level, event.active, event.sub) == ("unit:app.service", Level.OK, "active", "running")
    assert (event.invocation, event.enabled, event.stopped_on_purpose) == ("1", "enabled", False)


def test_a_failed_unit_is_critical_when_it_has_settled(watch):
    watch.put(active_since=BOOT)
    watch.look()
    watch.fail(exit_status=3)
    assert watch.see(after=15).level is Level.OK
    event = watch.see(after=15)
    assert event.level is Level.CRITICAL
    assert event.reason == "app.service failed 30 s ago: its main process ended with status 3"


def test_a_unit_that_failed_long_before_the_first_look_is_critical_at_once(watch):
    watch.fail(ago=3600)
    assert watch.see().level is Level.CRITICAL


def test_a_unit_that_never_ran_settles_by_our_own_memory(watch):
    watch.fail(inactive_since=None)
    assert watch.see().level is Level.OK
    assert watch.see(after=29).level is Level.OK
    assert watch.see(after=1).level is Level.CRITICAL


def test_a_unit_that_runs_again_is_back_when_it_ran_for_a_while(watch):
    watch.fail(ago=60)
    watch.look()
    watch.put(active_since=BOOT + watch.clock.monotonic(), invocation="2")
    first = watch.see(after=59)
    assert first.level is Level.CRITICAL
    assert first.reason == "app.service runs; it counts as back when it has run for 1 min"
    assert watch.see(after=1).level is Level.OK


def test_a_unit_that_is_being_started_after_a_failure_is_not_back_yet(watch):
    watch.fail(ago=60)
    watch.look()
    watch.put(active="activating", sub="start", invocation="2")
    assert watch.see().level is Level.CRITICAL


def test_one_that_systemd_starts_again_by_itself_is_given_time(watch):
    watch.put(active="activating", sub="auto-restart", restart_delay=10, invocation="1")
    watch.look()
    assert watch.see(after=39).level is Level.OK
    event = watch.see(after=1)
    assert event.level is Level.WARNING
    assert event.reason == "app.service waits to be restarted by systemd since 40 s, which is too long"


def test_a_start_that_takes_longer_than_systemd_permits_is_a_warning(watch):
    watch.put(active="activating", sub="start", start_timeout=60)
    watch.look()
    assert watch.see(after=89).level is Level.OK
    assert watch.see(after=1).level is Level.WARNING


def test_a_piece_of_work_may_take_as_long_as_it_likes(watch):
    watch.put(active="activating", sub="start", type="oneshot", start_timeout=None)
    watch.look()
    assert watch.see(after=100_000).level is Level.OK


def test_three_restarts_within_ten_minutes_are_flapping_and_it_calms_down_by_itself(watch):
    watch.put(restarts=5, active_since=BOOT)
    assert watch.see().level is Level.OK  # when those were is not known
    for restarts in (6, 7):
        watch.put(restarts=restarts, active_since=BOOT + watch.clock.monotonic())
        assert watch.see(after=100).level is Level.OK
    watch.put(restarts=8, active_since=BOOT + watch.clock.monotonic())
    event = watch.see(after=100)
    assert (event.level, event.restarts, event.recent_restarts) == (Level.WARNING, 8, 3)
    assert event.reason == "app.service flaps: systemd restarted it 3 times within 10 min"
    assert watch.see(after=399).level is Level.WARNING
    assert watch.see(after=1).level is Level.OK


@pytest.mark.parametrize("restarts", [0, 3], ids=["counted anew", "one more run that systemd did not count"])
def test_after_a_start_by_somebody_it_flaps_no_longer(watch, restarts):
    watch.put(restarts=0, invocation="0")
    watch.look()
    watch.put(restarts=3, invocation="1")
    assert watch.see().level is Level.WARNING
    watch.put(restarts=restarts, active_since=BOOT, invocation="2")
    event = watch.see(after=60)
    assert (event.level, event.recent_restarts) == (Level.OK, 0)


def test_a_unit_that_was_stopped_is_asked_for_by_its_name_and_is_ok(watch):
    watch.put(active_since=BOOT, invocation="1")
    watch.look()
    watch.stop()
    event = watch.see(after=3600)
    assert (event.level, event.stopped_on_purpose) == (Level.OK, True)
    assert event.reason == "app.service was stopped on purpose"
    assert watch.units.asked[-1] == ["*.service", APP]


def test_a_unit_that_never_ran_was_not_stopped_on_purpose(watch):
    watch.stop()
    event = watch.see()
    assert (event.level, event.stopped_on_purpose) == (Level.OK, False)


@pytest.mark.parametrize("forgotten", [True, False])
def test_a_failure_that_somebody_cleared_is_ok_and_meant(watch, forgotten):
    watch.fail(ago=60, main_ended=BOOT - 60, active_until=BOOT - 60)
    assert watch.see().level is Level.CRITICAL
    if forgotten:
        watch.stop()
    else:
        watch.fail(active="inactive", sub="dead", result="success", enabled="enabled", exit_status=0,
                   main_ended=BOOT - 60, active_until=BOOT - 60)  # fmt: skip
    event = watch.see(after=3600)
    assert (event.level, event.stopped_on_purpose) == (Level.OK, True)
    assert event.reason == "app.service had failed and was reset: it is down until somebody starts it"


def stopped_badly(**facts):
    """It was stopped at BOOT + 10, and ended with status 143 thereupon."""
    return {"exit_status": 143, "began": BOOT, "active_since": BOOT, "active_until": BOOT + 10,
            "main_ended": BOOT + 10.1, **facts}  # fmt: skip


def test_a_unit_that_failed_only_because_it_was_stopped_is_ok_and_meant(watch):
    watch.put(active_since=BOOT, began=BOOT, invocation="1")
    watch.look()
    watch.fail(**stopped_badly())
    event = watch.see(after=3600)
    assert (event.level, event.stopped_on_purpose) == (Level.OK, True)
    assert event.reason == (
        "app.service was stopped 1 h ago, and only did not end in order: its main process ended with status 143"
    )


def test_one_that_had_failed_before_is_ok_as_soon_as_it_is_stopped(watch):
    watch.fail(ago=60)
    assert watch.see().level is Level.CRITICAL
    watch.put(active_since=BOOT, began=BOOT, invocation="2")
    assert watch.see(after=1).level is Level.CRITICAL  # it does not run for long enough yet
    watch.fail(**stopped_badly(invocation="2"))
    assert watch.see(after=1).level is Level.OK


def test_one_that_can_announce_its_end_may_have_given_up_by_itself_so_people_are_told(watch):
    watch.fail(**stopped_badly(type="notify"))
    event = watch.see(after=3600)
    assert (event.level, event.stopped_on_purpose) == (Level.WARNING, True)
    assert event.reason.endswith("; unless it gave up by itself, all is well")


def ended(**facts):
    """Its process ended before it left the active state: nobody stopped it."""
    moment = BOOT + 10
    return {"active": "inactive", "sub": "dead", "enabled": "enabled", "exit_code": 1, "exit_status": 0,
            "invocation": "1", "active_since": BOOT, "main_ended": moment - 0.01, "active_until": moment,
            "inactive_since": moment, **facts}  # fmt: skip


def test_an_enabled_unit_that_ended_though_nobody_stopped_it_is_a_warning(watch):
    watch.put(**ended())
    assert watch.see(after=39).level is Level.OK
    event = watch.see(after=1)
    assert (event.level, event.stopped_on_purpose) == (Level.WARNING, False)
    assert event.reason == "app.service is enabled and ended in order 30 s ago, though nobody stopped it"


@pytest.mark.parametrize(
    "facts",
    [
        {"enabled": "disabled"},
        {"enabled": "static"},
        {"type": "oneshot"},
        {"sockets": ("app.socket",)},
        {"sockets": ("app.timer",)},
        {"main_ended": BOOT + 11},
        {"exit_code": 3, "exit_status": 11},
    ],
    ids=["disabled", "static", "oneshot", "by socket", "by timer", "stopped", "cleared"],
)
def test_another_one_that_is_down_in_order_is_ok(watch, facts):
    watch.put(**ended(**facts))
    assert watch.see(after=3600).level is Level.OK


@pytest.mark.parametrize("facts", [{"type": "oneshot"}, {"sockets": ("app.timer",)}])
def test_failed_work_is_a_warning_that_says_why_nothing_is_done(watch, facts):
    watch.fail(ago=60, **facts)
    event = watch.see()
    assert event.level is Level.WARNING
    assert event.reason.endswith("it runs on occasion only, so it is not restarted")


def test_masked_and_ignored_units_are_no_targets(monkeypatch):
    watch = Watch(monkeypatch, ignore=("noisy@*", "old"))
    watch.fail(APP, ago=60, load="masked")
    watch.fail("b.service", ago=60, enabled="masked-runtime")
    watch.fail("noisy@1.service", ago=60)
    watch.fail("old.service", ago=60)
    watch.fail("web.service", ago=60)
    assert set(watch.look()) == {"web.service"}


def test_what_a_person_should_know_is_told_with_a_failure(monkeypatch):
    watch = Watch(monkeypatch, protected=("app",))
    watch.fail("db.service", ago=60)
    watch.fail(
        ago=60, requires=("db.service", "fine.service"), result="oom-kill", reload_needed=True, fragment="/etc/a"
    )
    findings = watch.see().findings
    assert [text.split(":")[0] for text in findings] == [
        "memory ran out", "db.service, which it needs, has failed too",
        "its unit file changed on disk and is not in force", "it is protected",
    ]  # fmt: skip


def test_a_healthy_unit_has_no_findings(monkeypatch):
    watch = Watch(monkeypatch, protected=("app",))
    watch.put(reload_needed=True)
    assert watch.see().findings == ()


def test_a_unit_that_is_gone_is_forgotten(watch):
    watch.put()
    watch.look()
    del watch.units.units[APP]
    assert watch.look() == {}
    assert watch.memory.units == {}


async def test_without_systemd_the_collector_itself_is_told_as_unknown_once(watch):
    outlet = FakeOutlet()
    watch.units.broken = "systemd does not run here"
    run = CollectorRun(COLLECTOR, watch.settings, watch, outlet, "host", clock=watch.clock)
    for _ in range(3):
        await run.look()
        watch.pass_by(15)
    (event,) = outlet.take()
    assert (event.target, event.level, event.reason) == (
        "collector:services.state", Level.UNKNOWN, "systemd does not run here",
    )  # fmt: skip


async def test_a_unit_of_which_nothing_is_known_any_more_is_unknown(watch):
    outlet = FakeOutlet()
    watch.put()
    run = CollectorRun(COLLECTOR, watch.settings, watch, outlet, "host", clock=watch.clock)
    await run.look()
    watch.units.broken = "no answer"
    await run.look()
    assert [(event.unit, event.level) for event in outlet.take()] == [(APP, Level.OK), (APP, Level.UNKNOWN)]


STATES = st.sampled_from(["active", "reloading", "inactive", "failed", "activating", "deactivating", "maintenance"])


@given(
    seen=st.lists(
        st.fixed_dictionaries(
            {
                "active": STATES,
                "sub": st.sampled_from(["running", "dead", "auto-restart", "start"]),
                "restarts": st.integers(0, 20),
                "invocation": st.sampled_from(["", "1", "2"]),
                "active_since": st.none() | st.floats(0, 2000),
                "inactive_since": st.none() | st.floats(0, 2000),
                "enabled": st.sampled_from(["enabled", "disabled", "static"]),
                "type": st.sampled_from(["simple", "oneshot"]),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    pauses=st.lists(st.floats(0, 500), min_size=8, max_size=8),
)
def test_only_what_failed_is_critical_for_the_first_time_and_what_is_down_in_order_never(seen, pauses):
    with pytest.MonkeyPatch.context() as patch:
        watch, before = Watch(patch), Level.OK
        for facts, pause in zip(seen, pauses, strict=False):
            watch.put(**facts)
            event = watch.see(after=pause)
            if event.level is Level.CRITICAL and before is not Level.CRITICAL:
                assert event.active == "failed"
            if event.active == "inactive":
                assert event.level.rank <= Level.WARNING.rank
            assert event.reason
            before = event.level
