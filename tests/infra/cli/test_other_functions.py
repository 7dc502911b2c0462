"""Functions that are not ours: those of an installed package, and the custom actions of a settings file."""

import asyncio
import json
import os
from datetime import UTC, datetime

import jsonschema
import pytest

from bus import subjects
from schemas.envelope import new_id
from tests.functions.installed import distribution
from tests.infra.cli.conftest import REPOSITORY
from tests.waiting import until


@pytest.fixture
def shop(tmp_path):
    """What the environment must say for the package to be installed; its shelves are below the test's directory."""
    site = distribution(tmp_path / "site")
    shelves = tmp_path / "shelves"
    shelves.mkdir()
    (shelves / "tea").write_text("3")
    return {
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(site))),
        "ANSAI_SHOP_MONITORING__DIRECTORY": str(shelves),
        "ANSAI_HOST": "web-1",
    }


CUSTOM = """
custom_actions:
  - name: clear
    on: ansai.health.disk.pressure.v1
    targets: ["bytes:/srv/*"]
    run: [/bin/echo, "{target}"]
    risk: reversible
    undo: [/bin/true]
"""


@pytest.fixture
def custom(tmp_path):
    (tmp_path / "ansai.yaml").write_text(CUSTOM)


def test_an_installed_function_is_listed_and_shown_like_ours(ansai, shop):
    listed = json.loads(ansai("functions", "list", "--json", **shop).out)
    shown = ansai("functions", "show", "shop.refill", **shop).out

    (entry,) = [each for each in listed if each["name"] == "shop.refill"]
    assert "disk.free_space" in {each["name"] for each in listed}
    assert entry["listens"] == ["shop.stock"]
    assert "take them away again" in shown
    assert "shop_monitoring" in shown


def test_its_section_is_checked_shown_and_described(ansai, shop, tmp_path):
    (tmp_path / "ansai.yaml").write_text("shop_monitoring:\n  wanted: 5\n")

    assert ansai("config", "check", **shop).code == 0
    assert "  wanted: 5" in ansai("config", "show", **shop).out
    schema = json.loads(ansai("config", "schema", **shop).out)
    assert schema["properties"]["shop_monitoring"]
    check = jsonschema.Draft202012Validator(schema)
    assert check.is_valid({"shop_monitoring": {"wanted": 5}})
    assert not check.is_valid({"shop_monitoring": {"wantd": 5}})
    assert ansai("config", "check", PYTHONPATH=str(REPOSITORY)).code == 78


def test_it_plans_like_ours(ansai, shop):
    (document,) = json.loads(ansai("plan", "shop.refill", "--json", **shop).out)

    assert (document["target"], document["gap"]["amount"]) == ("shelf:tea", 7)
    assert document["plan"]["rungs"][0]["actions"][0]["title"] == "Put 7 pieces on tea"


def stock_event() -> bytes:
    """As a collector of that package would send it; the package need not be installed here."""
    now = datetime.now(UTC).isoformat()
    return json.dumps(
        {
            "specversion": "1.0", "id": new_id(), "source": "/test", "type": "ansai.health.shop.stock.v1",
            "subject": "shelf:tea", "time": now, "datacontenttype": "application/json", "correlationid": new_id(),
            "data": {
                "target": "shelf:tea", "level": "critical", "reason": "3 of 10 pieces", "observed_at": now, "pieces": 3
            },
        }
    ).encode()  # fmt: skip


STOCK = subjects.health("web-1", "shop", "stock", "shelf:tea")


@pytest.mark.parametrize("command", [["run", "shop.refill"], ["up"]])
async def test_it_is_deployed_like_ours(command, started, shop, server, bus, tmp_path):
    policy = {"mode": "auto", "confirmation": {"needed": 1, "of": 1}}
    process = await started(
        *command, "--bus", server, **shop, ANSAI_POLICY__MODE="auto",
        ANSAI_POLICY__FUNCTIONS=json.dumps({"shop.refill": policy, "disk.free_space": {"mode": "observe"}}),
    )  # fmt: skip
    await bus.publish(STOCK, stock_event())

    async def refilled() -> bool:
        assert process.returncode is None, await process.stderr.read()
        return (tmp_path / "shelves" / "tea").read_text() == "10"

    await until(refilled)


async def test_its_health_events_are_readable_in_watch(started, shop, server, bus):
    process = await started("watch", "health", "--count", "1", "--bus", server, **shop)
    output = asyncio.ensure_future(process.stdout.read())

    async def told() -> bool:
        await bus.publish(STOCK, stock_event())
        return output.done()

    await until(told)

    assert "critical" in output.result().decode()
    assert "shelf:tea: 3 of 10 pieces" in output.result().decode()


async def test_without_the_package_the_event_is_shown_as_it_came(started, server, bus, clean_environment):
    process = await started("watch", "health", "--count", "1", "--bus", server)
    output = asyncio.ensure_future(process.stdout.read())

    async def told() -> bool:
        await bus.publish(STOCK, stock_event())
        return output.done()

    await until(told)

    assert '"specversion": "1.0"' in output.result().decode()


@pytest.mark.usefixtures("custom")
def test_a_custom_action_is_listed_and_shown_like_a_function_of_ours(ansai):
    listed = json.loads(ansai("functions", "list", "--json").out)
    shown = ansai("functions", "show", "custom.clear").out

    (entry,) = [each for each in listed if each["name"] == "custom.clear"]
    assert (entry["mode"], entry["listens"]) == ("dry_run", ["disk.pressure"])
    assert [(each["action"], each["risk"], each["undo"]) for each in entry["actions"]] == [
        ("custom.clear", "reversible", "runs /bin/true"),
        ("custom.clear.undo", "reversible", "no command was declared that takes it back"),
    ]
    assert "Runs /bin/echo {target}" in shown


@pytest.mark.usefixtures("custom")
def test_it_is_looked_at_by_plan_only_for_a_target_that_is_named(ansai):
    answer = ansai("plan", "custom.clear", "--target", "/srv/exports", "--json")

    (document,) = json.loads(answer.out)
    assert document["target"] == "bytes:/srv/exports"
    assert document["problem"] == "no verify command; the next event tells"
    assert ansai("plan", "custom.clear", "--target", "/home").err.startswith(
        "ansai: custom.clear has no target '/home'"
    )


def test_what_cannot_be_started_here_is_told_by_check_and_doctor_but_is_valid(ansai, tmp_path):
    (tmp_path / "ansai.yaml").write_text(CUSTOM.replace("/bin/true", "/nowhere/undo"))

    checked = ansai("config", "check")
    checks = json.loads(ansai("doctor", "--json").out)

    assert checked.code == 0
    assert checked.err == (
        "ansai: warning: custom_actions clear, undo: /nowhere/undo is no program that can be run;"
        " see that it is there and executable: ls -l /nowhere/undo\n"
    )
    assert len(json.loads(ansai("config", "check", "--json").out)["warnings"]) == 1
    (check,) = [check for check in checks if check["name"] == "custom action"]
    assert (check["health"], check["seen"]) == (
        "warning", "custom_actions clear, undo: /nowhere/undo is no program that can be run",
    )  # fmt: skip


@pytest.mark.usefixtures("custom")
def test_a_custom_action_that_was_not_declared_is_answered_with_the_nearest(ansai):
    ended = ansai("run", "custom.claer")

    assert ended.code == 1
    assert "did you mean custom.clear?" in ended.err
