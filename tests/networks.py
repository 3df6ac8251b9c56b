"""Small networks and trips for tests; as oracles that share no code with the library, paths listed and dense solves."""

import math

import numpy as np
import pandas as pd

from cai.inverse import RouteNetwork


def dag(seed=0, layers=4, width=3, **options):
    """Layers of links, each leading to all of the next; destinations at the last two layers; three features."""
    rng = np.random.default_rng(seed)
    names = [f"{chr(97 + i)}{j}" for i in range(layers) for j in range(width)]
    links = pd.DataFrame({"link": names, "minutes": rng.uniform(1, 3, len(names))})
    pairs = [
        (f"{chr(97 + i)}{j}", f"{chr(98 + i)}{k}")
        for i in range(layers - 1)
        for j in range(width)
        for k in range(width)
    ]
    turns = pd.DataFrame(pairs, columns=["from", "to"])
    turns["left"] = (rng.random(len(turns)) < 0.4).astype(float)
    turns["minutes"] = rng.uniform(0, 0.5, len(turns))
    last, before = chr(96 + layers), chr(95 + layers)
    exits = pd.DataFrame(
        [(f"{last}{j}", "home") for j in range(2)]
        + [(f"{before}0", "work"), (f"{last}0", "work"), (f"{last}2", "work")],
        columns=["link", "destination"],
    )
    exits["toll"] = rng.uniform(0, 1, len(exits))
    return RouteNetwork(links, turns, exits, **options)


def town(seed=0, side=3, **options):
    """A grid of two-way streets with turns back; every crossing is a destination; cycles everywhere."""
    rng = np.random.default_rng(seed)
    nodes = [(i, j) for i in range(side) for j in range(side)]
    edges = [(a, b) for a in nodes for b in nodes if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1]
    links = pd.DataFrame({"link": range(len(edges)), "minutes": rng.uniform(1, 2, len(edges))})
    rows = []
    for i, (a, b) in enumerate(edges):
        for j, (c, d) in enumerate(edges):
            if b == c:
                cross = (b[0] - a[0]) * (d[1] - c[1]) - (b[1] - a[1]) * (d[0] - c[0])
                rows.append((i, j, float(cross > 0), float(a == d)))
    turns = pd.DataFrame(rows, columns=["from", "to", "left", "u_turn"])
    exits = pd.DataFrame({"link": range(len(edges)), "destination": [f"{b[0]}{b[1]}" for _, b in edges]})
    return RouteNetwork(links, turns, exits, **options)


def paths(network, origin, destination, limit=50):
    """Every (turns, exit) from an origin to a destination, of a network without cycles."""
    found = []
    exits = {int(network.exit_links[x]): x for x in np.flatnonzero(network.exit_destinations == destination)}

    def walk(link, turns):
        if link in exits:
            found.append((tuple(turns), exits[link]))
            if network.ends == "absorb":
                return
        if len(turns) < limit:
            for turn in np.flatnonzero(network.tails == link):
                walk(int(network.heads[turn]), [*turns, int(turn)])

    walk(origin, [])
    return found


def utilities(network, names, w):
    """(v [E], u [X]) straight from the tables."""
    heads = network.links.set_index("link").loc[list(network.turns["to"])]
    v, u = np.zeros(len(network.turns)), np.zeros(len(network.exits))
    columns = list(zip(names, w, strict=True)) + ([(network.prior, 1.0)] if network.prior else [])
    for name, c in columns:
        if name in heads:
            v += c * heads[name].to_numpy()
        if name in network.turns:
            v += c * network.turns[name].to_numpy()
        if name in network.exits:
            u += c * network.exits[name].to_numpy()
    return v, u


def dense_sums(network, names, w, destination):
    """z [L] by a dense solve for one destination."""
    v, u = utilities(network, names, w)
    matrix, side = np.zeros((network.num_links,) * 2), np.zeros(network.num_links)
    matrix[network.tails, network.heads] = np.exp(v)
    mine = network.exit_destinations == destination
    side[network.exit_links[mine]] = np.exp(u[mine])
    if network.ends == "absorb":
        matrix[network.exit_links[mine]] = 0
    assert np.abs(np.linalg.eigvals(matrix)).max() < 1
    return np.linalg.solve(np.eye(len(side)) - matrix, side)


def draw_trips(network, names, w, number, seed=0, origins=None, destinations=None):
    """Trips drawn turn by turn from dense sums, as a frame."""
    rng = np.random.default_rng(seed)
    v, u = utilities(network, names, w)
    count = len(network.destination_index)
    sums = {}
    rows, trip = [], 0
    while trip < number:
        destination = int(rng.choice(count if destinations is None else destinations))
        link = int(rng.choice(network.num_links if origins is None else origins))
        if destination not in sums:
            sums[destination] = dense_sums(network, names, w, destination)
        z = sums[destination]
        if not z[link] > 0:
            continue
        mine = {int(network.exit_links[x]): x for x in np.flatnonzero(network.exit_destinations == destination)}
        route = [link]
        while True:
            turns = np.flatnonzero(network.tails == link)
            chances = np.exp(v[turns]) * z[network.heads[turns]]
            leave = math.exp(u[mine[link]]) if link in mine else 0.0
            if link in mine and network.ends == "absorb":
                break
            chosen = rng.choice(len(turns) + 1, p=np.append(chances, leave) / z[link])
            if chosen == len(turns):
                break
            link = int(network.heads[turns[chosen]])
            route.append(link)
        keys = network.links["link"].to_numpy()
        rows += [(trip, i, keys[k], network.destination_index[destination]) for i, k in enumerate(route)]
        trip += 1
    return pd.DataFrame(rows, columns=["trip", "position", "link", "destination"])
