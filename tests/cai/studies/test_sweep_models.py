"""Sweeps over options of models and over seeds: the order of rows, their numbers, their means and errors."""

import copy
import dataclasses
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from tasks_bits import bits

import cai
from cai.models import bridge, build_model, double_integrator, lottery
from cai.studies.rows import mean_of

SEEDS = [7, 0, 3]


def test_rows_are_value_major_then_seed_and_each_is_its_own_question():
    found = cai.sweep(
        "bridge", "exact", model_options={"slip": [0.3, 0.0], "horizon": 12}, seeds=SEEDS, num_rollouts=40
    )
    frame = found.to_frame()
    assert list(frame.index) == list(itertools.product([0.3, 0.0], SEEDS))
    assert frame.index.names == ["slip", "seed"]
    for (slip, seed), row in zip(frame.index, found.comparison.rows, strict=True):
        model = build_model("bridge", slip=slip, horizon=12)
        alone = cai.compare(model, ["exact"], seed=seed, num_rollouts=40)
        assert bits([row]) == bits(alone.rows)
        assert row.posterior.model.horizon == 12
    assert (found.of, found.option, found.seeds, found.values) == ("model", "slip", tuple(SEEDS), (0.3, 0.0))
    assert found.comparison.model.mdp.probabilities.equal(build_model("bridge", slip=0.3).mdp.probabilities)


@pytest.mark.parametrize("model", [bridge(slip=0.2), double_integrator()], ids=["table", "continuous"])
def test_arguments_of_a_model_move_too(model):
    found = cai.sweep(model, "exact", model_options={"temperature": torch.tensor([0.5, 2.0])}, num_rollouts=10)
    for value, row in zip([0.5, 2.0], found.comparison.rows, strict=True):
        assert float(row.log_evidence) == float(cai.infer(model.replace(temperature=value)).log_evidence)
    assert list(found.to_frame().index) == [0.5, 2.0]
    assert found.seeds is None


def test_a_backend_option_moves_on_a_model_by_name_whose_options_stay():
    found = cai.sweep("bridge", "risk", eta=[-1.0, 1.0], model_options={"slip": 0.4, "horizon": 9}, num_rollouts=10)
    alone = cai.sweep(build_model("bridge", slip=0.4, horizon=9), "risk", eta=[-1.0, 1.0], num_rollouts=10)
    assert bits(found.comparison.rows) == bits(alone.comparison.rows)
    assert found.of == "backend"


def test_seeds_alone_move_where_nothing_else_does():
    found = cai.sweep(lottery(), "smc", num_particles=30, seeds=range(4))
    assert (found.of, found.option, found.values, found.seeds) == ("seed", "seed", (0, 1, 2, 3), None)
    for seed, row in enumerate(found.comparison.rows):
        assert row.log_evidence == float(cai.infer(lottery(), "smc", num_particles=30, seed=seed).log_evidence)
    assert len({row.log_evidence for row in found.comparison.rows}) > 1
    assert list(found.to_frame().index) == [0, 1, 2, 3]
    assert found.plot().axes


def test_means_over_seeds_and_their_errors_are_those_of_pandas():
    found = cai.sweep(lottery(), "smc", num_particles=[20, 80], seeds=range(5), num_rollouts=30)
    table = found.over_seeds()
    columns = ["log_evidence", "believed_return", "real_return", "luck"]
    groups = found.to_frame()[columns].astype(float).groupby(level="num_particles", sort=False)
    assert np.allclose(table[columns].astype(float), groups.mean(), rtol=1e-13)
    assert np.allclose(table[[f"{name}_error" for name in columns]].astype(float), groups.sem(), rtol=1e-12)
    assert list(table["seeds"]) == list(table["answered"]) == [5, 5]
    assert list(table.index) == [20, 80]


def test_seeds_without_an_answer_are_counted_and_left_out():
    found = cai.sweep(lottery(), "variational", solver="svi", max_iterations=[1, 200], seeds=[0, 1])
    assert list(found.over_seeds()["answered"]) == [0, 2]
    row = dataclasses.replace(found.comparison.rows[0], real_return=1.5, real_return_error=0.25)
    assert mean_of([row], "real_return") == (1.5, 0.25)  # its own, of one seed
    unknown = dataclasses.replace(row, real_return=None, real_return_error=None)
    assert mean_of([row, unknown], "real_return") == (1.5, 0.25)
    assert mean_of([unknown], "real_return") == (None, None)
    impossible = dataclasses.replace(row, real_return=-math.inf)
    assert mean_of([row, impossible], "real_return") == (-math.inf, None)


def test_the_picture_has_means_and_bars_of_one_standard_error():
    found = cai.sweep(lottery(), "smc", num_particles=[80, 20], seeds=range(4), num_rollouts=30)
    table = found.over_seeds().sort_index()
    left = found.plot().axes[0]
    assert np.allclose(left.get_lines()[0].get_ydata(), table["believed_return"].astype(float))
    bars = left.containers[0].lines[2][0].get_segments()
    half = [float(end[1, 1] - end[0, 1]) / 2 for end in bars]
    assert np.allclose(half, table["believed_return_error"].astype(float), rtol=1e-9)
    assert not cai.sweep(lottery(), "exact", accelerate=[True, False]).comparison.plot().axes[0].containers[0].errorbar


def test_a_sweep_over_models_is_saved_and_told(tmp_path):
    found = cai.sweep("lottery", "exact", model_options={"temperature": [0.5, 1.0]}, seeds=[1, 2], num_rollouts=10)
    loaded = cai.load(found.save(tmp_path / "sweep"))
    assert bits(loaded.comparison.rows) == bits(found.comparison.rows)
    assert (loaded.of, loaded.seeds, loaded.values) == (found.of, found.seeds, found.values)
    assert loaded.to_frame().equals(found.to_frame())
    told = found.to_dict()
    assert [(row["value"], row["seed"]) for row in told["rows"]] == [(0.5, 1), (0.5, 2), (1.0, 1), (1.0, 2)]
    assert (told["model"], told["option"], told["of"], told["seeds"]) == ("lottery", "temperature", "model", [1, 2])
    assert told["rows"][3]["log_evidence"] == found.comparison.rows[3].log_evidence
    assert "2 values of temperature and 2 seeds" in repr(found)
    steps = cai.sweep("bridge", "exact", model_options={"horizon": [5, math.inf], "discount": 0.9}, num_rollouts=5)
    assert [row["value"] for row in steps.to_dict()["rows"]] == [5, "inf"]


def test_a_drawn_seed_stands_in_the_details():
    found = cai.sweep(lottery(), "smc", num_particles=[20, 30], seed=None)
    seeds = {row.posterior.details["seed"] for row in found.comparison.rows}
    assert len(seeds) == 1
    again = cai.sweep(lottery(), "smc", num_particles=[20, 30], seed=seeds.pop())
    assert bits(again.comparison.rows) == bits(found.comparison.rows)


@pytest.mark.parametrize(
    ("change", "error", "pattern"),
    [
        ({"eta": [1.0], "model_options": {"slip": [0.1]}}, ValueError, "exactly one option.*got eta, slip"),
        ({"model_options": {"slip": 0.1}}, ValueError, "exactly one option.*got none"),
        ({"model_options": {"slip": []}}, ValueError, "slip is an empty list"),
        ({"model_options": {"slap": [0.1]}}, ValueError, "'bridge' does not take slap.*slip"),
        ({"model_options": {"slip": [0.1, 7.0]}}, ValueError, "slip is 7"),
        (
            {"model": bridge(), "model_options": {"slip": [0.1]}},
            ValueError,
            r"no argument 'slip'.*cai\.sweep\('bridge'",
        ),
        ({"model": "brige", "eta": [1.0]}, ValueError, "no model is called 'brige'.*bridge"),
        ({"eta": [1.0], "seeds": 5}, TypeError, r"seeds is 5; give several, as seeds=range\(5\)"),
        ({"eta": [1.0], "seeds": []}, ValueError, "seeds is empty"),
        ({"eta": [1.0], "seeds": [1, 2, 1]}, ValueError, "seeds holds 1 twice"),
        ({"eta": [1.0], "seeds": [-1]}, ValueError, "seed is -1"),
        ({"eta": [1.0], "seeds": [1], "seed": 2}, ValueError, "seed=2 and seeds are given"),
        ({"eta": [1.0], "map": 3}, TypeError, "map is a int"),
    ],
)
def test_bad_sweeps_say_what_to_do(change, error, pattern):
    with pytest.raises(error, match=pattern):
        cai.sweep(**{"model": "bridge", "backend": "risk"} | change)


def test_values_that_are_objects_are_known_again_elsewhere():
    """The words of a study must not hold where an object lies in memory."""
    layer = torch.nn.Linear(2, 3)
    told = sys.modules["cai.studies.sweep"]._told
    assert told(layer) == told(copy.deepcopy(layer)) != told(torch.nn.Linear(2, 3))
    assert (told(0.5), told("auto"), told(None)) == ("0.5", "'auto'", "None")
