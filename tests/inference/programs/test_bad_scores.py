"""Sites that score NaN or +inf are named with their step by every backend, whether Pyro checks arguments or not."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import cai

HALF = torch.tensor([0.5, 0.5])
BACKENDS = (
    "enumeration",
    "variational",
    "optimistic",
    "restricted",
    "restricted:gradient=sampled",
    "smc",
    "importance",
)


def below(s, a):
    """NaN at s = a = 0, which a quarter of the draws are."""
    return torch.log(s.double() + a - 0.5)


KINDS = {
    "factor": lambda name, s, a: pyro.factor(name, below(s, a)),
    "infinite": lambda name, s, a: pyro.factor(name, 1.0 / (s + a) - 1.0),
    "logits": lambda name, s, a: pyro.sample(name, dist.Bernoulli(logits=below(s, a)), obs=torch.ones(())),
    "mean": lambda name, s, a: pyro.sample(name, dist.Normal(below(s, a), 1.0), obs=torch.ones(())),
    "further latent": lambda name, s, a: pyro.sample(name, dist.Bernoulli(logits=below(s, a))),
}


def program(kind, first):
    """Three steps, of which those from `first` on score no number for s = a = 0."""

    def run():
        s = pyro.sample("s_1", dist.Categorical(HALF))
        for t in pyro.markov(range(1, 4)):
            a = pyro.sample(f"a_{t}", dist.Categorical(HALF))
            if t >= first:
                KINDS[kind](f"x_{t}" if kind == "further latent" else f"O_{t}", s, a)
            if t < first or kind == "further latent":
                pyro.factor(f"O_{t}", 0.0 * s)
            s = pyro.sample(f"s_{t + 1}", dist.Categorical(HALF))

    return run


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Encountered.*inf:UserWarning")
def test_every_backend_names_the_first_site(kind, first, checks, every):
    site, found = ("x" if kind == "further latent" else "O") + f"_{first}", "NaN" if kind != "infinite" else r"\+inf"
    # The search does not know who asks; which run of a backend fails first, which differs, is seen at one step.
    for backend in BACKENDS if every or first == 2 else BACKENDS[::3]:
        with (
            pyro.validation_enabled(checks),
            pytest.raises(ValueError, match=rf"site '{site}' scores {found} at .*= 0"),
        ):
            cai.infer(program(kind, first), backend)


def test_checks_are_as_they_were():
    for checks in (True, False):
        with pyro.validation_enabled(checks):
            with pytest.raises(ValueError, match="scores NaN"):
                cai.infer(program("factor", 1), "smc")
            assert torch.distributions.Distribution._validate_args == checks


def test_programs_that_forbid_are_answered_and_other_mistakes_keep_their_words():
    def forbids():
        s = pyro.sample("s_1", dist.Categorical(HALF))
        pyro.sample("a_1", dist.Categorical(HALF))
        pyro.factor("O_1", torch.where(s == 0, -torch.inf, 0.0))

    def too_probable():
        pyro.sample("s_1", dist.Categorical(HALF))
        a = pyro.sample("a_1", dist.Categorical(HALF))
        pyro.sample("O_1", dist.Bernoulli(probs=a + 1.0), obs=torch.ones(()))

    for backend in BACKENDS:
        if backend in ("enumeration", "smc", "importance"):
            assert float(cai.infer(forbids, backend).log_evidence) == pytest.approx(-0.693, abs=0.2)
        with pyro.validation_enabled(True), pytest.raises(ValueError, match="a probability lies outside 0 to 1"):
            cai.infer(too_probable, backend)
