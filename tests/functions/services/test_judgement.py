"""How far one unit is from running."""

import pytest

from functions.services.restart_failed import REMEDY
from schemas.health import Level
from schemas.probes import ProbeError
from tests.functions.services.world import APP, AT, TARGET, World, case, down, flapping, heard, running, seen, unit


def gap(facts, event=None, **settings):
    return REMEDY.gap(case(event, **settings), seen(facts))


def test_a_failed_unit_is_open_and_says_how_it_ended():
    found = gap(unit())
    assert (found.open, found.amount, found.unit) == (True, 1, "units")
    assert found.reason == "app.service failed: its main process ended with status 3"


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (None, "systemd knows no unit app.service"),
        (down(), "it was stopped on purpose, or ended in order"),
        (unit(load="masked"), "is masked"),
        (unit(enabled="masked-runtime"), "is masked"),
        (running(), "runs since 1 h"),
        (
            unit(exit_status=143, began=AT - 3700, active_until=AT - 3601, main_ended=AT - 3600),
            "app.service was stopped, and only did not end in order: its main process ended with status 143",
        ),
    ],
)
def test_what_runs_was_stopped_or_is_masked_is_closed(facts, why):
    found = gap(facts)
    assert found.closed
    assert why in found.reason


def test_a_unit_is_back_when_one_run_of_it_has_lasted():
    assert gap(running(seconds=59)).verifying
    assert gap(running(seconds=60)).closed
    assert gap(running(seconds=20), stable_for="20 s").closed


@pytest.mark.parametrize("sub", ["auto-restart", "start", "stop-sigterm"])
def test_while_systemd_is_at_it_nothing_is_done(sub):
    assert gap(unit(active="deactivating" if sub.startswith("stop") else "activating", sub=sub)).verifying


def test_a_flapping_unit_is_open_though_it_runs_this_moment():
    assert gap(running(restarts=4, seconds=199), flapping()).open
    assert gap(unit(active="activating", sub="auto-restart", restarts=5), flapping()).open


def test_a_flapping_unit_has_calmed_down_when_it_runs_for_longer_than_it_may_between_two_restarts():
    assert gap(running(restarts=4, seconds=200), flapping()).closed  # 3 in 10 minutes are too many
    assert gap(running(restarts=4, seconds=200), flapping(), stable_for="5 min").open


@pytest.mark.parametrize(
    "event",
    [
        None,
        flapping(recent_restarts=2),
        flapping(minutes_ago=11),
        flapping(target="unit:other.service"),
        flapping(restarts=5),
        flapping(invocation="0"),
    ],
    ids=["nothing heard", "too few", "too long ago", "another unit", "counted anew since", "started since"],
)
def test_flapping_is_believed_of_what_was_heard_lately_of_this_run_of_starts_only(event):
    assert gap(running(restarts=4, seconds=199), event).closed


def test_one_word_of_a_collector_does_not_make_a_unit_flap_that_systemd_did_not_restart_so_often():
    assert gap(running(restarts=2, seconds=199), flapping(restarts=0, recent_restarts=99, invocation="")).closed


@pytest.mark.parametrize("facts", [down(restarts=4), unit(active="deactivating", sub="stop-sigterm", restarts=4)])
def test_a_flapping_unit_that_somebody_stopped_is_left_alone(facts):
    assert not gap(facts, flapping()).open


def test_after_a_restart_of_ours_it_is_watched_though_it_was_heard_to_flap():
    assert gap(running(seconds=1, restarts=0, invocation="2"), flapping()).verifying


def test_a_unit_whose_failure_was_cleared_stays_open_until_its_collector_says_that_it_is_meant():
    cleared = down(invocation="", active_since=None, inactive_since=None)
    assert gap(cleared, heard()).open
    assert gap(cleared, heard(level=Level.OK, active="inactive")).closed
    assert gap(cleared, heard(minutes_ago=11)).closed
    assert gap(cleared).closed


def test_one_that_was_started_and_stopped_after_it_had_failed_was_stopped_on_purpose():
    assert gap(down(invocation="2"), heard()).closed


def test_it_reads_one_unit():
    world = World({APP: unit()})
    assert REMEDY.observe(case(), world).unit == unit()
    assert world.asked == [APP]


@pytest.mark.parametrize("target", ["app.service", "container:app", "unit:"])
def test_another_target_is_an_unknown_truth(target):
    with pytest.raises(ProbeError, match=r"they look like unit:nginx\.service"):
        REMEDY.observe(case().__class__("host", target, case().settings, case().now), World())


def test_targets_are_the_units_that_are_watched_and_not_masked():
    units = (unit(), unit("old.service"), unit("no.service", load="masked"), running("sshd.service"))
    world = World({each.name: each for each in units})
    assert REMEDY.targets(case(ignore=("old",)).settings, world) == [TARGET, "unit:sshd.service"]


def test_whoever_acts_on_a_service_does_so_alone():
    assert REMEDY.resources(case()) == ("service:unit:app.service",)
