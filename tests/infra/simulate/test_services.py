"""Services of a scenario."""

import pytest

from infra.simulate.services import quoted


@pytest.mark.parametrize(
    "argument", ["plain", "with spaces", 'a "quote"', "100 %n", "$HOME ${HOME}", "back\\slash", "it's"]
)
async def test_systemd_passes_a_quoted_argument_on_as_it_is(machine, tmp_path, argument):
    said = tmp_path / "said"
    command = f"ExecStart=/usr/bin/printf %%s {quoted(argument)}\nStandardOutput=file:{said}"
    await machine.unit("say.service", f"[Service]\nType=oneshot\n{command}\n")

    await machine.systemctl("start", "say.service")

    assert said.read_text() == argument
