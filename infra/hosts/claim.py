"""One machine a host name: subjects and state are kept by it, so two that share one would heal each other's targets."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from bus import subjects
from bus.port import Bucket, Bus, Conflict, Rejected

MACHINE_ID = Path("/etc/machine-id")


class Claim(BaseModel):
    """Which machine goes by a host token; kept in the bucket `fleet`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    machine: str
    host: str
    since: AwareDatetime


def machine_id(path: Path = MACHINE_ID) -> str | None:
    """This machine's id, as systemd and D-Bus keep it; None where there is none, as in a bare container."""
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


async def claim(bus: Bus, host: str, machine: str | None) -> None:
    """Claim the name for this machine, once for ever. Raises Rejected when another one has it, BusError.

    A machine without an id claims nothing: there is nothing to tell it from another by.
    """
    if machine is None:
        return
    fleet, key = await bus.bucket(Bucket.FLEET), subjects.host_key(host)
    ours = Claim(machine=machine, host=host, since=datetime.now(UTC))
    try:
        await fleet.create(key, ours.model_dump_json().encode())
        return
    except Conflict:
        entry = await fleet.get(key)
    if entry is None:
        return  # given up this very moment; the next start claims it
    try:
        theirs = Claim.model_validate_json(entry.value)
    except ValidationError as error:
        raise Rejected(
            f"the claim to the name {host} can't be read; remove it with: nats kv del fleet {key}"
        ) from error
    if theirs.machine != machine:
        raise Rejected(
            f"the name {subjects.host_token(host)} is that of another machine ({theirs.host}, id {theirs.machine[:8]}…,"
            f" since {theirs.since:%Y-%m-%d}); give this one another with --host NAME, or, if that machine is gone:"
            f" nats kv del fleet {key}"
        )
