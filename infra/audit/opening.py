"""How a chain begins: by whom, with which key, after which earlier chain, and whether that one is still there."""

import asyncio
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from bus.port import Bus, BusError
from functions.core.ports import NotStored
from infra.audit import reading
from infra.audit.heads import Head, HeadFile, replaced
from infra.audit.keys import Signer
from infra.audit.segments import Chain, Document, document
from schemas.audit import Step
from schemas.remediation import Mode

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's, new at each start of the machine; empty where there is none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def own_record(chain: Chain, at: datetime, step: Step, text: str, data: dict[str, Any]) -> Document:
    """A record about the chain itself."""
    return document(chain, at, step=step, mode=Mode.OBSERVE, text=text, data=data)


async def opening(
    bus: Bus, chain: Chain, heads: HeadFile, signer: Signer, at: datetime, version: str
) -> tuple[list[Document], str]:
    """The first records of a chain; and, if the earlier one was cut or rolled back, what people must know about it.

    Raises NotStored when that could not be looked at.
    """
    data: dict[str, Any] = {"key": signer.public.hex(), "boot": chain.boot, "pid": os.getpid(), "version": version}
    remembered = await asyncio.to_thread(heads.read)
    if remembered is None:
        text = "a chain begins; no earlier one is known on this machine"
        return [own_record(chain, at, Step.BEGAN, text, data)], ""
    data["previous_chain"] = remembered.document()
    began = own_record(chain, at, Step.BEGAN, f"a chain begins, after that of {remembered.emitter}", data)
    found = await _found_instead(bus, chain.function, remembered)
    if found is None:
        return [began], ""
    text = (
        f"record {remembered.sequence} of {remembered.emitter} was stored and is not in the trail any more: it was"
        " restored from an older backup, or tampered with. Look into it with: ansai audit verify"
    )
    what = {"remembered": remembered.document(), "found": found}
    return [began, own_record(chain, at, Step.DISCONTINUITY, text, what)], text


async def _found_instead(bus: Bus, function: str, remembered: Head) -> dict[str, Any] | None:
    try:
        return await replaced(bus, function, remembered)
    except reading.NoRecord as error:
        return {"unreadable": str(error)}
    except BusError as error:
        raise NotStored(f"whether the earlier audit chain is still there could not be seen: {error}") from error
