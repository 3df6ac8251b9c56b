"""Processes from sparse matrices and from graphs: the same as from tables, and never a table themselves."""

import math

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch

from cai.inference import infer
from cai.models import MDP, TrajectoryModel, road_network

S, A = 6, 3
START = torch.full((S,), 1 / S, dtype=torch.float64)


def table(seed=0):
    """[S, A, S], about a third of it not 0, the last state absorbing."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(S, A, S, generator=generator, dtype=torch.float64)
    weights = torch.where(torch.rand(S, A, S, generator=generator) < 0.4, weights, 0.0)
    weights[..., 0] += 0.1
    weights[-1] = torch.eye(S, dtype=torch.float64)[-1]
    return weights / weights.sum(-1, keepdim=True)


def stacked(convert):
    return lambda dense: convert(dense.reshape(S * A, S).numpy())


def listed(convert):
    return lambda dense: [convert(dense[:, a].numpy()) for a in range(A)]


def torch_coo(array):
    return torch.from_numpy(array).to_sparse_coo()


def torch_csr(array):
    return torch.from_numpy(array).to_sparse_csr()


KINDS = [
    scipy.sparse.csr_array,
    scipy.sparse.csr_matrix,
    scipy.sparse.csc_array,
    scipy.sparse.coo_array,
    scipy.sparse.lil_matrix,
    torch_coo,
    pytest.param(torch_csr, marks=pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")),
]


# ---- sparse matrices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [stacked, listed])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_matrices_are_the_table(kind, shape):
    dense = table()
    process = MDP.from_sparse(shape(kind)(dense), START, terminal=[S - 1])
    assert torch.equal(process.dense(), dense)
    assert process.num_outcomes == int((dense > 0).sum(-1).max())
    assert not process.is_dense
    assert process.transitions is None
    assert process.terminal.tolist() == [False] * (S - 1) + [True]


def test_rows_are_state_by_state():
    # Row s * A + a: state 0 stays under action 0 and moves under action 1, state 1 the other way round.
    matrix = scipy.sparse.csr_array(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    assert MDP.from_sparse(matrix, [1.0, 0.0]).next_states[..., 0].tolist() == [[0, 1], [0, 1]]


def test_short_rows_are_padded_with_the_state_itself():
    matrix = scipy.sparse.csr_array(np.array([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    process = MDP.from_sparse(matrix, [1.0, 0.0, 0.0])
    assert process.next_states.tolist() == [[[1, 2]], [[2, 1]], [[0, 2]]]
    assert process.probabilities.tolist() == [[[0.5, 0.5]], [[1.0, 0.0]], [[1.0, 0.0]]]


@pytest.mark.parametrize("convert", ["scipy", "torch"])
def test_entries_given_twice_add_up_and_zeros_are_dropped(convert):
    rows, columns, values = [0, 0, 0, 1, 1], [1, 1, 0, 1, 0], [0.25, 0.5, 0.25, 1.0, 0.0]
    if convert == "scipy":
        matrix = scipy.sparse.coo_array((values, (rows, columns)), shape=(2, 2))
    else:
        matrix = torch.sparse_coo_tensor([rows, columns], values, (2, 2), dtype=torch.float64, check_invariants=True)
    process = MDP.from_sparse(matrix, [1.0, 0.0])
    assert process.dense().tolist() == [[[0.25, 0.75]], [[0.0, 1.0]]]
    assert process.num_outcomes == 2
    unsummed = scipy.sparse.csr_array((np.array([0.25, 0.75, 1.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), (2, 2))
    assert MDP.from_sparse(unsummed, [1.0, 0.0]).num_outcomes == 1
    assert unsummed.nnz == 3  # what was given is as it was
    assert MDP.from_sparse([scipy.sparse.eye_array(2)], [1.0, 0.0]).num_outcomes == 1


def test_short_floats_and_whole_numbers():
    third = scipy.sparse.csr_array(np.full((3, 3), 1 / 3, dtype=np.float32))
    process = MDP.from_sparse(third, [1.0, 0.0, 0.0])
    torch.testing.assert_close(process.dense().sum(-1), torch.ones(3, 1).double(), rtol=0, atol=1e-15)
    whole = MDP.from_sparse(scipy.sparse.csr_array(np.array([[0, 1], [1, 0]])), [1, 0])
    assert whole.dense().tolist() == [[[0.0, 1.0]], [[1.0, 0.0]]]


def test_a_row_that_is_not_available_may_be_empty():
    matrix = scipy.sparse.csr_array(np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.5, 0.5]]))
    process = MDP.from_sparse(matrix, [1.0, 0.0], available=[[True, False], [True, True]])
    assert process.dense()[0, 1].tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"probabilities\[0, 1\] sums to 0, not to 1"):
        MDP.from_sparse(matrix, [1.0, 0.0])


@pytest.mark.parametrize("shape", [stacked, listed])
def test_gradients_reach_sparse_tensors(shape):
    dense = table()
    reward = torch.linspace(-1, 0, S, dtype=torch.float64)[:, None].expand(S, A)
    found = []
    for sparse in (True, False):
        logits = torch.zeros((S, A, S), dtype=torch.float64, requires_grad=True)
        weights = dense * logits.exp()
        weights = weights / weights.sum(-1, keepdim=True)
        if sparse:
            parts = weights.reshape(S * A, S).to_sparse_coo() if shape is stacked else None
            parts = parts if parts is not None else [weights[:, a].to_sparse_coo() for a in range(A)]
            process = MDP.from_sparse(parts, START)
        else:
            process = MDP(weights, START)
        total = (process.probabilities * process.gather(reward[:, 0] ** 2)).sum(-1)
        (total * reward).sum().backward()
        found.append(logits.grad)
    assert found[1].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-14)


def test_a_sparse_process_is_answered_like_its_table():
    reward = -torch.rand(S, A, dtype=torch.float64)
    one = infer(TrajectoryModel(MDP.from_sparse(stacked(scipy.sparse.csr_array)(table()), START), reward, 4), "exact")
    two = infer(TrajectoryModel(MDP(table(), START), reward, 4), "exact")
    torch.testing.assert_close(one.values, two.values, rtol=0, atol=1e-12)


def test_large_processes_are_never_dense():
    size, actions, width = 100_000, 2, 3  # [S, A, S] would take 160 GB
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(size * actions), width)
    columns = rng.integers(0, size, len(rows))
    matrix = scipy.sparse.coo_array((np.full(len(rows), 1 / width), (rows, columns)), shape=(size * actions, size))
    process = MDP.from_sparse(matrix, np.full(size, 1 / size), terminal=np.zeros(size, dtype=bool))
    assert process.probabilities.shape == (size, actions, width)
    values = rng.random(size)
    expected = torch.from_numpy((matrix @ values).reshape(size, actions))
    torch.testing.assert_close(
        (process.probabilities * process.gather(torch.from_numpy(values))).sum(-1), expected, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(
    ("matrices", "error", "message"),
    [
        (np.eye(2), TypeError, r"matrices is a ndarray; .* give full tables to MDP\(transitions=...\)"),
        ([np.eye(2)], TypeError, r"matrices\[0\] is a ndarray; expected one scipy sparse matrix"),
        ([], ValueError, "matrices is empty"),
        ("P", TypeError, "matrices is a str"),
        (scipy.sparse.eye_array(3, 2).tocsr(), ValueError, r"shape \[3, 2\]; expected \[S \* A, S\]"),
        ([scipy.sparse.eye_array(2), scipy.sparse.eye_array(3)], ValueError, r"matrices\[1\] has shape \[3, 3\]"),
        (scipy.sparse.csr_array(np.array([[1.5, -0.5], [0, 1]])), ValueError, r"s' = 1 \| s = 0, a = 0\) is -0.5, neg"),
        (
            scipy.sparse.csr_array(np.array([[1, 0], [0, math.nan]])),
            ValueError,
            r"s = 1, a = 0\) is nan, not f",
        ),
        (scipy.sparse.csr_array(np.array([[1, 0], [0, 0.9]])), ValueError, r"probabilities\[1, 0\] sums to 0.9"),
        (scipy.sparse.csr_array(np.eye(2) * 1j), TypeError, "holds complex128 entries"),
        (torch.eye(2).to_sparse_coo().long(), TypeError, "dtype torch.int64; expected real"),
        (torch.ones(2, 2, 2).to_sparse_coo(), ValueError, r"shape \[2, 2, 2\]; expected a matrix"),
    ],
    ids=range(12),
)
def test_bad_matrices(matrices, error, message):
    with pytest.raises(error, match=message):
        MDP.from_sparse(matrices, [1.0, 0.0])


# ---- graphs ------------------------------------------------------------------------------------------------------


def streets(multi=False):
    r"""Home -> a -> office and home -> b -> office, b -> a, and the office's way out."""
    graph = networkx.MultiDiGraph() if multi else networkx.DiGraph()
    for u, v, length in [
        ("home", "a", 1.0),
        ("home", "b", 2.0),
        ("a", "office", 5.0),
        ("b", "office", 1.0),
        ("b", "a", 0.5),
        ("office", "home", 9.0),
    ]:
        graph.add_edge(u, v, length=length)
    return graph


def test_a_graph_moves_along_its_edges():
    graph = streets()
    process = MDP.from_graph(graph, "home")
    assert process.state_names == ("home", "a", "b", "office")
    assert (process.num_states, process.num_actions, process.num_outcomes) == (4, 2, 1)
    assert process.initial.tolist() == [1.0, 0.0, 0.0, 0.0]
    for node in graph:
        state = process.state_index(node)
        following = [process.state_name(int(n)) for n in process.next_states[state, process.available[state], 0]]
        assert following == list(graph[node])
    assert not process.terminal.any()


def test_terminal_nodes_absorb_and_need_no_edges():
    graph = streets()
    process = MDP.from_graph(graph, "home", terminal="office")
    office = process.state_index("office")
    assert process.terminal.tolist() == [False, False, False, True]
    assert process.next_states[office, :, 0].tolist() == [office, office]
    graph.add_edge("a", "pit")
    assert MDP.from_graph(graph, terminal=["pit", "office"]).terminal.sum() == 2
    with pytest.raises(ValueError, match=r"node 'pit' has no edge out of it \(1 such in all\) and is not terminal"):
        MDP.from_graph(graph, "home")


def test_where_a_graph_starts():
    graph = streets()
    assert MDP.from_graph(graph, terminal="office").initial.tolist() == [1 / 3, 1 / 3, 1 / 3, 0.0]
    assert MDP.from_graph(graph, {"a": 0.25, "b": 0.75}).initial.tolist() == [0.0, 0.25, 0.75, 0.0]
    assert MDP.from_graph(graph, [0.5, 0.0, 0.5, 0.0]).initial.tolist() == [0.5, 0.0, 0.5, 0.0]
    assert MDP.from_graph(networkx.DiGraph([(0, 1), (1, 0)]), 1).initial.tolist() == [0.0, 1.0]
    assert MDP.from_graph(networkx.DiGraph([((0, 0), (0, 1)), ((0, 1), (0, 0))]), (0, 1)).initial.tolist() == [0.0, 1.0]
    for initial in ("hmoe", {"hmoe": 1.0}, 3):
        with pytest.raises(ValueError, match=r"initial: ('hmoe'|3) is not in the graph; give .*such as 'home'"):
            MDP.from_graph(graph, initial)


def test_edges_go_with_their_nodes_in_any_order():
    graph = networkx.complete_graph(8, networkx.DiGraph)
    view = networkx.complete_graph(40, networkx.DiGraph).subgraph([30, 31, 5, 4, 3, 34, 6])
    graph._node = dict(reversed(graph._node.items()))  # nodes in another order than edges
    for given in (graph, view):
        process = MDP.from_graph(given)
        assert process.state_names == tuple(map(str, given))
        for node in given:
            state = process.state_index(str(node))
            following = process.next_states[state, process.available[state], 0].tolist()
            assert [process.state_name(n) for n in following] == [str(other) for other in given[node]]


@pytest.mark.parametrize("multi", [True, False])
def test_edges_of_one_action_are_its_outcomes(multi):
    graph = networkx.MultiDiGraph() if multi else networkx.DiGraph()
    graph.add_edge("x", "y", probability=0.75, action="jump")
    graph.add_edge("x", "x", probability=0.25, action="jump")
    graph.add_edge("y", "x", probability=1.0, action="walk")
    if multi:
        graph.add_edge("x", "y", probability=1.0, action="walk")
    process = MDP.from_graph(graph, "x", probability="probability")
    assert process.action_names == ("jump", "walk")
    assert process.available.tolist() == [[True, multi], [False, True]]
    assert process.dense()[0, 0].tolist() == [0.25, 0.75]
    assert process.dense()[1, 1].tolist() == [1.0, 0.0]
    if multi:
        assert process.dense()[0, 1].tolist() == [0.0, 1.0]
    ends = MDP.from_graph(graph, "x", terminal="y", probability="probability")
    assert ends.dense()[1].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert ends.dense()[0, 0].tolist() == [0.25, 0.75]


def changed(**attributes):
    graph = networkx.DiGraph()
    graph.add_edge("x", "y", probability=0.5, action="jump")
    graph.add_edge("x", "x", **{"probability": 0.5, "action": "jump", **attributes})
    graph.add_edge("y", "x", probability=1.0, action="jump")
    for name, value in attributes.items():
        if value is None:
            del graph.edges["x", "x"][name]
    return graph


@pytest.mark.parametrize(
    ("graph", "options", "error", "message"),
    [
        ({"x": ["y"]}, {}, TypeError, "the graph is a dict; expected a networkx DiGraph"),
        (networkx.Graph([(0, 1)]), {}, TypeError, r"undirected Graph; make each edge two with graph.to_directed\(\)"),
        (networkx.DiGraph(), {}, ValueError, "0 nodes and no edge"),
        (networkx.DiGraph([(1, "1"), ("1", 1)]), {}, ValueError, r"nodes 1 and '1' are both written '1'.*relabel"),
        (networkx.DiGraph([(0, 1), (1, 0)]), {"terminal": 7}, ValueError, "terminal: 7 is not in the graph"),
        (changed(probability=0.4), {"probability": "probability"}, ValueError, "'jump' out of node 'x'.* sum to 0.9,"),
        (
            changed(probability=-0.5),
            {"probability": "probability"},
            ValueError,
            "= -0.5; expected a finite",
        ),
        (
            changed(probability="half"),
            {"probability": "probability"},
            TypeError,
            "= 'half'; expected one",
        ),
        (changed(probability=None), {"probability": "probability"}, ValueError, "has no attribute 'probability'"),
        (changed(action=None), {"probability": "probability"}, ValueError, "has no attribute 'action'"),
    ],
    ids=range(10),
)
def test_bad_graphs(graph, options, error, message):
    with pytest.raises(error, match=message):
        MDP.from_graph(graph, **options)


# ---- routes ------------------------------------------------------------------------------------------------------


def cheapest(mdp, reward):
    """[S], costs of the cheapest ways by Bellman and Ford, in plain loops."""
    table = reward.table.tolist()
    costs = [0.0 if ends else math.inf for ends in mdp.terminal.tolist()]
    for _ in range(mdp.num_states):
        for s in range(mdp.num_states):
            if not mdp.terminal[s]:
                ways = [a for a in range(mdp.num_actions) if mdp.available[s, a]]
                costs[s] = min(-table[s][a] + costs[int(mdp.next_states[s, a, 0])] for a in ways)
    return costs


def random_streets(seed=0, size=12, multi=False):
    rng = np.random.default_rng(seed)
    graph = networkx.MultiDiGraph() if multi else networkx.DiGraph()
    for node in range(size):
        graph.add_edge(node, (node + 1) % size, length=float(rng.uniform(1, 5)))
        for other in rng.choice(size, 2, replace=False):
            graph.add_edge(node, int(other), length=float(rng.uniform(1, 20)))
    return graph


@pytest.mark.parametrize("multi", [True, False])
def test_routes_over_nodes_cost_what_networkx_says(multi):
    graph = random_streets(multi=multi)
    mdp, reward = road_network(graph, 3)
    expected = networkx.single_source_dijkstra_path_length(graph.reverse(), 3, weight="length")
    for node, cost in zip(range(mdp.num_states), cheapest(mdp, reward), strict=True):
        assert cost == pytest.approx(expected[int(mdp.state_name(node))], abs=1e-12)
    assert mdp.terminal.nonzero().flatten().tolist() == [mdp.state_index("3")]
    assert (reward.table[mdp.terminal] == 0).all()
    assert mdp.initial[mdp.terminal].sum() == 0


@pytest.mark.parametrize("multi", [True, False])
def test_routes_over_edges_cost_what_networkx_says(multi):
    graph = random_streets(multi=multi)
    mdp, reward = road_network(graph, 3, states="edges")
    lengths = networkx.single_source_dijkstra_path_length(graph.reverse(), 3, weight="length")
    edges = list(graph.edges(keys=True)) if multi else list(graph.edges)
    assert mdp.num_states == len(edges)
    assert mdp.state_names == tuple(f"{e[0]} -> {e[1]}" + (f" ({e[2]})" if multi else "") for e in edges)
    for edge, cost, ends in zip(edges, cheapest(mdp, reward), mdp.terminal.tolist(), strict=True):
        assert ends == (edge[1] == 3)
        assert cost == pytest.approx(lengths[edge[1]], abs=1e-12)
    for state, edge in enumerate(edges):
        if not mdp.terminal[state]:
            following = [edges[int(n)] for n in mdp.next_states[state, mdp.available[state], 0]]
            assert following == [other for other in edges if other[0] == edge[1]]


def test_turns_are_charged_and_forbidden():
    graph = streets()

    def turn_cost(edge, onto):
        assert edge[1] == onto[0]
        if (edge, onto) == (("home", "b"), ("b", "a")):
            return math.inf
        return 10.0 if onto == ("b", "office") else 0.0

    mdp, reward = road_network(graph, ("b", "office"), states="edges", turn_cost=turn_cost, initial=("home", "b"))
    here = mdp.state_index("home -> b")
    assert mdp.initial[here] == 1
    assert mdp.available[here].tolist() == [True, False]
    assert reward.table[here].tolist() == [-11.0, 0.0]
    assert mdp.state_name(int(mdp.next_states[here, 0, 0])) == "b -> office"
    assert mdp.terminal.nonzero().flatten().tolist() == [mdp.state_index("b -> office")]
    both, _ = road_network(graph, [("b", "office"), "office"], states="edges")
    assert {both.state_name(i) for i in both.terminal.nonzero().flatten().tolist()} == {"a -> office", "b -> office"}


def test_soft_routes_are_those_of_linear_equations():
    # exp(V) = z of recursive logit solves (I - M) z = b, M(s, s') = p(a | s) exp(r(s, a)) on nonterminal states.
    mdp, reward = road_network(random_streets(1), 3, states="edges")
    weights = torch.zeros(mdp.num_states, mdp.num_states, dtype=torch.float64)
    for s in range(mdp.num_states):
        for a in range(mdp.num_actions):
            if mdp.available[s, a]:
                chance = 1.0 / int(mdp.available[s].sum())
                weights[s, mdp.next_states[s, a, 0]] += chance * math.exp(float(reward.table[s, a]))
    nonterminal = ~mdp.terminal
    inner = torch.eye(int(nonterminal.sum()), dtype=torch.float64) - weights[nonterminal][:, nonterminal]
    expected = torch.linalg.solve(inner, weights[nonterminal][:, mdp.terminal].sum(-1)).log()
    posterior = infer(TrajectoryModel(mdp, reward, horizon=math.inf), "variational", tolerance=1e-12)
    torch.testing.assert_close(
        posterior.values[0, nonterminal], expected, rtol=0, atol=1e-10
    )  # backups stop 1e-12 apart


def edge_is(**attributes):
    return lambda graph: graph.edges["a", "office"].update(attributes)


def edge_to(tail, head):
    return lambda graph: graph.add_edge(tail, head, length=1.0)


def turns(value):
    return {"states": "edges", "turn_cost": lambda edge, onto: value}


def same(graph):
    """As it is."""


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (
            same,
            {"cost": "minutes"},
            ValueError,
            r"\('home', 'a'\) has no attribute 'minutes'.*its cost \(it has length\)",
        ),
        (edge_is(length=-1.0), {}, ValueError, "length = -1; expected a finite cost >= 0"),
        (edge_is(length=math.inf), {}, ValueError, "length = inf; .*remove edges that may not be used"),
        (edge_is(length="long"), {}, TypeError, "length = 'long'; expected one number, its cost"),
        (edge_to("a", "pit"), {}, ValueError, r"from 'pit' \(1 such states in all\); keep what leads there"),
        (edge_to("a", "pit"), {"states": "edges"}, ValueError, "from 'a -> pit'.*remove such edges"),
        (edge_to("pit", "pit"), {}, ValueError, "no destination can be reached from 'pit'"),
        (same, {"destination": "pub"}, ValueError, "destination: 'pub' is not in the graph"),
        (same, {"destination": []}, ValueError, "destination is empty"),
        (edge_to("lot", "home"), {"destination": "lot", "states": "edges"}, ValueError, "no edge leads to it"),
        (same, {"states": "turns"}, ValueError, "states is 'turns'; expected 'nodes' or 'edges'"),
        (same, {"turn_cost": turns(0.0)["turn_cost"]}, ValueError, "turns are actions with states='edges'"),
        (same, turns(-1.0), ValueError, "returned -1; expected a number >= 0"),
        (same, turns(math.nan), ValueError, "returned nan; expected a number"),
        (same, turns("no"), TypeError, "returned 'no'; expected one number"),
        (same, turns(math.inf), ValueError, "or allow the turns that lead on"),
        (same, {"initial": "pub"}, ValueError, "initial: 'pub' is not in the graph"),
    ],
    ids=range(17),
)
def test_bad_networks(change, options, error, message):
    graph = streets()
    change(graph)
    with pytest.raises(error, match=message):
        road_network(graph, **{"destination": "office", **options})


def test_the_advice_on_dead_ends_helps():
    graph = streets()
    graph.add_edge("a", "pit", length=1.0)
    kept = graph.subgraph(networkx.ancestors(graph, "office") | {"office"})
    mdp, reward = road_network(kept, "office")
    expected = networkx.single_source_dijkstra_path_length(graph.reverse(), "office", weight="length")
    assert dict(zip(mdp.state_names, cheapest(mdp, reward), strict=True)) == {node: expected[node] for node in kept}


def test_large_networks_are_never_dense():
    side = 120  # 57,120 edges; [S, A, S] would take 104 GB
    graph = networkx.DiGraph()
    for i in range(side):
        for j in range(side):
            for other in ((i + 1, j), (i, j + 1)):
                if max(other) < side:
                    graph.add_edge((i, j), other, length=1.0)
                    graph.add_edge(other, (i, j), length=1.0)
    corner = (side - 1, side - 1)
    mdp, reward = road_network(graph, corner, states="edges", initial=((0, 0), (0, 1)))
    assert (mdp.num_states, mdp.num_actions) == (4 * side * (side - 1), 4)
    assert int(mdp.available[~mdp.terminal].sum()) == sum(graph.out_degree(v) for _, v in graph.edges if v != corner)
    assert float(mdp.initial[mdp.state_index("(0, 0) -> (0, 1)")]) == 1.0
    assert (reward.table[mdp.available & ~mdp.terminal[:, None]] == -1).all()
