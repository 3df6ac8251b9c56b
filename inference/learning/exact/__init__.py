"""What learners estimate, exactly: objectives, mean gradients, fixed points and residuals of small tabular models.

Every number is in reward units and float64. Estimators are linear in what is sampled, so their mean over every
trajectory is a sum over states and actions, which one pass forward (occupancies) and one back (tails) give: no
trajectory is listed.

Misprints in the sources that these formulas correct: Levine 2018, section 4.1, subtracts the entropy in J(theta) where
it is added; the denominator of his equation (20) has a logarithm too many; his objective for V writes V(s, a) for V(s).
"""

from cai.inference.learning.exact.actor_critic import soft_actor_critic
from cai.inference.learning.exact.path_residuals import path_residuals
from cai.inference.learning.exact.policy_gradient import objective, policy_gradient
from cai.inference.learning.exact.soft_q import soft_q_gradient

__all__ = ["objective", "path_residuals", "policy_gradient", "soft_actor_critic", "soft_q_gradient"]
