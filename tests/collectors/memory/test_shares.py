"""Which processes grow: compared with what each held when the service had settled."""

from datetime import UTC, datetime, timedelta

import pytest

from collectors.memory.series import SETTLE
from collectors.memory.shares import AGAIN, COMPARED, TOLD, Shares
from schemas.facts.processes import ProcessIdentity, ProcessMemory

MIB = 2**20
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTLED = SETTLE.total_seconds()


def process(pid: int, memory: int, started: int = 7) -> ProcessMemory:
    identity = ProcessIdentity(pid=pid, started=started, command=f"worker {pid}")
    return ProcessMemory(identity=identity, user=0, memory=memory * MIB)


def told(shares: Shares) -> list[tuple[int, int]]:
    """(process id, MiB grown)"""
    return [(each.identity.pid, each.grown // MIB) for each in shares.growing]


def test_who_grew_most_is_told_first_and_who_shrank_is_not():
    first = Shares().looked([process(1, 50), process(2, 10), process(3, 30)], START)

    later = first.looked([process(1, 60), process(2, 40), process(3, 20)], START + AGAIN)

    assert told(first) == []
    assert told(later) == [(2, 30), (1, 10)]
    assert {each.since for each in later.growing} == {START}


def test_a_process_that_came_later_or_took_over_a_number_grew_from_nothing():
    first = Shares().looked([process(1, 50)], START)

    later = first.looked([process(1, 20, started=99), process(5, 4)], START + AGAIN)

    assert told(later) == [(1, 20), (5, 4)]


def test_however_many_there_are_little_is_remembered():
    many = [process(pid, 100 + pid) for pid in range(1000)]
    shares = Shares().looked(many, START).looked([process(pid, 2000) for pid in range(1000)], START + AGAIN)

    assert len(shares.first) == COMPARED
    assert len(shares.growing) == TOLD
    assert len(shares.model_dump_json()) < 2000
    assert Shares.model_validate_json(shares.model_dump_json()) == shares


@pytest.mark.parametrize(
    ("looks", "age", "after", "grows", "due"),
    [
        (0, SETTLED - 1, timedelta(0), True, False),
        (0, SETTLED, timedelta(0), False, True),
        (1, SETTLED, AGAIN, False, False),
        (1, SETTLED, AGAIN - timedelta(seconds=1), True, False),
        (1, SETTLED, AGAIN, True, True),
    ],
    ids=["a run that has not settled", "the first look", "nothing grows", "a moment ago", "it grows"],
)
def test_a_look_is_taken_only_when_it_is_worth_its_price(looks, age, after, grows, due):
    shares = Shares()
    for _ in range(looks):
        shares = shares.looked([process(1, 1)], START)

    assert shares.due(age, START + after, grows=grows) is due
