"""JSON Schemas of all messages and one AsyncAPI 3 document, generated from the models and kept beside them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from schemas import registry
from schemas.envelope import CONTENT_TYPE, Event
from schemas.text import Text
from schemas.trigger import Trigger

Mode = Literal["validation", "serialization"]

DIRECTORY = Path(__file__).parent
"""Where the generated files are kept: `json/<type>.json` and `asyncapi.json` below it."""

ENVELOPE = "CloudEvent"
VERSION = "1.0.0"
"""Of the messages, not of the program: the first number is that in the types, `….v1`."""


class DeadLetterHeaders(BaseModel):
    """What is known about a message that could not be understood; the message itself is the body, as it came."""

    error: Text = Field(alias="Ansai-Error", description="Why it could not be understood.")
    subject: str = Field(alias="Ansai-Subject", description="Where it was published.")
    length: int = Field(alias="Ansai-Length", ge=0, description="Bytes it had; the body holds the first 512 KiB.")
    digest: str = Field(alias="Ansai-Sha256", pattern="^[0-9a-f]{64}$", description="SHA-256 of all of it.")


class Channel(NamedTuple):
    """One subject pattern."""

    name: str
    address: str
    direction: Literal["send", "receive"]
    """as seen from ANSAI"""
    stream: str
    """the JetStream stream that keeps it; empty for none"""
    types: tuple[str, ...]
    """CloudEvents types; empty for raw bytes"""
    summary: str


HEALTH_TYPES = tuple(name for name in registry.MESSAGES if name.startswith(registry.HEALTH_PREFIX))

CHANNELS = (
    Channel("health", "ansai.health.{host}.{domain}.{signal}.{target}", "send", "HEALTH", HEALTH_TYPES,
            "How one target is: every change at once, the steady state now and then."),
    Channel("trigger", "ansai.trigger.{host}.{domain}.{function}", "receive", "TRIGGER", ("ansai.trigger.v1",),
            "A person's order; bare JSON without an envelope, `{}`, is understood too."),
    Channel("triggerBy", "ansai.trigger.{host}.{domain}.{function}.{who}", "receive", "TRIGGER", ("ansai.trigger.v1",),
            "The same, with the name of who asks as last token."),
    Channel("action", "ansai.action.{host}.{domain}.{function}.{step}", "send", "ACTION", ("ansai.action.v1",),
            "What a function is doing, step by step; the report comes last."),
    Channel("audit", "ansai.audit.{host}.{domain}.{function}.{emitter}", "send", "AUDIT", ("ansai.audit.v1",),
            "The audit trail, in signed segments: one record before and one after every change."),
    Channel("checkpoint", "ansai.checkpoint.{host}.{domain}.{function}.{emitter}", "send", "CHECKPOINT",
            ("ansai.checkpoint.v1",), "Where an audit chain stands, signed: it shows a tail that was cut off."),
    Channel("approvalRequested", "ansai.approval.{host}.{domain}.{function}.requested", "send", "APPROVAL",
            ("ansai.approval.v1",), "A plan waits for a person's answer."),
    *(
        Channel(f"approval{state.title()}{by}", f"ansai.approval.{{host}}.{{domain}}.{{function}}.{state}{who}",
                "receive", "APPROVAL", ("ansai.approval.v1",), f"The plan is {state}: exactly that one, once.")
        for state in ("granted", "denied") for by, who in (("", ""), ("By", ".{who}"))
    ),
    Channel("alert", "ansai.alert.{host}.{domain}.{function}.{severity}", "send", "ALERT", ("ansai.alert.v1",),
            "What a person must know."),
    Channel("deadLetter", "ansai.dlq.{domain}.{function}", "send", "DLQ", (),
            "Messages that could not be understood, as they came."),
    Channel("heartbeat", "ansai.heartbeat.{host}.{component}", "send", "", ("ansai.heartbeat.v1",),
            "Who runs where; stored nowhere."),
)  # fmt: skip

PARAMETERS: Mapping[str, str] = {
    "host": "Host name, dots written as dashes; `any` for functions that run centrally.",
    "domain": "The domain, like disk.",
    "signal": "What is judged, like pressure.",
    "target": "The first 16 hexadecimal digits of the SHA-256 of the target's canonical name.",
    "function": "The function's own name, like free_space.",
    "who": "Operator who asks; authenticated only where the bus has authorisation.",
    "step": "Where in the engine's path.",
    "emitter": "Id of the process that writes the records.",
    "severity": "info, warning or critical.",
    "component": "The process, its dots written as dashes.",
}


def files() -> Iterator[tuple[str, str]]:
    """Every generated file: its name below `DIRECTORY`, and its text."""
    yield "json/cloudevent.json", _text(_standalone(ENVELOPE, envelope_schema()))
    for name in registry.names():
        yield f"json/{name}.json", _text(_standalone(name, data_schema(name)))
    yield "asyncapi.json", _text(asyncapi())


def export(directory: Path) -> list[str]:
    """Write the files that differ, remove those of messages that are no more; return their names. Raises OSError."""
    changed = differences(directory)
    texts = dict(files())
    (directory / "json").mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in texts:
            (directory / name).write_text(texts[name], encoding="utf-8")
        else:
            (directory / name).unlink()
    return changed


def differences(directory: Path) -> list[str]:
    """Names of the files that are missing, differ from the models, or belong to no message. Raises OSError."""
    texts = dict(files())
    stale = [f"json/{path.name}" for path in sorted((directory / "json").glob("*.json"))]
    changed = [name for name, text in texts.items() if _read(directory / name) != text]
    return changed + [name for name in stale if name not in texts]


def data_schema(name: str) -> dict[str, Any]:
    """JSON Schema of the data of messages of type *name*. Raises UnknownType."""
    return registry.model(name).model_json_schema(mode=_mode(name))


def envelope_schema() -> dict[str, Any]:
    """JSON Schema of the envelope, whatever its data."""
    schema = Event[Trigger].model_json_schema(mode="serialization")
    schema.pop("$defs", None)
    schema["properties"]["data"] = {"description": "See the schema named like `type`.", "type": "object"}
    schema["required"] = sorted({*schema["required"], "specversion", "id", "time", "datacontenttype", "correlationid"})
    return {**schema, "title": ENVELOPE, "description": _first_line(Event)}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document: every subject, what travels there, in one file without outside references."""
    models = [(registry.model(name), _mode(name)) for name in registry.names()]
    places, shared = models_json_schema(models, ref_template="#/components/schemas/{model}")
    references = {name: places[model, mode] for name, (model, mode) in zip(registry.names(), models, strict=True)}
    headers = DeadLetterHeaders.model_json_schema(by_alias=True)
    return {
        "asyncapi": "3.0.0",
        "id": "urn:ansai:messages",
        "info": {
            "title": "ANSAI",
            "version": VERSION,
            "description": "Every message is a CloudEvents 1.0 event as structured JSON. Within v1 fields are added,"
            " never removed or re-typed; ignore fields that you do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "local": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "What `ansai up` starts; any nats-server from 2.11 with JetStream will do.",
            }
        },
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": {_operation_name(channel): _operation(channel) for channel in CHANNELS},
        "components": {
            "messages": {
                **{_message_name(name): _message(name, references[name]) for name in registry.names()},
                "deadLetter": {
                    "name": "deadLetter",
                    "contentType": "application/octet-stream",
                    "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
                    "summary": "The bytes as they came.",
                },
            },
            "schemas": {
                ENVELOPE: envelope_schema(),
                "DeadLetterHeaders": headers,
                **shared.get("$defs", {}),
            },
        },
    }


def _mode(name: str) -> Mode:
    """What people send is described as it is read, what we send as it is written."""
    return "validation" if name.startswith("ansai.trigger.") else "serialization"


def _channel(channel: Channel) -> dict[str, Any]:
    parts = [part.strip("{}") for part in channel.address.split(".") if part.startswith("{")]
    kept = f"Kept in the stream {channel.stream}." if channel.stream else "Stored nowhere."
    names = [_message_name(name) for name in channel.types] or ["deadLetter"]
    return {
        "address": channel.address,
        "summary": channel.summary,
        "description": kept,
        "parameters": {part: {"description": PARAMETERS[part]} for part in parts},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _operation_name(channel: Channel) -> str:
    return f"{channel.direction}{channel.name[:1].upper()}{channel.name[1:]}"


def _operation(channel: Channel) -> dict[str, Any]:
    return {
        "action": channel.direction,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": channel.summary,
    }


def _message_name(name: str) -> str:
    """`ansai.health.disk.pressure.v1` as `healthDiskPressureV1`: names of components hold no dots."""
    first, *rest = name.split(".")[1:]
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _message(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "contentType": CONTENT_TYPE,
        "summary": _first_line(registry.model(name)),
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {
            "allOf": [
                {"$ref": f"#/components/schemas/{ENVELOPE}"},
                {"type": "object", "properties": {"type": {"const": name}, "data": dict(data)}},
            ]
        },
    }


def _first_line(model: type) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def _standalone(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:ansai:schema:{name}",
        **schema,
    }


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
