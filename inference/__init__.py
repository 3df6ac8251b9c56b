"""How a model is answered: messages, guides, and one backend a file (floor 2 of 3)."""

if __name__ != "cai.inference":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'cai.inference' (run 'pip install -e .' once), "
        "or every class in it would exist twice"
    )

from cai.inference.backends import available_backends, infer
from cai.inference.batches import BatchError
from cai.inference.boltzmann import BoltzmannExploration, OneStepEntropy
from cai.inference.composition import compose_models, compose_posteriors
from cai.inference.enumeration import Enumeration
from cai.inference.filtering import filter_states, observation_log_likelihood, smooth_states
from cai.inference.max_product import MaxProduct, most_probable_trajectory
from cai.inference.optimistic import Optimistic
from cai.inference.particles import Particles
from cai.inference.policy_classes import ModulePolicy, ObservationPolicy, StationaryPolicy, TabularPolicy
from cai.inference.policy_search import EMPolicySearch, GaussianActions, RewardWeightedRegression
from cai.inference.posterior import Posterior
from cai.inference.posterior_batch import PosteriorBatch
from cai.inference.restricted import RestrictedVariational
from cai.inference.risk import RiskSensitive
from cai.inference.smc import ImportanceSampling, SequentialMonteCarlo
from cai.inference.soft_sequence import KLPolicyIteration, PosteriorPolicyIteration
from cai.inference.status import Backend, InferenceError, Status, Target
from cai.inference.sum_product import SumProduct
from cai.inference.value_iteration import ValueIteration
from cai.inference.variational import StructuredVariational
from cai.inference.z_iteration import ZIteration

__all__ = [
    "TabularPolicy",
    "StationaryPolicy",
    "RestrictedVariational",
    "ObservationPolicy",
    "ModulePolicy",
    "Backend",
    "BatchError",
    "BoltzmannExploration",
    "EMPolicySearch",
    "Enumeration",
    "GaussianActions",
    "ImportanceSampling",
    "InferenceError",
    "KLPolicyIteration",
    "MaxProduct",
    "OneStepEntropy",
    "Optimistic",
    "Particles",
    "PosteriorPolicyIteration",
    "Posterior",
    "PosteriorBatch",
    "RewardWeightedRegression",
    "RiskSensitive",
    "SequentialMonteCarlo",
    "Status",
    "StructuredVariational",
    "SumProduct",
    "Target",
    "ValueIteration",
    "ZIteration",
    "available_backends",
    "compose_models",
    "compose_posteriors",
    "filter_states",
    "infer",
    "most_probable_trajectory",
    "observation_log_likelihood",
    "smooth_states",
]
