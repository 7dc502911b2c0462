"""`ansai audit keys`: who signs the trail on this machine, and whom it trusts."""

import asyncio
from typing import Any

import typer

from functions.core.ports import NotStored
from infra.audit.keys import Keyring, Rotation
from infra.audit.trust import Pins, Trust, TrustUnusable, announced
from infra.cli.audit_archive import person
from infra.cli.audit_verify import audit_directory, own_trust
from infra.cli.failures import Failure
from infra.cli.invocation import invocation
from infra.cli.output import AsJson, print_json
from infra.cli.tables import console, table
from infra.hosts.session import session
from infra.hosts.story import BusStory
from schemas.audit import Step
from schemas.envelope import new_id
from schemas.remediation import Mode

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The keys that sign the audit trail.")

FUNCTION = "operator.keys"
"""The function name of the chain in which a rotation is told."""


@app.command("list", epilog="Example: ansai audit keys list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """List the keys of this machine, and those of other hosts that it trusts; compare fingerprints by this."""
    asked = invocation(context)
    keyring = Keyring(audit_directory() / "keys")
    try:
        own, pinned = own_trust(asked), Pins().read()
    except TrustUnusable as error:
        raise Failure(str(error)) from error
    current = keyring.current().fingerprint if own.public else ""
    found = _documents(own, pinned, current)
    if as_json:
        print_json(found)
        return
    rows = [(each["host"], each["fingerprint"], each["use"]) for each in found]
    console().print(table(("host", "fingerprint", "use"), rows))
    if not found:
        typer.echo("no keys yet: the first function that runs here makes one", err=True)


def _documents(own: Trust, pinned: Trust, current: str) -> list[dict[str, Any]]:
    documents = []
    for host, keys in {**pinned.pins, **own.pins}.items():
        ours = own.pins.get(host, frozenset())
        for key in sorted(keys | pinned.pins.get(host, frozenset()), key=lambda key: (key != current, key)):
            use = "signs here" if key == current else "signed here before" if key in ours else "trusted"
            public = {**pinned.public, **own.public}.get(key)
            documents.append(
                {"host": host, "fingerprint": key, "use": use, "public_key": public.hex() if public else ""}
            )
    return documents


@app.command(epilog="Example: ansai audit keys rotate")
def rotate(context: typer.Context, as_json: AsJson = False) -> None:
    """Make a new key that the present one signs for; running functions go over to it at their next checkpoint.

    The old key stays trusted for what it has signed.
    """
    asked = invocation(context)

    async def main() -> Rotation:
        async with session(asked.start().bus, "ansai-audit", start=True) as bus:
            await announced(bus)  # the bus answers: a rotation that nobody hears of is none
            keyring = Keyring(audit_directory() / "keys")
            rotation = keyring.rotate()
            story = BusStory(bus, bus, asked.host_name, new_id(), keyring=keyring, state=audit_directory())
            try:
                await story.audit(
                    new_id(), function=FUNCTION, step=Step.KEY_CHANGED, mode=Mode.OBSERVE, who=person(asked),
                    text=f"{rotation.new_fingerprint} after {rotation.old_fingerprint}", data=rotation.document(),
                )  # fmt: skip
            except NotStored as error:
                raise Failure(
                    f"the key was changed on this machine, and the trail does not say so yet: {error}; running"
                    " functions write it with their next checkpoint"
                ) from error
            finally:
                await story.stop()
            return rotation

    done = asyncio.run(main())
    if as_json:
        print_json({"old": done.old_fingerprint, "new": done.new_fingerprint, "at": done.at})
        return
    typer.echo(f"{done.new_fingerprint} signs from now on, after {done.old_fingerprint}")
