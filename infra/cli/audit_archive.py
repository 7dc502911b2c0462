"""`ansai audit export` and `ansai audit archive`."""

import asyncio
import getpass
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from bus import subjects
from bus.port import Bus
from infra.audit import archive as archiving
from infra.audit import export as exporting
from infra.audit.exported import NoExport
from infra.audit.keys import Keyring
from infra.audit.trust import Pins, Trust, TrustUnusable, meet
from infra.cli.arguments import Since, duration
from infra.cli.audit_verify import audit_directory, own_trust, progress, show
from infra.cli.failures import Failure
from infra.cli.invocation import Invocation, invocation
from infra.cli.output import AsJson, print_json
from infra.hosts.session import session
from infra.hosts.story import BusStory
from schemas.envelope import new_id
from schemas.units import show_duration, show_size

logger = logging.getLogger(__name__)

Directory = Annotated[Path, typer.Argument(help="Must not exist yet.")]


def person() -> str:
    """Who calls: the user's name and host, for the manifest and the tombstone."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "somebody"
