"""Laws of the likelihood of trips, against paths that are listed, dense solves, and `cai.infer` per destination."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from networks import dag, dense_sums, draw_trips, paths, town, utilities

import cai
from cai.inference.tabular.routes.derivatives import Pairs, with_gradient
from cai.inference.tabular.routes.sums import RouteGraph, RouteSums
from cai.inverse import FitStatus, RouteNetwork, fit
from cai.inverse.networks.objective import NetworkObjective, network_graph
from cai.inverse.networks.separation import _goes_round
from cai.models.demonstrations.trips import read_trips

DAG = ["minutes", "left", "toll"]
TOWN = ["minutes", "left", "u_turn"]
TRUTH = [-1.5, -0.5, -2.0]


def with_log_prior(network, names):
    """The same network with log p as a column: uniform over turns and exits together."""
    count = np.bincount(network.tails, minlength=network.num_links)
    turns = network.turns.assign(log_p=-np.log(count[network.tails] + 0.5))
    exits = network.exits.assign(log_p=-0.3)
    return RouteNetwork(network.links, turns, exits, ends=network.ends, prior="log_p")


@pytest.fixture(scope="module", params=["exit", "absorb", "exit prior", "absorb prior"])
def case(request):
    """(network, names, trips, objective) on the town, both ways to end, with and without a prior."""
    ends, *prior = request.param.split()
    network = town(ends=ends)
    network = with_log_prior(network, TOWN) if prior else network
    trips = draw_trips(network, TOWN, TRUTH, 60, seed=3)
    trips["weight"] = 1.0 + trips["trip"] % 3
    return network, trips, NetworkObjective(network, read_trips(network, trips), TOWN)


@pytest.mark.parametrize("ends", ["exit", "absorb"])
@pytest.mark.parametrize("prior", [False, True])
def test_the_likelihood_is_that_of_listed_paths(ends, prior):
    network = dag(ends=ends)
    network = with_log_prior(network, DAG) if prior else network
    frame = draw_trips(network, DAG, TRUTH, 40, origins=[0, 1, 2, 4])
    trips = read_trips(network, frame)
    w = torch.tensor([-0.7, 0.4, 0.3], dtype=torch.float64)
    v, u = utilities(network, DAG, w.numpy())
    total = 0.0
    for n in range(len(trips)):
        every = paths(network, int(trips.origins[n]), int(trips.destinations[n]))
        scores = {path: v[list(path[0])].sum() + u[path[1]] for path in every}
        mine = tuple(trips.turns[trips.starts[n] : trips.starts[n + 1]].tolist()), int(trips.exits[n])
        total += scores[mine] - math.log(sum(math.exp(score) for score in scores.values()))
    found = NetworkObjective(network, trips, DAG).evaluate(w)[0]
    assert found == pytest.approx(total, rel=1e-10)


def test_the_likelihood_is_that_of_inference_for_each_destination(case):
    network, trips, objective = case
    w = torch.tensor(TRUTH, dtype=torch.float64)
    estimate = fit(network, trips, features=TOWN, fixed=dict(zip(TOWN, TRUTH, strict=True)))
    read = objective.trips
    total = float(read.weights @ (objective.observed @ w.numpy() + objective.offsets))
    for place in np.unique(read.destinations):
        model = estimate.model(network.destination_index[place])
        values = cai.infer(model, "exact").values[0]
        state = {name: i for i, name in enumerate(model.mdp.state_names)}
        for n in np.flatnonzero(read.destinations == place):
            total -= read.weights[n] * float(values[state[str(network.link_index[read.origins[n]])]])
    assert estimate.log_likelihood == pytest.approx(total, rel=1e-10)
    assert estimate.log_likelihood == pytest.approx(objective.evaluate(w)[0], rel=1e-14)


def test_sums_are_those_of_dense_solves(case):
    network, _, objective = case
    w = torch.tensor([-2.0, 0.3, -0.1], dtype=torch.float64)
    logs = objective.log_probs(w)
    v, u = utilities(network, TOWN, w.numpy())
    read = objective.trips
    for n in range(len(read)):
        z = dense_sums(network, TOWN, w.numpy(), int(read.destinations[n]))
        own = v[read.turns[read.starts[n] : read.starts[n + 1]]].sum() + u[read.exits[n]]
        assert float(logs[n]) == pytest.approx(own - math.log(z[read.origins[n]]), rel=1e-10, abs=1e-12)


def test_gradient_scores_and_hessian_are_exact(case):
    objective = case[2]
    w = torch.tensor([-2.0, 0.3, -0.1], dtype=torch.float64)
    slope = objective.evaluate(w)[1]
    step = 1e-5 * torch.eye(3, dtype=torch.float64)
    rises = [(objective.evaluate(w + e)[0] - objective.evaluate(w - e)[0]) / 2e-5 for e in step]
    assert np.allclose(rises, slope, rtol=1e-7, atol=1e-6)
    scores = objective.scores(w)
    assert np.allclose(objective.weights @ scores, slope, rtol=1e-9, atol=1e-9)
    each = torch.stack([(objective.log_probs(w + e) - objective.log_probs(w - e)) / 2e-5 for e in step], -1)
    assert np.allclose(scores, each, rtol=1e-6, atol=1e-7)
    bends = torch.stack([(objective.evaluate(w + e)[1] - objective.evaluate(w - e)[1]) / 2e-5 for e in step])
    hessian = objective.hessian(w)
    assert np.allclose(hessian, bends, rtol=1e-7, atol=1e-6)
    assert torch.equal(hessian, hessian.T)
    assert (torch.linalg.eigvalsh(hessian) < 0).all()


def test_observed_are_expected_counts_at_the_maximum(case):
    network, trips, objective = case
    estimate = fit(network, trips, features=TOWN)
    turns, exits = objective.counts(estimate.vector)
    expected = turns @ objective.of_turns + exits @ objective.of_exits
    observed = objective.trips.weights @ objective.observed
    assert np.allclose(observed, expected, rtol=1e-6)
    counts = estimate.problem.counts(estimate.vector)
    assert counts["expected"].to_numpy() == pytest.approx(turns)
    assert counts["observed"].sum() == pytest.approx(objective.trips.weights @ np.diff(objective.trips.starts))


def test_weights_order_and_names_of_links_change_nothing(case):
    network, trips, _ = case
    base = fit(network, trips, features=TOWN)
    again = trips.assign(trip=trips["trip"] + 1000)
    plain = pd.concat([trips, again, trips.loc[trips["weight"] >= 0].assign(trip=trips["trip"] + 5000)])
    heavy = fit(network, trips.assign(weight=3 * trips["weight"]), features=TOWN)
    tripled = fit(network, plain, features=TOWN)
    assert np.allclose(heavy.coefficients, tripled.coefficients, rtol=1e-12)
    assert np.allclose(heavy.standard_errors, tripled.standard_errors, rtol=1e-12)
    assert heavy.log_likelihood == pytest.approx(tripled.log_likelihood, rel=1e-12)
    assert heavy.bic == pytest.approx(tripled.bic, rel=1e-12)
    assert heavy.num_choices == tripled.num_choices == 3 * base.num_choices
    shuffled = fit(network, trips.sample(frac=1, random_state=0), features=TOWN)
    assert np.allclose(shuffled.coefficients, base.coefficients, rtol=1e-9)
    order = np.random.default_rng(0).permutation(network.num_links)
    name = {i: f"street {order[i]}" for i in range(network.num_links)}
    other = RouteNetwork(
        network.links.assign(link=network.links["link"].map(name)).sample(frac=1, random_state=1),
        network.turns.assign(**{c: network.turns[c].map(name) for c in ("from", "to")}).sample(frac=1, random_state=2),
        network.exits.assign(link=network.exits["link"].map(name)).sample(frac=1, random_state=3),
        ends=network.ends,
        prior=network.prior,
    )
    renamed = fit(other, trips.assign(link=trips["link"].map(name)), features=TOWN)
    assert renamed.log_likelihood == pytest.approx(base.log_likelihood, rel=1e-12)
    assert np.allclose(renamed.coefficients, base.coefficients, rtol=1e-8)
    w = base.vector
    value = NetworkObjective(other, read_trips(other, trips.assign(link=trips["link"].map(name))), TOWN).evaluate(w)[0]
    assert value == pytest.approx(base.log_likelihood, rel=1e-12)


def test_features_times_c_are_coefficients_over_c(case):
    network, trips, _ = case
    base = fit(network, trips, features=TOWN)
    hours = RouteNetwork(
        network.links.assign(minutes=network.links["minutes"] / 60e3),
        network.turns,
        network.exits,
        ends=network.ends,
        prior=network.prior,
    )
    other = fit(hours, trips, features=TOWN)
    assert other.coefficients["minutes"] == pytest.approx(60e3 * base.coefficients["minutes"], rel=1e-8)
    assert other.standard_errors["minutes"] == pytest.approx(60e3 * base.standard_errors["minutes"], rel=1e-8)
    assert other.log_likelihood == pytest.approx(base.log_likelihood, rel=1e-8)


def test_features_in_units_far_apart_have_their_errors(case):
    """Minutes in micro-units beside left turns in millions: 24 digits between the curvatures, and nothing is flat."""
    network, trips, _ = case
    links = network.links.assign(minutes=network.links["minutes"] * 1e6)
    turns = network.turns.assign(left=network.turns["left"] * 1e-6)
    other = RouteNetwork(links, turns, network.exits, ends=network.ends, prior=network.prior)
    one, two = fit(network, trips, features=TOWN), fit(other, trips, features=TOWN)
    units = np.array([1e6, 1e-6, 1.0])
    np.testing.assert_allclose(two.coefficients * units, one.coefficients, rtol=1e-8)
    np.testing.assert_allclose(two.standard_errors * units, one.standard_errors, rtol=1e-8)
    assert two.null_space().empty


def test_two_starts_end_at_one_maximum(case):
    network, trips, _ = case
    one = fit(network, trips, features=TOWN, method="newton")
    two = fit(network, trips, features=TOWN, start={"minutes": -6.0, "left": 2.0, "u_turn": 1.0})
    assert ((one.coefficients - two.coefficients).abs() < 1e-5 * one.standard_errors).all()
    assert np.allclose(one.standard_errors, two.standard_errors, rtol=1e-5)


@pytest.mark.parametrize("ends", ["exit", "absorb"])
def test_distances_of_thousands_of_nats(ends):
    """Sums over routes far below the range of floats, from links near and far, against logs of dense recursions."""
    network = town(side=4, ends=ends)
    w = np.array([-300.0, -20.0, -100.0])
    trips = read_trips(network, draw_trips(network, TOWN, [-3.0, -0.5, -2.0], 40))
    objective = NetworkObjective(network, trips, TOWN)
    logs = objective.log_probs(torch.from_numpy(w)).numpy()
    v, u = utilities(network, TOWN, w)
    worst = 0.0
    for n in range(len(trips)):
        mine = network.exit_destinations == trips.destinations[n]
        value = np.full(network.num_links, -np.inf)
        leave = np.full(network.num_links, -np.inf)
        leave[network.exit_links[mine]] = u[mine]
        for _ in range(60):  # routes of up to 60 turns; longer ones weigh nothing
            parts = v + value[network.heads]
            if ends == "absorb":
                parts = np.where(np.isin(network.tails, network.exit_links[mine]), -np.inf, parts)
            value = np.logaddexp.reduceat(np.append(parts, -np.inf), np.searchsorted(network.tails, range(len(value))))
            value = np.logaddexp(value, leave)
        worst = min(worst, value[trips.origins[n]])
        own = v[trips.turns[trips.starts[n] : trips.starts[n + 1]]].sum() + u[trips.exits[n]]
        assert logs[n] == pytest.approx(own - value[trips.origins[n]], rel=1e-10, abs=1e-10)
    assert worst < -1900
    value, slope = objective.evaluate(torch.from_numpy(w))
    assert value == pytest.approx(logs.sum(), rel=1e-12)
    step = 1e-4 * torch.eye(3, dtype=torch.float64)
    places = torch.from_numpy(w)
    rises = [(objective.evaluate(places + e)[0] - objective.evaluate(places - e)[0]) / 2e-4 for e in step]
    assert np.allclose(rises, slope, rtol=1e-6, atol=1e-5)
    assert np.allclose(objective.weights @ objective.scores(places), slope, atol=1e-9 * abs(slope).max())


def test_absorbing_ends_are_those_of_road_network():
    """z = G[:, d] / G[d, d] against the library's own road network, which leaves out what begins at the destination."""
    import networkx

    from cai.models import TrajectoryModel, road_network

    rng = np.random.default_rng(1)
    graph = networkx.DiGraph()
    for i in range(4):
        for j in range(4):
            for a, b in ((i + 1, j), (i, j + 1)):
                if a < 4 and b < 4:
                    graph.add_edge((i, j), (a, b), length=rng.uniform(1, 2))
                    graph.add_edge((a, b), (i, j), length=rng.uniform(1, 2))
    goal = ((2, 3), (3, 3))
    mdp, reward = road_network(graph, goal, states="edges")
    want = cai.infer(TrajectoryModel(mdp, reward, horizon=math.inf).entropy_form(), "exact").values[0]
    network = RouteNetwork.from_graph(
        graph, ends="absorb", exits=pd.DataFrame({"link": [goal], "destination": ["end"]})
    )
    links = list(network.link_index)
    trips = pd.DataFrame({"trip": 0, "position": [0, 1], "link": [((2, 2), (2, 3)), goal], "destination": "end"})
    objective = NetworkObjective(network, read_trips(network, trips), ["length"])
    from cai.inference.tabular.routes.derivatives import Pairs, pair_logs

    sums = objective.sums(torch.tensor([-1.0], dtype=torch.float64))
    assert sums.converges
    everywhere = np.arange(len(links))
    logs = pair_logs(sums, Pairs(objective.kept.places[everywhere], 0 * everywhere, 1.0 + 0 * everywhere))
    state = {name: i for i, name in enumerate(mdp.state_names)}
    want = np.array([float(want[state[f"{a} -> {b}"]]) for a, b in links])
    assert np.allclose(logs, want, rtol=1e-12, atol=1e-12)


def test_absorbing_ends_where_only_the_whole_network_diverges():
    """A free loop beyond the destination: nobody gets there, but I - M of the whole network has no sums."""
    links = pd.DataFrame({"link": ["a", "b", "end", "c", "d"], "minutes": 1.0})
    pairs = [("a", "b"), ("a", "end"), ("b", "end"), ("b", "a"), ("end", "c"), ("c", "d"), ("d", "c"), ("c", "a")]
    turns = pd.DataFrame(pairs, columns=["from", "to"]).assign(gift=[0, 0, 0, 0, 0, 2.0, 2.0, 0])
    exits = pd.DataFrame({"link": ["end"], "destination": ["end"]})
    network = RouteNetwork(links, turns, exits, ends="absorb")
    trips = pd.DataFrame({"trip": [0, 0, 1, 1, 1], "position": [0, 1, 0, 1, 2], "link": ["a", "end", "a", "b", "end"]})
    objective = NetworkObjective(network, read_trips(network, trips), ["minutes", "gift"])
    w = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert not objective.sums(w).converges
    z = (math.exp(-1) + math.exp(-2)) / (1 - math.exp(-2))
    assert objective.log_probs(w).numpy() == pytest.approx([-1 - math.log(z), -2 - math.log(z)], rel=1e-12)
    slope = objective.evaluate(w)[1]
    step = 1e-5 * torch.eye(2, dtype=torch.float64)
    rises = [(objective.evaluate(w + e)[0] - objective.evaluate(w - e)[0]) / 2e-5 for e in step]
    assert np.allclose(rises, slope, atol=1e-8)
    passing = RouteNetwork(links, turns, exits)
    objective = NetworkObjective(passing, read_trips(passing, trips), ["minutes", "gift"])
    assert objective.evaluate(w) is None
    with pytest.raises(ArithmeticError, match="rho"):
        objective.log_probs(w)


def test_one_link_trips_and_passing_an_exit():
    network = town()
    one = pd.DataFrame({"trip": [7], "position": [0], "link": [0], "destination": [network.exits["destination"][0]]})
    trips = read_trips(network, one)
    assert len(trips.turns) == 0
    w = torch.tensor(TRUTH, dtype=torch.float64)
    z = dense_sums(network, TOWN, TRUTH, int(trips.destinations[0]))
    found = NetworkObjective(network, trips, TOWN).evaluate(w)[0]
    assert found == pytest.approx(-math.log(z[0]), rel=1e-12)
    absorbing = town(ends="absorb")
    assert NetworkObjective(absorbing, read_trips(absorbing, one), TOWN).evaluate(w)[0] == pytest.approx(0, abs=1e-12)


def test_samples_are_recovered_within_4_standard_errors():
    network = town(side=3)
    seeds = draw_trips(network, TOWN, TRUTH, 30, seed=5)
    first = fit(network, seeds, features=TOWN, fixed=dict(zip(TOWN, TRUTH, strict=True)))
    trips = first.sample(2000, seed=1)
    again = fit(network, trips, features=TOWN)
    assert again.status is FitStatus.SUCCESS
    assert ((again.coefficients - TRUTH).abs() < 4 * again.standard_errors).all()
    one = first.sample(50, origin=0, destination="22", seed=2)
    assert (one.groupby("trip")["link"].first() == 0).all()
    assert set(one["destination"]) == {"22"}
    assert torch.isfinite(first.log_prob(one)).all()


def test_round_trips_of_negative_cost_are_seen_at_once():
    """As shortest paths by Floyd and Warshall see them, on random networks where no cost is above 0."""
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(60):
        keys = np.unique(rng.integers(64, size=9))
        tails, heads = keys // 8, keys % 8
        graph = RouteGraph(8, tails, heads, np.array([0]), np.array([0]), 1)
        costs = -rng.integers(2, size=len(keys)).astype(float)
        best = np.full((8, 8), np.inf)
        best[np.arange(8), np.arange(8)] = 0.0
        for k, a, cost in zip(tails, heads, costs, strict=True):
            best[k, a] = min(best[k, a], cost)
        leads = best < np.inf
        for middle in range(8):
            best = np.minimum(best, best[:, [middle]] + best[[middle]])
            leads |= leads[:, [middle]] & leads[[middle]]
        want = bool(((np.diag(best) < 0) & leads[:, 0]).any())
        kept = np.ones(len(keys), dtype=bool)
        assert _goes_round(graph, costs, kept, 0) == want
        assert not _goes_round(graph, np.append(costs[:-1], 1.0), kept, 0)  # left to the longer way
        seen.append(want)
    assert 10 < sum(seen) < 50


@pytest.mark.parametrize("ends", ["exit", "absorb"])
def test_trips_that_weigh_nothing_are_as_if_they_were_not_there(ends):
    """Their own log-likelihood and score are those that they have alone, wherever they lead."""
    first, second = dag(0, ends=ends), dag(1, ends=ends)
    apart = {table: getattr(second, table).copy() for table in ("links", "turns", "exits")}
    for table, columns in (("links", ["link"]), ("turns", ["from", "to"]), ("exits", ["link", "destination"])):
        for column in columns:
            apart[table][column] = "far " + apart[table][column]
    network = RouteNetwork(
        *(pd.concat([getattr(first, table), apart[table]]) for table in ("links", "turns", "exits")), ends=ends
    )
    trips = draw_trips(first, DAG, TRUTH, 30, origins=[0, 1, 2])
    near = trips[trips["trip"] < 20].assign(weight=1.0)
    late = trips[trips["trip"] >= 20].assign(weight=0.0)
    other = draw_trips(second, DAG, TRUTH, 10, origins=[0, 1, 2])
    other = other.assign(trip=other["trip"] + 100, weight=0.0)
    for column in ("link", "destination"):
        other[column] = "far " + other[column]
    short = other.groupby("trip").tail(1).assign(trip=lambda frame: frame["trip"] + 100)  # from their last links
    whole = pd.concat([late, other, near, short])
    with_them, without = (fit(network, frame, features=DAG, covariance="sandwich") for frame in (whole, near))
    pd.testing.assert_frame_equal(with_them.to_frame(), without.to_frame(), rtol=1e-12)
    assert with_them.log_likelihood == pytest.approx(without.log_likelihood, rel=1e-12)
    order = list(dict.fromkeys(whole["trip"]))
    w = without.vector
    for place, n in enumerate(order):
        rows = whole[whole["trip"] == n].assign(weight=1.0)
        read = NetworkObjective(network, read_trips(network, rows), DAG)
        assert float(with_them.log_prob(whole)[place]) == pytest.approx(float(read.log_probs(w)[0]), abs=1e-10)
        assert np.allclose(with_them.scores[place], read.scores(w)[0], atol=1e-9)


def exact_sums(number, turns, v, exits, u, absorbs):
    """Z from each link in fractions of whole numbers, as weights are powers of two."""
    from fractions import Fraction

    matrix = [[Fraction(int(i == j)) for j in range(number)] for i in range(number)]
    side = [Fraction(0)] * number
    for link, log in zip(exits, u, strict=True):
        side[link] += Fraction(2) ** log
    for (k, a), log in zip(turns, v, strict=True):
        if not (absorbs and k in exits):
            matrix[k][a] -= Fraction(2) ** log
    for k in range(number):
        for i in range(number):
            if i != k:
                share = matrix[i][k] / matrix[k][k]
                matrix[i] = [x - share * y for x, y in zip(matrix[i], matrix[k], strict=True)]
                side[i] -= share * side[k]
    return [side[k] / matrix[k][k] for k in range(number)]


@pytest.mark.parametrize("absorbs", [False, True])
@pytest.mark.parametrize("reach", [2, 20])
def test_sums_of_weights_of_any_size_lose_nothing(absorbs, reach):
    """Turns that gain, and exits that pay far more than others: against elimination in fractions."""
    turns = [(0, 1), (1, 0), (1, 2), (2, 3), (3, 1), (2, 0), (3, 4), (4, 2), (4, 0)]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        heights = rng.integers(-reach, reach + 1, 5)  # a change of scale, which leaves the weight of cycles alone
        logs = [int(heights[k] - heights[a] - rng.integers(2, 4)) for k, a in turns]
        exits = sorted(rng.choice(5, 2, replace=False).tolist())
        u = rng.integers(-reach, reach + 1, 2).tolist()
        want = exact_sums(5, turns, logs, exits, u, absorbs)
        network = RouteNetwork(
            pd.DataFrame({"link": range(5)}),
            pd.DataFrame(turns, columns=["from", "to"]).assign(log=np.array(logs, dtype=float)),
            pd.DataFrame({"link": exits, "destination": "there", "log": np.array(u, dtype=float)}),
            ends="absorb" if absorbs else "exit",
        )
        objective = NetworkObjective(
            network,
            read_trips(network, pd.DataFrame({"trip": [0, 1], "position": 0, "link": exits})),
            ["log"],
        )
        graph = network_graph(network)
        base = np.log(2.0)
        of_turns, of_exits = objective.of_turns[:, 0] * base, objective.of_exits[:, 0] * base
        for origin in range(5):
            pairs = Pairs(np.array([origin]), np.array([0]), np.ones(1))
            found = with_gradient(RouteSums(graph, of_turns, of_exits), pairs)
            assert found is not None, (seed, origin)
            assert found.logs[0] == pytest.approx(_log(want[origin]), rel=1e-12, abs=1e-11), (seed, origin)


def _log(fraction):
    """Of a fraction beyond the range of floats."""
    shift = fraction.numerator.bit_length() - fraction.denominator.bit_length()
    return math.log(float(fraction / 2**shift if shift >= 0 else fraction * 2**-shift)) + shift * math.log(2.0)
