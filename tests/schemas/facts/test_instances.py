"""Which run of a service."""

from datetime import UTC, datetime

from schemas.facts.containers import Container
from schemas.facts.instances import LONGEST, instance_of_container, instance_of_processes, instance_of_unit
from schemas.facts.processes import ProcessIdentity
from schemas.facts.units import Unit
from schemas.text import sparkline


def process(pid: int, started: int) -> ProcessIdentity:
    return ProcessIdentity(pid=pid, started=started)


def test_a_unit_is_known_by_its_invocation():
    assert instance_of_unit(Unit(name="app.service", invocation="f" * 32)) == "f" * 32
    assert instance_of_unit(Unit(name="app.service")) == ""


def test_a_container_that_is_restarted_is_another_run():
    first = Container(id="0123456789abcdef", name="web", started=datetime(2026, 1, 1, tzinfo=UTC))
    later = first.model_copy(update={"started": datetime(2026, 1, 2, tzinfo=UTC)})
    assert instance_of_container(first) == "0123456789ab@2026-01-01T00:00:00+00:00"
    assert instance_of_container(later) != instance_of_container(first)


def test_a_match_lives_as_long_as_its_oldest_process_whatever_its_workers_do():
    oldest = process(7, 100)
    assert instance_of_processes([process(9, 200), oldest]) == instance_of_processes([oldest, process(8, 300)])
    assert instance_of_processes([oldest]) == "7@100"
    assert instance_of_processes([process(7, 101)]) != "7@100"
    assert instance_of_processes([]) == ""


def test_all_that_began_in_one_tick_are_named_in_any_order_and_many_are_hashed():
    twins = [process(8, 100), process(7, 100)]
    assert instance_of_processes(twins) == "7@100,8@100"
    crowd = instance_of_processes([process(pid, 100) for pid in range(1000, 1100)])
    assert len(crowd) <= LONGEST
    assert crowd != instance_of_processes([process(pid, 100) for pid in range(1000, 1099)])


def test_a_sparkline_is_scaled_to_what_it_shows_and_flat_where_little_changes():
    assert sparkline([0, 50, 100]) == "▁▅█"
    assert sparkline([100, 101, 100], smallest_span=50) == "▁▁▁"
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([]) == ""
