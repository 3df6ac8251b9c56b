"""What `import cai` loads, and what it leaves for when it is asked for."""

import subprocess
import sys

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


CODE = f"""
import signal, sys, torch, pyro
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background has not
early = set(sys.modules)
import cai
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print(sorted(set({LATE}) & (set(sys.modules) - early)))
print(sorted(set(cai.__all__) - set(dir(cai))))
try:
    cai.plot_everything
except AttributeError as error:
    print(error)
from cai.models import lottery
cai.compare(lottery(), ["exact", "variational:solver=svi"])
print([name for name in ("matplotlib", "sympy", "torch._dynamo") if name in sys.modules])
cai.plot_sweep
print("matplotlib.pyplot" in sys.modules)
from cai import *
print(plot_luck.__name__)
"""


def test_importing_cai_loads_nothing_that_can_wait_and_pictures_when_they_are_asked_for():
    """In one process, in this order: import, interrupts, names of the package, an inference, a picture, every name."""
    usual, unloaded, unlisted, unknown, inferred, drawn, named = run(CODE).splitlines()
    assert usual == "True", "whoever imports the package gets the usual interrupt"
    assert unloaded == "[]"
    assert unlisted == "[]"
    assert "no attribute 'plot_everything'" in unknown
    assert inferred == "[]"
    assert drawn == "True"
    assert named == "plot_luck"
