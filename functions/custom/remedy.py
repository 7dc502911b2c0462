"""From an entry of `custom_actions` to a `Remedy`: the same engine, guard and audit as for functions of ours."""

from datetime import UTC, datetime

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


UNFORETOLD = "what the command does is known only to whoever wrote it"


class Seen(Fact):
    healthy: bool
    reason: Text


class Ready(Fact):
    """The commands, every value in its place."""

    command: Command
    undo: Command | None = None


def remedy_of(settings: CustomAction, event: type[Health]) -> Remedy[CustomAction, Seen, Ready]:
    """The function `custom.<name>`, which listens to *event*. A changed entry is another remedy."""
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
        privileges=(*user, f"what {shown} needs"),
        target_globs=True,
    )


def gap(_: Case[CustomAction], seen: Seen) -> Gap:
    """One or nothing: a command mends a target, or it does not."""
    return Gap(amount=0 if seen.healthy else 1, unit=UNHEALTHY, reason=seen.reason)


def _aware(moment: datetime) -> datetime:
    """A time without a zone is taken for UTC, as all of ours are."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class _Entry:
    """The parts of one remedy. It holds its entry itself, for the section holds all of them."""

    def __init__(self, settings: CustomAction) -> None:
        self._settings = settings
        self.kinds = kinds_of(settings)

    def targets(self, _: object, probes: Probes) -> list[str]:
        """The globs."""
        return list(self._settings.targets)

    def observe(self, case: Case[CustomAction], probes: Probes) -> Seen:
        """The check's answer; without one, the event's, if it was made after our latest run. Raises ProbeError.

        Whatever the conditions or the targets leave out is nothing to this function: healthy, and cheaply so.
        """
        settings = self._settings
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
        return self._verified(case, probes) if settings.verify is not None else self._told(case, probes)

    def _verified(self, case: Case[CustomAction], probes: Probes) -> Seen:
        assert self._settings.verify is not None
        try:
            argv = resolved(self._settings.verify, values_of(case.target, case.event))
        except BadValue as error:
            raise ProbeError(f"{self._settings.function} can't verify {case.target}: {error}") from error
        timeout = self._settings.verify_timeout.total_seconds()
        healthy = probes.commands.healthy(self._ready(argv, timeout))
        return Seen(healthy=healthy, reason=f"{argv[0]} says {'healthy' if healthy else UNHEALTHY}")

    def _told(self, case: Case[CustomAction], probes: Probes) -> Seen:
        if case.event is None:
            raise ProbeError(NO_VERIFY)
        ran_at = probes.commands.ran_at(self._settings.function, case.target)
        if ran_at is not None and _aware(case.event.observed_at) <= ran_at:
            raise ProbeError(f"{NO_VERIFY}: this one was made before the command had ended")
        return Seen(healthy=False, reason=case.event.reason or f"the event matches {self._settings.function}")

    def survey(self, case: Case[CustomAction], seen: Seen, probes: Probes) -> Ready:
        """Every value in its place. Raises ProbeError when one can't be: then nothing is run."""
        settings, values = self._settings, values_of(case.target, case.event)
        try:
            resolved(("{target}",), values)  # it reaches a callable without being an argument
            command = self._ready(resolved(settings.run or (), values), settings.timeout.total_seconds()).model_copy(
                update={"call": settings.call or "", "stdin": self._input(case)}
            )
            undo = None
            if settings.undo is not None:
                undo = self._ready(resolved(settings.undo, values), settings.timeout.total_seconds())
        except BadValue as error:
            raise ProbeError(f"{settings.function} is not run: {error}") from error
        return Ready(command=command, undo=undo)

    def _ready(self, argv: tuple[str, ...], timeout: float) -> Command:
        return Command(argv=argv, timeout=timeout, user=self._settings.user, directory=self._settings.directory)

    def _input(self, case: Case[CustomAction]) -> str:
        """Raises BadValue."""
        if self._settings.call is None and self._settings.input is None:
            return ""
        if case.event is None:
            raise BadValue("it gets the event as input, and there is none; the next one that matches brings it")
        text = case.event.model_dump_json()
        if len(text.encode()) > MOST_INPUT:
            raise BadValue(f"the event has {len(text.encode())} bytes, allowed as input are {MOST_INPUT}")
        return text

    def plan(self, case: Case[CustomAction], seen: Seen, found: Ready) -> Plan:
        """One rung with one action, also after it did not help: how often it is tried is the policy's business."""
        action = self.kinds[0](
            action=self._settings.function, function=self._settings.function, target=case.target,
            command=found.command, undo_command=found.undo,
        )  # fmt: skip
        rung = Rung(
            name="run", title=f"Run {show_path(found.command.shown())}", actions=(action,), unknown_effects=UNFORETOLD
        )
        return Plan(rungs=(rung,))
