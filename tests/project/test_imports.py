"""What `import cai` loads, and what it leaves for when it is asked for."""

import subprocess
import sys

import pytest

LATE = (
    "matplotlib",
    "pandas",
    "xarray",
    "gymnasium",
    "scipy",
    "networkx",
    "ipywidgets",
    "IPython",
    "rich",
    "tqdm.auto",
)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_importing_cai_loads_nothing_that_can_wait():
    code = "import sys, torch, pyro; early = set(sys.modules); import cai; new = set(sys.modules) - early"
    assert run(f"{code}; print(set({LATE}) & new)").strip() == "set()"


def test_importing_cai_and_inferring_touches_no_screen():
    code = "import sys, cai; from cai.models import lottery; cai.compare(lottery(), ['exact'])"
    assert run(f"{code}; print('matplotlib' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("name", ["plot_values", "plot_sweep"])
def test_pictures_are_loaded_when_they_are_asked_for(name):
    assert run(f"import sys, cai; cai.{name}; print('matplotlib.pyplot' in sys.modules)").strip() == "True"


def test_the_namespace_lists_what_is_loaded_late():
    assert run("import cai; print(set(cai.__all__) - set(dir(cai)))").strip() == "set()"
    assert run("from cai import *; print(plot_luck.__name__)").strip() == "plot_luck"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    code = "import cai\ntry:\n    cai.plot_everything\nexcept AttributeError as error:\n    print(error)"
    assert "no attribute 'plot_everything'" in run(code)
