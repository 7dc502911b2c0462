"""The CloudEvents 1.0 envelope, structured JSON, that every message of ours wears."""

import secrets
from datetime import UTC, datetime
from typing import Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Data = TypeVar("Data", bound=BaseModel)

CONTENT_TYPE = "application/cloudevents+json"


def new_id() -> str:
    """A random id of 96 bits in hexadecimal: for events, incidents, correlations."""
    return secrets.token_hex(12)


class Event(BaseModel, Generic[Data]):
    """One message. `correlationid` is the same in all that one event caused."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(default_factory=new_id, min_length=1, max_length=128)
    source: str = Field(min_length=1, max_length=512)
    type: str = Field(min_length=1, max_length=256)
    subject: str = Field("", max_length=4096, description="The target's canonical name.")
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str | None = Field(None, max_length=512)
    correlationid: str = Field(default_factory=new_id, min_length=1, max_length=128)
    data: Data

    def body(self) -> bytes:
        """The message as bytes."""
        return self.model_dump_json(exclude_none=True).encode()


class Head(BaseModel):
    """The envelope without its data: enough to find out which model reads the rest."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    specversion: Literal["1.0"]
    type: str = Field(max_length=256)
