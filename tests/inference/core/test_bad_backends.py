"""Bad backends, options and programs are refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from refusals import NAN, check, mdp, model, refuse

from cai.inference import Status, SumProduct, infer
from cai.studies.comparison import compare

# ---- backends ----------------------------------------------------------------------------------------------------

BACKENDS = {
    "unknown": (lambda: infer(model(), "magic"), r"'magic'.*known are exact, variational"),
    "unknown option": (
        lambda: infer(model(), "exact", steps=3),
        r"'exact'.*'steps'.*options are: tolerance, max_iterations, accelerate, keep, kernel$",
    ),
    "option of none": (lambda: infer(model(), "enumeration", steps=3), r"'enumeration'.*'steps'.*options are: none$"),
    "class": (lambda: infer(model(), SumProduct), TypeError, r"SumProduct is a class.*SumProduct\(\.\.\.\)"),
    "no backend": (lambda: infer(model(), 3), TypeError, r"int is no backend.*supports and run"),
    "None": (lambda: infer(model(), None), TypeError, r"NoneType is no backend"),
    "options of an instance": (
        lambda: infer(model(), SumProduct(), tolerance=1.0),
        r"tolerance.*instance of SumProduct",
    ),
    "solver": (lambda: infer(model(), "variational", solver="adam"), r"solver is 'adam'.*closed-form, svi"),
    "steps": (lambda: infer(model(), "variational", max_iterations=0), r"max_iterations is 0.*>= 1"),
    "rate": (lambda: infer(model(), "optimistic", learning_rate=2.0), r"learning_rate is 2.*\(0, 1\]"),
    "nan rate": (lambda: infer(model(), "optimistic", learning_rate=NAN), r"learning_rate is nan.*\(0, 1\]"),
    "tolerance": (lambda: infer(model(), "variational", tolerance=0.0), r"tolerance is 0.*> 0"),
    "nan tolerance": (lambda: infer(model(), "variational", tolerance=NAN), r"tolerance is nan.*> 0"),
    "an old name": (
        lambda: infer(model(), "restricted", max_steps=5),
        r"max_steps is called max_iterations, as in every backend",
    ),
    "another old name": (lambda: infer(model(), "variational", max_backups=5), r"max_backups is called max_iterations"),
    "exact steps": (lambda: infer(model(), "exact", max_iterations=0), r"max_iterations is 0.*>= 1"),
    "exact tolerance": (lambda: infer(model(), "exact", tolerance=-1.0), r"tolerance is -1.*> 0"),
    "exact nan tolerance": (lambda: infer(model(), "exact", tolerance=NAN), r"tolerance is nan.*> 0"),
    "compare one": (lambda: compare(model(), "exact"), TypeError, r"backends is 'exact'.*list.*\['exact'"),
    "compare none": (lambda: compare(model(), []), r"backends is empty.*'exact'"),
    "compare unknown": (lambda: compare(model(), ["exact", "magic"]), r"'magic'.*known are"),
    "compare class": (lambda: compare(model(), [SumProduct]), TypeError, r"SumProduct is a class"),
    "time": (lambda: infer(model(), "exact").dynamics(3), IndexError, r"time index 3.*0 to 2"),
    "samples": (lambda: infer(model(), "exact").sample(0), r"num_samples is 0.*at least 1"),
}


@refuse(BACKENDS)
def test_backends(build, error, pattern):
    check(build, error, pattern)


# ---- programs ----------------------------------------------------------------------------------------------------


def coin(name, **options):
    return pyro.sample(name, dist.Categorical(torch.ones(2).double()), **options)


def program(*names, factor=True):
    """A program that draws these sites and nothing else."""

    def run():
        for name in names:
            coin(name)
        if factor:
            pyro.factor("O_1", torch.zeros(()).double())

    return run


def with_plate():
    with pyro.plate("samples", 5):
        coin("s_1")
        coin("a_1")
        pyro.factor("O_1", torch.zeros(5).double())


def with_continuous_latent():
    coin("s_1")
    coin("a_1")
    pyro.factor("O_1", -(pyro.sample("wind", dist.Normal(0.0, 1.0)) ** 2))


def with_continuous_state():
    pyro.sample("s_1", dist.Normal(0.0, 1.0))
    coin("a_1")
    pyro.factor("O_1", torch.zeros(()).double())


def with_growing_states():
    coin("s_1")
    coin("a_1")
    pyro.sample("s_2", dist.Categorical(torch.ones(3).double()))
    coin("a_2")
    pyro.factor("O_1", torch.zeros(()).double())


PROGRAMS = {
    "no a_1": (program("s_1", "x"), r"no site called a_1.*latents are: s_1, x.*s_1, a_1, O_1"),
    "no latent": (program(), r"no site called a_1.*none.*s_1, a_1, O_1"),
    "from 0": (program("s_0", "a_0"), r"'s_0' counts from 0.*number.*from 1"),
    "no s_1": (program("a_1"), r"a_1 but no site called s_1.*every step"),
    "no s_2": (program("s_1", "a_1", "a_2"), r"a_2 but no site called s_2.*every step"),
    "no a_2": (program("s_1", "a_1", "s_2", "s_3", "a_3"), r"a_3 but no site called a_2.*every step"),
    "too many states": (program("s_1", "a_1", "s_2", "s_3"), r"s_3 but no a_2.*one step past"),
    "no factor": (program("s_1", "a_1", factor=False), r"no observed or factor site.*pyro\.factor"),
    "plate": (with_plate, r"'s_1'.*pyro\.plate.*drop the plate"),
    "continuous latent": (with_continuous_latent, r"'wind' is continuous.*discrete, or use 'smc'"),
    "continuous state": (with_continuous_state, r"'s_1' is continuous.*discrete, or use 'smc'"),
    "growing states": (with_growing_states, r"number of states changes.*s_1: 2, s_2: 3.*the same"),
    "no function": (3, TypeError, r"TrajectoryModel or a Pyro program.*got int"),
    "an MDP": (mdp(), TypeError, r"MDP has no reward.*TrajectoryModel\(mdp"),
}


@pytest.mark.parametrize(
    ("backend", "solver"), [("enumeration", {}), ("variational", {}), ("optimistic", {"solver": "svi"})]
)
@refuse(PROGRAMS)
def test_programs(backend, solver, build, error, pattern):
    check(lambda: infer(build, backend, **solver), error, pattern)


@pytest.mark.parametrize("backend", ["enumeration", "variational", "optimistic"])
def test_program_with_arguments(backend):
    with pytest.raises((TypeError, ValueError), match=r"no arguments"):
        infer(lambda data: None, backend)


def test_exact_names_enumeration_for_a_program():
    with pytest.raises(ValueError, match=r"'exact'.*TrajectoryModel.*Pyro program.*'enumeration'"):
        infer(program("s_1", "a_1"), "exact")


@pytest.mark.parametrize("backend", ["variational", "optimistic"])
def test_closed_form_names_svi_for_a_program(backend):
    with pytest.raises(ValueError, match=rf"'{backend}'.*closed form.*TrajectoryModel.*solver='svi'"):
        infer(program("s_1", "a_1"), backend, solver="closed-form")


def test_refused_models_are_rows_in_a_table():
    row = compare(program("s_1", "a_1"), ["exact"]).rows[0]
    assert row.status is Status.UNSUPPORTED
    assert "'enumeration'" in row.detail
    assert row.log_evidence is row.elbo is row.posterior is None
