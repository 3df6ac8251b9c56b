"""Inverse problems: rewards, goals and their standard errors from demonstrations."""

if __name__ != "cai.inverse":
    raise ImportError(f"this package was imported as {__name__!r}; import it as 'cai.inverse'")

from cai.inverse.destinations import destinations, remaining_flows
from cai.inverse.estimate import Estimate
from cai.inverse.fit import fit
from cai.inverse.hypotheses import HypothesisTest
from cai.inverse.penalties import L1, L2
from cai.inverse.status import FitError, FitStatus
from cai.models.demonstrations.route_network import RouteNetwork

__all__ = [
    "L1",
    "L2",
    "Estimate",
    "FitError",
    "FitStatus",
    "HypothesisTest",
    "RouteNetwork",
    "destinations",
    "fit",
    "remaining_flows",
]
