"""Control as inference: write a decision problem once, ask any inference backend, and see what its plan bets on."""

if __name__ != "cai":
    raise ImportError(f"this package was imported as {__name__!r}; import it as 'cai' (run 'pip install -e .' once)")

from cai.evaluation.evaluate import Outcome, evaluate
from cai.inference import InferenceError, Posterior, Status, Target, available_backends, infer
from cai.models import MDP, TrajectoryModel, draw_factor_graph, factor_graph
from cai.pictures.curves import plot_sweep
from cai.pictures.plots import plot_comparison, plot_luck, plot_map, plot_messages, plot_values
from cai.policies.policy import Policy, extract_policy
from cai.studies.comparison import Comparison, compare
from cai.studies.explain import explain_reward
from cai.studies.sweep import sweep

__version__ = "0.1.0"

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
    "draw_factor_graph",
    "evaluate",
    "explain_reward",
    "extract_policy",
    "factor_graph",
    "infer",
    "plot_comparison",
    "plot_luck",
    "plot_map",
    "plot_messages",
    "plot_sweep",
    "plot_values",
    "sweep",
]
