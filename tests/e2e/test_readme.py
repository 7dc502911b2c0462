"""What the README tells to type works: its commands, its messages, its Python, its settings."""

import asyncio
import re
import shlex
import signal
import sys
from pathlib import Path

import nats
import pytest

from bus import subjects
from infra.configuration import load
from schemas.audit import ActionEvent, Step
from schemas.envelope import Event
from schemas.remediation import Mode
from schemas.trigger import Trigger
from tests.e2e.conftest import FUNCTION, HOST, MIB, PATIENCE, REPOSITORY, Site, Volume, settings_for

TEXT = (REPOSITORY / "README.md").read_text()
PLACES = {
    "<host>": HOST, "<domain>": "disk", "<signal>": "pressure", "<target>": "0" * 16, "<function>": "free_space",
    "<who>": "anna", "<step>": "acting", "<emitter>": "e1", "<severity>": "critical", "<component>": "ansai-up",
}  # fmt: skip
ENDLESS = ("up", "run", "collect", "watch")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """Command lines of *program*, without the comments behind them."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))[:1] == [program]]


ANSAI = commands("ansai")


def at(volume: Volume, words: list[str]) -> list[str]:
    """On this test's filesystem in place of /var."""
    return [word.replace("/var", str(volume.point)) for word in words]


def test_there_is_something_to_try():
    assert len(ANSAI) >= 8
    assert len(commands("nats")) == 3
    assert {words[1] for words in ANSAI} >= {"plan", "run", "collect", "trigger", "watch", "audit", "dlq", "doctor"}
    assert len(blocks("python")) == 1
    assert len(blocks("yaml")) >= 2


@pytest.mark.parametrize("words", [words for words in ANSAI if words[1] not in ENDLESS], ids=" ".join)
async def test_a_command_ends_well(words: list[str], memory: Volume, site: Site):
    memory.write("data/orders.db", MIB)
    await site.open(settings_for(memory))
    await site.start("run", FUNCTION)

    ended = await site.run(*at(memory, words[1:]))

    assert ended.code in ({0, 1} if words[1] == "doctor" else {0}), ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("words", [words for words in ANSAI if words[1] in ENDLESS], ids=" ".join)
async def test_a_command_runs_until_it_is_stopped(words: list[str], memory: Volume, site: Site):
    await site.open(settings_for(memory, steady_every="1 s"))  # whenever it begins to look, something comes
    process = await site.spawn(sys.executable, "-m", "infra.cli.main", *at(memory, words[1:]), PYTHONUNBUFFERED="1")
    collector = await site.start("collect", "disk.pressure")

    await process.says("disk.")
    assert await process.signal(signal.SIGINT) in {0, 130}
    assert await collector.stop() == 0
    assert "Traceback" not in process.said


def test_the_subjects_are_ours():
    written = set(re.findall(r"`(ansai\.[^`]+\.[^`]+)`", TEXT)) | {
        word.strip("'\"") for words in commands("nats") for word in words if word.startswith("ansai.")
    }
    assert len(written) >= 9
    for subject in written:
        for place, value in PLACES.items():
            subject = subject.replace(place, value)
        if subject.endswith(">"):
            assert subjects.matches(subject, subjects.audit(HOST, FUNCTION, "e1"))
        else:
            optional = re.sub(r"\[.*\]", "", subject), subject.replace("[", "").replace("]", "")
            assert all(subjects.parse(each).kind for each in optional)


async def test_what_the_nats_command_line_publishes_is_understood_and_answered(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    await memory.aged()
    await site.open(settings_for(memory))
    await site.start("run", FUNCTION)
    published = [at(memory, words[2:]) for words in commands("nats") if words[1] == "pub"]
    assert [subject for subject, _ in published] == [subjects.trigger(HOST, FUNCTION)] * 2

    listening = site.bus.listen("ansai.action.>")
    await listening.ready()
    connection = await nats.connect(site.server.url)
    try:
        for _, body in published:
            Trigger.model_validate_json(body)
            await connection.publish(published[0][0], body.encode())
            await final(listening)
    finally:
        await connection.close()
        await listening.aclose()

    ends = await site.records(Step.HEALED, Step.WOULD)
    assert [(record.step, record.mode) for record in ends][-1] == (Step.HEALED, Mode.AUTO)
    assert memory.percent() <= 75


async def final(listening) -> None:
    """Wait until nothing more comes about any target of one order."""
    waiting: set[str] | None = None
    async with asyncio.timeout(PATIENCE):
        async for _, body in listening:
            event = Event[ActionEvent].model_validate_json(body).data
            if event.step is Step.RECEIVED:
                waiting = set(map(str, event.data["targets"]))  # type: ignore[arg-type]
            if event.final and waiting is not None:
                waiting.discard(event.target)
            if waiting == set():
                return


DRIVER = "import asyncio, sys\nfrom sample import main\nasyncio.run(main(sys.argv[1]))\n"


async def test_the_python_publishes_a_trigger_and_prints_the_audit_trail(memory: Volume, site: Site):
    memory.write("data/orders.db", MIB)
    await site.open(settings_for(memory))
    await site.start("run", FUNCTION)
    (sample,) = blocks("python")
    (site.directory / "sample.py").write_text(sample.replace("/var", str(memory.point)))

    process = await site.spawn(
        sys.executable, "-c", DRIVER, site.server.url, PYTHONPATH=str(site.directory), PYTHONUNBUFFERED="1"
    )

    await process.says(f"received bytes:{memory.point} dry_run asked for bytes:{memory.point}")
    assert len(await site.records(Step.RECEIVED)) == 1
    await process.end()


@pytest.mark.parametrize("number", range(len(blocks("yaml"))))
def test_the_settings_are_valid_as_they_stand(number: int, tmp_path: Path):
    path = tmp_path / "ansai.yaml"
    path.write_text(blocks("yaml")[number])

    assert load(str(path), {}).model_fields_set


async def test_the_variables_are_settings(site: Site):
    variables = dict(re.findall(r"`(ANSAI_[A-Z_]+)=([^`]+)`", TEXT))
    assert len(variables) >= 2

    shown = await site.run("config", "show", **variables)

    assert shown.code == 0, shown.err
    assert all(name in shown.out for name in variables)
