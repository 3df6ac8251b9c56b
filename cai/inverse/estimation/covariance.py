"""Covariances of coefficients: by the curvature, by the scatter of scores, by that of whole clusters.

    hessian    B^-1, B = -H of the (penalised) log-likelihood
    sandwich   B^-1 (sum_n w_n s_n s_n') B^-1 (Huber 1967; White 1982)
    cluster    the same with the scores of each person added up first: sum_g (sum_n w_n s_n)(sum_n w_n s_n)'

No small-sample factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cai.inverse.search.curvature import spectrum
from cai.inverse.search.objective import Objective

if TYPE_CHECKING:
    from cai.inverse.estimation.fitting import Task

__all__ = ["covariance_matrix", "covariance_name"]


def covariance_name(wanted: str | None, task: Task) -> str:
    """The kind of covariance that is computed.

    Raises:
        ValueError: if it is not known for the objective, or clusters are asked for without persons.
    """
    name = task.default_covariance if wanted is None else wanted
    if name in task.refused_covariance:
        raise ValueError(f"covariance={name!r}: {task.refused_covariance[name]}")
    if name == "cluster":
        persons = task.objective.persons
        if persons is None:
            raise ValueError("covariance='cluster' needs to know who made each demonstration: give persons")
        missing = np.flatnonzero(pd.isna(np.asarray(list(persons), dtype=object)))
        if len(missing):
            raise ValueError(
                f"persons[{missing[0]}] is missing ({len(missing)} in all); name the person of every demonstration, or "
                "give such demonstrations persons of their own"
            )
    return name


def covariance_matrix(kind: str, bend: Tensor, scores: Tensor, objective: Objective) -> Tensor:
    """[K, K], nan where a variance comes out negative.

    Args:
        kind: "hessian", "sandwich" or "cluster".
        bend: B [K, K].
        scores: s [N, K], unweighted.
        objective: weights and persons.
    """
    inverse = spectrum(bend).inverse()
    if kind == "hessian":
        found = inverse
    else:
        weights = objective.weights
        if kind == "sandwich":
            middle = (weights[:, None] * scores).T @ scores
        else:
            assert objective.persons is not None
            codes, people = pd.factorize(np.asarray(list(objective.persons), dtype=object))
            sums = torch.zeros(len(people), scores.shape[1], dtype=torch.float64)
            sums.index_add_(0, torch.from_numpy(codes.astype(np.int64)), weights[:, None] * scores)
            middle = sums.T @ sums
        found = inverse @ middle @ inverse
    bad = found.diagonal() < 0
    found[bad], found[:, bad] = torch.nan, torch.nan
    return found
