"""Particles of any trajectory program: it is run under a plate of N particles, its history replayed, one step drawn.

Step t is what the program does from the draw of a_t up to the draw of a_{t+1}, or to its end: whether s_{t+1} is drawn
at the end of one iteration or at the beginning of the next, the factors in between are that step's. What comes before
a_1 is the start. The run is broken off at a_{t+1}, and begun anew for the next step with everything before it replayed
in the order of the resampled histories, so T steps visit T^2 / 2 of the program's steps. A factor counts when it is
met for the first time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from cai.inference.programs.guide import ExactSites
from cai.models.programs.inspect import Program, ProgramInfo, explain, failure, site_time
from cai.models.programs.scores import bad_score, find_bad_site, is_about_numbers
from cai.models.programs.session import pyro_session

__all__ = ["ReplaySystem", "check_vectorised"]

PLATE = "_particles"
CHECKED_RUNS = 7  # single runs that the stacked run is held against


class _Stop(BaseException):
    """Breaks a program off; a BaseException, which a program's own `except Exception` does not swallow."""


class _Sites(ExactSites):
    """Exact sites; what `pyro.deterministic` records keeps its value."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_deterministic", False):
            super()._pyro_sample(msg)


class _Replay(Messenger):
    """Gives sites their known values, breaks off at a site, and collects what is new.

    Args:
        known: values by site.
        stop: the site at which to break off; None runs to the end.
        score_latents: whether to score every latent, not just actions.

    Attributes:
        drawn: the values of the latents that were not known.
        scores: log probabilities of factors, actions (and latents), float64, by site in the order of the program.
        steps: for every factor, the number of actions drawn before it.
    """

    def __init__(self, known: dict[str, Tensor], stop: str | None = None, score_latents: bool = False) -> None:
        super().__init__()
        self.known = known
        self.stop = stop
        self.score_latents = score_latents
        self.drawn: dict[str, Tensor] = {}
        self.scores: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}
        self._actions = 0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        if msg["name"] == self.stop:
            raise _Stop
        if msg["name"] in self.known:
            msg["value"] = self.known[msg["name"]]

    def _pyro_post_sample(self, msg: Any) -> None:
        name, site = msg["name"], site_time(msg["name"])
        if msg["type"] != "sample" or msg["infer"].get("_deterministic", False):
            return
        is_action = site is not None and site[0] == "a"
        if msg["is_observed"]:
            self.steps[name] = self._actions
        elif name not in self.known:
            self.drawn[name] = msg["value"]
        if msg["is_observed"] or is_action or self.score_latents:
            score = scale_and_mask(msg["fn"].log_prob(msg["value"]), msg["scale"], msg["mask"]).double()
            bad = torch.isnan(score) | (score == torch.inf)
            if bool(bad.any()):
                raise ValueError(bad_score(name, score, _first_values(self.known | self.drawn, bad)))
            self.scores[name] = score
        if not msg["is_observed"] and (msg["scale"] != 1.0 or msg["mask"] is not None):
            raise ValueError(
                f"latent site {name!r} is scaled or masked, so drawing it does not follow its density; "
                "scale or mask factors only"
            )
        self._actions += is_action


def _first_values(drawn: dict[str, Tensor], where: Tensor) -> dict[str, str]:
    """What the first particle had drawn for which a mask, [N] or of one run alone, is true; numbers only."""
    first = torch.nonzero(where.reshape(-1))[0, 0]
    rows = {name: value[first] if value.dim() else value for name, value in drawn.items()}
    return {name: f"{row.item():.6g}" for name, row in rows.items() if row.numel() == 1}


class ReplaySystem:
    """Particles of a trajectory program.

    Args:
        program: with sites `s_1, a_1, O_1, s_2, ...`; its latents may be discrete or continuous.
        info: its outside.

    Attributes:
        returns: [N], each particle's sum of log factors so far.
        log_prior_actions: [N], the sum of log p(a_t | ...) so far.
    """

    def __init__(self, program: Program, info: ProgramInfo) -> None:
        self.program = program
        self.info = info
        self.horizon = info.horizon
        self.returns = torch.zeros(0, dtype=torch.float64)
        self.log_prior_actions = torch.zeros(0, dtype=torch.float64)
        self._generator: torch.Generator | None = None
        self._known: dict[str, Tensor] = {}
        self._counted: set[str] = set()

    def start(self, num_particles: int, generator: torch.Generator | None = None) -> Tensor:
        self._generator = generator
        self._known, self._counted = {}, set()
        self.returns = torch.zeros(num_particles, dtype=torch.float64)
        self.log_prior_actions = torch.zeros(num_particles, dtype=torch.float64)
        return self._extend(-1, 1)[0]

    def advance(self, steps: range) -> Tensor:
        return self._extend(steps.start, len(steps))

    def state(self, t: int) -> Tensor:
        name = f"s_{t + 1}"
        if name not in self._known:
            raise ValueError(
                f"the lookahead needs {name} before a_{t + 1} is drawn, and the program draws it later; draw each "
                "state before its action, or leave lookahead=None"
            )
        return self._known[name]

    def select(self, index: Tensor) -> None:
        self._known = {name: value[index] for name, value in self._known.items()}
        self.returns, self.log_prior_actions = self.returns[index], self.log_prior_actions[index]

    def values(self) -> dict[str, Tensor]:
        """By site as the program draws them, but discrete states and actions as int64."""
        counted = {name for name in self.info.sizes if site_time(name)}
        return {name: value.long() if name in counted else value for name, value in self._known.items()}

    def _extend(self, first: int, count: int) -> Tensor:
        """Draws steps first .. first + count - 1 (the start is step -1); their log factors [count, N]."""
        num_particles = self.returns.shape[0]
        following = first + count  # the time index of the action to stop at
        stop = f"a_{following + 1}" if following < self.horizon else None
        found = run_stacked(self.program, self._known, num_particles, stop, draws=self._generator)
        factors = torch.zeros(count, num_particles, dtype=torch.float64)
        for name, step in found.steps.items():
            if name not in self._counted:
                self._counted.add(name)
                factors[min(max(step - 1 - first, 0), count - 1)] += found.scores[name]
        for name, value in found.drawn.items():
            self._known[name] = value
            if name in found.scores:
                self.log_prior_actions = self.log_prior_actions + found.scores[name]
        self.returns = self.returns + factors.sum(0)
        return factors


def run_stacked(
    program: Program,
    known: dict[str, Tensor],
    size: int,
    stop: str | None = None,
    *,
    score_latents: bool = False,
    draws: torch.Generator | None = None,
) -> _Replay:
    """Runs a program under a plate of particles, some of its sites known, up to a site; draws from a generator."""
    replay = _Replay(known, stop, score_latents)
    with (
        _explained(program),
        pyro_session(draws),
        torch.no_grad(),
        pyro.plate(PLATE, size, dim=-1),  # made in the session: it sends a message through the stack of handlers
        contextlib.suppress(_Stop),
    ):
        replay(_Sites()(program))()
    for name, value in replay.drawn.items():
        if value.shape[:1] != (size,):
            raise ValueError(_ADVICE.format(f"site {name!r} has shape {list(value.shape)} for {size} particles"))
    return replay


_ADVICE = (
    "{}; every value has one leading dimension of particles here, so write the program for it: index with [..., i], "
    "sum over dim=-1, give vectors .to_event(1), and use torch.where for if"
)


@contextlib.contextmanager
def _explained(program: Program) -> Iterator[None]:
    """Says what to do where a program cannot be run on stacked values."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        if str(error).startswith(("site ", "latent site ")):
            raise
        if site := find_bad_site(program) if is_about_numbers(error) else "":
            raise ValueError(site) from error
        raise ValueError(_ADVICE.format(f"the program failed under a plate of particles ({explain(error)})")) from error


def check_vectorised(program: Program, info: ProgramInfo) -> None:
    """Refuses a program that does not score stacked trajectories as it scores each alone.

    Raises:
        ValueError: with the site that differs. A factor such as `-(state ** 2).sum()`, right for one trajectory, adds
            up those of all particles, and nothing else would tell.
    """
    try:
        singles = [_single(program, seed) for seed in range(CHECKED_RUNS)]
    except (RuntimeError, ValueError) as error:
        own = str(error).startswith(("site ", "latent site "))
        text = str(error) if own else failure(program, "the program failed when it was run", error)
        raise ValueError(find_bad_site(program) if "scores" in text else text) from error
    for single in singles:
        if set(single.drawn) != set(info.latents):
            changed = sorted(set(single.drawn) ^ set(info.latents))[0]
            raise ValueError(f"the program draws {changed!r} in some runs only; its sites must not depend on values")
    known = {name: torch.stack([single.drawn[name] for single in singles]) for name in info.latents}
    stacked = run_stacked(program, known, CHECKED_RUNS, score_latents=True)
    for name, scores in stacked.scores.items():
        alone = torch.stack([single.scores[name] for single in singles])
        close = torch.isclose(scores.expand_as(alone), alone, rtol=1e-4, atol=1e-5)
        if not bool(close.all()):
            worst = int(torch.nonzero(~close)[0])
            raise ValueError(
                _ADVICE.format(
                    f"site {name!r} scores {float(alone[worst]):.6g} for one trajectory and "
                    f"{float(scores[worst]):.6g} for the same one among {CHECKED_RUNS}"
                )
            )


def _single(program: Program, seed: int) -> _Replay:
    """One run of the program as it stands, with the score of every site."""
    replay = _Replay({}, score_latents=True)
    with pyro_session(seed), replay, _Sites(), torch.no_grad():
        program()
    return replay
