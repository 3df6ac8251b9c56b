"""The two soft recursions in plain torch: on any device, in float32 and float64, with gradients.

In nats, with rho = r / alpha, scores = rho + log p(a|s) and P the table of the process:

    fixed dynamics   q = rho + gamma P v                               Levine 2018, equation (15)
    exact            q = rho + log(P x) + c,  x = e^{v - c}            Levine 2018, equation (7), c = max v
    both             v = log sum_a p(a|s) e^q

With a discount x is gamma e^{v - c} + (1 - gamma) e^{-c}: chains that end are worth 0. The exact shift c is one number
for all states, so that a sum may underflow which a shift of its own would have saved: states whose sum falls under
tiny / eps are computed again outcome by outcome, which keeps each exact to rounding. No product sees an infinity.

What flows back through the values is the forward pass: with a_t the gradient of v_t,

    d_t(s, a) = a_t(s) pi_t(a|s)                       is that of rho_t(s, a), and of log p(a|s)
    a_{t+1}(s') = sum_{s, a} d_t(s, a) q(s'|s, a)      q the true dynamics, or those given optimality (exact)

With a_1 = q(s_1) these are the marginals and occupancies of q. Here each step is recorded anew by autograd and then
differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cai.inference.kernels.backups import continuation, soft_q_values
from cai.inference.kernels.problem import Kind, SoftProblem, StepTables
from cai.inference.kernels.tables import process_table
from cai.models.common.devices import new_table
from cai.models.common.numerics import safe_log, safe_logsumexp
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["SoftPass", "plain_values"]

CHUNK = 2**22  # numbers of the largest table that is made at a time, where a step need not be done at once


class SoftPass:
    """Passes over the horizon of one problem. Messages are rows [., S, B], nats; the last row of a horizon is 0."""

    name = "torch"

    def __init__(self, problem: SoftProblem) -> None:
        self.problem = problem
        model = problem.model
        self.model, self.num_states, self.num_actions = model, model.mdp.num_states, model.mdp.num_actions
        dtype = model.mdp.probabilities.dtype
        self.smallest = torch.finfo(dtype).tiny / torch.finfo(dtype).eps
        self.made: tuple[int, StepTables] | None = None  # by the step; None gives the memory back

    def tables(self, t: int) -> StepTables:
        """Those of step t, made once where steps are alike."""
        key = t if self.problem.in_time else 0
        if self.made is None or self.made[0] != key:
            self.made = key, self.problem.tables(key)
        return self.made[1]

    # ---- backward -----------------------------------------------------------------------------------------------

    def rows(self, number: int) -> Tensor:
        """Memory for messages of several steps, [number, S, B]."""
        return new_table(self.model.action_prior, (number, self.num_states, self.problem.size))

    def backward(self, rows: Tensor, begin: int, steps: int) -> None:
        """Writes the messages of the steps from `begin` to `begin + steps`, of which the last are known.

        Args:
            rows: [n, S, B]; those of step `begin + j` are in row j modulo n.
            begin: the first step.
            steps: how many.
        """
        for number in reversed(range(steps)):
            rows[number % len(rows)] = self._step(rows[(number + 1) % len(rows)], begin + number)

    def backward_apart(self, values: Tensor) -> None:
        """Writes the messages of all problems [B, T + 1, S], each of its own; steps are alike."""
        rows, steps = self.rows(2), values.shape[1] - 1
        rows[steps % 2], values[:, -1] = 0.0, 0.0
        for t in reversed(range(steps)):
            rows[t % 2] = self._step(rows[(t + 1) % 2], t)
            values[:, t] = rows[t % 2].t()

    def first(self, following: Tensor, begin: int, steps: int) -> Tensor:
        """The messages of step `begin` [S, B] from those of `begin + steps`, in the memory of two rows."""
        rows = self.rows(2)
        rows[steps % 2] = following
        self.backward(rows, begin, steps)
        return rows[0]

    def _step(self, following: Tensor, t: int) -> Tensor:
        made = self.tables(t)
        if self.problem.kind == "fixed":
            values = torch.logsumexp(self._fixed_scores(following, made) + made.scores + made.shared_prior, 1)
        else:
            x, shift = self._arrivals(following)
            if self.problem.merges:
                sums = made.merged.product(x)
            else:
                sums = (made.table.product(x).view(made.weights.shape) * made.weights).sum(1)
            values = sums.log() + made.row_largest + shift
            low = self._underflows(sums, following)
            if len(low[0]):
                prior = self.problem.inputs_at(t)[1]
                prior = prior[low[0]] if prior.dim() == 2 else prior[low[1], low[0]]
                values[low] = safe_logsumexp(self._local_q_values(following, t, low) + prior)
        return values.masked_fill_(self.model.mdp.terminal[:, None], 0.0)

    def _fixed_scores(self, following: Tensor, made: StepTables) -> Tensor:
        """Gamma P v, [S, A, B]; -inf where a v of -inf can be reached."""
        shape = (self.num_states, self.num_actions, following.shape[1])
        infinite = torch.isinf(following)
        if not bool(infinite.any()):
            return made.table.product(following * self.model.discount).view(shape)
        arriving = made.table.product(following.masked_fill(infinite, 0.0) * self.model.discount)
        reached = made.table.product(infinite.to(following.dtype)) > 0
        return arriving.masked_fill_(reached, -torch.inf).view(shape)

    def _arrivals(self, following: Tensor) -> tuple[Tensor, Tensor]:
        """(e^{v - c} with what the discount ends, c [B])."""
        discount = self.model.discount
        shift = following.amax(0)
        shift = torch.where(torch.isfinite(shift), shift, 0.0) if discount == 1 else shift.clamp(min=0.0)
        x = (following - shift).exp_()
        return (x if discount == 1 else x.mul_(discount).add_((1 - discount) * (-shift).exp())), shift

    def _underflows(self, sums: Tensor, following: Tensor) -> tuple[Tensor, ...]:
        """Indices of the sums [S, B] or [S, A, B] that are no sound numbers, but for those that are 0 indeed."""
        low = sums < self.smallest
        if self.model.discount == 1 and bool(low.any()):
            finite = process_table(self.model.mdp).product(torch.isfinite(following).to(sums.dtype))
            reached = finite.view(self.num_states, self.num_actions, -1) > 0
            low &= reached if sums.dim() == 3 else reached.any(1)
        return low.nonzero(as_tuple=True)

    def _local_q_values(self, following: Tensor, t: int, at: tuple[Tensor, ...]) -> Tensor:
        """[N, A], exact q-values of the states and problems `at`, outcome by outcome."""
        mdp = self.model.mdp
        chances, _, rewards = self.problem.inputs_at(t)
        worth = continuation(self.model, following.t()).t()
        leads = mdp.successors().expand_as(chances)
        found = []
        size = max(1, CHUNK // (self.num_actions * mdp.num_outcomes))
        for states, problems in zip(*(part.split(size) for part in at), strict=True):
            nats = rewards[states] if rewards.dim() == 3 else rewards[problems, states]
            arrived = worth[leads[states], problems[:, None, None]]
            found.append(safe_logsumexp(safe_log(chances[states]) + nats + arrived))
        return torch.cat(found)

    # ---- q-values -----------------------------------------------------------------------------------------------

    def product(self, made: StepTables, x: Tensor) -> Tensor:
        """Sums over outcomes [S A, B] from x [S, B]."""
        return made.table.product(x)

    def q_values(self, values: Tensor) -> Tensor:
        """[T, S, A] from values [T + 1, S] of one problem; 0 in terminal states."""
        steps = len(values) - 1
        result = new_table(values, (steps, self.num_states, self.num_actions))
        size = 1 if self.problem.in_time else max(1, CHUNK // result[0].numel())
        for begin in range(0, steps, size):
            following = values[begin + 1 : begin + size + 1].t()  # all times of a chunk side by side
            result[begin : begin + size] = self._q_values(following, begin).permute(2, 0, 1)
        return result

    def backup(self, values: Tensor, t: int) -> Tensor:
        """q_t [S, A] from v_{t+1} [S]."""
        return self._q_values(values[:, None], t)[..., 0]

    def _q_values(self, following: Tensor, t: int) -> Tensor:
        """[S, A, B] from [S, B]."""
        made = self.tables(t)
        if self.problem.kind == "fixed":
            q_values = self._fixed_scores(following, made) + made.rewards
        else:
            x, shift = self._arrivals(following)
            sums = self.product(made, x).view(self.num_states, self.num_actions, -1)
            q_values = sums.log() + (made.rewards + shift)
            states, actions, columns = self._underflows(sums, following)
            if len(states):
                local = self._local_q_values(following, t, (states, columns))
                q_values[states, actions, columns] = local[torch.arange(len(states)), actions]
        return q_values.masked_fill_(self.model.mdp.terminal[:, None, None], 0.0)

    # ---- forward ------------------------------------------------------------------------------------------------

    def forward(
        self,
        rows: Tensor,
        begin: int,
        adjoint: Tensor,
        totals: Sequence[Tensor | None],
        incoming: Tensor | None = None,
        bound: float = 1.0,
    ) -> Tensor:
        """Follows a_t along messages.

        Args:
            rows: [n + 1, S, B], messages of the steps from `begin` on.
            begin: the first step.
            adjoint: a [S, B] of that step.
            totals: for each of `problem.inputs()` where its gradient is added up, None where nobody asks.
            incoming: [n, S, B], what is added to a_t on the way.
            bound: on the sum of what comes in.

        Returns:
            a [S, B] of the last row's step.
        """
        for number in range(len(rows) - 1):
            if incoming is not None:
                adjoint = adjoint + incoming[number]
            adjoint = self._adjoint_step(rows[number], rows[number + 1], begin + number, adjoint, totals)
        return adjoint

    def backward_in_one_scale(self, steps: int) -> tuple[Tensor, Tensor] | None:
        """(rows e^{v - c} [steps + 1, S, 1], c of each) where a gradient of the first is faster by these, else None."""
        return None

    def forward_in_one_scale(
        self, rows: Tensor, levels: Tensor, adjoint: Tensor, totals: Sequence[Tensor | None]
    ) -> bool:
        """As `forward` over all of such rows; False, and nothing is added, where floats do not hold it."""
        return False

    def marginals(self, values: Tensor, initial: Tensor) -> Tensor:
        """q(s_t) [T + 1, S] from values [T + 1, S] and q(s_1) [S], by the passage of mass from step to step."""
        result = new_table(values, tuple(values.shape))
        result[0] = initial
        # Terminal states are worth 0 whatever comes, so that the exact backup does not record what the discount ends.
        ends = self.model.discount if self.problem.kind == "exact" else 1.0
        for t in range(len(values) - 1):
            here = result[t][:, None]
            passed = self._adjoint_step(values[t, :, None], values[t + 1, :, None], t, here, ())[:, 0]
            result[t + 1] = torch.where(self.model.nonterminal, passed, passed * ends + result[t])
        return result

    def _adjoint_step(
        self, values: Tensor, following: Tensor, t: int, adjoint: Tensor, totals: Sequence[Tensor | None]
    ) -> Tensor:
        """One vector-Jacobian product, a chunk of states at a time: a_{t+1} [S, B], and the rest added to totals."""
        problem, single = self.problem, self.problem.rewards is None
        chances, prior, rewards = problem.inputs_at(t)
        ahead = (following[:, 0] if single else following.t()).detach().requires_grad_()
        counts = torch.isfinite(values) & self.model.nonterminal[:, None] & (adjoint != 0)
        adjoint = torch.where(counts, adjoint, torch.zeros_like(adjoint))
        adjoint = adjoint[:, 0] if single else adjoint.t()
        passed = torch.zeros_like(ahead)
        size = max(1, CHUNK // (chances[0].numel() * problem.size))
        for start in range(0, self.num_states, size):
            part = slice(start, start + size)
            pieces = [chances[part], prior[..., part, :], rewards[..., part, :, :]]
            asked = []
            for place, total in zip((0, 1, 2), self._places(t, totals), strict=True):
                if total is not None:
                    pieces[place] = pieces[place].detach().requires_grad_()
                    asked.append((pieces[place], total[..., part, :] if place == 1 else _states(total, place, part)))
            with torch.enable_grad():
                v = plain_values(self.model, problem.kind, pieces[0], pieces[1], pieces[2], ahead, part)
            leaves = [ahead, *(leaf for leaf, _ in asked)]
            found = torch.autograd.grad(v, leaves, adjoint[..., part], allow_unused=True)
            for total, gradient in zip([passed, *(total for _, total in asked)], found, strict=True):
                if gradient is not None:
                    total.add_(gradient)
        return passed[:, None] if single else passed.t()

    def _places(self, t: int, totals: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Where the gradients of probabilities, log prior and rewards of step t are added up."""
        if not totals:
            return None, None, None
        chances, prior, *rewards = totals
        if prior is not None and self.problem.rewards is None and prior.dim() == 3:
            prior = prior[t]
        return chances, prior, rewards[t if len(rewards) > 1 else 0]


def _states(total: Tensor, place: int, part: slice) -> Tensor:
    return total[part] if place == 0 else total[..., part, :, :]


def plain_values(
    model: TrajectoryModel,
    kind: Kind,
    chances: Tensor,
    prior: Tensor,
    rewards: Tensor,
    following: Tensor,
    part: slice = slice(None),
) -> Tensor:
    """v_t [..., s] of some states from v_{t+1} [..., S], by operations that autograd records.

    Args:
        model: the trajectory model, for next states, nonterminal states and discount.
        kind: which backup.
        chances: [s, A, K].
        prior: [..., s, A], log p(a|s).
        rewards: [..., s, A, 1 or K], nats.
        following: [..., S], nats.
        part: which states.
    """
    values = safe_logsumexp(prior + soft_q_values(model, kind, chances, rewards, following, part))
    return torch.where(model.nonterminal[part], values, torch.zeros_like(values))
