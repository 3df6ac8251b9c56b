"""How a model is answered: messages, guides, and one backend a file (floor 2 of 3)."""

if __name__ != "cai.inference":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'cai.inference' (run 'pip install -e .' once), "
        "or every class in it would exist twice"
    )

from cai.inference.backends.max_product import MaxProduct
from cai.inference.backends.optimistic import Optimistic
from cai.inference.backends.risk import RiskSensitive
from cai.inference.backends.sum_product import SumProduct
from cai.inference.backends.variational import StructuredVariational
from cai.inference.core.backend import Backend
from cai.inference.core.most_probable import most_probable_trajectory
from cai.inference.core.posterior import Posterior
from cai.inference.core.posterior_batch import PosteriorBatch
from cai.inference.core.status import InferenceError, NotKnown, Status, Target
from cai.inference.gaussian.estimation import kalman_filter, kalman_smoother
from cai.inference.gaussian.lqg import lqg
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.learning.path_consistency import PathConsistency
from cai.inference.learning.policy_gradient import PolicyGradient
from cai.inference.learning.soft_actor_critic import SoftActorCritic
from cai.inference.learning.soft_q_learning import SoftQLearning
from cai.inference.learning.stein_soft_q_learning import SteinSoftQLearning
from cai.inference.particles.particles import Particles
from cai.inference.particles.smc import ImportanceSampling, SequentialMonteCarlo
from cai.inference.planning.aico import ApproximateInference
from cai.inference.planning.ilqr import IterativeLQR
from cai.inference.planning.mppi import PathIntegral
from cai.inference.programs.enumeration import Enumeration
from cai.inference.registry import available_backends, infer
from cai.inference.restricted.classes import ModulePolicy, ObservationPolicy, StationaryPolicy, TabularPolicy
from cai.inference.restricted.continuous.classes import (
    FlowPolicy,
    LinearGaussianPolicy,
    MixturePolicy,
    TanhGaussianPolicy,
)
from cai.inference.restricted.restricted import RestrictedVariational
from cai.inference.restricted.reward_weighted import EMPolicySearch, GaussianActions, RewardWeightedRegression
from cai.inference.resume import resume
from cai.inference.tabular.filtering import filter_states, observation_log_likelihood, smooth_states
from cai.inference.tabular.methods.batches import BatchError
from cai.inference.tabular.methods.boltzmann import BoltzmannExploration, OneStepEntropy
from cai.inference.tabular.methods.composition import compose_models, compose_posteriors
from cai.inference.tabular.methods.policy_iteration import KLPolicyIteration, PosteriorPolicyIteration
from cai.inference.tabular.methods.value_iteration import ValueIteration
from cai.inference.tabular.methods.z_iteration import ZIteration

__all__ = [
    "TabularPolicy",
    "StationaryPolicy",
    "RestrictedVariational",
    "ObservationPolicy",
    "ModulePolicy",
    "ApproximateInference",
    "Backend",
    "BatchError",
    "BoltzmannExploration",
    "EMPolicySearch",
    "Enumeration",
    "GaussianActions",
    "GaussianPosterior",
    "ImportanceSampling",
    "InferenceError",
    "IterativeLQR",
    "KLPolicyIteration",
    "FlowPolicy",
    "LinearGaussianPolicy",
    "MixturePolicy",
    "TanhGaussianPolicy",
    "MaxProduct",
    "NotKnown",
    "OneStepEntropy",
    "PathConsistency",
    "PathIntegral",
    "PolicyGradient",
    "SoftActorCritic",
    "SoftQLearning",
    "SteinSoftQLearning",
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
    "kalman_filter",
    "kalman_smoother",
    "lqg",
    "most_probable_trajectory",
    "observation_log_likelihood",
    "resume",
    "smooth_states",
]
