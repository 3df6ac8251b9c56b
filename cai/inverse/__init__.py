"""Inverse problems: rewards, goals and their standard errors from demonstrations."""

if __name__ != "cai.inverse":
    raise ImportError(f"this package was imported as {__name__!r}; import it as 'cai.inverse'")

from cai.inverse.baselines import action_model, baselines, cheapest, maximum_margin
from cai.inverse.bayes import fit_bayes
from cai.inverse.destinations import destinations, remaining_flows
from cai.inverse.estimate import Estimate
from cai.inverse.expected import expected_counts
from cai.inverse.fit import fit
from cai.inverse.goals import goals
from cai.inverse.hypotheses import HypothesisTest
from cai.inverse.label_bias import label_bias
from cai.inverse.penalties import L1, L2
from cai.inverse.status import FitError, FitStatus
from cai.models.demonstrations.continuous import ContinuousDemonstrations
from cai.models.demonstrations.demonstrations import Demonstrations
from cai.models.demonstrations.route_network import RouteNetwork

__all__ = [
    "L1",
    "L2",
    "ContinuousDemonstrations",
    "Demonstrations",
    "Estimate",
    "FitError",
    "FitStatus",
    "HypothesisTest",
    "RouteNetwork",
    "action_model",
    "baselines",
    "cheapest",
    "destinations",
    "expected_counts",
    "fit",
    "fit_bayes",
    "goals",
    "label_bias",
    "maximum_margin",
    "remaining_flows",
]
