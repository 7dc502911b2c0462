"""The table of message types: complete, importable on demand, and readable again after being written."""

import subprocess
import sys

import pytest

from schemas import registry
from schemas.health import Health


def test_every_health_event_is_registered_under_its_own_name():
    for name in registry.names():
        if name.startswith(registry.HEALTH_PREFIX):
            model = registry.model(name)
            assert issubclass(model, Health)
            assert model.type_name() == name


def test_every_health_model_is_in_the_table():
    models = {registry.model(name) for name in registry.names()}

    assert {model for model in Health.__subclasses__() if model.__module__.startswith("schemas.")} <= models


def test_models_that_know_their_type_name_agree_with_the_table():
    for name in registry.names():
        model = registry.model(name)
        own = getattr(model, "TYPE_NAME", None) or getattr(model, "type_name", lambda name=name: name)()
        assert own == name


def test_an_unknown_type_names_the_nearest():
    with pytest.raises(registry.UnknownType, match=r"the nearest is ansai\.audit\.v1"):
        registry.model("ansai.audit.v2")
    with pytest.raises(registry.UnknownType, match="known are"):
        registry.model("x")


def test_no_required_field_may_be_null():
    """An envelope leaves null fields out: one that were required too could not be read again."""
    for name in registry.names():
        schema = registry.model(name).model_json_schema(mode="serialization")
        for part in (schema, *schema.get("$defs", {}).values()):
            for required in part.get("required", ()):
                choices = part["properties"][required].get("anyOf", ())
                assert {"type": "null"} not in choices, f"{name}: {part['title']}.{required}"


def test_knowing_the_names_imports_no_domain():
    code = "import sys; from schemas import registry; registry.names(); print('schemas.disk' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
