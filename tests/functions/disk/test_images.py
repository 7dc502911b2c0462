"""Which images may go."""

from datetime import timedelta

import pytest

from functions.disk.images import removable, repository
from schemas.settings.disk import AutoCleanup
from tests.functions.disk.world import NOW, engine, image

ONE = AutoCleanup(images_kept_per_repository=1)


def ids(images) -> list[int]:
    return [int(found.id.removeprefix("sha256:"), 16) for found in images]


def newest():
    return image(99, ("app:latest",), days_old=10)


def test_old_unused_images_go_oldest_first_and_the_newest_of_the_repository_stays():
    found = removable(engine(newest(), image(1, ("app:2",), 50), image(2, ("app:1",), 90)), ONE, NOW)
    assert ids(found.unused) == [2, 1]
    assert found.kept == {"among the newest of its repository": 1}


def test_as_many_newest_images_stay_as_the_setting_says_the_used_ones_counted():
    images = [image(number, (f"app:{number}",), days_old=100 - number) for number in range(5)]
    images[4] = images[4].model_copy(update={"used_by": ("web",)})
    assert ids(removable(engine(*images), AutoCleanup(images_kept_per_repository=3), NOW).unused) == [0, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"used_by": ("a stopped container",)},
        {"labels": {"ansai.keep": ""}},
        {"days_old": 6.9},
        {"last_tagged": NOW - timedelta(days=1)},
        {"last_tagged": None},
        {"digests": ()},
        {"tags": ("localhost/app:1",)},
    ],
)
def test_an_image_stays_when(changes):
    candidate = image(1, **changes)
    found = removable(engine(newest(), candidate), ONE, NOW)
    assert 1 not in ids(found.unused) + ids(found.dangling)


def test_dangling_images_need_no_registry_and_no_tag_time_but_the_same_age():
    old, young = image(1, (), 8), image(2, (), 6)
    found = removable(engine(old, young), ONE, NOW)
    assert ids(found.dangling) == [1]
    assert found.unused == []


def test_an_image_with_two_tags_counts_once_and_stays_when_either_is_among_the_newest():
    twice = image(1, ("app:1", "tool:1"), 90)
    assert ids(removable(engine(newest(), twice), ONE, NOW).unused) == []


@pytest.mark.parametrize(
    ("tag", "name"),
    [("app:1", "app"), ("app", "app"), ("host:5000/team/app:1.2", "host:5000/team/app"), ("app:1@sha256:ab", "app"),
     ("host:5000/app", "host:5000/app")],
)  # fmt: skip
def test_the_repository_of_a_tag(tag, name):
    assert repository(tag) == name
