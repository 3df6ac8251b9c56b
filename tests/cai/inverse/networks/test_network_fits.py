"""Fits on networks that must fail, each with its status and its sentence, and what an estimate says besides."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from networks import dag, dense_sums, draw_trips, town

import cai
from cai.inverse import L2, FitError, FitStatus, RouteNetwork, fit
from cai.inverse.networks.objective import NetworkObjective

TOWN = ["minutes", "left", "u_turn"]
TRUTH = [-1.5, -0.5, -2.0]


@pytest.fixture(scope="module")
def trips():
    return draw_trips(town(), TOWN, TRUTH, 80, seed=1)


def test_a_start_where_sums_are_infinite_is_refused_with_the_cycle(trips):
    """rho and the cycle against dense eigenvalues and all cycles of two links (turns back cost least here)."""
    network = town()
    with pytest.raises(ValueError, match="rho") as caught:
        fit(network, trips, features=TOWN, start={"minutes": -0.1, "left": 0.0, "u_turn": 0.5})
    text = str(caught.value)
    matrix = np.zeros((network.num_links,) * 2)
    minutes = network.links["minutes"].to_numpy()
    v = -0.1 * minutes[network.heads] + 0.5 * network.turns["u_turn"].to_numpy()
    matrix[network.tails, network.heads] = np.exp(v)
    assert f"rho(M) is about {np.abs(np.linalg.eigvals(matrix)).max():.4g}" in text
    assert "start more negative, or add a cost every turn pays" in text
    back = network.turns["u_turn"].to_numpy() > 0
    mean = np.where(back, -0.05 * (minutes[network.heads] + minutes[network.tails]) + 0.5, -np.inf)
    best = int(mean.argmax())
    ends = {int(network.tails[best]), int(network.heads[best])}
    shown = text.split("the heaviest cycle is ")[1].split(" with ")[0].split(" -> ")
    assert {int(key) for key in shown} == ends
    assert f"with {mean[best]:+.3g} nats a turn" in text


def test_a_start_that_no_doubling_makes_feasible(trips):
    with pytest.raises(FitError, match="infeasible start") as caught:
        fit(town(), trips, features=["left"])
    estimate = caught.value.estimate
    assert estimate.status is FitStatus.INFEASIBLE_START
    assert estimate.coefficients.isna().all()
    assert "heaviest cycle" in caught.value.detail


def test_features_that_no_trip_has_are_separated(trips):
    network = town()
    back = set(zip(*(network.turns.loc[network.turns["u_turn"] == 1, c] for c in ("from", "to")), strict=True))
    steps = trips.groupby("trip")["link"].agg(lambda links: any(pair in back for pair in itertools.pairwise(links)))
    plain = trips[~trips["trip"].map(steps)]
    with pytest.raises(FitError, match="u_turn") as caught:
        fit(network, plain, features=TOWN)
    estimate = caught.value.estimate
    assert estimate.status is FitStatus.SEPARATED
    assert estimate.coefficients.isna().all()
    assert estimate.warnings == ("u_turn: no trip has any of it, and other routes do",)
    assert "penalty" in str(caught.value)
    held = fit(network, plain, features=TOWN, fixed={"u_turn": -20})
    assert held.status.ok
    assert held.coefficients["u_turn"] == -20
    assert fit(network, plain, features=TOWN, penalty=L2(3.0)).status.ok
    both = fit(network, plain, features=TOWN, bounds={"u_turn": (-8, 0)}, throw=False)
    assert both.status is FitStatus.AT_BOUND
    below = fit(network, plain, features=TOWN, bounds={"u_turn": (-8, None)}, throw=False)
    assert below.status is FitStatus.AT_BOUND
    assert below.coefficients.to_numpy() == pytest.approx(both.coefficients.to_numpy(), rel=1e-9)
    above = fit(network, plain, features=TOWN, bounds={"u_turn": (None, 0)}, throw=False)
    assert above.status is FitStatus.SEPARATED


def test_features_that_trips_always_have_the_least_or_the_most_of_are_separated():
    network = dag()
    of_turns, of_exits = network.features(["minutes"])
    from networks import paths

    for pick, word in ((min, "least"), (max, "most")):
        rows = []
        for trip, (origin, destination) in enumerate([(0, 0), (1, 0), (2, 1)]):
            every = paths(network, origin, destination)
            turns, exit_ = pick(every, key=lambda path: of_turns[list(path[0])].sum() + of_exits[path[1]].sum())
            links = [origin, *(int(network.heads[t]) for t in turns)]
            goal = network.exits["destination"].iloc[exit_]
            rows += [(trip, i, network.link_index[k], goal) for i, k in enumerate(links)]
        frame = pd.DataFrame(rows, columns=["trip", "position", "link", "destination"])
        estimate = fit(network, frame, features=["minutes", "toll"], throw=False)
        assert estimate.status is FitStatus.SEPARATED
        assert any(sentence.startswith(f"minutes: every trip has the {word}") for sentence in estimate.warnings)


@pytest.mark.parametrize("method", ["bfgs", "newton"])
def test_a_penalty_on_a_feature_in_tiny_units_hides_no_other(trips, method):
    """Its coefficient is the prior's; the others are those without it, and known as well."""
    network = town()
    turns = network.turns.assign(u_turn=1e-6 * network.turns["u_turn"])
    tiny = fit(RouteNetwork(network.links, turns, network.exits), trips, features=TOWN, penalty=L2(2), method=method)
    without = fit(network, trips, features=TOWN, penalty=L2(2), fixed={"u_turn": 0}, start={"minutes": -3})
    assert tiny.standard_errors["u_turn"] == pytest.approx(2, rel=1e-6)
    for name in ("minutes", "left"):
        assert tiny.coefficients[name] == pytest.approx(without.coefficients[name], rel=1e-4)
        assert tiny.standard_errors[name] == pytest.approx(without.standard_errors[name], rel=1e-4)


def test_a_penalty_that_is_too_weak_for_the_units_says_so(trips):
    """A feature that no trip has, in numbers of a million: curvatures of likelihood and penalty are below rounding."""
    network = town()
    rows = trips.assign(after=trips.groupby("trip")["link"].shift(-1)).dropna()
    used = set(zip(rows["link"], rows["after"], strict=True))
    pairs = zip(network.turns["from"], network.turns["to"], strict=True)
    rare = np.array([pair not in used for pair in pairs]) * 1e6
    network = RouteNetwork(network.links, network.turns.assign(rare=rare), network.exits)
    found = fit(network, trips, features=[*TOWN, "rare"], penalty=L2(1.0), throw=False)
    assert found.status is FitStatus.NOT_IDENTIFIED
    assert np.isnan(found.coefficients["rare"])
    assert np.isfinite(found.coefficients[TOWN]).all()
    assert "give a narrower one, or measure the feature in larger units" in " ".join(found.warnings)
    larger = RouteNetwork(network.links, network.turns.assign(rare=rare / 1e6), network.exits)
    assert fit(larger, trips, features=[*TOWN, "rare"], penalty=L2(1.0)).status.ok


def test_names_from_arrays_are_plain_text(trips):
    found = fit(town(), trips, features=np.array(TOWN))
    assert {type(name) for name in (*found.free, *found.coefficients.index)} == {str}


def test_another_network_is_asked_by_an_evaluation(trips):
    found = fit(town(), trips, features=TOWN)
    with pytest.raises(ValueError, match=r"fixed=est.coefficients.to_dict\(\)\) evaluates them on another one"):
        found.transfer(town(1))
    assert fit(town(1), trips, features=TOWN, fixed=found.coefficients.to_dict()).status.ok


def test_collinear_features_are_named(trips):
    network = town()
    turns = network.turns.assign(slow=2 * network.turns["left"] + network.turns["u_turn"])
    other = RouteNetwork(network.links, turns, network.exits)
    estimate = fit(other, trips, features=[*TOWN, "slow"], throw=False)
    assert estimate.status is FitStatus.NOT_IDENTIFIED
    assert list(estimate.coefficients.isna()) == [False, True, True, True]
    assert list(estimate.standard_errors.isna()) == [False, True, True, True]
    (row,) = estimate.null_space().to_numpy()
    assert np.allclose(row / row[3], [0, -2, -1, 1], atol=1e-7)
    scattered = fit(other, trips, features=[*TOWN, "slow"], covariance="sandwich", throw=False)
    assert len(scattered.warnings) == 1  # of three combinations that are identified scores scatter along all
    base = fit(network, trips, features=TOWN)
    assert estimate.coefficients["minutes"] == pytest.approx(base.coefficients["minutes"], rel=1e-6)
    assert estimate.standard_errors["minutes"] == pytest.approx(base.standard_errors["minutes"], rel=1e-5)
    assert estimate.log_likelihood == pytest.approx(base.log_likelihood, rel=1e-10)


def test_a_constant_is_not_identified_where_all_routes_have_as_many_turns():
    network = dag()
    other = RouteNetwork(network.links, network.turns.assign(turns=1.0), network.exits)
    frame = draw_trips(network, ["minutes", "left"], [-1, -0.5], 60, origins=[0, 1, 2], destinations=[0])
    estimate = fit(other, frame, features=["minutes", "turns"], throw=False)
    assert estimate.status is FitStatus.NOT_IDENTIFIED
    assert list(estimate.coefficients.isna()) == [False, True]


def test_estimates_of_networks(trips, tmp_path):
    network = town()
    people = trips.assign(person=(trips["trip"] // 4).astype(str), weight=1.0)
    estimate = fit(network, people, features=TOWN)
    assert (estimate.num_demonstrations, estimate.form, estimate.objective) == (80, "entropy", "likelihood")
    assert estimate.null_log_likelihood is None  # rho(M) > 1 where nothing costs
    assert "entropy" in estimate.summary()
    assert json.loads(estimate.to_json())["null_log_likelihood"] is None
    cluster = fit(network, people, features=TOWN, covariance="cluster")
    assert not np.allclose(cluster.standard_errors, estimate.standard_errors, rtol=1e-3)
    assert cluster.coefficients.equals(estimate.coefficients)
    moments = fit(network, people, features=TOWN, objective="moments")
    assert (moments.covariance_kind, moments.aic, moments.likelihood_ratio(moments)) == ("sandwich", None, None)
    assert moments.log_likelihood == estimate.log_likelihood
    with pytest.raises(ValueError, match="not the variance of the score"):
        fit(network, people, features=TOWN, objective="moments", covariance="hessian")
    assert estimate.log_prob(people).sum() == pytest.approx(estimate.log_likelihood)
    assert len(estimate.plot_counts().axes[0].lines) == 2
    model = estimate.model("00")
    values = cai.infer(model, "exact").values[0]
    z = dense_sums(network, TOWN, estimate.coefficients.to_numpy(), network.destination("00"))
    assert np.allclose(values[:-1], np.log(z), rtol=1e-10)
    with pytest.raises(ValueError, match="give the destination"):
        estimate.model()
    with pytest.raises(ValueError, match="does not hold"):
        estimate.sample(3, origin=0, destination="99")
    dropped = fit(network, pd.concat([trips, trips.iloc[:1].assign(trip=-1, link=99)]), features=TOWN, drop="report")
    assert dropped.dropped["trip"].tolist() == [-1]
    (told,) = json.loads(dropped.to_json())["dropped"]
    assert told["trip"] == -1
    assert "99" in told["reason"]
    assert json.loads(estimate.to_json())["dropped"] is None
    assert np.allclose(dropped.coefficients, estimate.coefficients)


def test_a_prior_at_the_truth_costs_no_coefficient(trips):
    """An offset that is v itself leaves every coefficient at 0."""
    network = town()
    v = TRUTH[0] * network.links["minutes"].to_numpy()[network.heads]
    v = v + TRUTH[1] * network.turns["left"] + TRUTH[2] * network.turns["u_turn"]
    offset = RouteNetwork(network.links, network.turns.assign(log_p=v), network.exits, prior="log_p")
    shifted, plain = fit(offset, trips, features=TOWN), fit(network, trips, features=TOWN)
    assert shifted.form == "kl"
    assert np.allclose(shifted.coefficients + TRUTH, plain.coefficients, atol=1e-7)
    assert shifted.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-12)
    assert shifted.null_log_likelihood is not None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"features": None}, "features is missing"),
        ({"objective": "ml"}, "'moments' or 'path'"),
        ({"covariance": "cluster"}, "give persons"),
        ({"drop": True}, "drop is True"),
        ({"fixed": {"lift": 1.0}}, "did you mean 'left'"),
    ],
)
def test_bad_options(trips, options, text):
    with pytest.raises(ValueError, match=text):
        fit(town(), trips, **{"features": TOWN, **options})


def test_other_problems_are_refused(trips):
    with pytest.raises(TypeError, match="cannot fit a dict"):
        fit({}, trips)


@pytest.mark.campaign
def test_intervals_cover_the_truth():
    """95% intervals of 200 simulated fits: each coefficient's covered count is binomial, within its 1e-6 limits."""
    from scipy.stats import binom

    network = town()
    seeds = draw_trips(network, TOWN, TRUTH, 60, seed=2)
    truth = fit(network, seeds, features=TOWN, fixed=dict(zip(TOWN, TRUTH, strict=True)))
    covered = np.zeros(3)
    for seed in range(200):
        intervals = fit(network, truth.sample(400, seed=seed), features=TOWN).intervals()
        covered += ((intervals["lower"] <= TRUTH) & (intervals["upper"] >= TRUTH)).to_numpy()
    low, high = binom.ppf([5e-7, 1 - 5e-7], 200, 0.95)
    assert ((covered >= low) & (covered <= high)).all(), covered


def test_gradients_are_torch_tensors_of_float64(trips):
    estimate = fit(town(), trips.astype({"position": np.float32}), features=TOWN)
    for table in (estimate.scores, estimate.hessian, estimate.covariance):
        assert table.dtype == torch.float64


def one_route_each(features):
    """A network where each trip has one route and other ways lead elsewhere; and trips of it."""
    pairs = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (3, 5), (4, 6), (5, 5), (5, 6), (6, 7), (7, 6), (6, 8)]
    turns = pd.DataFrame(pairs, columns=["from", "to"])
    for name, values in features.items():
        turns[name] = values
    exits = pd.DataFrame({"link": [1], "destination": ["there"]})
    links = pd.DataFrame({"link": range(9)})
    trips = pd.DataFrame([(0, 0, 0), (0, 1, 1), (1, 0, 1), (2, 0, 0), (2, 1, 1)], columns=["trip", "position", "link"])
    return RouteNetwork(links, turns, exits), trips


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("method", ["bfgs", "newton"])
def test_curvature_that_is_rounding_identifies_nothing(number, method):
    """Each trip has one route, so that the likelihood is 1 whatever the coefficients; sums of floats say so roughly."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        names = [f"f{i}" for i in range(number)]
        features = {name: rng.uniform(0.1, 2.0, 12) * 10.0 ** rng.uniform(-6, 6) for name in names}
        features["log_p"] = rng.normal(size=12) - 2
        network, shown = one_route_each(features)
        network = RouteNetwork(network.links, network.turns, network.exits.assign(log_p=0.3), prior="log_p")
        est = fit(network, shown, features=names, method=method, throw=False)
        assert est.status is FitStatus.NOT_IDENTIFIED, (seed, est.summary())
        assert est.coefficients.isna().all()
        assert est.standard_errors.isna().all()
        assert len(est.null_space()) == number


def test_few_hard_choices_are_identified_all_the_same():
    """One trip in a thousand has a choice, between ways that differ by a thousandth of what all trips pay."""
    links = pd.DataFrame({"link": range(4)})
    turns = pd.DataFrame({"from": [0, 0, 1, 2], "to": [1, 2, 3, 3], "minutes": [1000.0, 1001.0, 1000.0, 1000.0]})
    network = RouteNetwork(links, turns, pd.DataFrame({"link": [3], "destination": ["there"]}))
    rows = [(n, p, link) for n, way in enumerate([(0, 1, 3)] * 3 + [(0, 2, 3)]) for p, link in enumerate(way)]
    rows += [(9, 0, 1), (9, 1, 3)]
    trips = pd.DataFrame(rows, columns=["trip", "position", "link"])
    trips["weight"] = np.where(trips["trip"] == 9, 4000.0, 1.0)
    est = fit(network, trips, features=["minutes"])
    assert est.coefficients["minutes"] == pytest.approx(-np.log(3), rel=1e-6)
    assert est.standard_errors["minutes"] == pytest.approx((4 * 0.25 * 0.75) ** -0.5, rel=1e-6)


def test_the_start_follows_what_turns_pay():
    """Cycles are made of turns; an exit that pays otherwise says nothing about where sums are finite."""
    network = town()
    exits = network.exits.assign(minutes=np.where(np.arange(len(network.exits)) % 2, -1.0, 1.0))
    mixed = RouteNetwork(network.links, network.turns, exits)
    trips = draw_trips(mixed, TOWN, TRUTH, 60, seed=1)
    est = fit(mixed, trips, features=TOWN)
    again = fit(mixed, trips, features=TOWN, start=dict(zip(TOWN, TRUTH, strict=True)))
    assert np.allclose(est.coefficients, again.coefficients, atol=1e-5)


@pytest.mark.parametrize("ends", ["exit", "absorb"])
@pytest.mark.parametrize("spread", [15.0, 60.0])
def test_a_potential_of_any_height_changes_nothing(ends, spread):
    """What turns pay as differences of heights depends on both ends of a route alone, and exits take it off again."""
    plain = town(ends=ends)
    trips = draw_trips(plain, TOWN, TRUTH, 60, seed=4)
    heights = spread * np.random.default_rng(5).normal(size=plain.num_links)
    turns = plain.turns.assign(log_p=heights[plain.heads] - heights[plain.tails])
    exits = plain.exits.assign(log_p=-heights[plain.exit_links])
    est = fit(RouteNetwork(plain.links, turns, exits, ends=ends, prior="log_p"), trips, features=TOWN)
    want = fit(plain, trips, features=TOWN)
    assert np.allclose(est.coefficients, want.coefficients, rtol=1e-10)
    assert est.log_likelihood == pytest.approx(want.log_likelihood, rel=1e-10)
    assert np.allclose(est.standard_errors, want.standard_errors, rtol=1e-8)


@pytest.mark.parametrize("ends", ["exit", "absorb"])
def test_what_exits_pay_has_exact_derivatives(ends):
    """Against central differences; exits of one destination pay differently, so that tolls decide between them."""
    network = dag(ends=ends)
    names, w = ["minutes", "toll"], np.array([-1.0, -0.7])
    trips = draw_trips(network, names, w, 20, seed=3, origins=[0, 1, 2])
    est = fit(network, trips, features=names, fixed={"minutes": w[0], "toll": w[1]})
    likelihood = NetworkObjective(network, est.problem.trips, names)

    def at(move):
        return likelihood.evaluate(torch.from_numpy(w + move))

    slope, bend = at(np.zeros(2))[1], likelihood.hessian(torch.from_numpy(w))
    for i, unit in enumerate(1e-4 * np.eye(2)):
        assert float(slope[i]) == pytest.approx((at(unit)[0] - at(-unit)[0]) / 2e-4, rel=1e-6, abs=1e-6)
        assert np.allclose(bend[i], (at(unit)[1] - at(-unit)[1]) / 2e-4, rtol=1e-6, atol=1e-6)
    assert np.allclose(likelihood.scores(torch.from_numpy(w)).sum(0), slope, atol=1e-9)
