"""The keys that sign the trail: Ed25519, one current per machine and user, made on first use, handed over by rotation.

```text
<state>/audit/keys/
  current                          fingerprint of the key that signs
  <fingerprint>.pem                private half, PKCS8, mode 0600
  <fingerprint>.pub                public half, in hexadecimal; kept for ever
  <new fingerprint>.rotation.json  how the key came after another, signed by both
```
"""

import errno
import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus import subjects
from bus.port import Bucket, Bus, Conflict
from functions.core.ports import NotStored
from infra.audit import durable, form

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

logger = logging.getLogger(__name__)


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class KeyUnusable(NotStored):
    """A key of the trail can't be used, so nothing can be audited; the text says which file and what to do."""


@dataclass(frozen=True)
class Signer:
    """The private half of one key, ready to sign."""

    fingerprint: str
    public: bytes
    """32 raw bytes"""
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Rotation:
    """One key hands over to the next; both sign `form.signed_rotation`. Public keys and signatures in hexadecimal."""

    old: str
    new: str
    at: str
    signature_by_old: str
    signature_by_new: str

    @property
    def old_fingerprint(self) -> str:
        return form.fingerprint(bytes.fromhex(self.old))

    @property
    def new_fingerprint(self) -> str:
        return form.fingerprint(bytes.fromhex(self.new))

    def document(self) -> dict[str, Any]:
        return asdict(self)


class Keyring:
    """The keys below *directory*. Threads and processes may share it; every method blocks on the disk for moments."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._signers: dict[str, Signer] = {}
        self._seen: tuple[int, int, int] | None = None
        self._current = ""
        self._first: Ed25519PrivateKey | None = None
        """the first key, as long as there is no room for it on the disk"""

    def current(self) -> Signer:
        """The key that signs now; made when there is none yet. After the first time a mere stat. Raises KeyUnusable."""
        with self._lock:
            try:
                try:
                    self._look()
                except OSError as error:
                    if error.errno not in NO_ROOM or os.path.lexists(self._directory / "current"):
                        raise
                    self._keep_in_memory(error)
                return self.signer(self._current)
            except (OSError, ValueError) as error:
                raise self._unusable(error) from error

    def signer(self, fingerprint: str) -> Signer:
        """A key by its name, also one that was handed over. Raises KeyUnusable."""
        if fingerprint not in self._signers:
            try:
                self._signers[fingerprint] = self._load(fingerprint)
            except (OSError, ValueError) as error:
                raise self._unusable(error) from error
        return self._signers[fingerprint]

    def public_keys(self) -> dict[str, bytes]:
        """Fingerprint → raw public half, of all keys there ever were here. Raises KeyUnusable."""
        found = {}
        try:
            for path in sorted(self._directory.glob("*.pub")):
                public = bytes.fromhex(durable.read(path).decode("ascii").strip())
                if form.fingerprint(public) != path.stem:
                    raise ValueError(f"{path} is not the key that its name says; restore it from a backup")
                found[path.stem] = public
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error
        return found

    def rotate(self) -> Rotation:
        """Make another key the current one. Chains that are being written go over to it at their next checkpoint.

        The old private half stays: it signs the last record of each of those chains. Raises KeyUnusable.
        """
        old = self.current()
        with self._lock:
            try:
                with durable.locked(self._directory):
                    self._look()
                    old = self.signer(self._current)  # another process may have rotated a moment ago
                    new = self._make()
                    rotation = _cross_signed(old, new, datetime.now(UTC))
                    durable.replace(self._rotation_path(new.fingerprint), form.canonical(rotation.document()), 0o644)
                    self._name_current(new.fingerprint)
                    self._look()
            except (OSError, ValueError) as error:
                raise self._unusable(error) from error
        logger.warning("the trail is signed by another key from now on: %s after %s", new.fingerprint, old.fingerprint)
        return rotation

    def rotations_from(self, fingerprint: str) -> list[Rotation]:
        """How *fingerprint* was handed over up to the current key, in order. Raises KeyUnusable.

        Empty when it is the current key, and when no way leads there.
        """
        steps: list[Rotation] = []
        wanted = self.current().fingerprint
        try:
            while wanted != fingerprint:
                step = Rotation(**json.loads(durable.read(self._rotation_path(wanted))))
                if step.old_fingerprint in {wanted, *(each.new_fingerprint for each in steps)}:
                    return []
                steps.insert(0, step)
                wanted = step.old_fingerprint
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise self._unusable(error) from error
        return steps

    # Files.

    def _look(self) -> None:
        """Read which key is the current one, if that may have changed; make the first. Raises OSError."""
        path = self._directory / "current"
        try:
            stat = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            self._create_first()
            stat = path.stat(follow_symlinks=False)
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._current = durable.read(path).decode("ascii").strip()
            self._seen = seen

    def _keep_in_memory(self, why: OSError) -> None:
        """A function that is to make room on a full disk must be able to sign before there is any."""
        if self._first is None:
            self._first = _generated()
            signer = _signer(self._first)
            self._signers[signer.fingerprint], self._current = signer, signer.fingerprint
            logger.warning(
                "the key %s that signs the audit trail here can't be stored in %s yet, and would be lost with this"
                " process: %s", signer.fingerprint, self._directory, why,
            )  # fmt: skip

    def _create_first(self) -> None:
        durable.make_directory(self._directory)
        with durable.locked(self._directory):
            if os.path.lexists(self._directory / "current"):
                return  # another process was quicker
            made = self._make()
            self._name_current(made.fingerprint)
        logger.info("made the key that signs the audit trail here: %s in %s", made.fingerprint, self._directory)

    def _make(self) -> Signer:
        from cryptography.hazmat.primitives import serialization

        key, self._first = self._first or _generated(), None
        signer = _signer(key)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        durable.replace(self._directory / f"{signer.fingerprint}.pub", f"{signer.public.hex()}\n".encode(), 0o644)
        durable.replace(self._directory / f"{signer.fingerprint}.pem", pem)
        self._signers[signer.fingerprint] = signer
        return signer

    def _load(self, fingerprint: str) -> Signer:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        path = self._directory / f"{fingerprint}.pem"
        if len(fingerprint) != 64 or set(fingerprint) - set("0123456789abcdef"):
            raise ValueError(f"{self._directory / 'current'} names no key; restore it from a backup")
        key = load_pem_private_key(durable.read(path, private=True), None)
        if not isinstance(key, Ed25519PrivateKey) or _signer(key).fingerprint != fingerprint:
            raise ValueError(f"{path} is not the key that its name says; restore it from a backup")
        return _signer(key)

    def _name_current(self, fingerprint: str) -> None:
        durable.replace(self._directory / "current", f"{fingerprint}\n".encode(), 0o644)

    def _rotation_path(self, fingerprint: str) -> Path:
        return self._directory / f"{fingerprint}.rotation.json"

    def _unusable(self, error: Exception) -> KeyUnusable:
        return KeyUnusable(f"the keys of the audit trail in {self._directory} can't be used: {error}")


def _generated() -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def _signer(key: "Ed25519PrivateKey") -> Signer:
    public = key.public_key().public_bytes_raw()
    return Signer(form.fingerprint(public), public, key.sign)


def _cross_signed(old: Signer, new: Signer, at: datetime) -> Rotation:
    signed = form.signed_rotation({"old": old.public.hex(), "new": new.public.hex(), "at": at.isoformat()})
    return Rotation(
        old.public.hex(), new.public.hex(), at.isoformat(), old.sign(signed).hex(), new.sign(signed).hex()
    )  # fmt: skip


async def announce(bus: Bus, host: str, signer: Signer) -> bool:
    """Tell verifiers elsewhere which key signs for *host*; False when they were told another one of that name.

    Raises BusError.
    """
    fleet, key = await bus.bucket(Bucket.FLEET), subjects.key_of_signer(host, signer.fingerprint)
    content = {"fingerprint": signer.fingerprint, "host": host, "key": signer.public.hex()}
    try:
        await fleet.create(key, form.canonical(content))
    except Conflict:
        entry = await fleet.get(key)
        return entry is not None and entry.value == form.canonical(content)
    return True
