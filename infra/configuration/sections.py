"""The whole settings file's model: our sections, and one for each function that an installed package brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, create_model

from functions.core.entries import installed_entries
from schemas.settings.base import Settings
from schemas.settings.root import Configuration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from functions.core.remedy import AnyRemedy


class BadSection(Exception):
    """An installed function's section has no place in the settings file; the text says which and why."""


def configuration_type() -> type[Configuration]:
    """`Configuration`, with the sections of installed functions as further keys. Raises BadSection."""
    if not installed_entries():
        return Configuration
    from functions import registry  # with it comes all that functions are made of

    try:
        return extended(registry.installed())
    except registry.BadFunction as error:
        raise BadSection(f"{error}; mend or uninstall that package") from error


def extended(remedies: Iterable[AnyRemedy]) -> type[Configuration]:
    """`Configuration` itself when *remedies* bring no section that it lacks. Pure. Raises BadSection.

    Functions may share a section, one of ours too, if they mean the same model by it.
    """
    added: dict[str, Any] = {}
    owners: dict[str, AnyRemedy] = {}
    for remedy in remedies:
        name = remedy.section_name
        if name in Configuration.model_fields:
            if Configuration.model_fields[name].annotation is not remedy.section:
                raise BadSection(_clash(remedy, "one of ours"))
        elif name in owners:
            if owners[name].section is not remedy.section:
                raise BadSection(_clash(remedy, f"that of {owners[name].name}"))
        else:
            _require_usable(remedy)
            owners[name] = remedy
            added[name] = (remedy.section, Field(default_factory=remedy.section))
    if not added:
        return Configuration
    return create_model("Configuration", __base__=Configuration, __doc__=Configuration.__doc__, **added)


def _clash(remedy: AnyRemedy, whose: str) -> str:
    return (
        f"function {remedy.name} wants the section {remedy.section_name} of ansai.yaml for itself, but it is {whose};"
        f" uninstall the package that brings it, or let its author choose another section_name"
    )


def _require_usable(remedy: AnyRemedy) -> None:
    """Raises BadSection."""
    name, section = remedy.section_name, remedy.section
    lead = f"function {remedy.name}: its section {name!r}"
    if not name.isidentifier() or name.startswith(("_", "model_")) or hasattr(Configuration, name):
        raise BadSection(f"{lead} can't be a key of ansai.yaml; its author must choose another section_name")
    if not (isinstance(section, type) and issubclass(section, Settings)):
        raise BadSection(
            f"{lead} is no model of settings; its author must derive it from schemas.settings.base.Settings"
        )
    try:
        section()
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, each["loc"])) or "the section" for each in error.errors())
        raise BadSection(f"{lead} is not complete by its defaults ({missing}); its author must give them") from error
