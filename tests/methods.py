"""Every backend that the laws run over: a new backend enters by one row."""

from dataclasses import dataclass

from cai.inference import Backend, Enumeration, Optimistic, StructuredVariational, SumProduct

# One failure rate for every statistical test: chance alone fails one run of the suite in about ten thousand.
FAILURE_RATE = 1e-6


@dataclass(frozen=True)
class Method:
    """A backend and what may be asked of it.

    Attributes:
        backend: the instance.
        tolerance: absolute, on numbers of size 1; deterministic methods differ from brute force by rounding alone,
            and SVI by the square of its tolerance on the gradient (1e-9 nats).
        has_values: whether it knows values, and rows that its answer never visits.
        has_evidence: whether it reports the log evidence itself.
    """

    backend: Backend
    tolerance: float = 1e-9
    has_values: bool = True
    has_evidence: bool = True

    def __str__(self):
        solver = getattr(self.backend, "solver", "")
        return f"{self.backend.name}-{solver}".rstrip("-")


EXACT = (
    Method(SumProduct()),
    Method(Optimistic(solver="closed-form")),
    Method(Optimistic(solver="svi"), tolerance=1e-8, has_values=False, has_evidence=False),
    Method(Enumeration(), has_values=False),
)
FIXED = (
    Method(StructuredVariational(solver="closed-form"), has_evidence=False),
    Method(StructuredVariational(solver="svi"), tolerance=1e-8, has_values=False, has_evidence=False),
)
ALL = EXACT + FIXED
