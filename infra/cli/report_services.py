"""What `ansai report services` says of a unit."""

from datetime import timedelta

from infra.cli.report_view import Cells, Rows, View, moment
from schemas.services import ServiceState

CLEAN = frozenset({"", "success"})

SETTLED = frozenset({"active", "inactive", "failed"})
"""Active states that the other one implies: running, exited, dead, failed."""

DAY = timedelta(days=1)


def cells(health: ServiceState) -> Cells:
    state = health.sub if health.sub and health.active in SETTLED else _state(health)
    return state, _since(health), f"{health.restarts}", "" if health.result in CLEAN else _result(health)


def _since(health: ServiceState) -> str:
    """The hour, or the day of what began a day and more before it was told."""
    if health.since is None:
        return ""
    day, _, hour = moment(health.since).partition(" ")
    return day if health.observed_at - health.since >= DAY else hour


def details(health: ServiceState) -> Rows:
    if health.active:
        enabled = f", {health.enabled}" if health.enabled else ""
        meant = "; somebody stopped it" if health.stopped_on_purpose else ""
        yield "state", f"{_state(health)}{enabled}{meant}"
    if health.restarts:
        lately = f", {health.recent_restarts} of them lately" if health.recent_restarts else ""
        yield "restarts", f"{health.restarts} by systemd since somebody started it{lately}"
    if _result(health) not in CLEAN:
        yield "ended", _result(health)


def _state(health: ServiceState) -> str:
    if health.sub in {"", health.active}:
        return health.active or "not known"
    return f"{health.active} ({health.sub})"


def _result(health: ServiceState) -> str:
    """`exit-code 1`."""
    if health.result in CLEAN or not health.exit_status:
        return health.result
    return f"{health.result} {health.exit_status}"


STATE = View(ServiceState, ("state", "since", ">restarts", "ended"), cells, details)
