"""A secret goes to the one call that needs it, and nowhere else."""

import copy
import io
import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError

from schemas import registry
from schemas.audit import ActionEvent, Step
from schemas.envelope import Event
from schemas.remediation import Mode, Value
from schemas.secret import Secret, SecretInEvent

TEXT = "correct horse battery staple"
SECRET = Secret(TEXT)
REFUSALS = (SecretInEvent, PydanticSerializationError)


class Login(BaseModel):
    user: str
    password: Secret


class Nested(Value):
    logins: tuple[Login, ...] = ()
    by_name: dict[str, Login | None] = {}


LOGIN = Login(user="ansai", password=TEXT)  # type: ignore[arg-type]  # text is read


def test_reveal_gives_it_out():
    assert SECRET.reveal() == TEXT
    assert LOGIN.password.reveal() == TEXT


@pytest.mark.parametrize(
    "shown",
    [
        str(SECRET), repr(SECRET), f"{SECRET}", f"{SECRET!s:>40}", f"{SECRET!r}", f"{SECRET:>40}",
        f"{[SECRET]} {({'a': SECRET})}", repr(LOGIN), str(LOGIN), f"{SECRET=}", f"{SECRET} {SECRET!r}",
    ],
)  # fmt: skip
def test_it_prints_stars(shown):
    assert "***" in shown
    assert TEXT not in shown


def test_a_log_line_has_stars():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("test of secrets")
    logger.addHandler(handler)
    try:
        logger.warning("logging in with %s as %r", SECRET, LOGIN)
    finally:
        logger.removeHandler(handler)

    assert stream.getvalue().startswith("logging in with *** as Login(")
    assert TEXT not in stream.getvalue()


def test_it_has_no_attributes_to_dump():
    with pytest.raises(TypeError):
        vars(SECRET)
    with pytest.raises(TypeError):
        json.dumps({"password": SECRET})
    assert TEXT not in json.dumps({"password": SECRET}, default=str)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_not_pickled(protocol):
    with pytest.raises(SecretInEvent):
        pickle.dumps(SECRET, protocol)
    with pytest.raises(SecretInEvent):
        pickle.dumps({"deep": [LOGIN]}, protocol)


def test_it_is_not_copied_by_way_of_pickling():
    with pytest.raises(SecretInEvent):
        copy.deepcopy(SECRET)


@pytest.mark.parametrize(
    "dump",
    [
        lambda model: model.model_dump(), lambda model: model.model_dump(mode="json"),
        lambda model: model.model_dump_json(), lambda model: model.model_dump_json(exclude_none=True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", [LOGIN, Nested(logins=(LOGIN,)), Nested(by_name={"a": LOGIN})])
def test_no_model_writes_it(model, dump):
    with pytest.raises(REFUSALS) as refused:
        dump(model)

    assert "a secret can't be serialised" in str(refused.value)
    assert TEXT not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("model", [LOGIN, Nested(logins=(LOGIN,))])
def test_no_event_has_it_in_its_body(model):
    event = Event[type(model)](source="/test", type="ansai.test.v1", data=model)  # type: ignore[misc]

    with pytest.raises(REFUSALS):
        event.body()


def test_the_free_fields_of_a_message_refuse_it():
    with pytest.raises(ValidationError) as refused:
        ActionEvent(
            host="h", function="a.b", step=Step.PLANNED, mode=Mode.DRY_RUN, at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
            data={"password": SECRET},  # type: ignore[dict-item]
        )  # fmt: skip

    assert any(problem["loc"][:2] == ("data", "password") for problem in refused.value.errors())
    assert TEXT not in str(refused.value)


def test_what_is_no_text_is_refused_without_being_shown_as_a_secret():
    with pytest.raises(ValidationError, match="a secret is text"):
        Login(user="ansai", password=3)  # type: ignore[arg-type]


def test_equal_secrets_are_equal():
    assert Secret(TEXT) == SECRET
    assert hash(Secret(TEXT)) == hash(SECRET)
    assert Secret("other") != SECRET
    assert TEXT != SECRET


# No message has a field for one.


def secret_fields(model: type[BaseModel], seen: set[type] | None = None, path: str = "") -> Iterator[str]:
    """Where *model*, or whatever it is made of, has a field that could hold a secret."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        for kind in _kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, Secret):
                yield f"{path}{name}"
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from secret_fields(kind, seen, f"{path}{name}.")


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


class Sneaky(Value):
    model_config = ConfigDict(frozen=True)

    parts: tuple[dict[str, Nested], ...] = ()


def test_a_hidden_field_would_be_found():
    assert list(secret_fields(Login)) == ["password"]
    assert list(secret_fields(Sneaky)) == ["parts.logins.password"]


@pytest.mark.parametrize("name", registry.names())
def test_no_message_has_a_field_for_a_secret(name):
    assert list(secret_fields(registry.model(name))) == []


def stored_models() -> list[type[BaseModel]]:
    """Everything that is derived from what messages are made of: also what is stored in buckets."""
    from schemas import approval, fleet, freeze, incident  # noqa: F401  # so that their models are known

    found, todo = [], [Value]
    while todo:
        model = todo.pop()
        found.append(model)
        todo += [each for each in model.__subclasses__() if each.__module__.startswith("schemas.")]
    return found


def test_nothing_that_is_stored_has_one_either():
    models = stored_models()

    assert {"Incident", "PendingPlan", "Freeze", "AuditRecord"} <= {model.__name__ for model in models}
    assert [(model.__name__, field) for model in models for field in secret_fields(model)] == []
