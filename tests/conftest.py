"""Every test: the same seed, an empty parameter store, no open figure left behind."""

import gc
import os

os.environ.setdefault("MPLBACKEND", "Agg")

import pyro
import pytest
import torch
from long_tests import LONG


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Gives the tests of `long_tests.py` the marker `campaign`."""
    long = tuple(f"tests/{name}" for name in LONG)
    for item in items:
        if item.nodeid.startswith(long):
            item.add_marker(pytest.mark.campaign)


def pytest_collection_finish():
    """What was collected stays to the end: garbage collection, which took a twentieth of the time, passes it over."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_state():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    torch.set_num_threads(1)  # the problems are tiny, and the tests run side by side
    yield
    assert not list(pyro.get_param_store().keys()), "the global parameter store was written to"
    if "matplotlib.pyplot" in __import__("sys").modules:
        import matplotlib.pyplot as plt

        plt.close("all")
