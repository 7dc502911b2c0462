"""Whom a verifier trusts: pins on first sight, keys that were handed over, and nobody else."""

import json
import os
import stat

import pytest

from bus import subjects
from bus.memory import MemoryBus
from bus.port import Bucket
from infra.audit.keys import Keyring, announce
from infra.audit.trust import ANY, Pins, Trust, TrustUnusable, announced, from_document, local_keys, meet, named

HOST = "web-1"


@pytest.fixture
async def bus():
    made = MemoryBus()
    yield made
    await made.close()


@pytest.fixture
def pins(tmp_path) -> Pins:
    return Pins(tmp_path / "audit" / "trusted.json")


@pytest.fixture
def keyring(tmp_path) -> Keyring:
    return Keyring(tmp_path / "keys")


async def test_a_host_that_was_never_seen_is_pinned_with_the_keys_it_announces(bus, pins, keyring):
    signer = keyring.current()
    await announce(bus, HOST, signer)

    trust, new = await meet(bus, pins, Trust())

    assert new == {HOST: [signer.fingerprint]}
    assert trust.trusts(HOST, signer.fingerprint)
    assert not trust.trusts("db-1", signer.fingerprint)
    assert pins.read().public == {signer.fingerprint: signer.public}
    assert stat.S_IMODE(pins.path.stat().st_mode) == 0o600


async def test_another_key_of_a_host_that_is_known_is_not_trusted_by_being_announced(bus, pins, keyring, tmp_path):
    await announce(bus, HOST, keyring.current())
    await meet(bus, pins, Trust())
    thief = Keyring(tmp_path / "thief").current()
    await announce(bus, HOST, thief)

    trust, new = await meet(bus, pins, Trust())

    assert new == {}
    assert not trust.trusts(HOST, thief.fingerprint)


async def test_this_machine_needs_no_first_sight_of_itself(bus, pins, keyring, tmp_path):
    own = keyring.current()
    await announce(bus, HOST, Keyring(tmp_path / "thief").current())

    trust, new = await meet(bus, pins, local_keys(HOST, keyring))

    assert new == {}
    assert trust.pins == {HOST: frozenset({own.fingerprint})}


async def test_an_announcement_in_the_place_of_another_host_or_key_is_passed_by(bus, keyring):
    signer = keyring.current()
    fleet = await bus.bucket(Bucket.FLEET)
    content = {"fingerprint": signer.fingerprint, "host": "db-1", "key": signer.public.hex()}
    await fleet.create(subjects.key_of_signer(HOST, signer.fingerprint), json.dumps(content).encode())
    await fleet.create(subjects.key_of_signer(HOST, "0" * 64), json.dumps(content | {"host": HOST}).encode())
    await fleet.create(subjects.key_of_signer(HOST, "1" * 64), b"junk")

    assert (await announced(bus)).pins == {}


def test_trust_follows_rotations_in_any_order_and_never_backwards(keyring):
    first = keyring.current().fingerprint
    steps = [keyring.rotate().document() for _ in range(3)]
    last = keyring.current().fingerprint

    assert Trust({HOST: frozenset({first})}).after(reversed(steps)).trusts(HOST, last)
    assert not Trust({HOST: frozenset({last})}).after(steps).trusts(HOST, first)
    assert not Trust({HOST: frozenset({first})}).after(steps[1:]).trusts(HOST, last)
    assert not Trust({HOST: frozenset({first})}).after(steps).trusts("db-1", last)


@pytest.mark.parametrize("name", ["old", "new", "at", "signature_by_old", "signature_by_new"])
def test_a_rotation_that_was_changed_hands_nothing_over(keyring, tmp_path, name):
    first = keyring.current().fingerprint
    step = keyring.rotate().document()
    step[name] = Keyring(tmp_path / "other").rotate().document()[name]

    assert Trust({HOST: frozenset({first})}).after([step]).pins == {HOST: frozenset({first})}


def test_local_keys_know_how_they_came_after_one_another(keyring):
    first = keyring.current().fingerprint
    keyring.rotate()
    keyring.rotate()
    trust = local_keys(HOST, keyring)

    assert len(trust.rotations) == 2
    assert Trust({HOST: frozenset({first})}).after(trust.rotations).trusts(HOST, keyring.current().fingerprint)
    assert from_document(json.loads(json.dumps(trust.document()))) == trust


def test_without_keys_nothing_is_trusted_and_nothing_is_made(keyring, tmp_path):
    assert local_keys(HOST, keyring) == Trust()
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"hosts": []}', b'{"hosts": {"web-1": 1}}'])
def test_pins_that_can_not_be_read_are_one_line_and_not_overwritten(pins, keyring, body):
    pins.path.parent.mkdir()
    pins.path.write_bytes(body)

    with pytest.raises(TrustUnusable, match=r"trusted\.json"):
        pins.pin(local_keys(HOST, keyring), "test", hosts=[HOST])
    assert pins.path.read_bytes() == body


def test_pins_behind_a_link_are_refused(pins, tmp_path):
    pins.path.parent.mkdir()
    (tmp_path / "elsewhere").write_text('{"hosts": {}}')
    os.symlink(tmp_path / "elsewhere", pins.path)

    with pytest.raises(TrustUnusable):
        pins.read()


def test_a_person_names_fingerprints_and_files(pins, keyring, tmp_path):
    signer = keyring.current()
    pins.pin(local_keys(HOST, keyring), "test", hosts=[HOST])
    lines = tmp_path / "lines"
    lines.write_text(f"{signer.fingerprint}\n{'0' * 64}\n")
    document = tmp_path / "keys.json"
    document.write_text(json.dumps(local_keys("db-1", keyring).document()))

    trust = named([signer.fingerprint.upper(), str(pins.path), str(lines), str(document)])

    assert trust.pins == {
        ANY: frozenset({signer.fingerprint, "0" * 64}), HOST: frozenset({signer.fingerprint}),
        "db-1": frozenset({signer.fingerprint}),
    }  # fmt: skip
    assert trust.trusts("any host", "0" * 64)


@pytest.mark.parametrize("content", [None, "junk", "{}", '{"hosts": 1}'])
def test_a_name_that_is_neither_is_one_line(tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)

    with pytest.raises(TrustUnusable, match="--trust"):
        named([str(path)])
