"""Situations for the guard, built from a calm one: confirmed, alerted, alone, and allowed everything."""

from datetime import UTC, datetime, timedelta
from typing import Any

from functions.core.plan import Action, Plan, Rung
from functions.core.situation import Situation
from schemas.incident import Incident, IncidentState, Sample
from schemas.remediation import Gap
from schemas.settings.policy import EffectivePolicy
from tests.functions.core.tank import Blast, Drain, Pour, Restart

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
GAP = Gap(amount=10, unit="litres")

REVERSIBLE: Action = Pour(tank="a", litres=4, name="pour")
RESTART: Action = Restart(tank="a", litres=4, name="restart")
IRREVERSIBLE: Action = Drain(tank="a", litres=4, name="drain")


def plan(*rungs: Action | tuple[Action, ...], **fields: Any) -> Plan:
    """One rung for each argument."""
    grouped = [each if isinstance(each, tuple) else (each,) for each in rungs]
    ladder = tuple(Rung(name=f"rung{n}", title=f"Rung {n}", actions=actions) for n, actions in enumerate(grouped, 1))
    return Plan(rungs=ladder, **fields)


def blast(litres: int, name: str = "blast", *, exact: bool = True) -> Action:
    return Blast(tank="a", litres=litres, name=name, exact_estimate=exact)


def looks(*ago: float, source: str = "probe", unhealthy: bool = True) -> tuple[Sample, ...]:
    """Samples of one source, as many seconds ago."""
    return tuple(Sample(at=NOW - each * SECOND, source=source, unhealthy=unhealthy) for each in ago)


CONFIRMED = looks(30, 20, 10) + looks(5, source="level")


def incident(**fields: Any) -> Incident:
    values = {
        "id": "0123456789ab", "correlation": "c", "host": "host-1", "function": "water.drain", "target": "tank:a",
        "state": IncidentState.OPEN, "opened_at": NOW - MINUTE, "changed_at": NOW - MINUTE,
        "alerted_at": NOW - MINUTE, "gap": GAP, "samples": CONFIRMED, **fields,
    }  # fmt: skip
    return Incident(**values)


def policy(**fields: Any) -> EffectivePolicy:
    return EffectivePolicy.model_validate({"mode": "auto", "risk_modes": {}, **fields})


def situation(**fields: Any) -> Situation:
    """Fields of `Situation`; `limits` are fields of the policy, `memory` of the incident."""
    limits, memory = fields.pop("limits", {}), fields.pop("memory", {})
    return Situation(
        **{
            "policy": policy(**limits), "incident": incident(**memory), "now": NOW, "gap": GAP,
            "plan": plan(REVERSIBLE), "planned_at": fields.get("now", NOW), **fields,
        }
    )  # fmt: skip
