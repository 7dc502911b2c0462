"""A real dockerd: what is seen of its images and volumes, and which images go."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from functions.core.ports import ToolError
from functions.disk.images import removable
from infra.adapters import engine_client
from infra.adapters.containers import ContainerCleaner, Containers, _extra_names
from infra.adapters.image_users import references, users
from schemas.probes import ProbeError
from schemas.remediation import Outcome
from schemas.settings.disk import AutoCleanup

MEGABYTE = 2**20


def seen(docker):
    return Containers(docker.url, {}).engine()


def image_of(docker, image_id):
    return next((image for image in seen(docker).images if image.id == image_id), None)


def remove(docker, image_id, *tags):
    return ContainerCleaner(docker.url, {}).remove_image("docker", image_id, tags)


# ── images as they are seen ───────────────────────────────────────────────────────────────────────────────────────


def test_the_engine_and_where_it_keeps_its_data(docker):
    docker.import_busybox("app:1")

    engine = seen(docker)

    assert engine.name == "docker"
    assert engine.version
    assert engine.root == str(docker.root)
    assert engine.device == docker.root.stat().st_dev
    assert engine.layers >= Path("/bin/busybox").stat().st_size


def test_an_image_with_its_tags_labels_and_times(docker):
    before = datetime.now(UTC) - timedelta(seconds=2)
    image_id = docker.import_busybox("app:1", "registry.test:5000/team/app:2", changes=("LABEL ansai.keep=yes",))

    image = image_of(docker, image_id)

    assert set(image.tags) == {"app:1", "registry.test:5000/team/app:2"}
    assert image.digests == ()
    assert image.labels == {"ansai.keep": "yes"}
    assert before < image.created <= datetime.now(UTC)
    assert before < image.last_tagged <= datetime.now(UTC)
    assert image.used_by == ()
    assert not image.dangling


def test_an_image_without_a_tag_is_dangling(docker):
    image = image_of(docker, docker.import_busybox())

    assert image.dangling
    assert image.tags == ()
    assert image.last_tagged is None


def test_own_bytes_are_those_no_other_image_shares(docker):
    base = docker.import_busybox("base:1", extra=os.urandom(MEGABYTE))
    alone = image_of(docker, base).unique
    child = docker.build("FROM base:1\nRUN dd if=/dev/zero of=/big bs=1M count=4\n", "child:1")

    assert alone == pytest.approx(MEGABYTE + Path("/bin/busybox").stat().st_size, rel=0.05)
    assert image_of(docker, base).unique == 0
    assert image_of(docker, child).unique == 4 * MEGABYTE


def test_running_stopped_and_never_started_containers_use_their_image(docker):
    image_id = docker.import_busybox("app:1")
    with docker.client() as client:
        client.containers.create("app:1", ["/bin/sleep", "1"], name="created", network_mode="none")
        client.containers.run("app:1", ["/bin/true"], name="stopped", network_mode="none")
        client.containers.run("app:1", ["/bin/sleep", "600"], name="running", network_mode="none", detach=True)

        assert set(image_of(docker, image_id).used_by) == {"created", "stopped", "running"}


def test_a_container_keeps_using_its_image_when_the_tag_moves_on(docker):
    old = docker.import_busybox("app:1")
    with docker.client() as client:
        client.containers.create("app:1", ["/bin/true"], name="old", network_mode="none")
    new = docker.import_busybox("app:1", extra=b"new")

    assert image_of(docker, old).used_by == ("old",)
    assert image_of(docker, old).dangling
    assert image_of(docker, new).used_by == ()


def test_looking_leaves_everything_as_it_was(docker):
    docker.import_busybox("app:1")
    first = seen(docker)

    assert seen(docker) == first


def test_the_rules_find_a_dangling_image_and_keep_what_was_made_here(docker):
    dangling, local = docker.import_busybox(extra=b"1"), docker.import_busybox("app:1", extra=b"2")
    engine, later = seen(docker), datetime.now(UTC) + timedelta(days=30)

    rules = removable(engine, AutoCleanup(), later)

    assert [image.id for image in rules.dangling] == [dangling]
    assert rules.unused == []
    assert rules.kept == {"made here, no registry has it": 1}
    assert image_of(docker, local) is not None


# ── volumes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_volumes_with_their_sizes_and_users(docker):
    docker.import_busybox("app:1")
    with docker.client() as client:
        client.volumes.create("data")
        client.volumes.create("unused", labels={"team": "a"})
        command = ["/bin/sh", "-c", "dd if=/dev/zero of=/d/f bs=1M count=2"]
        client.containers.run(
            "app:1", command, name="writer", volumes=["data:/d", "/anonymous"], network_mode="none"
        )  # fmt: skip

    volumes = {volume.name: volume for volume in seen(docker).volumes}

    anonymous = [volume for volume in volumes.values() if volume.anonymous]
    assert len(volumes) == 3
    assert len(anonymous) == 1
    assert anonymous[0].used_by == ("writer",)
    assert volumes["data"].used_by == ("writer",)
    assert volumes["data"].size == pytest.approx(2 * MEGABYTE, rel=0.05)
    assert not volumes["data"].anonymous
    assert volumes["unused"].used_by == ()
    assert volumes["unused"].size == 0
    assert abs(volumes["unused"].created - datetime.now(UTC)) < timedelta(minutes=5)


# ── removing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tagged_image_goes_and_frees_what_was_announced(docker):
    image_id = docker.import_busybox("app:1", extra=os.urandom(MEGABYTE))
    announced = image_of(docker, image_id).unique

    result = remove(docker, image_id, "app:1")

    assert result.outcome is Outcome.DONE
    assert result.freed == {"bytes": announced}
    assert image_of(docker, image_id) is None
    assert seen(docker).layers == 0


def test_a_dangling_image_goes(docker):
    image_id = docker.import_busybox()

    result = remove(docker, image_id)

    assert result.outcome is Outcome.DONE
    assert image_of(docker, image_id) is None


@pytest.mark.parametrize("tags", [("app:1", "app:2"), ("app:1", "registry.test:5000/app:1", "other/app:1")])
def test_an_image_with_several_tags_goes_with_all_of_them(docker, tags):
    image_id = docker.import_busybox(*tags)

    result = remove(docker, image_id, *reversed(tags))

    assert result.outcome is Outcome.DONE
    assert seen(docker).images == ()


def test_layers_that_a_child_shares_stay_and_are_not_counted(docker):
    base = docker.import_busybox("base:1", extra=os.urandom(MEGABYTE))
    child = docker.build("FROM base:1\nRUN dd if=/dev/zero of=/big bs=1M count=4\n", "child:1")
    announced, layers = image_of(docker, child).unique, seen(docker).layers

    result = remove(docker, child, "child:1")

    assert result.outcome is Outcome.DONE
    assert result.freed == {"bytes": announced} == {"bytes": 4 * MEGABYTE}
    assert seen(docker).layers == layers - 4 * MEGABYTE
    assert image_of(docker, base).tags == ("base:1",)


@pytest.mark.parametrize("state", ["created", "stopped", "running"])
def test_what_a_container_uses_is_never_removed(docker, state):
    image_id = docker.import_busybox("app:1", "app:2")
    with docker.client() as client:
        if state == "created":
            client.containers.create("app:1", ["/bin/true"], name=state, network_mode="none")
        elif state == "stopped":
            client.containers.run("app:1", ["/bin/true"], name=state, network_mode="none")
        else:
            client.containers.run("app:1", ["/bin/sleep", "600"], name=state, network_mode="none", detach=True)

    result = remove(docker, image_id, "app:1", "app:2")

    assert (result.outcome, result.reason) == (Outcome.SKIPPED, f"used by {state}")
    assert set(image_of(docker, image_id).tags) == {"app:1", "app:2"}


def test_what_a_service_of_the_swarm_refers_to_is_never_removed(docker):
    """Even one without a running task: its next task would find no image."""
    image_id = docker.import_busybox("app:1")
    with docker.client() as client:
        client.swarm.init(advertise_addr="127.0.0.1", listen_addr="127.0.0.1:0")
        try:
            client.services.create("app:1", name="web", mode={"Replicated": {"Replicas": 0}})

            used_by = image_of(docker, image_id).used_by
            result = remove(docker, image_id, "app:1")
        finally:
            client.swarm.leave(force=True)

    assert used_by == ("service web",)
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "used by service web")
    assert image_of(docker, image_id).tags == ("app:1",)


def test_an_image_with_children_keeps_its_tags(docker):
    base = docker.import_busybox("base:1", "base:2")
    docker.build("FROM base:1\nRUN true\n", "child:1")

    result = remove(docker, base, "base:1", "base:2")

    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "another image was built from it")
    assert set(image_of(docker, base).tags) == {"base:1", "base:2"}


@pytest.mark.parametrize(("planned", "now"), [(("app:1",), ("app:1", "app:2")), (("app:1", "app:2"), ("app:1",))])
def test_changed_tags_are_skipped(docker, planned, now):
    image_id = docker.import_busybox(*now)

    result = remove(docker, image_id, *planned)

    assert result.outcome is Outcome.SKIPPED
    assert result.reason.endswith("by now")
    assert set(image_of(docker, image_id).tags) == set(now)


def test_a_tag_that_moved_to_another_image_takes_neither(docker):
    old = docker.import_busybox("app:1")
    new = docker.import_busybox("app:1", extra=b"new")

    result = remove(docker, old, "app:1")

    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "its tags are none by now")
    assert image_of(docker, new).tags == ("app:1",)
    assert image_of(docker, old) is not None


def test_a_second_removal_is_skipped(docker):
    image_id = docker.import_busybox("app:1")
    remove(docker, image_id, "app:1")

    assert remove(docker, image_id, "app:1").reason == "it is gone"


def test_a_name_instead_of_an_id_is_never_taken(docker):
    image_id = docker.import_busybox("app:1")

    assert remove(docker, "app:1", "app:1").outcome is Outcome.SKIPPED
    assert image_of(docker, image_id) is not None


def test_a_container_that_comes_up_after_the_check_keeps_its_image_and_all_its_tags(docker, monkeypatch):
    """The check is made blind, so that the engine itself has to refuse; by then a tag is off, and comes back."""
    image_id = docker.import_busybox("app:1", "other:5000/app:2")
    monkeypatch.setattr(ContainerCleaner, "_users", lambda *_: ())
    with docker.client() as client:
        client.containers.run("app:1", ["/bin/true"], name="late", network_mode="none")

    result = remove(docker, image_id, "app:1", "other:5000/app:2")

    assert result.outcome is Outcome.SKIPPED
    assert "the engine refuses" in result.reason
    assert set(image_of(docker, image_id).tags) == {"app:1", "other:5000/app:2"}


def test_the_wrong_engine_is_refused(docker):
    image_id = docker.import_busybox("app:1")

    with pytest.raises(ToolError, match="is docker, not podman"):
        ContainerCleaner(docker.url, {}).remove_image("podman", image_id, ("app:1",))

    assert image_of(docker, image_id) is not None


# ── no engine, and engines that do not answer ─────────────────────────────────────────────────────────────────────


def test_without_a_socket_there_is_no_engine(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_client, "SOCKETS", (str(tmp_path / "none"),))

    assert Containers(environment={}).engine() is None
    assert Containers(f"unix://{tmp_path}/none").engine() is None
    assert Containers(environment={"DOCKER_HOST": f"unix://{tmp_path}/none"}).engine() is None
    with pytest.raises(ToolError, match="no container engine listens here"):
        ContainerCleaner(environment={}).remove_image("docker", "sha256:0", ())


def test_a_socket_that_nobody_listens_on_is_unknown_not_absent(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    with pytest.raises(ProbeError, match=r"reach the container engine at .*: Connection refused") as told:
        Containers(f"unix://{path}").engine()
    with pytest.raises(ToolError):
        ContainerCleaner(f"unix://{path}").remove_image("docker", "sha256:0", ())

    assert "\n" not in str(told.value)


@pytest.mark.parametrize("url", ["tcp://10.0.0.1:2375", "ssh://root@elsewhere", "nonsense"])
def test_an_engine_of_another_machine_is_not_ours_to_clean(url):
    with pytest.raises(ProbeError, match="is no socket of this machine"):
        Containers(environment={"DOCKER_HOST": url}).engine()


def test_docker_host_is_followed(docker):
    assert Containers(environment={"DOCKER_HOST": docker.url}).engine().root == str(docker.root)


def test_a_data_root_that_cannot_be_seen_from_here_is_unknown(docker, monkeypatch):
    real = engine_client.Engine.info
    monkeypatch.setattr(engine_client.Engine, "info", lambda self: {**real(self), "DockerRootDir": "/nowhere"})

    with pytest.raises(ProbeError, match="docker keeps its data in /nowhere, which can't be seen from here"):
        Containers(docker.url, {}).engine()


def test_a_missing_client_names_the_command_that_brings_it(docker):
    script = (
        "import sys\nsys.modules['docker'] = None\nfrom infra.adapters.containers import Containers\n"
        "from schemas.probes import ProbeError\n"
        "try:\n    Containers(sys.argv[1]).engine()\nexcept ProbeError as error:\n    print(error)"
    )

    said = subprocess.run([sys.executable, "-c", script, docker.url], capture_output=True, text=True, check=True).stdout

    assert "pip install 'ansai[containers]'" in said


def test_the_client_is_not_imported_before_there_is_an_engine():
    script = (
        "import sys\nfrom infra.adapters.containers import Containers\n"
        "assert Containers('unix:///nowhere').engine() is None\nprint({'docker', 'requests'} & set(sys.modules))"
    )

    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


# ── what an engine says, taken apart ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-24T15:49:20.058323123Z", datetime(2026, 11, 24, 15, 49, 20, 58323, UTC)),
        ("2026-11-24T15:49:20.5Z", datetime(2026, 11, 24, 15, 49, 20, 500000, UTC)),
        ("2026-11-24T16:49:20+01:00", datetime(2026, 11, 24, 15, 49, 20, 0, UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
        ("yesterday", None),
    ],
)
def test_times_of_an_engine(text, time):
    assert engine_client.moment(text) == time


@pytest.mark.parametrize(
    ("tags", "digests", "extra"),
    [
        ([], [], []),
        (["a:1"], ["a@sha256:1"], []),
        (["a:1", "a:2"], ["a@sha256:1"], ["a:2"]),
        (["a:1", "r:5000/a:1"], ["a@sha256:1", "r:5000/a@sha256:2"], ["r:5000/a:1"]),
        (["a:1"], ["a@sha256:1", "b@sha256:1"], ["b@sha256:1"]),
        ([], ["a@sha256:1"], []),
        ([], ["a@sha256:1", "b@sha256:1"], ["b@sha256:1"]),
        (["<none>:<none>"], ["<none>@<none>"], []),
    ],
)
def test_the_names_that_go_before_the_id(tags, digests, extra):
    assert _extra_names({"RepoTags": tags, "RepoDigests": digests}) == extra


@pytest.mark.parametrize(
    "reference",
    ["app:1", "docker.io/library/app:1", "app:1@sha256:aa", "app@sha256:aa", "docker.io/app:9@sha256:aa"],
)
def test_a_service_uses_the_image_that_its_reference_names(reference):
    image = {"Id": "sha256:1", "RepoTags": ["app:1"], "RepoDigests": ["app@sha256:aa"]}
    service = {"ID": "x", "Spec": {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": reference}}}}

    assert users(image, [], [service]) == ("service web",)


def test_references_without_a_tag_and_with_a_port():
    assert references("registry.test:5000/app") == ["registry.test:5000/app:latest"]
    assert references("registry.test:5000/app:1@sha256:aa") == [
        "registry.test:5000/app:1",
        "registry.test:5000/app@sha256:aa",
    ]
