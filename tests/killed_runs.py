"""Runs that are killed while they work, each in a process of its own.

A process ends itself by SIGKILL, as `kill -9` would: in the middle of a step, or with half a checkpoint written.
"""

import json
import os
import signal
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import cai
from cai.inference import ObservationPolicy
from cai.inference.learning.networks.experience import collector
from cai.inference.programs import svi
from cai.inference.restricted import objective, reward_weighted, rollouts
from cai.models import bridge, lottery
from cai.models.common import storage


def killed_while_collecting(run, folder):
    """How many transitions are stored of a run that stores every 200 in a folder, killed after 500."""
    child = os.fork()
    if child == 0:
        step, count = collector.Collector.step, []

        def dies(self, *actions):
            count.append(1)
            if len(count) * self.number > 500:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, *actions)

        collector.Collector.step = dies
        run()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return json.loads((folder / "state.json").read_text())["steps"]


def program():
    """Two steps with a wind that is drawn before the action."""
    state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.6, 0.4]).double()))
    for t in (1, 2):
        wind = pyro.sample(f"wind_{t}", dist.Categorical(torch.tensor([0.7, 0.3]).double()))
        action = pyro.sample(f"a_{t}", dist.Categorical(torch.tensor([0.5, 0.5]).double()))
        pyro.factor(f"O_{t}", torch.where(state == action, 1.0, -0.5) + 0.3 * wind)
        move = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.1, 0.9]]]).double()
        state = pyro.sample(f"s_{t + 1}", dist.Categorical(move[action, (state + wind) % 2]))


def aliased():
    return ObservationPolicy([s % 3 for s in range(22)])


def module():
    torch.manual_seed(5)
    return nn.Linear(23, 4)


# name: (model, backend, options, what is called in every step, in which call the process dies)
RUNS = {
    "svi": (lambda: bridge(horizon=5), "variational", {"solver": "svi"}, (svi._Problem, "at"), 5),
    "svi of dynamics": (lottery, "optimistic", {"solver": "svi", "learning_rate": 0.5}, (svi._Problem, "at"), 6),
    "svi of a program": (lambda: program, "optimistic", {"learning_rate": 0.5}, (svi._Problem, "at"), 6),
    "enumerated": (lambda: bridge(horizon=4), "restricted", {}, (objective.TableBound, "measure"), 5),
    "restarts": (
        lambda: bridge(horizon=3),
        "restricted",
        {"policy": aliased(), "restarts": 2, "max_iterations": 8},
        (objective.TableBound, "measure"),
        14,
    ),
    "module": (
        lambda: bridge(horizon=3),
        "restricted",
        {"policy": module(), "max_iterations": 6},
        (objective.TableBound, "measure"),
        4,
    ),
    "sampled": (
        lambda: bridge(horizon=3),
        "restricted",
        {"gradient": "sampled", "max_iterations": 60, "num_samples": 20, "num_eval_samples": 100},
        (rollouts.TableSampler, "draw"),
        40,
    ),
    "sampled program": (
        lambda: program,
        "restricted",
        {"gradient": "sampled", "max_iterations": 8, "num_samples": 20, "num_eval_samples": 100},
        (rollouts.ProgramSampler, "draw"),
        5,
    ),
    "em": (
        lambda: bridge(horizon=4),
        "em",
        {"policy": aliased(), "max_iterations": 4},
        (reward_weighted, "_regress"),
        3,
    ),
    "half a checkpoint": (lambda: bridge(horizon=4), "restricted", {}, (storage, "write_atomically"), 5),
}


def run(name, folder):
    """Starts a run that ends in the middle."""
    model, backend, options, (owner, function), number = RUNS[name]
    inner, calls = getattr(owner, function), []

    def called(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            if function == "write_atomically":
                path, content = args
                path.with_name(f".{path.name}.tmp").write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)

    setattr(owner, function, called)
    cai.infer(model(), backend, seed=7, throw=False, folder=folder / name, checkpoint_every=2, **options)


def main(folder, threads):
    """Starts every run in a process of its own, and prints how they ended."""
    torch.set_num_threads(threads)
    ends = {}
    for name in RUNS:
        child = os.fork()
        if child == 0:
            try:
                run(name, Path(folder))
            finally:
                os._exit(0)
        ends[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(ends))
