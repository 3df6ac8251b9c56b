"""Comparison: rows, tables and JSON, and failing rows that take no other with them."""

import json
import math
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.distributions import Categorical

from cai import MDP, Status, Target, TrajectoryModel, compare, infer
from cai.inference import StructuredVariational, SumProduct
from cai.models import bridge, gymnasium_model, lottery

DEFAULTS = ["exact", "variational", "optimistic"]
KEYS = ["model", "horizon", "temperature", "discount", "rows"]
ROW_KEYS = [
    "backend", "target", "status", "log_evidence", "elbo", "believed_return", "real_return", "optimism_gap", "luck",
    "policy_entropy", "effective_sample_size", "log_evidence_error", "seconds",
]  # fmt: skip


def refuse(constant):
    raise AssertionError(f"JSON knows no {constant}")


def loaded(comparison, **options):
    return json.loads(comparison.to_json(**options), parse_constant=refuse)


def impossible():
    """Every action is forbidden."""
    return TrajectoryModel(MDP([[[1.0]]], [1.0]), [[-math.inf]], horizon=2)


@dataclass(frozen=True)
class Plugin:
    """A backend written elsewhere; what `run` does is given."""

    answer: object
    name: ClassVar[str] = "plugin"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "anything"
    cost: ClassVar[str] = "none"

    def supports(self, model):
        pass

    def run(self, model, *, seed=0):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(model) if callable(self.answer) else self.answer


class Refusing(Plugin):
    def supports(self, model):
        raise KeyError("broken")


# ---- rows --------------------------------------------------------------------------------------------------------


def test_default_rows():
    table = compare(lottery())
    assert [row.backend for row in table.rows] == DEFAULTS
    assert [row.target for row in table.rows] == ["exact", "fixed-dynamics", "exact"]
    assert all(row.status is Status.SUCCESS and row.detail == "" for row in table.rows)


def test_rows_follow_the_order_asked_for_and_may_repeat():
    backends = ["optimistic", "exact", "optimistic"]
    assert [row.backend for row in compare(lottery(), backends).rows] == backends


def test_rows_hold_the_posterior_s_numbers():
    model = bridge()
    for row in compare(model).rows:
        posterior = infer(model, row.backend)
        for name in ("log_evidence", "elbo", "believed_return", "luck", "policy_entropy"):
            expected = getattr(posterior, name)
            assert getattr(row, name) == (None if expected is None else float(expected)), name
        assert row.seconds > 0
        assert row.optimism_gap == pytest.approx(row.believed_return - row.real_return, abs=1e-12)
        assert row.real_return == row.outcome.expected_return


def test_lottery_by_hand():
    exact, variational, _ = compare(lottery()).rows
    assert exact.log_evidence == pytest.approx(math.log((math.exp(-1) + (1 + math.exp(-10)) / 2) / 2), abs=1e-12)
    gamble = (1 + math.exp(-10)) / (1 + math.exp(-10) + 2 * math.exp(-1))
    assert exact.real_return == pytest.approx(-5 * gamble - (1 - gamble), abs=1e-12)
    assert variational.elbo == pytest.approx(math.log((math.exp(-1) + math.exp(-5)) / 2), abs=1e-12)
    assert exact.optimism_gap > 2


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lottery, id="lottery"),
        pytest.param(bridge, id="bridge"),
        pytest.param(lambda: bridge(discount=0.9, temperature=3.0), id="discounted"),
        pytest.param(lambda: bridge(horizon=math.inf, discount=0.95), id="endless"),
        pytest.param(lambda: gymnasium_model("CliffWalking-v1", is_slippery=True, horizon=15), id="cliff"),
    ],
)
def test_optimism_gap_of_fixed_dynamics_is_zero(model):
    (row,) = compare(model(), ["variational"], num_rollouts=2).rows
    assert row.optimism_gap == pytest.approx(0.0, abs=1e-9)
    assert row.luck == 0.0


@pytest.mark.parametrize("whole", [lottery, bridge])
def test_the_gap_of_tiny_rewards_is_that_of_large_ones_in_other_units(whole):
    model, unit = whole(), 2.0**-50
    tiny = TrajectoryModel(model.mdp, model.reward * unit, model.horizon, model.temperature * unit)
    expected, found = (compare(each, ["exact"], num_rollouts=2).rows[0].optimism_gap for each in (model, tiny))
    assert expected > 0.1
    assert found == pytest.approx(expected * unit, rel=1e-9, abs=0)


def test_instances_take_part():
    assert [r.backend for r in compare(lottery(), [SumProduct(), StructuredVariational(solver="svi")]).rows] == [
        "exact",
        "variational(solver=svi)",
    ]


def test_seeds_reproduce_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    first, second, other = (compare(bridge(), ["exact"], seed=seed, num_rollouts=50) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.rows[0].outcome.returns, second.rows[0].outcome.returns)
    assert not torch.equal(first.rows[0].outcome.returns, other.rows[0].outcome.returns)


# ---- tables and JSON ---------------------------------------------------------------------------------------------


def test_frame_columns():
    frame = compare(bridge()).to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert frame.index.name == "backend"
    assert list(frame.index) == DEFAULTS
    regions = ("bridge", "chasm", "goal")
    expected = [
        *ROW_KEYS[1:],
        "std",
        "cvar",
        "absorbed",
        *(f"visits_{r}" for r in regions),
        *(f"ends_in_{r}" for r in regions),
    ]
    assert list(frame.columns) == expected


def test_frame_holds_the_rows_numbers():
    table = compare(bridge())
    frame = table.to_frame()
    for row in table.rows:
        assert frame.loc[row.backend, "real_return"] == row.real_return
        assert frame.loc[row.backend, "cvar"] == row.outcome.cvar
        assert frame.loc[row.backend, "ends_in_chasm"] == row.outcome.ends_in["chasm"]
    assert pd.isna(frame.loc["variational", "log_evidence"])


def test_frame_without_any_answer():
    frame = compare(impossible(), [Plugin(RuntimeError("no"))]).to_frame()
    assert list(frame.columns) == ROW_KEYS[1:]
    assert frame.iloc[0]["status"] == "failed"


@pytest.mark.parametrize("indent", [None, 2])
def test_json_schema(indent):
    table = loaded(compare(bridge(temperature=2.0, discount=0.9)), indent=indent)
    assert list(table) == KEYS
    assert (table["model"], table["horizon"], table["temperature"], table["discount"]) == ("bridge", 20, 2.0, 0.9)
    assert [row["backend"] for row in table["rows"]] == DEFAULTS
    for row in table["rows"]:
        assert list(row) == [*ROW_KEYS, "detail"]
        assert row["status"] == "success"
        unknown = ["log_evidence"] if row["backend"] == "variational" else []
        unknown += ["effective_sample_size", "log_evidence_error"]
        assert [key for key, value in row.items() if value is None] == unknown
        assert all(isinstance(row[key], float) for key in ROW_KEYS[3:] if key not in unknown)


def test_json_numbers_are_the_rows():
    comparison = compare(lottery())
    for row, line in zip(comparison.rows, loaded(comparison)["rows"], strict=True):
        for key in ROW_KEYS[3:-1]:
            assert line[key] == getattr(row, key)


def test_json_of_an_infinite_horizon():
    table = loaded(compare(bridge(horizon=math.inf, discount=0.9), num_rollouts=10))
    assert table["horizon"] is None
    assert [row["status"] for row in table["rows"]] == ["success"] * 3


def test_json_of_numbers_that_are_not_finite():
    comparison = compare(lottery(lose_reward=-math.inf), ["exact"])
    (row,) = comparison.rows
    assert (row.real_return, row.optimism_gap) == (-math.inf, math.inf)
    line = loaded(comparison)["rows"][0]
    assert list(line) == [*ROW_KEYS, "detail"]
    assert (line["real_return"], line["optimism_gap"]) == (None, None)
    assert line["log_evidence"] == pytest.approx(math.log((math.exp(-1) + 0.5) / 2), abs=1e-12)


# ---- rows that fail ----------------------------------------------------------------------------------------------


def test_impossible_rows():
    comparison = compare(impossible(), [*DEFAULTS, "enumeration"])
    for row, line in zip(comparison.rows, loaded(comparison)["rows"], strict=True):
        assert row.status is Status.IMPOSSIBLE, row.backend
        assert row.real_return is None
        assert line["status"] == "impossible"
        assert list(line) == [*ROW_KEYS, "detail"]
        numbers = [getattr(row, key) for key in ROW_KEYS[3:]]
        assert not any(number is not None and math.isnan(number) for number in numbers)


def test_unavoidable_row():
    mdp = MDP.from_successors([[[1, 2]], [[1]], [[2]]], [[[0.5, 0.5]], [[1.0]], [[1.0]]], [1, 0, 0], terminal=[1, 2])
    model = TrajectoryModel(mdp, lambda s, a, n, t: torch.where((n == 2) & (s == 0), -math.inf, 0.0), horizon=1)
    exact, variational = compare(model, ["exact", "variational"]).rows
    assert (exact.status, variational.status) == (Status.SUCCESS, Status.UNAVOIDABLE)
    assert exact.log_evidence == pytest.approx(math.log(0.5), abs=1e-12)
    assert exact.real_return == -math.inf
    assert variational.elbo == -math.inf


def test_unsupported_row_says_why():
    exact, enumeration = compare(bridge(horizon=math.inf), ["exact", "enumeration"]).rows
    assert exact.status is Status.SUCCESS
    assert enumeration.status is Status.UNSUPPORTED
    assert "finite horizon" in enumeration.detail
    assert enumeration.posterior is None


def test_diverged_row():
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0], terminal=[1])  # each step pays 2, and e^2 / 2 > 1
    comparison = compare(TrajectoryModel(mdp, [2.0, 0.0], horizon=math.inf), ["exact", "variational"], num_rollouts=10)
    assert [row.status for row in comparison.rows] == [Status.DIVERGED, Status.SUCCESS]
    assert loaded(comparison)["rows"][0]["status"] == "diverged"


def _label(error):
    """A refusal is not a failure."""
    return "unsupported" if isinstance(error, ValueError) else "failed"


@pytest.mark.parametrize(
    "error", [ValueError("bad"), RuntimeError("bad"), KeyError("bad"), ZeroDivisionError("bad"), TypeError("bad")]
)
def test_plugin_that_raises_is_one_failed_row(error):
    comparison = compare(lottery(), ["exact", Plugin(error), "variational"])
    assert [row.status.label for row in comparison.rows] == ["success", _label(error), "success"]
    failed = comparison.rows[1]
    assert "bad" in failed.detail
    assert (failed.target, failed.posterior, failed.outcome, failed.elbo) == ("other", None, None, None)
    assert [line["status"] for line in loaded(comparison)["rows"]] == ["success", _label(error), "success"]


def test_plugin_whose_supports_raises_is_one_failed_row():
    refused, fine = compare(lottery(), [Refusing(None), "exact"]).rows
    assert (refused.status, fine.status) == (Status.FAILED, Status.SUCCESS)


@pytest.mark.parametrize("answer", [None, "nonsense", 3.0, {}])
def test_plugin_that_returns_no_posterior_is_one_failed_row(answer):
    failed, fine = compare(lottery(), [Plugin(answer), "exact"]).rows
    assert fine.status is Status.SUCCESS
    assert failed.status is Status.FAILED
    assert failed.detail
    assert failed.real_return is None


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(torch.full((1, 4, 2), math.nan), id="NaN"),
        pytest.param(torch.full((1, 3, 2), 0.5), id="shape"),
        pytest.param(None, id="None"),
    ],
)
def test_plugin_whose_policy_cannot_be_used_is_one_row_with_a_reason(table):
    answer = Plugin(lambda model: infer(model).replace(action_probs=table))
    failed, fine = compare(lottery(), [answer, "exact"]).rows
    assert fine.status is Status.SUCCESS
    assert failed.real_return is None
    assert failed.detail


def test_comparison_of_failures_can_be_drawn():
    figure = compare(impossible(), ["exact", Plugin(RuntimeError("no"))]).plot()
    assert len(figure.axes) >= 2


@pytest.mark.parametrize(
    ("backends", "error"),
    [("exact", TypeError), (3, TypeError), ([], ValueError), (["nope"], ValueError), ([SumProduct], TypeError),
     ([object()], TypeError)],
)  # fmt: skip
def test_bad_lists_of_backends_are_refused(backends, error):
    with pytest.raises(error):
        compare(lottery(), backends)


# ---- programs ----------------------------------------------------------------------------------------------------

REWARDS = torch.tensor([[0.0, -1.0], [-2.0, 0.5]], dtype=torch.float64)
MOVES = torch.tensor([[[0.9, 0.1], [0.4, 0.6]], [[0.5, 0.5], [0.2, 0.8]]], dtype=torch.float64)
HALVES = torch.tensor([0.5, 0.5], dtype=torch.float64)


def handwritten():
    state = pyro.sample("s_1", Categorical(HALVES))
    for t in pyro.markov(range(1, 4)):
        action = pyro.sample(f"a_{t}", Categorical(HALVES))
        pyro.factor(f"O_{t}", REWARDS[state, action])
        state = pyro.sample(f"s_{t + 1}", Categorical(MOVES[state, action]))


def by_hand():
    """Log evidence, and the best bound with the dynamics fixed, by plain recursion over three steps."""
    hope, bound = [0.0, 0.0], [0.0, 0.0]
    for _ in range(3):
        ahead = [[sum(float(MOVES[s, a, n]) * math.exp(hope[n]) for n in (0, 1)) for a in (0, 1)] for s in (0, 1)]
        hope = [math.log(sum(0.5 * math.exp(float(REWARDS[s, a])) * ahead[s][a] for a in (0, 1))) for s in (0, 1)]
        mean = [[sum(float(MOVES[s, a, n]) * bound[n] for n in (0, 1)) for a in (0, 1)] for s in (0, 1)]
        bound = [math.log(sum(0.5 * math.exp(float(REWARDS[s, a]) + mean[s][a]) for a in (0, 1))) for s in (0, 1)]
    return math.log((math.exp(hope[0]) + math.exp(hope[1])) / 2), (bound[0] + bound[1]) / 2


def test_handwritten_program():
    comparison = compare(handwritten, ["enumeration", "variational"])
    enumeration, variational = comparison.rows
    evidence, bound = by_hand()
    assert (enumeration.status, variational.status) == (Status.SUCCESS, Status.SUCCESS)
    assert enumeration.log_evidence == pytest.approx(evidence, abs=1e-9)
    assert variational.elbo == pytest.approx(bound, abs=1e-9)
    assert variational.elbo < enumeration.log_evidence


def test_handwritten_program_in_json():
    table = loaded(compare(handwritten, ["enumeration", "variational"]))
    assert list(table) == KEYS
    assert [table[key] for key in KEYS[:4]] == ["handwritten", 3, 1.0, 1.0]
    for row in table["rows"]:
        assert list(row) == [*ROW_KEYS, "detail"]
        assert (row["real_return"], row["optimism_gap"]) == (None, None)
        assert row["believed_return"] is not None


def test_handwritten_program_refused_by_one_backend():
    exact, variational = compare(handwritten, ["exact", "variational"]).rows
    assert (exact.status, variational.status) == (Status.UNSUPPORTED, Status.SUCCESS)
    assert "enumeration" in exact.detail


def test_handwritten_program_can_be_drawn():
    figure = compare(handwritten, ["enumeration", "variational"]).plot()
    assert figure.axes[0].get_xlabel()


def test_what_is_no_question_is_refused_before_anything_runs():
    with pytest.raises(TypeError, match=r"TrajectoryModel or a Pyro program.*int"):
        compare(3, ["exact", "variational"])
    with pytest.raises(TypeError, match="MDP has no reward"):
        compare(bridge().mdp)


def test_policies_that_are_all_but_the_prior_are_noted():
    lake = gymnasium_model("FrozenLake-v1", horizon=100, temperature=1.0)
    rows = compare(lake, ["exact", "variational"], num_rollouts=10).rows
    for row in rows:
        assert re.search(r"all but the action prior \(KL 0\.00.* nats.*at temperature 1 .*temperature=0\.0", row.detail)
    colder = float(rows[1].detail.rpartition("=")[2])
    shown = infer(lake.replace(temperature=colder), "variational")
    assert float(shown.believed_return) > 0.4  # .0155 at temperature 1
    assert not compare(lake.replace(temperature=colder), ["variational"], num_rollouts=10)["variational"].detail
    alone = TrajectoryModel(MDP([[[1.0]]], [1.0]), [1.0], horizon=2)  # there is no choice to make
    assert not compare(alone, ["exact"], num_rollouts=10)["exact"].detail


def test_a_note_about_the_temperature_names_one_that_shows_something():
    """Sums of e^(r / temperature) that have no limit in the cold, rewards of 1e-9, and priors that are best already."""
    rng, notes = np.random.default_rng(0), 0
    for seed in range(40):
        following, chances = rng.integers(0, 4, (4, 2, 2)), rng.dirichlet(np.ones(2), (4, 2))
        following[3] = 3
        mdp = MDP.from_successors(following, chances, np.ones(4) / 4, terminal=[3])
        rewards = rng.normal(size=(4, 2)) * rng.choice([1.0, 1e-9]) * (np.arange(4) < 3)[:, None]
        given = {"temperature": float(rng.choice([30.0, 1e4])), "horizon": [3, math.inf][seed % 2], "discount": 0.9}
        model = TrajectoryModel(mdp, rewards, action_prior=rng.dirichlet([0.1, 0.1], 4), **given)
        for row in compare(model, ["exact", "variational"], num_rollouts=2).rows:
            if "all but the action prior" not in row.detail:
                continue
            notes += 1
            colder = model.replace(temperature=float(row.detail.rpartition("=")[2]))
            assert float(infer(colder, row.backend).policy_divergence) > 0.04, (seed, row.backend)
            assert not compare(colder, [row.backend], num_rollouts=2)[row.backend].detail
    assert notes > 40
    best = np.array([[0.9999, 0.0001]])
    settled = TrajectoryModel(MDP([[[1.0], [1.0]]], [1.0]), [[1.0, 0.0]], horizon=1, action_prior=best)
    assert not compare(settled, ["exact"], num_rollouts=2)["exact"].detail  # no temperature moves it by 1e-4 nats
