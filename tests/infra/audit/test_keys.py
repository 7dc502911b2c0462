"""The keys of the trail: made once among many processes, private, and handed over without a break."""

import json
import os
import re
import stat
import subprocess
import sys

import pytest

from bus import subjects
from bus.memory import MemoryBus
from bus.port import Bucket
from infra.audit import form
from infra.audit.keys import Keyring, KeyUnusable, announce
from infra.audit.reading import signed_by
from infra.audit.trust import trusted_with


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "audit" / "keys"


def test_the_first_use_makes_a_key_and_the_next_one_finds_it(directory):
    made = Keyring(directory).current()
    found = Keyring(directory).current()

    assert found.fingerprint == made.fingerprint == form.fingerprint(made.public)
    assert signed_by(found.public, found.sign(b"x").hex(), b"x")
    assert (directory / "current").read_text().strip() == made.fingerprint


def test_the_private_half_is_for_its_owner_alone(directory):
    key = Keyring(directory).current()

    assert stat.S_IMODE((directory / f"{key.fingerprint}.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert b"BEGIN PRIVATE KEY" in (directory / f"{key.fingerprint}.pem").read_bytes()


def test_processes_that_start_together_make_one_key(directory):
    program = (
        "import sys, pathlib; from infra.audit.keys import Keyring;"
        "print(Keyring(pathlib.Path(sys.argv[1])).current().fingerprint)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = {process.communicate(timeout=60)[0].strip() for process in running}

    assert len(told) == 1
    assert len(list(directory.glob("*.pem"))) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused_with_the_command_that_closes_it(directory, mode):
    path = directory / f"{Keyring(directory).current().fingerprint}.pem"
    path.chmod(mode)

    with pytest.raises(KeyUnusable, match=re.escape(f"chmod 600 {path}")):
        Keyring(directory).current()


@pytest.mark.needs("root")
def test_a_key_of_another_user_is_refused(directory):
    path = directory / f"{Keyring(directory).current().fingerprint}.pem"
    os.chown(path, 12345, -1)

    with pytest.raises(KeyUnusable, match="belongs to user 12345"):
        Keyring(directory).current()


def test_a_link_in_place_of_a_key_is_not_followed(directory):
    path = directory / f"{Keyring(directory).current().fingerprint}.pem"
    path.rename(directory / "elsewhere")
    path.symlink_to(directory / "elsewhere")

    with pytest.raises(KeyUnusable, match="symbolic links"):
        Keyring(directory).current()


def test_a_key_under_the_name_of_another_is_refused(directory, tmp_path):
    path = directory / f"{Keyring(directory).current().fingerprint}.pem"
    other = Keyring(tmp_path / "other").current()
    path.write_bytes((tmp_path / "other" / f"{other.fingerprint}.pem").read_bytes())

    with pytest.raises(KeyUnusable, match="not the key that its name says"):
        Keyring(directory).current()


@pytest.mark.parametrize("content", ["", "../../etc/passwd", "0" * 63, "é"])
def test_a_file_current_that_names_no_key_is_refused(directory, content):
    Keyring(directory).current()
    (directory / "current").write_text(content)

    with pytest.raises(KeyUnusable, match=re.escape(str(directory))):
        Keyring(directory).current()


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(KeyUnusable, match="file/keys"):
        Keyring(tmp_path / "file" / "keys").current()


def test_a_rotation_is_signed_by_both_keys_and_stored_beside_the_new_one(directory):
    ring = Keyring(directory)
    old = ring.current()
    rotation = ring.rotate()
    new = ring.current()

    assert (rotation.old_fingerprint, rotation.new_fingerprint) == (old.fingerprint, new.fingerprint)
    assert old.fingerprint != new.fingerprint
    assert trusted_with(rotation.document()) == ((old.fingerprint, old.public), (new.fingerprint, new.public))
    assert json.loads((directory / f"{new.fingerprint}.rotation.json").read_text()) == rotation.document()


def test_public_halves_are_kept_for_ever(directory):
    ring = Keyring(directory)
    keys = [ring.current()]
    for _ in range(2):
        ring.rotate()
        keys.append(ring.current())

    assert Keyring(directory).public_keys() == {key.fingerprint: key.public for key in keys}


def test_a_public_half_that_was_replaced_is_told(directory):
    ring = Keyring(directory)
    path = directory / f"{ring.current().fingerprint}.pub"
    path.write_text("00" * 32)

    with pytest.raises(KeyUnusable, match="not the key that its name says"):
        ring.public_keys()


def test_a_rotation_is_seen_by_those_who_hold_the_ring_already(directory):
    here, there = Keyring(directory), Keyring(directory)
    assert here.current().fingerprint == there.current().fingerprint

    rotation = there.rotate()

    assert here.current().fingerprint == rotation.new_fingerprint


def test_the_way_from_an_old_key_leads_over_every_rotation(directory):
    ring = Keyring(directory)
    first = ring.current()
    steps = [ring.rotate(), ring.rotate()]

    assert Keyring(directory).rotations_from(first.fingerprint) == steps
    assert ring.rotations_from(steps[0].new_fingerprint) == steps[1:]
    assert ring.rotations_from(ring.current().fingerprint) == []
    assert ring.rotations_from("0" * 64) == []


def test_rotations_that_lead_in_a_circle_lead_nowhere(directory):
    ring = Keyring(directory)
    old = ring.current()
    rotation = ring.rotate()
    circle = {**rotation.document(), "old": rotation.new}
    (directory / f"{rotation.new_fingerprint}.rotation.json").write_text(json.dumps(circle))

    assert ring.rotations_from(old.fingerprint) == []


def test_an_old_key_can_still_sign_the_end_of_its_chains(directory):
    ring = Keyring(directory)
    old = ring.current()
    ring.rotate()

    again = Keyring(directory).signer(old.fingerprint)

    assert signed_by(old.public, again.sign(b"x").hex(), b"x")


async def test_a_key_is_announced_once_and_again_without_harm(directory):
    bus, key = MemoryBus(), Keyring(directory).current()
    assert await announce(bus, "web-1", key)
    assert await announce(bus, "web-1", key)

    fleet = await bus.bucket(Bucket.FLEET)
    entry = await fleet.get(subjects.key_of_signer("web-1", key.fingerprint))
    assert entry is not None
    assert json.loads(entry.value) == {"fingerprint": key.fingerprint, "host": "web-1", "key": key.public.hex()}
    assert entry.revision == 1
    await bus.close()


async def test_another_key_under_our_name_is_noticed(directory):
    bus, key = MemoryBus(), Keyring(directory).current()
    fleet = await bus.bucket(Bucket.FLEET)
    await fleet.create(subjects.key_of_signer("web-1", key.fingerprint), b"{}")

    assert not await announce(bus, "web-1", key)
    await bus.close()
