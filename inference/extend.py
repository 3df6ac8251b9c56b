"""What a backend of one's own is made of: the documented surface for plug-ins.

A backend is a frozen dataclass with `name`, `target`, `accepts`, `cost`, `supports(model)` and `run(model, *, seed=0)`.
Its answer is made by `policy_posterior` from a policy under the true dynamics, over any horizon; by `tabular_posterior`
from a start, a policy and dynamics; or by `closed_form_posterior` from a `Recursion` that plans backward.
"""

from cai.inference.core.backend import Backend
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import NotKnown, Status, Target
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.tabular.dynamic_programming import closed_form_posterior, require_finite, require_model
from cai.inference.tabular.policy_posterior import policy_posterior, policy_values
from cai.inference.tabular.posterior import tabular_posterior
from cai.inference.tabular.recursion import Recursion
from cai.models.common.numerics import expectation, safe_log, safe_logsumexp
from cai.models.common.storage import storable

__all__ = [
    "Backend",
    "FixedDynamics",
    "NotKnown",
    "OutcomeDynamics",
    "Posterior",
    "Recursion",
    "Status",
    "Target",
    "closed_form_posterior",
    "expectation",
    "policy_posterior",
    "policy_values",
    "require_finite",
    "require_model",
    "safe_log",
    "safe_logsumexp",
    "storable",
    "tabular_posterior",
]
