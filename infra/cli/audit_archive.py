"""`ansai audit export` and `ansai audit archive`."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from bus import subjects
from bus.port import Bus
from infra.audit import archive as archiving
from infra.audit import export as exporting
from infra.audit.exported import NoExport
from infra.audit.keys import Keyring, Signer
from infra.audit.trust import Pins, Trust, TrustUnusable, meet
from infra.cli.audit_verify import audit_directory, own_trust, progress, show
from infra.cli.failures import Failure
from infra.cli.invocation import Invocation, invocation
from infra.cli.output import AsJson, print_json
from infra.cli.person import user_name
from infra.hosts.session import session
from infra.hosts.story import BusStory
from schemas.envelope import new_id
from schemas.units import parse_duration, show_size

Answer = TypeVar("Answer")


def moment(text: str) -> datetime:
    """`30 days` is so long ago; `2026-05-01` and `2026-05-01T12:00` are local time unless they say another."""
    try:
        duration = parse_duration(text)
    except ValueError:
        duration = None
    if isinstance(duration, timedelta):
        return datetime.now(UTC) - duration
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither a duration like '30 days' nor a time like 2026-05-01") from error


Directory = Annotated[Path, typer.Argument(help="Where to; must not exist yet.")]


def export(
    context: typer.Context,
    directory: Directory,
    since: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="DURATION|TIME", help="From then on: '31 days' ago, or 2026-05-01."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="DURATION|TIME", help="What was stored before it.")
    ] = None,
    function: Annotated[str | None, typer.Option(help="Only of this function.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write records, checkpoints and keys to a directory that proves itself: JSON Lines under a signed manifest."""
    asked = invocation(context)
    selection = exporting.Selection(since, until, function)
    try:
        _ = selection.pattern
    except subjects.BadSubject as error:
        raise Failure(str(error)) from error

    with progress("exporting") as told:

        async def work(bus: Bus, signer: Signer, trust: Trust) -> exporting.Exported:
            return await exporting.export(bus, directory, selection, signer, trust, person(asked), told)

        done = _with_bus(asked, work)
    if as_json:
        print_json({"directory": str(directory), "sha256": done.digest, **done.manifest})
        return
    counts, size = done.manifest["counts"], sum(each["bytes"] for each in done.manifest["files"].values())
    typer.echo(
        f"{counts['records']:,} records in {counts['messages']:,} messages and {counts['checkpoints']:,} checkpoints"
        f" ({show_size(size)}) are in {directory}; manifest SHA-256 {done.digest}"
    )
    typer.echo(f"Verify it anywhere with: ansai audit verify {directory} --trust {done.manifest['key']}")


def archive(
    context: typer.Context,
    directory: Directory,
    before: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="DURATION|TIME", help="What is older; by default 30 days."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move older records out of the stream: export, verify the export, leave a tombstone, then purge what is older.

    Nothing is removed when the export does not verify; exit with 1 then. The bus lets only administrators do this.
    """
    asked = invocation(context)
    until = before if before is not None else datetime.now(UTC) - timedelta(days=30)
    order = archiving.Order(directory, until, person(asked))

    with progress("archiving") as told:

        async def work(bus: Bus, signer: Signer, trust: Trust) -> archiving.Archived | None:
            story = BusStory(bus, bus, asked.host_name, new_id(), keyring=_keyring(), state=audit_directory())
            try:
                limit = asked.configuration.bus.audit_max_size
                return await archiving.archive(bus, order, story, signer, trust, limit, told)
            finally:
                await story.stop()

        done = _with_bus(asked, work)
    if done is None:
        if as_json:
            print_json({"archived": False, "reason": "nothing is that old", "before": until.isoformat()})
        else:
            typer.echo(f"nothing to archive: no record was stored before {until.astimezone():%Y-%m-%d %H:%M}")
        return
    _tell(directory, done, as_json=as_json)


def _tell(directory: Path, done: archiving.Archived, *, as_json: bool) -> None:
    found = done.verification
    if as_json:
        print_json(_document(directory, done))
    elif not found.ok:
        show(found)
    else:
        typer.echo(
            f"{found.records:,} records are in {directory} and verified; manifest SHA-256 {done.digest}\n"
            f"The tombstone is message #{done.tombstone}; {done.purged:,} messages and {done.checkpoints_purged:,}"
            f" checkpoints were removed from the bus.\nKeep the directory; with what remains it is verified by:"
            f" ansai audit export REST, then ansai audit verify {directory} REST"
        )
    if not found.ok:
        raise Failure(f"the archive in {directory} does not verify, so nothing was removed; see: ansai audit verify")


def _document(directory: Path, done: archiving.Archived) -> dict[str, Any]:
    return {
        "archived": done.verification.ok, "directory": str(directory), "sha256": done.digest,
        "tombstone": done.tombstone, "purged": done.purged, "checkpoints_purged": done.checkpoints_purged,
        "verification": done.verification.document(),
    }  # fmt: skip


def person(asked: Invocation) -> str:
    """Who calls, and where: for the manifest and the tombstone."""
    return f"{user_name()} on {asked.host_name}"


def _keyring() -> Keyring:
    return Keyring(audit_directory() / "keys")


def _with_bus(asked: Invocation, work: Callable[[Bus, Signer, Trust], Awaitable[Answer]]) -> Answer:
    """Run *work* on the bus, with this machine's key and all that is trusted. Raises Failure, BusError, NotStored."""

    async def main() -> Answer:
        async with session(asked.start().bus, "ansai-audit", start=True) as bus:
            signer = _keyring().current()
            trust, _ = await meet(bus, Pins(), own_trust(asked))
            return await work(bus, signer, trust)

    try:
        return asyncio.run(main())
    except (exporting.ExportFailed, archiving.ArchiveFailed, NoExport, TrustUnusable) as error:
        raise Failure(str(error)) from error
