"""A trajectory model whose reward is learned: what an estimate may be asked afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.inference.backends.sum_product import SumProduct
from cai.inference.backends.variational import StructuredVariational
from cai.inverse.tabular.objective import ModelObjective
from cai.inverse.tabular.reward_parameters import learning_again
from cai.models.common.storage import storable
from cai.models.demonstrations.demonstrations import Demonstrations
from cai.models.trajectory.batch import with_initial
from cai.models.trajectory.model import TrajectoryModel

if TYPE_CHECKING:
    import pandas

    from cai.inverse.estimation.estimate import Estimate
    from cai.inverse.tabular.transfer import Transfer

__all__ = ["ModelProblem"]


def _parts(problem: ModelProblem) -> dict[str, Any]:
    model = problem.parameters.storable()
    return {
        "model": model,
        "learned_table": problem.parameters.place_of_table,
        "demonstrations": problem.demonstrations,
        "objective": problem.objective,
    }


def _of_parts(parts: dict[str, Any]) -> ModelProblem:
    model = learning_again(parts["model"], parts["learned_table"])
    return ModelProblem(model, parts["demonstrations"], parts["objective"])


@storable("inverse-model-problem", pack=_parts, unpack=_of_parts)
class ModelProblem(ModelObjective):
    """`ModelObjective`, with predictions: the policy with some coefficients, its counts, and draws from it."""

    def __reduce__(self) -> Any:
        """Made again elsewhere, without code that is not learned, and with what is learned entry by entry."""
        return (_of_parts, (_parts(self),)) if self.is_linear else super().__reduce__()

    def log_prob(self, coefficients: Tensor, demonstrations: Any) -> Tensor:
        """[N], nats, of other demonstrations, unweighted; -inf throughout where the coefficients are infeasible."""
        other = ModelObjective(self.base_model, demonstrations, self.objective)
        return other.log_probs(coefficients)

    def model(self, coefficients: Tensor, destination: Any = None) -> TrajectoryModel:
        """The model with these coefficients in its reward.

        Raises:
            ValueError: if a destination is given; it belongs to networks.
        """
        if destination is not None:
            raise ValueError(
                f"destination is {destination!r}; a TrajectoryModel has its ends in its process: leave it out"
            )
        return self.parameters.fitted(coefficients)

    def sample(self, coefficients: Tensor, n: int, origin: Any, destination: Any, seed: int) -> Demonstrations:
        """N demonstrations of somebody with these coefficients: in the true world, for "path" from the exact posterior.

        Args:
            coefficients: [F].
            n: how many.
            origin: the first state, by number or name; drawn from p(s_1) if None.
            destination: None.
            seed: of the draws.
        """
        model = self.model(coefficients, destination)
        if origin is not None:
            state = model.mdp.state_index(origin) if isinstance(origin, str) else int(origin)
            start = torch.zeros(model.mdp.num_states, dtype=torch.float64)
            if not 0 <= state < len(start):
                raise ValueError(f"origin is {origin!r}; states are 0 to {len(start) - 1}")
            start[state] = 1.0
            model = model.replace(mdp=with_initial(model.mdp, start))
        if self.objective != "path":
            return Demonstrations.from_policy(StructuredVariational().run(model), model, n, seed)
        states, actions = SumProduct().run(model).sample(n, seed=seed)
        nonterminal = model.nonterminal[states[:, :-1]]
        return Demonstrations(states, actions, nonterminal.sum(-1))

    def transfer(self, estimate: Estimate, model: TrajectoryModel) -> Transfer:
        """The policy of an estimate in another world, and its largest change along what the demonstrations leave open.

        Args:
            estimate: of this problem.
            model: the other world, with coefficients of the same names.
        """
        from cai.inverse.tabular.task import model_task
        from cai.inverse.tabular.transfer import transferred

        return transferred(estimate, model, model_task(self.base_model, self.demonstrations, self.objective))

    def counts(self, coefficients: Tensor) -> pandas.DataFrame:
        """Observed and expected counts of each state and action, by names; for "moments" discounted by gamma^t.

        Expected ones start where the demonstrations do. For "likelihood" they agree at the optimum in the mean alone;
        of demonstrations that were cut they hold the whole horizon.

        Raises:
            ValueError: if the coefficients are infeasible.
        """
        import pandas

        answer = self._answer(coefficients)
        if answer is None or self._values(answer) is None:
            raise ValueError(f"the coefficients {coefficients.tolist()} are infeasible, so nothing is expected of them")
        mdp, steps = self.base_model.mdp, self.steps
        start = torch.zeros(mdp.num_states, dtype=torch.float64).index_add(0, steps.starts, self.weights)
        start = torch.where(self.base_model.nonterminal, start, torch.zeros_like(start))
        periods = self.base_model.steps
        masses = answer.adjoint(start.new_zeros(periods, mdp.num_states, mdp.num_actions), start)[1].sum(0)
        flat = steps.states * mdp.num_actions + steps.actions
        weigh = self.weights[steps.rows] * self._discounts
        seen = torch.zeros(mdp.num_states * mdp.num_actions, dtype=torch.float64).index_add(0, flat, weigh)
        pairs = torch.nonzero((self.base_model.action_prior > 0) & self.base_model.nonterminal[:, None])
        index = pandas.MultiIndex.from_tuples(
            [(mdp.state_name(s), mdp.action_name(a)) for s, a in pairs.tolist()], names=["state", "action"]
        )
        observed = seen.view(mdp.num_states, mdp.num_actions)
        table = {name: part[tuple(pairs.T)].numpy() for name, part in (("observed", observed), ("expected", masses))}
        return pandas.DataFrame(table, index=index)
