"""The checked-in JSON Schemas and the AsyncAPI document say what the models say, and describe real messages."""

import json
import re
from datetime import UTC, datetime

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from bus import streams, subjects
from bus.port import StreamName
from schemas import export, registry
from schemas.alert import Alert
from schemas.approval import Approval, ApprovalState
from schemas.audit import ActionEvent, AuditRecord, AuditSegment, Checkpoint, Step
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.facts.files import Resource
from schemas.heartbeat import ComponentKind, ComponentState, Heartbeat
from schemas.memory import MemoryPressure, MemoryTrend
from schemas.remediation import Gap, Mode
from schemas.services import ServiceState
from schemas.settings.bus import BusSettings
from schemas.trigger import Trigger

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

SAMPLES = {
    "ansai.health.disk.pressure.v1": DiskPressure(
        target="bytes:/var", level="critical", observed_at=NOW, mount="/var", resource=Resource.BYTES, percent=91
    ),
    "ansai.health.memory.pressure.v1": MemoryPressure(
        target="host:memory", level="warning", observed_at=NOW, total=2**33, available=2**29, guard="earlyoom"
    ),
    "ansai.health.memory.trend.v1": MemoryTrend(
        target="unit:app.service", level="critical", observed_at=NOW, instance="1f", held=900, working_set=960,
        limit=1000, limit_at="/a\udcffb.service", seconds_to_limit=60, series_since=NOW, sparkline=(100, 900),
    ),
    "ansai.health.services.state.v1": ServiceState(
        target="unit:app.service", level="critical", observed_at=NOW, unit="app.service", active="failed",
        result="exit-code", exit_status=203, invocation="1f", findings=("it is protected",),
    ),
    "ansai.trigger.v1": Trigger(target="bytes:/var", reason="a person asked"),
    "ansai.action.v1": ActionEvent(
        host="web-1", function="disk.free_space", target="bytes:/var", step=Step.PLANNED, mode=Mode.DRY_RUN, text="…",
        gap=Gap.unknown("bytes", "statvfs hangs"),
    ),
    "ansai.audit.v1": AuditSegment(
        emitter="e", host="web-1", function="disk.free_space", first=1, last=1, previous="", head="0" * 64, at=NOW,
        boot="b", key="0" * 64, signature="0" * 128,
        records=(
            AuditRecord(
                emitter="e", sequence=1, at=NOW, host="web-1", function="disk.free_space", step=Step.OPENED,
                mode=Mode.AUTO, gap=Gap(amount=12, unit="bytes"), items=("a\udcffb",),
            ),
        ),
    ),
    "ansai.checkpoint.v1": Checkpoint(
        emitter="e", host="web-1", function="disk.free_space", sequence=9, head="0" * 64, at=NOW, key="0" * 64,
        signature="0" * 128,
    ),
    "ansai.approval.v1": Approval(
        host="web-1", function="disk.free_space", target="bytes:/var", hash="0" * 64, state=ApprovalState.GRANTED,
        who="anna",
    ),
    "ansai.alert.v1": Alert(
        host="web-1", function="disk.free_space", target="bytes:/var", severity="critical", state="opened",
        title="/var is full", at=NOW,
    ),
    "ansai.heartbeat.v1": Heartbeat(
        host="web-1", component="disk-pressure", kind=ComponentKind.COLLECTOR, names=("disk.pressure",), started=NOW,
        at=NOW, state=ComponentState.RUNNING,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def document():
    return export.asyncapi()


def validator(document: dict, pointer: str) -> Draft202012Validator:
    resource = DRAFT202012.create_resource(document)
    found = Registry().with_resource("urn:asyncapi", resource)
    return Draft202012Validator(
        {"$ref": f"urn:asyncapi#{pointer}"}, registry=found, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def every(document: object, key: str):
    """Every value of *key*, wherever in the document."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key and isinstance(value, str):
                yield value
            yield from every(value, key)
    elif isinstance(document, list):
        for value in document:
            yield from every(value, key)


def resolve(document: dict, reference: str) -> object:
    assert reference.startswith("#/")
    found = document
    for part in reference[2:].split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def test_the_checked_in_files_say_what_the_models_say():
    assert export.differences(export.DIRECTORY) == [], "run: ansai schemas export"


def test_an_export_writes_what_is_missing_and_removes_what_is_no_more(tmp_path):
    stale = tmp_path / "json" / "ansai.gone.v1.json"
    stale.parent.mkdir()
    stale.write_text("{}")

    changed = export.export(tmp_path)

    assert "asyncapi.json" in changed
    assert not stale.exists()
    assert export.differences(tmp_path) == []
    (tmp_path / "asyncapi.json").write_text("{}")
    assert export.export(tmp_path) == ["asyncapi.json"]


def test_there_is_a_sample_of_every_message():
    assert set(SAMPLES) == set(registry.names())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_message_as_it_travels_fits_its_schema_and_can_be_read_again(name, document):
    model = type(SAMPLES[name])
    event = Event[model](source="/hosts/web-1/functions/x", type=name, subject="bytes:/var", data=SAMPLES[name])
    sent = json.loads(event.body())

    Draft202012Validator(json.loads((export.DIRECTORY / "json" / f"{name}.json").read_text())).validate(sent["data"])
    Draft202012Validator(json.loads((export.DIRECTORY / "json" / "cloudevent.json").read_text())).validate(sent)
    message = next(key for key, value in document["components"]["messages"].items() if value["name"] == name)
    validator(document, f"/components/messages/{message}/payload").validate(sent)
    assert Event[model].model_validate_json(event.body()) == event


@pytest.mark.parametrize("name", SAMPLES)
def test_a_schema_refuses_what_is_no_such_message(name, document):
    message = next(key for key, value in document["components"]["messages"].items() if value["name"] == name)
    check = validator(document, f"/components/messages/{message}/payload")
    event = Event[type(SAMPLES[name])](source="/x", type=name, data=SAMPLES[name])
    sent = json.loads(event.body())

    assert not check.is_valid({**sent, "type": "ansai.other.v1"})
    assert not check.is_valid({**sent, "data": []})
    assert not check.is_valid({key: value for key, value in sent.items() if key != "source"})


def test_every_reference_leads_somewhere_in_the_document(document):
    references = set(every(document, "$ref"))

    assert references
    for reference in references:
        assert isinstance(resolve(document, reference), dict)


def test_every_schema_is_a_schema(document):
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert re.fullmatch(r"[\w.-]+", name)


def test_the_document_has_what_asyncapi_3_wants(document):
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(document["info"])
    assert set(document) <= {
        "asyncapi",
        "id",
        "info",
        "defaultContentType",
        "servers",
        "channels",
        "operations",
        "components",
    }
    for server in document["servers"].values():
        assert {"host", "protocol"} <= set(server)
    for channel in document["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
        assert set(channel) <= {"address", "summary", "description", "parameters", "messages"}
        for message in channel["messages"].values():
            assert message["$ref"].startswith("#/components/messages/")
    for operation in document["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in document["channels"]
    for message in document["components"]["messages"].values():
        assert message["contentType"]
        location = message.get("correlationId", {}).get("location", "$message.payload#/correlationid")
        assert location.startswith("$message.payload#/")


def test_every_message_has_a_channel(document):
    sent = {message for channel in document["channels"].values() for message in channel["messages"]}

    assert sent == set(document["components"]["messages"])


def test_the_channels_are_the_subjects_that_the_bus_builds(document):
    """Built with the same words as the addresses: a new kind of subject must be described too."""
    parts = {name: name for name in export.PARAMETERS}
    name = f"{parts['domain']}.{parts['function']}"
    built = {
        subjects.health("host", "domain", "signal", "x").replace(subjects.target_token("x"), "target"),
        subjects.trigger("host", name),
        subjects.trigger("host", name, "who"),
        subjects.action("host", name, "step"),
        subjects.audit("host", name, "emitter"),
        subjects.alert("host", name, "severity"),
        subjects.checkpoint("host", name, "emitter"),
        subjects.approval("host", name, "requested"),
        *(subjects.approval("host", name, state, who) for state in ("granted", "denied") for who in (None, "who")),
        subjects.dead_letter(name),
        subjects.heartbeat("host", "component"),
    }

    assert {channel.address.format_map(parts) for channel in export.CHANNELS} == built


def test_the_channels_name_the_stream_that_keeps_them():
    kept = {name.value: spec.subjects for name, spec in streams.streams(BusSettings()).items()}

    for channel in export.CHANNELS:
        subject = re.sub(r"{\w+}", "x", channel.address)
        holders = [name for name, patterns in kept.items() if any(subjects.matches(each, subject) for each in patterns)]
        assert holders == ([channel.stream] if channel.stream else [])
    assert {channel.stream for channel in export.CHANNELS} - {""} == {name.value for name in StreamName}
