"""Every backend that the laws run over: a new backend enters by one row."""

from dataclasses import dataclass, field

from oracle import random_problem

from cai.inference import (
    Backend,
    BoltzmannExploration,
    EMPolicySearch,
    Enumeration,
    ImportanceSampling,
    KLPolicyIteration,
    MaxProduct,
    OneStepEntropy,
    Optimistic,
    PathConsistency,
    PolicyGradient,
    PosteriorPolicyIteration,
    RestrictedVariational,
    RewardWeightedRegression,
    RiskSensitive,
    SequentialMonteCarlo,
    SoftActorCritic,
    SoftQLearning,
    StructuredVariational,
    SumProduct,
    TabularPolicy,
    ValueIteration,
    ZIteration,
)

# One failure rate for every statistical test: chance alone fails one run of the suite in about ten thousand.
FAILURE_RATE = 1e-6


@dataclass(frozen=True)
class Method:
    """A backend and what may be asked of it.

    Attributes:
        backend: the instance.
        tolerance: absolute, on numbers of size 1; deterministic methods differ from brute force by rounding alone,
            SVI by the square of its tolerance on the gradient (1e-9 nats), and iterations by their criterion.
        has_values: whether it knows values, and rows that its answer never visits.
        has_evidence: whether it reports the log evidence itself.
        sees_prior: whether the action prior is the same to it as a reward of alpha log p(a|s).
        cost: by how much fewer problems a run of the suite tries, 1 for methods that answer one in milliseconds.
        only: the problems that it accepts, as keywords of `random_problem`.
    """

    backend: Backend
    tolerance: float = 1e-9
    has_values: bool = True
    has_evidence: bool = True
    sees_prior: bool = True
    cost: int = 1
    only: dict = field(default_factory=dict)

    def problem(self, seed, **keywords):
        """A random problem that this backend accepts."""
        return random_problem(seed, **(keywords | self.only))

    def __str__(self):
        parts = [
            self.backend.name,
            *(str(getattr(self.backend, key, "")) for key in ("solver", "eta", "successors", "lookahead")),
        ]
        return "-".join(part for part in parts if part not in ("", "None"))


EXACT = (
    Method(SumProduct()),
    Method(Optimistic(solver="closed-form")),
    Method(Optimistic(solver="svi"), tolerance=1e-8, has_values=False, has_evidence=False, cost=4),
    Method(Enumeration(), has_values=False, cost=2),
)
FIXED = (
    Method(StructuredVariational(solver="closed-form"), has_evidence=False),
    Method(StructuredVariational(solver="svi"), tolerance=1e-8, has_values=False, has_evidence=False, cost=3),
    Method(RestrictedVariational(TabularPolicy()), tolerance=1e-8, has_evidence=False),
    Method(ZIteration(), has_evidence=False, only={"deterministic": True}),
)
# What these aim at is stated in their docstrings, and held in the tests that bear their names.
OTHER = (
    *(Method(RiskSensitive(eta), has_evidence=False) for eta in (-20.0, -1.0, 1e-9, 0.5, 3.0)),
    *(Method(ValueIteration(way), has_evidence=False, sees_prior=False) for way in ("expected", "best", "worst")),
    Method(MaxProduct(), has_evidence=False),
    Method(BoltzmannExploration(), has_evidence=False, sees_prior=False),
    Method(OneStepEntropy(), has_evidence=False, sees_prior=False),
    Method(RewardWeightedRegression(), has_evidence=False),
    Method(EMPolicySearch(tolerance=1e-12), tolerance=1e-6, has_evidence=False, sees_prior=False, cost=2),
    Method(
        PosteriorPolicyIteration(tolerance=1e-12, max_iterations=300),
        tolerance=1e-8,
        has_evidence=False,
        sees_prior=False,
        cost=3,
    ),
    Method(KLPolicyIteration(), has_evidence=False, sees_prior=False, cost=2),
)
ALL = EXACT + FIXED + OTHER
# What is drawn meets the exact answers within FAILURE_RATE, in tests/test_samplers.py; some laws hold draw by draw.
SAMPLED = (
    Method(SequentialMonteCarlo(num_particles=50, lookahead=None)),
    Method(SequentialMonteCarlo(num_particles=50, lookahead="soft-value")),
    Method(ImportanceSampling(num_particles=50)),
)
# What is learned from samples comes near the best policy (tests/inference/learning); the account of whatever policy it
# found, and its travels, are exact.
LEARNED = (
    Method(SoftQLearning(steps=1024), has_evidence=False, cost=4, only={"forbidden": False}),
    Method(SoftActorCritic(steps=1024), has_evidence=False, cost=4, only={"forbidden": False}),
    Method(PolicyGradient(steps=1024), has_evidence=False, cost=4, only={"forbidden": False}),
    Method(PathConsistency(steps=1024), has_evidence=False, cost=4, only={"forbidden": False, "deterministic": True}),
)
