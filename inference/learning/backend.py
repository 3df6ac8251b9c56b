"""What the backends that learn from samples share: their options, and how they answer a model by a learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cai.inference.core.backend import require_model
from cai.inference.core.driver import drive
from cai.inference.core.learner import Learner
from cai.inference.core.memory import Need, horizon_need, whole_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.learning.options import TABLE_ENVS, check_count, check_table_model, copies_of
from cai.inference.learning.tables.learner import TableLearner
from cai.inference.learning.tables.rules import Rule
from cai.inference.learning.tables.world import TableWorld
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["LearnerOptions"]

COPY_OF_TABLES = 3_000  # bytes that a copy of a world takes with what it meets until that is learned from


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """Options that every learner has, and what it does with a model.

    Args:
        steps: the budget: transitions in all, over all copies of the world.
        num_envs: copies of the world that are run side by side; 32 on a `TrajectoryModel` unless given.
        entropy_form: learn `model.entropy_form()`, in which entropy is added instead of the KL to a uniform prior.
        checkpoint_every: transitions after which a run with a folder is stored. No number depends on it.
        observe_time: whether the policy sees t over a finite horizon; if not, it is the best that is stationary, as of
            backend "restricted". On a `TrajectoryModel` alone.
    """

    steps: int = 100_000
    num_envs: int | None = None
    entropy_form: bool = False
    checkpoint_every: int = 10_000
    observe_time: bool = True

    name: ClassVar[str]
    target: ClassVar[Target] = Target.FIXED_DYNAMICS
    stationary: ClassVar[bool] = False  # whether it can learn a policy that does not see time

    def __post_init__(self) -> None:
        check_count(self.steps, "steps")
        check_count(self.checkpoint_every, "checkpoint_every")
        if self.num_envs is not None:
            check_count(self.num_envs, "num_envs")
        if not self.observe_time and not self.stationary:
            raise ValueError(
                f"observe_time is False, and backend {self.name!r} has no policy apart from the values that it learns, "
                "which depend on t; ask 'soft-actor-critic', 'policy-gradient' or 'restricted'"
            )

    def supports(self, model: Any) -> None:
        """Raises ValueError if the model cannot be learned, and says what can."""
        copies_of(self.num_envs, self.steps, TABLE_ENVS)
        require_model(model, self.name, "'restricted' with gradient='sampled'")
        check_table_model(model, self.name)
        if self.entropy_form:
            model.entropy_form()  # refuses a prior that is not uniform

    def rule(self, world: TableWorld) -> Rule:
        """The update of its tables, on a `TrajectoryModel`."""
        raise NotImplementedError

    def memory(self, model: TrajectoryModel) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        copies = copies_of(self.num_envs, self.steps, TABLE_ENVS)
        worlds = Need(COPY_OF_TABLES * copies, f"{copies:,} copies of the world side by side", "lower num_envs")
        return whole_need([worlds, horizon_need(model, rows=10, tables=10)])

    def learner(self, model: Any) -> Learner[Any]:
        """Tables."""
        copies = copies_of(self.num_envs, self.steps, TABLE_ENVS)
        return TableLearner(self, self.rule, self.steps // copies * copies, copies)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers a model; everything random comes from the seed."""
        self.supports(model)
        return drive(self.learner(model), model, seed=seed)
