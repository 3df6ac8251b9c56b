"""Programs that observe states or actions themselves are asked about as `condition` of the program that does not."""

import math
import random

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import cai
from cai.models import condition, inspect_program

S, A, T = 3, 2, 2


def written(seed):
    """A random program whose states and actions are observed where `known` says so."""
    draw = torch.Generator().manual_seed(seed)
    start, prior, move = (torch.rand(shape, generator=draw, dtype=torch.float64) for shape in ((S,), (S, A), (S, A, S)))
    reward = torch.randn(S, A, S, generator=draw, dtype=torch.float64)

    def program(known=None):
        seen = {name: torch.tensor(value) for name, value in (known or {}).items()}
        state = pyro.sample("s_1", dist.Categorical(start), obs=seen.get("s_1"))
        for t in range(1, T + 1):
            action = pyro.sample(f"a_{t}", dist.Categorical(prior[state]), obs=seen.get(f"a_{t}"))
            after = pyro.sample(f"s_{t + 1}", dist.Categorical(move[state, action]), obs=seen.get(f"s_{t + 1}"))
            pyro.factor(f"O_{t}", reward[state, action, after])
            state = after

    return program


@pytest.mark.parametrize("backend", ["enumeration", "smc"])
@pytest.mark.parametrize("seed", range(6))
def test_observed_is_known(backend, seed):
    program, draw = written(seed), random.Random(seed)
    sites = [f"{kind}_{t}" for t in range(1, T + 2) for kind in ("s", "a") if (kind, t) != ("a", T + 1)]
    known = {site: draw.randrange(A if site[0] == "a" else S) for site in draw.sample(sites, draw.randint(1, 2))}
    want = cai.infer(condition(program, known), backend)
    data = {name: torch.tensor(value) for name, value in known.items()}
    for asked in (lambda: program(known), poutine.condition(program, data=data)):
        got = cai.infer(asked, backend)
        torch.testing.assert_close(got.log_evidence, want.log_evidence)
        torch.testing.assert_close(got.marginal("s_2"), want.marginal("s_2"))


def test_a_known_first_state():
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)

    def program(first=None):
        state = pyro.sample("s_1", dist.Categorical(half), obs=first)
        action = pyro.sample("a_1", dist.Categorical(half))
        pyro.factor("O_1", -(state + action).double())
        pyro.sample("s_2", dist.Categorical(half))

    want = math.log(0.5 * 0.5 * (math.exp(-1) + math.exp(-2)))
    table = cai.compare(lambda: program(torch.tensor(1)), ["enumeration", "smc"])
    assert float(table.rows[0].log_evidence) == pytest.approx(want)
    assert float(table.rows[1].log_evidence) == pytest.approx(want, abs=0.2)
    with pytest.raises(ValueError, match=r"'s_1' is observed.*without obs=.*cai\.models\.condition\(program, \{'s_1'"):
        inspect_program(lambda: program(torch.tensor(1)))
