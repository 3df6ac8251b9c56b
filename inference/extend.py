"""What a backend in a package of your own builds on: these names stay where they are, whatever moves behind them.

A backend is a frozen dataclass of hyper-parameters that follows `Backend`. How it makes its answer depends on what it
has found:

    a policy                        policy_posterior(self, model, policy): values, returns and bound in the true world
    a backup and a choice           closed_form_posterior(model, Recursion(backup, choice), ...): any horizon
    policy, start and dynamics      tabular_posterior(model, ...): tables that are known already
    steps that improve an answer    a Learner, run by drive(learner, model, seed=seed): progress, Ctrl-C, checkpoints

Answers made so can be compared, drawn, saved and loaded like any other. A class of answers of your own derives from
`TabularPosterior` or `Posterior`, and is declared by `storable`.
"""

from cai.inference.core.backend import Backend
from cai.inference.core.driver import drive
from cai.inference.core.learner import Info, Iterative, Learner, State, generator_at, generator_state
from cai.inference.core.policy import Policy, TablePolicy
from cai.inference.core.posterior import Posterior, Trajectories
from cai.inference.core.status import InferenceError, NotKnown, Status, Target
from cai.inference.core.storage import storable
from cai.inference.core.tabular import TabularPosterior
from cai.inference.kernels.backups import fixed_backup, optimistic_backup, soft_policy
from cai.inference.particles.posterior import ParticlePosterior
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.tabular.dynamic_programming import closed_form_posterior, require_finite, require_model
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.inference.tabular.posterior import tabular_posterior
from cai.inference.tabular.recursion import EXACT, FIXED, Recursion
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion
from cai.models.common.simulator import Simulator

__all__ = [
    "EXACT",
    "FIXED",
    "Backend",
    "ConvergenceCriterion",
    "FixedDynamics",
    "InferenceError",
    "Info",
    "Iterative",
    "Learner",
    "NotKnown",
    "OutcomeDynamics",
    "ParticlePosterior",
    "Policy",
    "Posterior",
    "Recursion",
    "Simulator",
    "State",
    "Status",
    "TablePolicy",
    "TabularPosterior",
    "Target",
    "Trajectories",
    "closed_form_posterior",
    "drive",
    "fixed_backup",
    "generator_at",
    "generator_state",
    "optimistic_backup",
    "policy_posterior",
    "require_finite",
    "require_model",
    "soft_policy",
    "storable",
    "tabular_posterior",
]
