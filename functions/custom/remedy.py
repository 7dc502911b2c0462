"""From an entry of `custom_actions` to a `Remedy`: the same engine, guard and audit as for functions of ours."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from functions.core.plan import Plan, Rung
from functions.core.remedy import Case, Remedy, is_glob, match_target
from functions.custom.actions import UNHEALTHY, kinds_of
from functions.custom.arguments import MOST_INPUT, BadValue, resolved
from functions.custom.events import matches, values_of
from schemas.facts.commands import Command
from schemas.facts.files import Fact
from schemas.health import Health
from schemas.probes import ProbeError, Probes
from schemas.remediation import Gap
from schemas.settings.custom import CustomAction
from schemas.text import Text, show_path

SECTION = "custom_actions"

NO_VERIFY = "no verify command; the next event tells"


FIXED = ("on", "risk", "repeatable", "undo")
"""Keys that make the remedy and its actions what they are: the others may change while it runs."""

UNFORETOLD = "what the command does is known only to whoever wrote it"


AnyCase = Case[Any]
"""Its settings are the whole section, in which an entry may have changed or be gone."""


class Seen(Fact):
    healthy: bool
    reason: Text


class Ready(Fact):
    """The commands, every value in its place."""

    command: Command
    undo: Command | None = None


def remedy_of(settings: CustomAction, event: type[Health]) -> Remedy[Any, Seen, Ready]:
    """The function `custom.<name>`, which listens to *event*."""
    entry = _Entry(settings)
    shown = settings.call or " ".join(settings.run or ())
    user = (f"root, to run as the user {settings.user}",) if settings.user is not None else ()
    return Remedy(
        name=settings.function,
        title=f"Run {shown} on {', '.join(settings.targets)}",
        section_name=SECTION,
        section=CustomAction,
        listens=(event,),
        actions=entry.kinds,
        targets=entry.targets,
        observe=entry.observe,
        gap=gap,
        survey=entry.survey,
        plan=entry.plan,
        privileges=(*user, "what the command itself needs"),
        target_globs=True,
    )


def gap(_: AnyCase, seen: Seen) -> Gap:
    """One or nothing: a command mends a target, or it does not."""
    return Gap(amount=0 if seen.healthy else 1, unit=UNHEALTHY, reason=seen.reason)


class _Entry:
    """The parts of one remedy. The section in force says what it does, the entry it was made of what it is."""

    def __init__(self, made_of: CustomAction) -> None:
        self._made_of = made_of
        self.kinds = kinds_of(made_of)

    def _in_force(self, section: Sequence[CustomAction]) -> CustomAction:
        """Our entry of the section as it is now. Raises ProbeError when this remedy is not made for it."""
        name = self._made_of.name
        entry = next((each for each in section if each.name == name), None)
        if entry is None:
            raise ProbeError(f"{name} stands no longer in custom_actions; nothing is run, and a restart forgets it")
        changed = [key for key in FIXED if getattr(entry, key) != getattr(self._made_of, key)]
        if changed:
            raise ProbeError(
                f"custom action {name}: {', '.join(changed)} changed; nothing is run until ansai is restarted"
            )
        return entry

    def targets(self, section: Sequence[CustomAction], _: Probes) -> list[str]:
        """The globs. Raises ProbeError."""
        return list(self._in_force(section).targets)

    def observe(self, case: AnyCase, probes: Probes) -> Seen:
        """The check's answer; without one, the event's, if it was made after our latest run. Raises ProbeError.

        Whatever the conditions or the targets leave out is nothing to this function: healthy, and cheaply so.
        """
        settings = self._in_force(case.settings)
        if case.target in settings.targets and is_glob(case.target):
            raise ProbeError(f"{case.target} stands for many targets; name one of them with --target")
        if case.target not in match_target(case.target, list(settings.targets), globs=True):
            return Seen(healthy=True, reason=f"not among the targets of {settings.function}")
        if case.event is not None:
            matching = matches(settings.when, values_of(case.target, case.event))
            if matching is None:
                raise ProbeError(f"the event lacks a value that custom_actions.{settings.name}.when asks for")
            if not matching:
                return Seen(healthy=True, reason="the event does not match")
        if settings.verify is not None:
            return _verified(settings, settings.verify, case, probes)
        return _told(settings, case, probes)

    def survey(self, case: AnyCase, seen: Seen, probes: Probes) -> Ready:
        """Every value in its place. Raises ProbeError when one can't be: then nothing is run."""
        settings, values = self._in_force(case.settings), values_of(case.target, case.event)
        try:
            resolved(("{target}",), values)  # it reaches a callable without being an argument
            command = _command(settings, resolved(settings.run or (), values), settings.timeout)
            command = command.model_copy(update={"call": settings.call or "", "stdin": _input(settings, case.event)})
            undo = None
            if settings.undo is not None:
                undo = _command(settings, resolved(settings.undo, values), settings.timeout)
        except BadValue as error:
            raise ProbeError(f"{settings.function} is not run: {error}") from error
        return Ready(command=command, undo=undo)

    def plan(self, case: AnyCase, seen: Seen, found: Ready) -> Plan:
        """One rung with one action, also after it did not help: how often it is tried is the policy's business."""
        action = self.kinds[0](
            action=self._made_of.function, function=self._made_of.function, target=case.target,
            command=found.command, undo_command=found.undo,
        )  # fmt: skip
        rung = Rung(
            name="run", title=f"Run {show_path(found.command.shown())}", actions=(action,), unknown_effects=UNFORETOLD
        )
        return Plan(rungs=(rung,))


def _verified(settings: CustomAction, verify: Sequence[str], case: AnyCase, probes: Probes) -> Seen:
    try:
        argv = resolved(verify, values_of(case.target, case.event))
    except BadValue as error:
        raise ProbeError(f"{settings.function} can't verify {case.target}: {error}") from error
    healthy = probes.commands.healthy(_command(settings, argv, settings.verify_timeout))
    return Seen(healthy=healthy, reason=f"{argv[0]} says {'healthy' if healthy else UNHEALTHY}")


def _told(settings: CustomAction, case: AnyCase, probes: Probes) -> Seen:
    if case.event is None:
        raise ProbeError(NO_VERIFY)
    ran_at = probes.commands.ran_at(settings.function, case.target)
    if ran_at is not None and _aware(case.event.observed_at) <= ran_at:
        raise ProbeError(f"{NO_VERIFY}: this one was made before the command had ended")
    return Seen(healthy=False, reason=case.event.reason or f"the event matches {settings.function}")


def _command(settings: CustomAction, argv: tuple[str, ...], timeout: timedelta) -> Command:
    return Command(argv=argv, timeout=timeout.total_seconds(), user=settings.user, directory=settings.directory)


def _input(settings: CustomAction, event: Health | None) -> str:
    """Raises BadValue."""
    if settings.call is None and settings.input is None:
        return ""
    if event is None:
        raise BadValue("it gets the event as input, and there is none; the next one that matches brings it")
    text = event.model_dump_json()
    if len(text.encode()) > MOST_INPUT:
        raise BadValue(f"the event has {len(text.encode())} bytes, allowed as input are {MOST_INPUT}")
    return text


def _aware(moment: datetime) -> datetime:
    """A time without a zone is taken for UTC, as all of ours are."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
