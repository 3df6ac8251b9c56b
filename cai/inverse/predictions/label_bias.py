"""Label bias: what choices that compete at each state make of paths that are equally good."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from cai.inference import infer
from cai.models.trajectory.model import TrajectoryModel

if TYPE_CHECKING:
    import pandas

__all__ = ["label_bias"]

MOST = 10_000  # paths


def label_bias(model: TrajectoryModel) -> pandas.DataFrame:
    """The probability of every path in the KL form, where choices compete at each state, and in the entropy form.

    With a uniform action prior a path pays log|A(s)| for each state on it, so that paths through more choices get less
    (Ziebart et al. 2008, figure 2, and Lafferty, McCallum and Pereira 2001 on label bias). In the entropy form, whose
    reward makes up for it, paths with equal rewards are equally probable.

    Args:
        model: in the KL form, with certain dynamics, one first state, discount 1 and a finite horizon; e.g.
            `three_paths(entropy_form=False)`.

    Returns:
        A table by path, called by its actions, with columns `kl_form` and `entropy_form`.

    Raises:
        ValueError: if the model is not of this kind, or has more than 10,000 paths.
    """
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"the model is a {type(model).__name__}; expected a TrajectoryModel")
    mdp = model.mdp
    certain = bool(((mdp.probabilities == 0) | (mdp.probabilities == 1)).all()) and bool((mdp.initial == 1).any())
    if not certain or model.discount < 1 or model.horizon == math.inf:
        raise ValueError(
            "the model has noise, several first states, a discount or an infinite horizon; paths are compared where "
            "all is certain but the choices"
        )
    policies = [infer(form, "variational").action_probs.detach() for form in (model, model.entropy_form())]
    following = mdp.successors().expand(mdp.num_states, mdp.num_actions, -1)
    leads = following.gather(-1, mdp.probabilities.argmax(-1, keepdim=True))[..., 0]
    paths = [(int(mdp.initial.argmax()), list[int](), [1.0, 1.0])]
    done = []
    for t in range(model.steps):
        longer = []
        for state, actions, shares in paths:
            if bool(mdp.terminal[state]):
                done.append((actions, shares))
                continue
            for action in torch.nonzero(model.action_prior[state] > 0).flatten().tolist():
                now = [share * float(policy[t, state, action]) for share, policy in zip(shares, policies, strict=True)]
                longer.append((int(leads[state, action]), [*actions, action], now))
        if len(longer) + len(done) > MOST:
            raise ValueError(f"there are more than {MOST:,} paths; give a shorter horizon")
        paths = longer
    done += [(actions, shares) for _, actions, shares in paths]
    import pandas

    index = pandas.Index([", ".join(mdp.action_name(a) for a in actions) for actions, _ in done], name="path")
    return pandas.DataFrame([shares for _, shares in done], index=index, columns=["kl_form", "entropy_form"])
