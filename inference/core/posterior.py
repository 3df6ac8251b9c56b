"""The answer to a model: a distribution q over trajectories. What every kind of answer is and can do."""

from __future__ import annotations

import html
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.core.datasets import packed, unpacked
from cai.inference.core.lazy import Lazy, lazy
from cai.inference.core.policy import Policy
from cai.inference.core.status import NotKnown, Status, Target
from cai.inference.core.storage import can_store, save
from cai.models.common.memory import require_chains
from cai.models.continuous.world import World
from cai.models.processes.mdp import MDP
from cai.models.programs.inspect import site_time
from cai.models.trajectory.model import TrajectoryModel

if TYPE_CHECKING:
    import xarray

__all__ = ["NUMBERS", "Posterior", "Trajectories"]

NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy", "gain")
TABLES = (
    *("values", "q_values", "action_probs", "action_prior", "initial", "state_marginals", "absorbed", "dynamics"),
    *("outcomes", "luck_map", "luck_by_state", "has_outcomes", "world"),
)
LEFT_BEHIND = "left behind: this copy holds numbers alone; infer again where gradients are needed"


class Trajectories(NamedTuple):
    """N trajectories.

    Attributes:
        states: [N, T + 1, ...] ([N, T, ...] for a program that draws no s_{T+1}); int64 where they are discrete, and S
            then is the absorbing state of a discount.
        actions: [N, T, ...]; int64 where they are discrete.
    """

    states: Tensor
    actions: Tensor


class Posterior(Lazy):
    """A distribution q over trajectories, and what it says; frozen.

    Every kind of answer has what stands here, and its own besides: `TabularPosterior` tables over states and actions,
    `ParticlePosterior` weighted trajectories. What a kind does not have raises `NotKnown`, a ValueError. Numbers that a
    backend cannot know are None; what was not computed yet is computed when it is first looked at, and then held.

    Answers can be pickled, deep-copied, and saved and loaded (`save`, `cai.load`). The copy holds the same numbers
    without gradients, and `details["gradients"]` says so where there were any. A Pyro program is pickled along where
    Python can do that, and is never saved: `model` is None then, and what needs the program raises `NotKnown`.

    Attributes:
        backend: the name of the backend.
        target: what the backend approximates.
        status: whether the answer can be used, and what to do if not.
        horizon: T (math.inf if infinite).
        model: the trajectory model or the Pyro program that was asked about.
        details: further numbers of the backend, e.g. the history of an iteration.
    """

    backend: str
    target: Target
    status: Status
    horizon: int | float
    model: Any
    kind = "posterior"  # in sentences: "the tabular answer"
    _stored_axes = {**dict.fromkeys(NUMBERS, "..."), "horizon": "counts"}

    def __init__(self, *, details: Mapping[str, Any] | None = None, **parts: Any) -> None:
        super().__init__(**parts, details=MappingProxyType(dict(details or {})))

    @lazy
    def details(self) -> Mapping[str, Any]:
        return MappingProxyType({})

    # ---- numbers ------------------------------------------------------------------------------------------------

    @lazy
    def log_evidence(self) -> Tensor | None:
        """Log p(O_{1:T} = 1), nats, 0-dim; exact backends only."""
        return None

    @lazy
    def elbo(self) -> Tensor | None:
        """The bound on the log evidence that q attains, nats, 0-dim."""
        return None

    @lazy
    def believed_return(self) -> Tensor | None:
        """Expected sum of rewards under q, reward units, 0-dim."""
        return None

    @lazy
    def luck(self) -> Tensor | None:
        """KL of q's dynamics and start from the true ones, nats, 0-dim: what the plan hopes for."""
        return None

    @lazy
    def policy_divergence(self) -> Tensor | None:
        """KL of q's policy from the action prior along q, nats, 0-dim."""
        return None

    @lazy
    def policy_entropy(self) -> Tensor | None:
        """Expected sum over live steps of H(q(. | s_t)), nats, 0-dim."""
        return None

    @lazy
    def gain(self) -> Tensor | None:
        """What a step is worth in the long run, reward units, 0-dim; where the criterion is the average alone.

        All other numbers are then per step of the long run, too, and values are relative to each other, of mean 0.
        """
        return None

    # ---- what was asked -----------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """The length of the time axis: T, or 1 over an infinite horizon."""
        return 1 if self.horizon == math.inf else int(self.horizon)

    @property
    def mdp(self) -> MDP | None:
        """The process, where the question was a `TrajectoryModel`."""
        return self.model.mdp if isinstance(self.model, TrajectoryModel) else None

    @property
    def temperature(self) -> Any:
        """alpha; 1 for any other Pyro program, whose factors are in nats."""
        return self.model.temperature if isinstance(self.model, (TrajectoryModel, World)) else 1.0

    def number(self, name: str) -> Tensor | None:
        """One of the numbers by its name; None where it is not known.

        Args:
            name: "log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy" or "gain".
        """
        found: Tensor | None = getattr(self, name)
        return found

    # ---- trajectories -------------------------------------------------------------------------------------------

    def sample(self, num_samples: int, *, seed: int = 0, latents: bool = False) -> Any:
        """Draws trajectories from q.

        Args:
            num_samples: N.
            seed: of the generator; the global random state is left alone.
            latents: whether to return the further latents that the answer has, too.

        Returns:
            `Trajectories` (states, actions); with `latents` a pair of these and a dict of [N, ...] by site.

        Raises:
            ValueError: if the horizon is infinite, or there is no q (p(O) = 0, or no particle left).
            NotKnown: if the answer draws no further latents, or left its program behind.
        """
        self._refuse_failure("sample")
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; ask for at least 1")
        require_chains(num_samples, steps=self.steps)
        states, actions, further = self._draw(num_samples, seed, latents)
        drawn = Trajectories(states, actions)
        return (drawn, further) if latents else drawn

    def log_prob(self, states: Any, actions: Any) -> Tensor:
        """The log probability of whole trajectories under q, as `sample` returns them.

        Args:
            states: int [N, T + 1], S being the absorbing state of a discount ([N, T] for a program that draws no
                s_{T+1}).
            actions: int [N, T]; in the absorbing state they are uniform, as `sample` draws them.

        Returns:
            [N], log q(tau) in nats; -inf where q cannot go. For a program with further latents they are summed out.

        Raises:
            ValueError: if shapes or indices do not fit, the horizon is infinite, there is no q (p(O) = 0, or no
                particle left), or q has no probabilities of whole trajectories.
            TypeError: if states or actions are no whole numbers.
        """
        self._refuse_failure("score by")
        if self.horizon == math.inf:
            raise ValueError("trajectories of an infinite horizon have no end, so none has a probability")
        with self._recording():
            return self._score(states, actions)

    def marginal(self, site: str) -> Tensor:
        """The distribution of one latent site under q, optimality taken into account as the answer does.

        Args:
            site: "s_1" .. "s_{T+1}", "a_1" .. "a_T", or a further latent of a program or of outcomes, e.g. "wind_3".

        Returns:
            [N], probabilities of the site's N values. Under a discount "s_t" has length S and sums to less than 1
            (`absorbed` holds the rest), while "a_t" counts the absorbing state's uniform actions. Where the latent is
            continuous, raises NotKnown.

        Raises:
            ValueError: if there is no such latent, or it is observed; naming those there are. Over an infinite horizon
                "s_1" alone has a time.
            NotKnown: if this answer does not know it.
        """
        self._refuse_failure("take a marginal of")
        if site in self._observed_sites() or (site.startswith("O_") and site not in self.sites):
            raise ValueError(f"site {site!r} is observed, so it has no distribution; ask for a latent one")
        if self.horizon == math.inf and site != "s_1":
            raise ValueError(
                f"over an infinite horizon the start 's_1' alone stands at a time of its own, and {site!r} was asked "
                "for; state_marginals holds expected visits"
            )
        if site not in self.sites:
            names = ", ".join(self.sites[:12]) + (", ..." if len(self.sites) > 12 else "")
            raise ValueError(f"there is no latent site {site!r}; there are {names}")
        where = site_time(site)
        with self._recording():
            return self._marginal(*where) if where else self._further_marginal(site)

    @property
    def sites(self) -> tuple[str, ...]:
        """The latent sites that `marginal` can be asked for."""
        times = range(1, self._state_times + 1)
        return tuple(f"{kind}_{t}" for t in times for kind in "sa" if kind == "s" or t <= self.steps)

    @property
    def _state_times(self) -> int:
        """How many states a trajectory has: T + 1, or T for a program that draws no s_{T+1}."""
        return self.steps + 1

    def policy(self, kind: str = "stochastic") -> Policy:
        """What the answer says to do, ready to act.

        Args:
            kind: "stochastic", q(a_t | s_t) itself; tabular answers also know "greedy", its most probable action with
                certainty (the first of equals), and "plan", the actions of q's most probable trajectory, open loop.

        Raises:
            ValueError: if there is no such kind, or the answer holds no policy.
        """
        raise self._unknown("a policy", "ask 'exact', 'variational' or 'smc'")

    # ---- what a kind of answer defines --------------------------------------------------------------------------

    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """States, actions, and further latents where they are asked for."""
        raise self._unknown("how to draw trajectories", "ask 'exact', 'enumeration' or 'smc'")

    def _score(self, states: Any, actions: Any) -> Tensor:
        raise self._unknown("probabilities of whole trajectories", "ask 'exact', or 'enumeration' for a program")

    def _marginal(self, kind: str, t: int) -> Tensor:
        """Of "s" or "a" at time t = 1, 2, ..."""
        raise self._unknown(f"the marginal of {kind}_{t}", "ask 'exact', or 'enumeration' for a program")

    def _further_marginal(self, site: str) -> Tensor:
        raise self._unknown(f"the marginal of {site!r}", "ask 'enumeration'")

    def _observed_sites(self) -> tuple[str, ...]:
        return tuple(f"O_{t}" for t in range(1, self.steps + 1))

    # ---- words --------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name in TABLES:
            why = str(self.__dict__.get("details", {}).get("tables", ""))
            raise self._unknown(f"{name}, a table over numbered states", "infer with 'exact' or 'enumeration'", why)
        raise AttributeError(f"a {type(self).__name__} has no attribute {name!r}")

    def _unknown(self, what: str, instead: str, why: str = "") -> NotKnown:
        backend = self.__dict__.get("backend", "unknown")
        return NotKnown(what, f"the {self.kind} answer of backend {backend!r}", instead, why)

    def _recording(self) -> torch.set_grad_enabled:
        """Gradients of what is worked out from q, unless q itself was found without them: they would be wrong."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and self._records)

    def _refuse_failure(self, what: str) -> None:
        if self.status in (Status.IMPOSSIBLE, Status.DEGENERATE, Status.INFINITE):
            raise ValueError(f"there is no posterior to {what}: {self.status}")

    def _numbers(self) -> dict[str, float]:
        """Those that are known by now; nothing is computed."""
        held = {name: self.__dict__.get(name) for name in NUMBERS}
        return {name: float(x.detach()) for name, x in held.items() if isinstance(x, Tensor) and x.numel() == 1}

    def __repr__(self) -> str:
        head = f"{self.backend!r}, target={self.target}, status={self.status.label}, T={self.horizon}"
        return f"{type(self).__name__}({', '.join([head, *(f'{k}={v:.6g}' for k, v in self._numbers().items())])})"

    def _repr_html_(self) -> str:
        head = {"backend": self.backend, "target": self.target, "status": self.status.label, "horizon": self.horizon}
        rows = head | {name.replace("_", " "): f"{value:.6g}" for name, value in self._numbers().items()}
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
        return f"<table><caption>{type(self).__name__}</caption>{cells}</table>"

    def to_xarray(self) -> xarray.Dataset:
        """The tables with named axes, numbers as attributes."""
        raise self._unknown("tables with named axes", "infer with 'exact', or 'enumeration' for a program")

    def _xarray_attributes(self) -> dict[str, Any]:
        numbers = {name: value for name in NUMBERS if (value := self.number(name)) is not None}
        words = {"backend": self.backend, "target": str(self.target), "status": self.status.label}
        return words | {name: float(value.detach()) for name, value in numbers.items() if value.numel() == 1}

    # ---- travelling ---------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Writes the answer to a folder that `cai.load` reads: numbers and words, of which nothing is ever executed.

        What files cannot hold stays behind: gradients, Pyro programs (`model` comes back as None), and the names of
        further details in `details["left_behind"]`. A Python reward is saved as its table.

        Args:
            folder: made if need be.

        Returns:
            The folder.
        """
        return save(folder, self, folder=True)

    def _state(self) -> dict[str, Any]:
        gradients = any(isinstance(part, Tensor) and part.requires_grad for part in self.__dict__.values())
        note = {"gradients": LEFT_BEHIND} if gradients else {}
        return super()._state() | {"details": dict(self.details) | note}

    def __getstate__(self) -> dict[str, Any]:
        return {name: part for name, part in self._state().items() if name not in self._of_program or _pickles(part)}

    _of_program: tuple[str, ...] = ("model",)  # parts that may be, or hold, a program that stays behind
    _left_behind: tuple[str, ...] = ("model", "paths", "acting", "recursion")  # parts that are None in some files

    def __setstate__(self, state: dict[str, Any]) -> None:
        details = MappingProxyType(dict(state["details"]))
        left = {name: None for name in self._of_program if name not in state}
        super().__setstate__(state | left | {"details": details})  # in the order in which they were written

    def _stored(self) -> dict[str, Any]:
        """The parts that files hold."""
        state = {name: part for name, part in self._state().items() if name != "_records"}
        left_behind = {name for name in self._of_program if name in state and not can_store(state[name])}
        state |= dict.fromkeys(left_behind)
        details = {key: packed(part) for key, part in state["details"].items()}
        kept = {key: part for key, part in details.items() if can_store(part)}
        lost = tuple(state["details"].keys() - kept.keys())
        return state | {"details": kept | ({"left_behind": lost} if lost else {})}

    @classmethod
    def _from_stored(cls, parts: dict[str, Any]) -> Posterior:
        made = object.__new__(cls)
        made._check(parts)
        details = {key: unpacked(part) for key, part in parts["details"].items()}
        made.__setstate__({**parts, "details": details, "_records": False})
        return made


def _pickles(part: Any) -> bool:
    if isinstance(part, TrajectoryModel):
        return True
    try:
        pickle.dumps(part)
    except Exception:  # whatever a program's parts raise
        return False
    return True
