"""What the form of the objective and the end of a horizon change, and what they do not."""

import math

import pytest
import torch

import cai
from cai.inference.learning import exact
from cai.models import random_mdp


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("discount", [0.6, 0.95])
def test_where_no_episode_ends_the_form_changes_no_policy(seed, discount):
    """With as many actions in every state, values alone are higher, by alpha log A / (1 - gamma)."""
    model = random_mdp(seed, num_actions=4, horizon=math.inf, discount=discount, temperature=0.7)
    for found in (exact.soft_actor_critic, _by_variational):
        values, q_values, probs = found(model)[:3]
        raised, q_raised, same = found(model.entropy_form())[:3]
        more = 0.7 * math.log(4) / (1 - discount)
        assert torch.allclose(same, probs, atol=1e-12, rtol=0)
        assert torch.allclose(raised - values, torch.full_like(values, more), atol=1e-12 * more, rtol=1e-12)
        assert torch.allclose(q_raised - q_values, torch.full_like(q_values, more), atol=1e-12 * more, rtol=1e-12)


def _by_variational(model):
    answer = cai.infer(model, "variational")
    return answer.values[0], answer.q_values[0], answer.action_probs[0]


@pytest.mark.parametrize("seed", range(6))
def test_who_sees_less_of_the_time_has_a_lower_bound(seed):
    """Time seen, the best that does not see it, and what would be best without an end."""
    model = random_mdp(seed, num_states=4, num_actions=2, horizon=3, temperature=0.4, discount=0.85)
    best, blind = cai.infer(model, "variational"), cai.infer(model, "restricted")
    endless = cai.infer(model.replace(horizon=math.inf), "variational")

    def bound(probs):
        return float(exact.objective(model, probs.log())) / 0.4

    bounds = [bound(best.action_probs), bound(blind.action_probs), bound(endless.action_probs[0])]
    assert bounds[:2] == pytest.approx([float(best.elbo), float(blind.elbo)], abs=1e-10)
    assert bounds[0] > bounds[1] > bounds[2]
