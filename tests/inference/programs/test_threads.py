"""`infer` from several threads at once: numbers as alone, and nothing of torch or Pyro changes for others to see."""

import functools
import re
import threading
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import windy
from pyro.poutine.messenger import Messenger

import cai
from cai.models import MDP, TrajectoryModel, bridge
from cai.models.common.random_draws import OwnDraws
from cai.models.programs.inspect import inspect_program
from cai.models.programs.session import _LOCK, pyro_session

ROOT = Path(__file__).parents[3]
MODEL = bridge(slip=0.2, horizon=3)
PROGRAM = windy(2)


def noisy():
    """A program that draws while it is enumerated."""
    noise = 0.1 * torch.randn((), dtype=torch.float64)
    state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64)))
    action = pyro.sample("a_1", dist.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64)))
    pyro.factor("O_1", torch.where(state == action, noise, -1.0))


QUESTIONS = {
    "exact": (MODEL, "exact", {}),
    "enumeration": (MODEL, "enumeration", {}),
    "svi": (MODEL, "variational", {"solver": "svi", "max_iterations": 5}),
    "optimistic": (PROGRAM, "optimistic", {"max_iterations": 5}),
    "smc": (MODEL, "smc", {"num_particles": 50}),
    "smc on a program": (PROGRAM, "smc", {"num_particles": 50}),
    "restricted": (PROGRAM, "restricted", {}),
    "sampled": (
        PROGRAM,
        "restricted",
        {"gradient": "sampled", "num_samples": 20, "max_iterations": 5, "num_eval_samples": 20},
    ),
    "a program that draws": (noisy, "enumeration", {}),
}


def answer(name):
    """Numbers of an answer and of what is drawn from it."""
    model, backend, options = QUESTIONS[name]
    posterior = cai.infer(model, backend, seed=1, throw=False, **options)
    states, actions = posterior.sample(20, seed=2)
    bound = posterior.log_evidence if posterior.elbo is None else posterior.elbo
    return float(bound.detach()), float(posterior.believed_return.detach()), states.tolist(), actions.tolist()


def test_threads_get_the_numbers_that_each_gets_alone():
    alone = {name: answer(name) for name in QUESTIONS}
    stop, found, errors = threading.Event(), [], []

    def disturb():
        while not stop.is_set():
            torch.manual_seed(5)
            torch.rand(3)
            time.sleep(0.001)

    def ask(name):
        try:
            found.append((name, answer(name)))
        except Exception as error:
            errors.append((name, error))

    user = threading.Thread(target=disturb)
    user.start()
    threads = [threading.Thread(target=ask, args=(name,)) for name in QUESTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    user.join()
    assert not errors
    assert len(found) == len(QUESTIONS)
    for name, numbers in found:
        assert numbers == alone[name], name


@pytest.mark.parametrize("name", QUESTIONS)
def test_nothing_global_changes(name):
    pyro.clear_param_store()
    pyro.param("mine", torch.tensor(2.0))
    torch.manual_seed(11)
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    answer(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == dtype
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert float(pyro.param("mine").detach()) == 2.0
    pyro.clear_param_store()


def test_a_reward_function_changes_no_default_for_others():
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])
    inside, seen = threading.Event(), threading.Event()

    def reward(state, action, next_state, t):
        inside.set()
        assert seen.wait(10)
        return 0.1 * state

    thread = threading.Thread(target=lambda: TrajectoryModel(mdp, reward, horizon=1))
    thread.start()
    assert inside.wait(10)
    assert (0.1 * torch.arange(2)).dtype == torch.float32
    seen.set()
    thread.join()
    assert torch.get_default_dtype() == torch.float32


def test_a_program_reads_parameters_from_outside_and_makes_its_own_inside():
    pyro.clear_param_store()
    pyro.param("known", torch.tensor(0.25, dtype=torch.float64))

    def program():
        bonus = pyro.param("known", torch.tensor(9.0)) + pyro.param("made", torch.tensor(0.5, dtype=torch.float64))
        action = pyro.sample("a_1", dist.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64)))
        pyro.factor("O_1", bonus * (action + 1 - action))

    def trajectory():
        pyro.sample("s_1", dist.Categorical(torch.tensor([1.0], dtype=torch.float64)))
        program()

    assert float(cai.infer(trajectory, "enumeration").log_evidence.detach()) == pytest.approx(0.75, abs=1e-12)
    assert list(pyro.get_param_store().keys()) == ["known"]
    with pyro_session() as store:
        trajectory()
        with pyro_session() as inner:
            pyro.param("made", torch.tensor(7.0))
            assert len(inner) == 0  # a session within a session sees what the outer one made
        assert list(store.keys()) == ["made"]
    pyro.clear_param_store()


def bad_probability():
    """A program that fails, so that the site is looked for that scores no number."""
    state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64)))
    pyro.sample("a_1", dist.Categorical((state + 1.0).log().neg()[..., None].expand(*state.shape, 2)))
    pyro.factor("O_1", 0.0 * state)


def refused(backend):
    with pytest.raises(ValueError, match="scores NaN"):
        cai.infer(bad_probability, backend)


def rollouts():
    cai.evaluate(cai.extract_policy(cai.infer(PROGRAM, "enumeration")), PROGRAM, num_rollouts=5)


SWITCHES = [
    *[(module, "enable_validation") for module in (pyro, pyro.primitives, pyro.poutine, pyro.infer, dist)],
    *[(pyro, name) for name in ("set_rng_seed", "clear_param_store")],
]
DEEDS = {
    **{name: functools.partial(answer, name) for name in QUESTIONS},
    **{f"refused by {backend}": functools.partial(refused, backend) for backend in ("enumeration", "smc")},
    "rollouts": rollouts,
    "inspection": lambda: inspect_program(PROGRAM),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_pyro_is_used_by_the_thread_that_holds_the_lock_and_its_switches_stay(deed):
    entered = Messenger.__enter__

    def enter(handler):
        assert _LOCK._is_owned(), f"{type(handler).__name__} is entered outside of a session"
        return entered(handler)

    def switch(*args, **kwargs):
        raise AssertionError("this changes something for every thread")

    with pyro.poutine.trace() as tracer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Messenger, "__enter__", enter)
        for module, name in SWITCHES:
            patch.setattr(module, name, switch)
        deed()
    assert not tracer.trace.nodes  # whatever is met outside of a session, a handler around it sees


GLOBAL = re.compile(
    r"\b(validation_enabled|enable_validation|set_default_\w+|set_rng_seed|set_rng_state|clear_param_store|set_num_threads"
    r"|set_printoptions|set_detect_anomaly|use_deterministic_algorithms|torch\.manual_seed|catch_warnings|simplefilter"
    r"|filterwarnings|seed_all)\("
)
ALLOWED = {
    "cai/cli.py": 1,  # the process is the command's own
    "inference/kernels/tables.py": 2,  # when it is imported
    "models/programs/session.py": 1,  # while there is one thread
}


def test_nothing_in_the_sources_changes_what_all_threads_share():
    found = {}
    for floor in ("cai", "inference", "models"):
        for path in (ROOT / floor).rglob("*.py"):
            lines = (line for line in path.read_text().splitlines() if "`" not in line)  # code, not words about it
            if number := sum(len(GLOBAL.findall(line)) for line in lines):
                found[str(path.relative_to(ROOT))] = number
    assert found == ALLOWED


DRAWS = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn(3, dtype=torch.float64),
    "randint": lambda: torch.randint(5, (4,)),
    "randint between": lambda: torch.randint(2, 9, (4,)),
    "randperm": lambda: torch.randperm(6),
    "like": lambda: torch.rand_like(torch.ones(3)) + torch.randn_like(torch.ones(3)),
    "multinomial": lambda: torch.multinomial(torch.ones(5), 2),
    "normal": lambda: torch.normal(torch.zeros(3), torch.ones(3)),
    "in place": lambda: torch.empty(3).uniform_() + torch.empty(3).exponential_() + torch.empty(3).normal_(),
    "bernoulli": lambda: torch.bernoulli(torch.full((5,), 0.5)),
    "gamma": lambda: dist.Gamma(2.0, 1.0).sample((3,)),
    "dirichlet": lambda: dist.Dirichlet(torch.ones(3)).sample(),
    "poisson": lambda: torch.poisson(torch.ones(4)),
    "binomial": lambda: torch.binomial(torch.full((3,), 5.0), torch.full((3,), 0.5)),
    "categorical": lambda: dist.Categorical(torch.ones(4)).sample((5,)),
    "beta": lambda: dist.Beta(torch.ones(2), torch.ones(2)).sample(),
    "dropout": lambda: torch.nn.functional.dropout(torch.ones(8)),
    "gumbel": lambda: torch.nn.functional.gumbel_softmax(torch.ones(4)),
    "layer": lambda: torch.nn.Linear(3, 2).weight.detach(),
    "attention": lambda: torch.nn.functional.scaled_dot_product_attention(*[torch.ones(1, 4, 3)] * 3, dropout_p=0.5),
}


@pytest.mark.parametrize("name", DRAWS)
def test_own_draws_are_those_of_the_seed_and_leave_the_global_state(name):
    torch.manual_seed(7)
    expected = DRAWS[name]()
    torch.manual_seed(8)
    before = torch.get_rng_state()
    with OwnDraws(7):
        found = DRAWS[name]()
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(7)
    with OwnDraws(generator):
        assert torch.equal(DRAWS[name](), expected)
    assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(7).get_state())


def test_sites_drawn_in_a_session_are_those_of_the_seed():
    table = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def program():
        first = pyro.sample("first", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        rest = (dist.Categorical(table[first]), dist.Categorical(logits=table).expand([2, 4]), dist.Bernoulli(0.3))
        return first, *(pyro.sample(f"site {number}", fn) for number, fn in enumerate(rest))

    for seed in range(20):
        torch.manual_seed(seed)
        expected = program()
        with pyro_session(seed):
            found = program()
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
