"""A package of somebody else's, installed for one test."""

import sys

import pytest

from tests.functions.installed import distribution


@pytest.fixture
def install_shop(tmp_path, monkeypatch):
    """Install it; *options* as for `distribution`. Its module is forgotten afterwards."""

    def install(**options) -> None:
        monkeypatch.syspath_prepend(distribution(tmp_path / "site", **options))

    yield install
    sys.modules.pop("ansai_shop", None)
