"""What a person does: raise a cap while it runs, be asked and answer, pull the brake, and look afterwards."""

import json

from bus.port import StreamName
from schemas.alert import Alert, AlertState
from schemas.audit import AuditRecord, Step
from schemas.envelope import Event
from schemas.remediation import Outcome
from tests.e2e.conftest import FUNCTION, MIB, Site, Volume, settings_for
from tests.waiting import until


async def alerts(site: Site, state: AlertState) -> list[Alert]:
    found = [Event[Alert].model_validate_json(each.body).data for each in await site.stored(StreamName.ALERT)]
    return [alert for alert in found if alert.state is state]


async def first(site: Site, step: Step) -> AuditRecord:
    async def found() -> AuditRecord | None:
        records = await site.records(step)
        return records[0] if records else None

    record: AuditRecord = await until(found, lambda: "\n".join(process.said for process in site.processes))
    return record


async def fill(volume: Volume) -> dict[str, object]:
    """The files; read before they are aged, since what was read lately is not old."""
    volume.write("data/orders.db", 30 * MIB)
    volume.fill(92)
    files = volume.files()
    await volume.aged()
    return files


async def test_a_cap_raised_in_the_settings_lets_the_running_function_act(memory: Volume, site: Site):
    await fill(memory)
    settings = settings_for(memory)
    settings["policy"]["mode"] = "dry_run"
    await site.open(settings)
    function = await site.start("run", FUNCTION, "disk.pressure")
    would = await first(site, Step.WOULD)

    (site.directory / "ansai.yaml").write_text("policy: {mode: nonsense}\n")
    (broken,) = await until(lambda: alerts(site, AlertState.REFUSED))
    settings["policy"]["mode"] = "auto"
    site.configure(settings)
    healed = await site.healed()
    await function.stop()

    assert "ansai.yaml" in broken.title + broken.text
    (reloaded,) = await site.records(Step.RELOADED)
    assert would.policy != reloaded.policy == healed.policy, "each record names the policy that was in force"


async def test_a_plan_runs_when_it_was_granted_on_the_command_line_and_the_trail_says_by_whom(
    memory: Volume, site: Site
):
    before = await fill(memory)
    settings = settings_for(memory)
    settings["policy"]["mode"] = "approve"
    await site.open(settings)
    function = await site.start("run", FUNCTION, "disk.pressure")
    asked = await first(site, Step.REQUESTED)
    assert memory.files().keys() == before.keys(), "nothing is touched before the answer"

    listed = await site.run("approvals", "list", "--json")
    shown = await site.run("approvals", "show", asked.plan_hash[:12])
    granted = await site.run("approvals", "grant", asked.plan_hash[:12], "--who", "anna", "--reason", "looked at it")
    healed = await site.healed()
    again = await site.run("approvals", "grant", asked.plan_hash[:12], "--who", "anna")
    explained = await site.run("audit", "explain", healed.correlation)
    await function.stop()
    verified = await site.run("audit", "verify")

    assert [each["hash"] for each in json.loads(listed.out)] == [asked.plan_hash]
    assert shown.code == granted.code == 0, granted.err
    assert memory.files().keys() < before.keys()
    (grant,) = await site.records(Step.GRANTED)
    assert (grant.who, grant.plan_hash) == ("anna (unauthenticated)", asked.plan_hash)
    assert again.code == 1, "one approval is good for once"
    assert "anna" in explained.out
    assert verified.code == 0, verified.out + verified.err


async def test_a_denied_plan_is_not_asked_again(memory: Volume, site: Site):
    before = await fill(memory)
    settings = settings_for(memory)
    settings["policy"]["mode"] = "approve"
    await site.open(settings)
    await site.start("run", FUNCTION, "disk.pressure")
    asked = await first(site, Step.REQUESTED)

    await site.run("approvals", "deny", asked.plan_hash[:12], "--who", "anna", "--reason", "not tonight")
    denied = await first(site, Step.DENIED)
    await first(site, Step.STUCK)

    assert denied.outcome is Outcome.REFUSED
    assert "not tonight" in denied.text
    assert memory.files().keys() == before.keys()
    assert len(await site.records(Step.REQUESTED)) == 1


async def test_a_freeze_holds_everything_until_it_is_lifted(memory: Volume, site: Site):
    before = await fill(memory)
    await site.open(settings_for(memory))
    frozen = await site.run("freeze", "on", "--reason", "migration")
    await site.start("run", FUNCTION, "disk.pressure")

    refused = await first(site, Step.REFUSED)
    status = await site.run("freeze", "status")
    assert memory.files().keys() == before.keys()
    await site.run("freeze", "off")
    await site.healed()

    assert frozen.code == 0, frozen.err
    assert (refused.rule, "migration" in refused.seen) == ("freeze", True)
    assert "migration" in status.out
    assert [record.step for record in await site.records(Step.FROZEN, Step.THAWED)] == [Step.FROZEN, Step.THAWED]
