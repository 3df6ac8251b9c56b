"""Backends and models of other distributions, found by their entry points."""

import sys

import pytest

import cai
from cai.cli import main
from cai.inference import available_backends
from cai.models import available_models, build_model

MODULE = '''
from cai.inference import SumProduct
from cai.models import lottery


class Mine(SumProduct):
    """The exact posterior under a name of its own."""

    name = "mine"


class Impostor(SumProduct):
    name = "exact"


def poker(win_probability=0.1, *, horizon=1):
    """A lottery that is rarely won."""
    return lottery(win_probability, horizon=horizon)
'''
POINTS = """
[cai.backends]
mine = plugin_of_a_test:Mine
exact = plugin_of_a_test:Impostor

[cai.models]
poker = plugin_of_a_test:poker
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "plugin_of_a_test.py").write_text(MODULE)
    info = tmp_path / "plugin_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-a-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("plugin_of_a_test", None)


@pytest.mark.usefixtures("plugin")
def test_a_backend_of_another_distribution():
    assert available_backends()["mine"].__name__ == "Mine"
    assert available_backends()["exact"].__name__ == "SumProduct"
    model = build_model("lottery")
    assert cai.infer(model, "mine").backend == "mine"
    assert cai.compare(model, ["mine", "variational"])["mine"].status.ok


@pytest.mark.usefixtures("plugin")
def test_a_model_of_another_distribution(capsys):
    assert available_models()["poker"].summary == "A lottery that is rarely won."
    assert build_model("poker", horizon=2).horizon == 2
    with pytest.raises(SystemExit) as stop:
        main(["compare", "poker", "--backend", "mine"])
    assert stop.value.code == 0
    assert "mine" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["backends"])
    assert "mine" in capsys.readouterr().out
