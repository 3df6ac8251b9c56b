"""Control as inference: write a decision problem once, ask any inference backend, and see what its plan bets on."""

if __name__ != "cai":
    raise ImportError(f"this package was imported as {__name__!r}; import it as 'cai' (run 'pip install -e .' once)")

from cai.starting import is_the_program, quiet_interrupts

if is_the_program():
    quiet_interrupts()  # for the second that the other imports take

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cai.evaluation import Outcome, evaluate
from cai.inference import InferenceError, Posterior, Status, Target, available_backends, infer, resume
from cai.models import MDP, TrajectoryModel, draw_factor_graph, factor_graph
from cai.models.common.storage import declared_in, load
from cai.policies import Policy, extract_policy
from cai.studies import Comparison, compare, explain_reward, sweep
from cai.tasks import dask_map

if TYPE_CHECKING:
    from cai.pictures import plot_luck, plot_map, plot_messages, plot_values
    from cai.studies.plots import plot_comparison, plot_sweep

__version__ = "0.1.0"

declared_in(
    "cai.inverse", "inverse", "adversarial"
)  # which is imported when it is first asked for, or a file holds one

__all__ = [
    "MDP",
    "Comparison",
    "InferenceError",
    "Outcome",
    "Policy",
    "Posterior",
    "Status",
    "Target",
    "TrajectoryModel",
    "__version__",
    "available_backends",
    "compare",
    "dask_map",
    "draw_factor_graph",
    "evaluate",
    "explain_reward",
    "extract_policy",
    "factor_graph",
    "infer",
    "load",
    "plot_comparison",
    "plot_luck",
    "plot_map",
    "plot_messages",
    "plot_sweep",
    "plot_values",
    "resume",
    "sweep",
]

# Pictures load pyplot, which costs a second and may choose a screen: only once one is asked for.
_PICTURES = dict.fromkeys(("plot_luck", "plot_map", "plot_messages", "plot_values"), "cai.pictures.plots")
_PICTURES |= dict.fromkeys(("plot_comparison", "plot_sweep"), "cai.studies.plots")


def __getattr__(name: str) -> Any:
    if name in _PICTURES:
        return getattr(import_module(_PICTURES[name]), name)
    if name == "inverse":  # so that `cai.inverse.fit` needs no import of its own
        return import_module("cai.inverse")
    raise AttributeError(f"module 'cai' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
