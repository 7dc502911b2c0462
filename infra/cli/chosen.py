"""Functions and collectors by the names given on the command line."""

from collections.abc import Sequence

from collectors import registry as collector_registry
from collectors.core.collector import AnyCollector
from functions import registry as function_registry
from functions.core.remedy import AnyRemedy
from infra.cli.failures import Failure
from schemas.settings.root import Configuration


def functions(names: Sequence[str], configuration: Configuration, *, switched_off: bool = False) -> list[AnyRemedy]:
    """The functions of these names that *configuration* enables, or with *switched_off* all. Raises Failure."""
    try:
        found = [function_registry.load(name, configuration.custom_actions) for name in dict.fromkeys(names)]
    except (function_registry.UnknownFunction, function_registry.BadFunction) as error:
        raise Failure(f"{error}; see: ansai functions list") from error
    if switched_off:
        return found
    enabled = [remedy for remedy in found if configuration.policy.of(remedy.name).enabled]
    if found and not enabled:
        raise Failure(f"{', '.join(names)}: switched off by the policy; set enabled: true in policy.functions")
    return enabled


def function_names(configuration: Configuration) -> list[str]:
    """All that there are: ours, those of installed packages, and those that *configuration* declares."""
    return function_registry.names(configuration.custom_actions)


def collectors(names: Sequence[str]) -> list[AnyCollector]:
    """The collectors of these names. Raises Failure."""
    try:
        return [collector_registry.load(name) for name in dict.fromkeys(names)]
    except collector_registry.UnknownCollector as error:
        raise Failure(f"{error}; see: ansai collectors list") from error
