"""A conditional logit with N choices among J alternatives, as an objective with derivatives written by hand."""

import pandas as pd
import torch

from cai.inverse.estimation.fitting import Task, fit_objective
from cai.inverse.search.objective import Data
from cai.inverse.search.settings import Settings
from cai.models.common.fingerprint import fingerprint


class Logit:
    """log p(n chooses c) = x_nc w - log sum_j e^{x_nj w}; infeasible where `wall(w)` says so."""

    def __init__(self, features, chosen, names, weights=None, persons=None, wall=None):
        self.features, self.chosen, self.names = features, chosen, tuple(names)
        self.weights = torch.ones(len(chosen), dtype=torch.float64) if weights is None else weights
        self.persons, self.wall, self.calls = persons, wall, []

    def _parts(self, w):
        scores = self.features @ w
        return scores.log_softmax(-1), scores.softmax(-1)

    def evaluate(self, w):
        self.calls.append(w.clone())
        if self.wall is not None and self.wall(w):
            return None
        logs, _ = self._parts(w)
        value = self.weights @ logs[torch.arange(len(self.chosen)), self.chosen]
        return float(value), self.weights @ self.scores(w)

    def scores(self, w):
        _, probs = self._parts(w)
        took = self.features[torch.arange(len(self.chosen)), self.chosen]
        return took - (probs[..., None] * self.features).sum(1)

    def hessian(self, w):
        _, probs = self._parts(w)
        mean = (probs[..., None] * self.features).sum(1)
        second = torch.einsum("n,nj,njf,njg->fg", self.weights, probs, self.features, self.features)
        return -(second - torch.einsum("n,nf,ng->fg", self.weights, mean, mean))


class Choices:
    kind, objective, form = "model", "likelihood", "kl"

    def __init__(self, logit):
        self.logit = logit
        self.num_demonstrations = self.num_choices = float(logit.weights.sum())

    @property
    def data(self):
        features = {name: fingerprint(self.logit.features[..., f]) for f, name in enumerate(self.logit.names)}
        return Data(fingerprint((self.logit.chosen, self.logit.weights)), "choices", features)

    def counts(self, w):
        probs = self.logit.features.matmul(w).softmax(-1)
        observed = torch.zeros_like(probs).scatter_(1, self.logit.chosen[:, None], 1.0)
        return pd.DataFrame({"observed": observed.sum(0).numpy(), "expected": probs.sum(0).numpy()})


def draw(seed=0, number=400, alternatives=3, truth=(-1.0, 0.5), names=("cost", "comfort"), **options):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.tensor(truth, dtype=torch.float64)
    features = torch.randn(number, alternatives, len(truth), dtype=torch.float64, generator=generator)
    chosen = (features @ truth).softmax(-1).multinomial(1, generator=generator)[:, 0]
    return Logit(features, chosen, names, **options)


def fit(logit, task=None, **settings):
    size = len(logit.names)
    given = {
        "initial": torch.zeros(size, dtype=torch.float64),
        "scales": torch.ones(size, dtype=torch.float64),
        **(task or {}),
    }
    return fit_objective(Task(logit, Choices(logit), **given), Settings(**settings))
