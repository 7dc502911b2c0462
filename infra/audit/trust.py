"""Which public keys may sign for which host: pinned on first sight, like the known_hosts of ssh.

`<state>/audit/trusted.json` holds them: `{"version": 1, "hosts": {"web-1": {"<fingerprint>": {"public": "<hex>",
"since": "<time>", "seen": "<where>"}}}}`. A host that is not in it is pinned with the keys it has announced in the
bucket `fleet`; from then on another key of that host is only trusted when a trusted one has signed for it.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bus import subjects
from bus.port import Bucket, Bus
from infra.audit import durable
from infra.audit.form import signed_rotation
from infra.audit.keys import Keyring
from infra.audit.reading import NoRecord, parse, public_key, signed_by
from schemas.settings.bus import state_directory

ANY = "*"
"""Stands for every host: a fingerprint that a person names on the command line."""

SIGNERS = "signer."
"""What the keys of announced signers begin with; see `subjects.key_of_signer`."""


class TrustUnusable(Exception):
    """The pins can't be read or written; the text says which file and what to do."""


@dataclass(frozen=True)
class Trust:
    """Trusted fingerprints by host, known public halves, and rotations that are still to be checked."""

    pins: Mapping[str, frozenset[str]] = field(default_factory=dict)
    public: Mapping[str, bytes] = field(default_factory=dict)
    rotations: tuple[Mapping[str, Any], ...] = ()

    def trusts(self, host: str, fingerprint: str) -> bool:
        return fingerprint in self.pins.get(host, ()) or fingerprint in self.pins.get(ANY, ())

    def after(self, rotations: Iterable[Mapping[str, Any]]) -> "Trust":
        """With every key trusted that a trusted key of the same host hands over to, in any number of steps."""
        steps = [step for step in map(trusted_with, rotations) if step is not None]
        public = dict(self.public)
        pins = {host: set(keys) for host, keys in self.pins.items()}
        for keys in pins.values():
            grown = True
            while grown:
                new = {new for (old, _), (new, _) in steps if old in keys} - keys
                keys |= new
                grown = bool(new)
        for step in steps:
            public |= dict(step)
        return Trust({host: frozenset(keys) for host, keys in pins.items()}, public, self.rotations)

    def joined(self, other: "Trust") -> "Trust":
        hosts = {*self.pins, *other.pins}
        pins = {host: self.pins.get(host, frozenset()) | other.pins.get(host, frozenset()) for host in hosts}
        return Trust(pins, {**self.public, **other.public}, self.rotations + other.rotations)

    def document(self) -> dict[str, Any]:
        """As it goes into an export: `keys.json`."""
        return {
            "hosts": {host: sorted(keys) for host, keys in sorted(self.pins.items())},
            "public": {name: key.hex() for name, key in sorted(self.public.items())},
            "rotations": [dict(each) for each in self.rotations],
        }


Half = tuple[str, bytes]
"""Fingerprint and raw bytes of a public key."""


def trusted_with(rotation: Mapping[str, Any]) -> tuple[Half, Half] | None:
    """The old and the new key of a rotation that both of them signed; None for any other."""
    old, new = public_key(rotation.get("old")), public_key(rotation.get("new"))
    by_old, by_new = rotation.get("signature_by_old"), rotation.get("signature_by_new")
    if old is None or new is None or not isinstance(by_old, str) or not isinstance(by_new, str):
        return None
    signed = signed_rotation(rotation)
    return (old, new) if signed_by(old[1], by_old, signed) and signed_by(new[1], by_new, signed) else None


def from_document(document: Mapping[str, Any]) -> Trust:
    """Read `keys.json` of an export back. Raises NoRecord."""
    hosts, public, rotations = (document.get(name) for name in ("hosts", "public", "rotations"))
    if not (isinstance(hosts, dict) and isinstance(public, dict) and isinstance(rotations, list)):
        raise NoRecord("it doesn't hold hosts, public keys and rotations")
    halves = dict(half for half in map(public_key, public.values()) if half is not None)
    pins = {str(host): frozenset(map(str, keys)) for host, keys in hosts.items() if isinstance(keys, list)}
    return Trust(pins, halves, tuple(each for each in rotations if isinstance(each, dict)))


# This machine's.


def local_keys(host: str, keyring: Keyring) -> Trust:
    """The keys of this machine sign for its own host name. Raises KeyUnusable."""
    public = keyring.public_keys()
    steps = [each.document() for name in public for each in keyring.rotations_from(name)]
    unique = {step["new"]: step for step in steps}
    return Trust({host: frozenset(public)} if public else {}, public, tuple(unique.values()))


class Pins:
    """The file of trusted keys."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or state_directory() / "audit" / "trusted.json"

    def read(self) -> Trust:
        """What is pinned; nothing when there is no file. Raises TrustUnusable."""
        return _trust_of(self._hosts())

    def pin(self, seen: Trust, where: str, *, hosts: Iterable[str]) -> dict[str, list[str]]:
        """Trust the keys of *seen* for *hosts* from now on; return what is new. Raises TrustUnusable."""
        known = self._hosts()
        new: dict[str, list[str]] = {}
        for host in hosts:
            for fingerprint in sorted(seen.pins.get(host, ())):
                public = seen.public.get(fingerprint)
                if public is not None and fingerprint not in known.get(host, {}):
                    since = datetime.now(UTC).isoformat(timespec="seconds")
                    known.setdefault(host, {})[fingerprint] = {"public": public.hex(), "since": since, "seen": where}
                    new.setdefault(host, []).append(fingerprint)
        if new:
            self._write(known)
        return new

    def _hosts(self) -> dict[str, dict[str, Any]]:
        try:
            document = parse(durable.read(self.path))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise TrustUnusable(
                f"the trusted keys in {self.path} can't be read: {error}; restore it, or move it away to trust anew"
            ) from error
        hosts = document.get("hosts")
        if not isinstance(hosts, dict) or not all(isinstance(keys, dict) for keys in hosts.values()):
            raise TrustUnusable(f"{self.path} holds no trusted keys; restore it, or move it away to trust anew")
        return hosts

    def _write(self, hosts: Mapping[str, Any]) -> None:
        body = json.dumps({"version": 1, "hosts": hosts}, indent=2, sort_keys=True) + "\n"
        try:
            durable.make_directory(self.path.parent)
            durable.replace(self.path, body.encode())
        except OSError as error:
            raise TrustUnusable(
                f"the trusted keys can't be written to {self.path}: {os.strerror(error.errno or 0)}"
            ) from error


def _trust_of(hosts: Mapping[str, Mapping[str, Any]]) -> Trust:
    halves = {
        host: dict(
            half for entry in keys.values() if isinstance(entry, dict) and (half := public_key(entry.get("public")))
        )
        for host, keys in hosts.items()
    }
    public = {name: key for keys in halves.values() for name, key in keys.items()}
    return Trust({host: frozenset(keys) for host, keys in halves.items()}, public)


async def announced(bus: Bus) -> Trust:
    """What hosts say of themselves in the bucket `fleet`; no more than a first sight. Raises BusError."""
    fleet = await bus.bucket(Bucket.FLEET)
    pins: dict[str, set[str]] = {}
    public: dict[str, bytes] = {}
    for name in await fleet.keys(SIGNERS):
        entry = await fleet.get(name)
        if entry is None:
            continue
        try:
            document = parse(entry.value)
        except NoRecord:
            continue
        half, host = public_key(document.get("key")), document.get("host")
        if half is None or not isinstance(host, str) or subjects.key_of_signer(host, half[0]) != name:
            continue  # it speaks for another host or key than its place allows
        pins.setdefault(host, set()).add(half[0])
        public[half[0]] = half[1]
    return Trust({host: frozenset(keys) for host, keys in pins.items()}, public)


async def meet(bus: Bus, pins: Pins, own: Trust) -> tuple[Trust, dict[str, list[str]]]:
    """Trust of this machine's keys, of the pinned ones, and of those of hosts that were never seen before.

    Returns also what was pinned just now, by host. Raises BusError, TrustUnusable.
    """
    known = pins.read().joined(own)
    seen = await announced(bus)
    fresh = [host for host in seen.pins if host not in known.pins]
    new = pins.pin(seen, "first sight", hosts=fresh)
    trusted = Trust({host: seen.pins[host] for host in fresh}, seen.public)
    return known.joined(trusted), new


def named(words: Iterable[str]) -> Trust:
    """What a person names with `--trust`: fingerprints, or files (trusted.json, keys.json, or lines of fingerprints).

    Raises TrustUnusable.
    """
    found = Trust()
    for word in words:
        if _is_fingerprint(word):
            found = found.joined(Trust({ANY: frozenset({word.lower()})}))
        else:
            found = found.joined(_of_file(Path(word)))
    return found


def _is_fingerprint(word: str) -> bool:
    return len(word) == 64 and not set(word.lower()) - set("0123456789abcdef")


def _of_file(path: Path) -> Trust:
    try:
        body = durable.read(path)
    except (OSError, ValueError) as error:
        raise TrustUnusable(
            f"--trust {path}: neither a fingerprint of 64 hexadecimal digits nor a file: {error}"
        ) from error
    words = body.decode("utf-8", "replace").split()
    if words and all(map(_is_fingerprint, words)):
        return named(words)
    try:
        document = parse(body)
        hosts = document.get("hosts")
        if isinstance(hosts, dict) and all(isinstance(keys, dict) for keys in hosts.values()):
            return _trust_of(hosts)
        return from_document(document)
    except NoRecord as error:
        raise TrustUnusable(f"--trust {path}: it holds no keys: {error}") from error
