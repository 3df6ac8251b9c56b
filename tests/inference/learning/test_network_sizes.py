"""Networks, particles and draws that no memory holds are refused in words before anything is allocated."""

import pytest

import cai
from cai.models import environment_model
from cai.models.common.memory import TooLarge

SIZES = [(10**13,), (10**7, 10**7), (64, 10**6, 10**8)]
NETWORKS = ["soft-actor-critic", "policy-gradient", "stein-soft-q-learning"]
ABSURD = [(name, {"hidden_sizes": sizes}, "hidden_sizes") for name in NETWORKS for sizes in SIZES]
ABSURD += [("stein-soft-q-learning", {key: 10**13}, key) for key in ("num_particles", "value_samples")]


@pytest.mark.parametrize(("backend", "options", "named"), ABSURD)
def test_sizes_that_no_memory_holds_are_refused(backend, options, named):
    world = environment_model("Pendulum-v1", discount=0.98, temperature=1.0)
    with pytest.raises(TooLarge, match=rf"backend '{backend}' needs .* are there; .*{named}"):
        cai.infer(world, backend, **options)


@pytest.mark.parametrize("backend", ["soft-q-learning", "path-consistency"])
@pytest.mark.parametrize("sizes", SIZES)
def test_networks_for_numbered_actions_too(backend, sizes):
    world = environment_model("CartPole-v1", discount=0.98, temperature=1.0)
    with pytest.raises(TooLarge, match=rf"backend '{backend}' needs .* are there; .*hidden_sizes"):
        cai.infer(world, backend, hidden_sizes=sizes)


@pytest.mark.parametrize("backend", NETWORKS)
def test_what_is_small_fits(backend):
    world = environment_model("Pendulum-v1", discount=0.98, temperature=1.0)
    assert cai.inference.available_backends()[backend]().memory(world).bytes < 10**9
