"""Replicates are fits to demonstrations that are repeated as often as drawn; the same bits and bytes from any map."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from inverse_worlds import one_choice
from networks import draw_trips, town
from tasks_maps import disordered, pickled

import cai
from cai.inverse import L2, Demonstrations, FitError, bootstrap, fit
from cai.models import double_integrator
from cai.models.continuous.quadratic import QuadraticReward

TOWN = ["minutes", "left", "u_turn"]
NEAR = {"rtol": 1e-6, "atol": 1e-6}  # searches end within 1e-12 nats of the maximum: 1e-6 standard errors


@pytest.fixture(scope="module")
def trips():
    found = draw_trips(town(), TOWN, [-1.5, -0.5, -2.0], 60, seed=1)
    return found.assign(person=found["trip"].map(lambda trip: f"p{int(trip) % 9}"))


def drawn(seed, number, count):
    return np.random.default_rng([seed, number]).integers(count, size=count)


def test_a_replicate_on_a_network_is_the_fit_to_trips_repeated_by_person(trips):
    boot = bootstrap(town(), trips, 2, features=TOWN, seed=5)
    assert boot.by == "person"
    people = list(trips["person"].drop_duplicates())
    for number in range(2):
        parts = [
            trips[trips["person"] == people[one]].assign(trip=lambda frame, k=k: frame["trip"].astype(str) + f"/{k}")
            for k, one in enumerate(drawn(5, number, len(people)))
        ]
        again = fit(town(), pd.concat(parts), features=TOWN)
        np.testing.assert_allclose(boot.coefficients.iloc[number], again.coefficients, **NEAR)
    np.testing.assert_array_equal(boot.estimate.coefficients, fit(town(), trips, features=TOWN).coefficients)


def test_a_replicate_of_a_model_is_the_fit_to_rows_repeated():
    model, shown = one_choice([3, 5, 8, 0, 2], persons="abcab")
    for by, groups in (("demonstration", range(5)), ("person", [0, 1, 2, 0, 1])):
        boot = bootstrap(model, shown, 4, by=by, seed=2)
        for number in range(4):
            picks = drawn(2, number, len(set(groups)))
            rows = [n for pick in picks for n, group in enumerate(groups) if group == pick]
            again = fit(model, shown.select(rows), throw=False)
            np.testing.assert_allclose(boot.coefficients.iloc[number], again.coefficients, **NEAR, equal_nan=True)
            assert boot.statuses[number] is again.status


def test_weights_multiply_and_what_weighs_nothing_is_never_drawn():
    model, shown = one_choice([3, 5, 8, 6], weights=[1.0, 2.0, 0.0, 0.5])
    kept = shown.select([0, 1, 3])
    full, part = (bootstrap(model, one, 5, seed=3) for one in (shown, kept))
    np.testing.assert_array_equal(full.coefficients, part.coefficients)


@pytest.mark.campaign
def test_errors_are_those_of_the_binomial():
    """One choice among two: the coefficient is the logit of the share, and its variance 1 / (n p (1 - p))."""
    model, shown = one_choice([6] * 70 + [0] * 30, length=1)
    boot = bootstrap(model, shown, 150, seed=0)
    error = 1 / math.sqrt(100 * 0.7 * 0.3)
    # of 150 replicates a standard deviation is off by 1 / sqrt(2 * 149), 6 %; four of those
    assert boot.standard_errors.iloc[0] == pytest.approx(error, rel=0.24)
    lower, upper = boot.intervals(0.9).iloc[0]
    values = np.sort(boot.coefficients.to_numpy()[:, 0])
    assert (lower, upper) == (pytest.approx(np.quantile(values, 0.05)), pytest.approx(np.quantile(values, 0.95)))
    assert boot.covariance.iloc[0, 0] == pytest.approx(values.var(ddof=1))
    assert list(boot.to_frame().columns) == ["coefficient", "standard_error", "bootstrap_error", "lower", "upper"]


def test_replicates_without_an_estimate_are_counted_and_left_out():
    model, shown = one_choice([0, 0, 0, 1], length=1)
    boot = bootstrap(model, shown, 12, seed=0)
    bad = [not status.ok for status in boot.statuses]
    assert 0 < sum(bad) < 12
    assert boot.coefficients[bad].isna().all().all()
    assert len(boot.answered) == 12 - sum(bad)
    assert f"{sum(bad)} separated" in repr(boot)


@pytest.mark.parametrize("map", [pytest.param(disordered, marks=pytest.mark.campaign), pickled])
def test_the_same_bits_and_bytes_from_any_map_also_after_a_kill(map, tmp_path, trips):
    asked = {"features": TOWN, "penalty": L2(3.0), "seed": 1}
    plain = bootstrap(town(), trips, 4, **asked)
    whole = bootstrap(town(), trips, 4, **asked, map=map, folder=tmp_path / "whole")

    def dies(function, items):
        for item in items[:2]:
            yield function(item)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bootstrap(town(), trips, 4, **asked, map=dies, folder=tmp_path / "cut")
    rest = bootstrap(town(), trips, 4, **asked, map=map, folder=tmp_path / "cut")
    for found in (whole, rest):
        assert found.coefficients.to_numpy().tobytes() == plain.coefficients.to_numpy().tobytes()
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "cut")]
    assert files[0] == files[1]
    assert len(files[0]) == 5
    for change, pattern in (
        ({"seed": 2}, "differs in the seed: 1 before, 2 now"),
        ({"features": TOWN[:2]}, "differs in the options of the fit; give"),
        ({"by": "demonstration"}, "differs in the unit that is drawn: person before, demonstration now"),
    ):
        with pytest.raises(ValueError, match=pattern):
            bootstrap(town(), trips, 4, **asked | change, folder=tmp_path / "cut")
    with pytest.raises(ValueError, match="differs in the content of the demonstrations; give"):
        bootstrap(town(), trips[trips["person"] != "p0"], 5, **asked, folder=tmp_path / "cut")


def test_a_continuous_model_is_drawn_again_too():
    model = double_integrator(horizon=4)
    states, actions = cai.infer(model, "variational").sample(30, seed=0)
    features = {"push": QuadraticReward(R=torch.eye(1, dtype=torch.float64))}
    boot = bootstrap(model, (states, actions), 3, features=features, seed=4)
    assert boot.by == "demonstration"
    rows = drawn(4, 1, 30)
    again = fit(model, (states[rows], actions[rows]), features=features)
    np.testing.assert_allclose(boot.coefficients.iloc[1], again.coefficients, **NEAR)


@pytest.mark.parametrize(
    ("change", "error", "pattern"),
    [
        ({"by": "trip"}, ValueError, "by is 'trip'; expected 'person' or 'demonstration'"),
        ({"by": "person"}, ValueError, "by='person' needs to know who made each demonstration"),
        ({"replicates": 1}, ValueError, "replicates is 1"),
        ({"throw": False}, ValueError, "throw is no option of replicates"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"map": None}, TypeError, "map is a NoneType"),
        ({"demonstrations": [1, 2, 3]}, TypeError, "the demonstrations are a list; give what cai.inverse.fit takes"),
        ({"demonstrations": one_choice([1])[1]}, ValueError, "there is one demonstration alone"),
        (
            {"demonstrations": one_choice([1, 2], persons="aa")[1]},
            ValueError,
            "there is one person alone.*give by='demonstration'",
        ),
        ({"demonstrations": one_choice([0, 0])[1]}, FitError, "separated"),
    ],
)
def test_bad_questions_say_what_to_do(change, error, pattern):
    model, shown = one_choice([3, 5])
    with pytest.raises(error, match=pattern):
        bootstrap(**{"problem": model, "demonstrations": shown, "replicates": 2} | change)


def test_levels_are_checked():
    model, shown = one_choice([3, 5])
    with pytest.raises(ValueError, match=r"level is 95; expected a probability in \(0, 1\)"):
        bootstrap(model, shown, 2).intervals(95)
    assert isinstance(shown, Demonstrations)
