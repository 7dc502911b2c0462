"""`ansai freeze`: the kill switch."""

import asyncio
import os
import secrets
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from bus.port import Bucket, Bus, BusError, Conflict
from bus.subjects import FREEZE
from functions.core.ports import NotStored
from infra.cli.failures import Failure
from infra.cli.invocation import Invocation, invocation
from infra.cli.output import AsJson, print_json
from infra.cli.person import UNAUTHENTICATED, person
from infra.cli.tables import console, table
from infra.hosts.brake import KEY_PLACE, frozen_by_file, read_freeze
from infra.hosts.session import session
from infra.hosts.story import BusStory
from schemas.audit import Step
from schemas.envelope import new_id
from schemas.freeze import Freeze
from schemas.settings.policy import SYSTEM_FREEZE_FILE

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Stop every function from beginning anything, or let them go on."
)

FUNCTION = "operator.freeze"
"""Under this name it is in the audit trail."""

Local = Annotated[bool, typer.Option("--local", help="Only on this host, by its file; the bus is not asked.")]
Reason = Annotated[str, typer.Option(help="Told in every refusal, and kept in the audit trail.")]


@app.command(epilog="Example: ansai freeze on --reason 'storage is being moved'")
def on(context: typer.Context, reason: Reason = "", local: Local = False) -> None:
    """Let no function begin an action, on any host; running actions end. Survives restarts.

    The file of this host comes first: it works without the bus. Then the key on the bus, which stops all hosts.
    """
    asked = invocation(context)
    file, freeze = asked.start().policy.freeze_file, Freeze(reason=reason, who=person())
    _write(file, freeze)
    typer.echo(f"frozen on this host: {file}")
    if local:
        return

    async def everywhere(bus: Bus) -> bool:
        await _store(bus, freeze)
        typer.echo(f"frozen on all hosts: {KEY_PLACE}")
        return True

    problem = _on_the_bus(asked, everywhere, Step.FROZEN, reason)
    if problem:
        raise Failure(f"only this host is frozen: {problem}")


@app.command(epilog="Example: ansai freeze off --reason 'moved'")
def off(context: typer.Context, reason: Reason = "", local: Local = False) -> None:
    """Lift the freeze: this host's file and the key on the bus; tells what stays frozen all the same."""
    asked = invocation(context)
    file = asked.start().policy.freeze_file
    removed = _remove(file)
    typer.echo(f"lifted on this host: {file}" if removed else f"there was none on this host: {file}")

    async def everywhere(bus: Bus) -> bool:
        lifted = await _delete(bus)
        typer.echo(f"lifted on all hosts: {KEY_PLACE}" if lifted else f"there was none on the bus: {KEY_PLACE}")
        return lifted or removed

    problem = "" if local else _on_the_bus(asked, everywhere, Step.THAWED, reason)
    if problem:
        raise Failure(f"only the file of this host was removed: {problem}")
    left = frozen_by_file([SYSTEM_FREEZE_FILE])
    if left is not None:
        raise Failure(
            f"this host stays frozen by {left.where} ({left.reason or 'no reason given'}); remove it: rm {left.where}"
        )
    typer.echo("other hosts may be frozen by files of their own, which can't be seen from here", err=True)


@app.command(epilog="Example: ansai freeze status --json")
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the three places that can freeze this host; exits with 1 when the bus can't be asked."""
    asked = invocation(context)
    file = asked.start().policy.freeze_file
    places: dict[str, Freeze | None] = {str(each): frozen_by_file([each]) for each in (file, SYSTEM_FREEZE_FILE)}
    problem = ""
    try:
        places[KEY_PLACE] = asyncio.run(_stored(asked))
    except BusError as error:
        problem = str(error)
    if as_json:
        print_json(_document(places, problem))
    else:
        rows = [_row(place, freeze) for place, freeze in places.items()]
        rows += [(KEY_PLACE, "unknown", "", "", "")] if problem else []
        console().print(table(("place", "state", "since", "who", "reason"), rows))
    if problem:
        raise Failure(f"whether all hosts are frozen is not known: {problem}")


def _row(place: str, freeze: Freeze | None) -> tuple[str, ...]:
    if freeze is None:
        return place, "free", "", "", ""
    moment = f"{freeze.since.astimezone():%Y-%m-%d %H:%M:%S}" if freeze.who else ""
    return place, "frozen", moment, freeze.who, freeze.reason


def _document(places: dict[str, Freeze | None], problem: str) -> dict[str, Any]:
    return {
        "frozen": None if problem and not any(places.values()) else any(places.values()),
        "places": {
            place: freeze.model_dump(mode="json") if freeze is not None else None for place, freeze in places.items()
        },
        "problem": problem or None,
    }


def _on_the_bus(asked: Invocation, change: Callable[[Bus], Awaitable[bool]], step: Step, reason: str) -> str:
    """Do it, and audit it when it changed anything; why the bus could not be asked, or "". Raises Failure."""

    async def main() -> None:
        async with session(asked.configuration.bus, "ansai-freeze") as bus:
            if await change(bus):
                await _audit(asked, bus, step, reason)

    try:
        asyncio.run(main())
    except BusError as error:
        return str(error)
    except NotStored as error:
        raise Failure(f"done, but not in the audit trail: {error}") from error
    return ""


async def _audit(asked: Invocation, bus: Bus, step: Step, reason: str) -> None:
    """Raises NotStored."""
    story = BusStory(bus, bus, asked.host_name, new_id())
    try:
        policy = asked.configuration.policy
        await story.audit(
            new_id(), function=FUNCTION, step=step, mode=policy.mode, text=reason, who=f"{person()}{UNAUTHENTICATED}"
        )
    finally:
        await story.stop()


async def _store(bus: Bus, freeze: Freeze) -> None:
    bucket, value = await bus.bucket(Bucket.FLEET), freeze.model_dump_json(exclude={"where"}).encode()
    while True:
        entry = await bucket.get(FREEZE)
        with suppress(Conflict):  # somebody else changed it this very moment: once more
            if entry is None:
                await bucket.create(FREEZE, value)
            else:
                await bucket.update(FREEZE, value, entry.revision)
            return


async def _delete(bus: Bus) -> bool:
    bucket = await bus.bucket(Bucket.FLEET)
    if await bucket.get(FREEZE) is None:
        return False
    await bucket.delete(FREEZE)
    return True


async def _stored(asked: Invocation) -> Freeze | None:
    async with session(asked.configuration.bus, "ansai-freeze") as bus:
        entry = await (await bus.bucket(Bucket.FLEET)).get(FREEZE)
    return None if entry is None else read_freeze(entry.value, KEY_PLACE)


def _write(file: Path, freeze: Freeze) -> None:
    """Put it in place at once and whole; functions of other users may read it."""
    content = freeze.model_dump_json(exclude={"where"}, indent=2).encode() + b"\n"
    draft = f".{file.name}.{secrets.token_hex(4)}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        parent = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritten(file, error) from error
    try:
        opened = os.open(
            draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent
        )
        try:
            with os.fdopen(opened, "wb") as output:
                output.write(content)
                output.flush()
                os.fsync(opened)
            os.rename(draft, file.name, src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=parent)
            raise
    except OSError as error:
        raise _unwritten(file, error) from error
    finally:
        os.close(parent)


def _remove(file: Path) -> bool:
    """False when there is none."""
    try:
        if stat.S_ISDIR(os.lstat(file).st_mode):
            raise Failure(f"{file} is a directory, which freezes this host; look at it, then remove it: rmdir {file}")
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Failure(f"remove {file}: {error.strerror}; this host stays frozen: sudo rm {file}") from error
    return True


def _unwritten(file: Path, error: OSError) -> Failure:
    return Failure(
        f"NOT frozen: write {file}: {error.strerror}; an empty file there or at {SYSTEM_FREEZE_FILE} is enough:"
        f" sudo touch {SYSTEM_FREEZE_FILE}"
    )
