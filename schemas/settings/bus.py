"""The `bus` section: which NATS server, how to get in, what to keep while it is away."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from schemas.settings.base import Settings
from schemas.units import Duration, Size


def state_directory() -> Path:
    """Where state that survives restarts belongs: `$XDG_STATE_HOME/ansai`, by default `~/.local/state/ansai`."""
    configured = os.environ.get("XDG_STATE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".local" / "state"
    return base / "ansai"


def runtime_directory() -> Path:
    """Where state belongs that no restart of the machine outlives, in memory: a full disk must not stop who frees it.

    Below `$XDG_RUNTIME_DIR/ansai`, for root `/run/ansai`, one directory for each state directory; else that itself.
    """
    configured = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(configured) if configured.startswith("/") else Path("/run")
    if not (base.is_dir() and os.access(base, os.W_OK | os.X_OK)):
        return state_directory()
    return base / "ansai" / hashlib.sha256(os.fsencode(state_directory())).hexdigest()[:12]


def _servers(url: str) -> str:
    for server in url.split(","):
        parts = urlsplit(server.strip())
        if parts.scheme not in {"nats", "tls"} or not parts.hostname:
            raise ValueError(f"{server.strip()!r} is no NATS URL; write, for example, nats://10.0.0.5:4222")
        if parts.username or parts.password:
            raise ValueError("a URL holds no secrets; use bus.credentials with user and password_file")
    return url


ServerUrl = Annotated[str, AfterValidator(_servers)]
"""One `nats://` or `tls://` URL, or several of one cluster with commas between."""


class Tls(Settings):
    """Files for TLS; any of them makes an encrypted connection a condition."""

    ca: Path | None = Field(None, description="Certificates to trust; the system's when left out.")
    certificate: Path | None = Field(None, description="Client certificate, PEM.")
    key: Path | None = Field(None, description="Key of the client certificate, PEM.")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; give both or none")
        return self

    @property
    def wanted(self) -> bool:
        return any((self.ca, self.certificate, self.key))


class Credentials(Settings):
    """Who we are. Secrets are never written here: each is the path of a file."""

    user: str | None = Field(None, min_length=1, description="User name; needs password_file.")
    password_file: Path | None = Field(None, description="File that holds the password.")
    nkey_seed_file: Path | None = Field(None, description="File that holds an nkey seed.")
    credentials_file: Path | None = Field(None, description="A .creds file: JWT and nkey seed.")

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together; give both or none")
        ways = [self.user, self.nkey_seed_file, self.credentials_file]
        if sum(way is not None for way in ways) > 1:
            raise ValueError("give one of user, nkey_seed_file and credentials_file")
        return self


class EmbeddedServer(Settings):
    """The nats-server that `ansai up` starts when no url is given."""

    directory: Path = Field(
        default_factory=lambda: state_directory() / "nats", description="Its store, configuration and log."
    )
    port: int = Field(4222, ge=1, le=65535, description="On loopback; a free one is used when it is taken.")
    max_payload: Size = Field(8 * 1024**2, ge=64 * 1024, le=64 * 1024**2, description="Largest message in bytes.")


class SpoolSettings(Settings):
    """What a publisher keeps while the server is away. The oldest is dropped, and counted, when a bound is met."""

    directory: Path = Field(default_factory=lambda: state_directory() / "spool", description="One file per publisher.")
    max_size: Size = Field(64 * 1024**2, ge=64 * 1024, description="Bytes kept on disk.")
    max_events: int = Field(100_000, ge=1, description="Events kept on disk.")
    memory_size: Size = Field(8 * 1024**2, ge=64 * 1024, description="Bytes kept in memory when the disk refuses.")


class BusSettings(Settings):
    """The connection, the sizes of what the bus keeps, the embedded server and the spool."""

    url: ServerUrl | None = Field(None, description="The server; left out, an embedded one is started.")
    tls: Tls = Tls()
    credentials: Credentials = Credentials()
    connect_deadline: Duration = Field(timedelta(seconds=5), description="Without an answer for this long: an error.")
    publish_deadline: Duration = Field(
        timedelta(seconds=10), description="Retried inside for this long; a leader election takes 5 to 7 s."
    )
    publish_window: int = Field(512, ge=1, description="Messages on their way to the server at once.")
    audit_max_size: Size = Field(
        1024**3, ge=1024**2, description="The audit stream never drops: when it is this large nothing acts."
    )
    replicas: int | None = Field(
        None, ge=1, le=5, description="Copies of each stream in a cluster; left out: 1 when created, as it is later."
    )
    lease_ttl: Duration = Field(
        timedelta(seconds=30), ge=timedelta(seconds=1), description="A holder that is silent this long has lost it."
    )
    plan_ttl: Duration = Field(timedelta(days=1), description="A plan waits this long for its approval.")
    embedded: EmbeddedServer = Field(default_factory=EmbeddedServer)
    spool: SpoolSettings = Field(default_factory=SpoolSettings)
