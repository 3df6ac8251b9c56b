"""Networks and trips at the door: keys, attributes, files, graphs, and every refusal by its sentence."""

import networkx
import numpy as np
import pandas as pd
import pytest

from cai.models.demonstrations.route_network import RouteNetwork
from cai.models.demonstrations.trips import read_trips


def tables():
    links = pd.DataFrame({"link": ["a", "b", "c", "d"], "minutes": [1.0, 2.0, 3.0, 4.0]})
    turns = pd.DataFrame({"from": ["a", "a", "b", "c"], "to": ["b", "c", "d", "d"], "left": [1, 0, 0, 1]})
    exits = pd.DataFrame({"link": ["d", "b", "d"], "destination": ["home", "work", "work"], "toll": [0.0, 0.0, 1.0]})
    return links, turns, exits


def trips(**columns):
    frame = pd.DataFrame({"trip": [1, 1, 1, 2, 2], "position": [10, 20, 30, 1, 2], "link": list("abd") + list("ab")})
    return frame.assign(**{"destination": ["home"] * 3 + ["work"] * 2, **columns})


def network(**options):
    return RouteNetwork(*tables(), **options)


def test_a_column_of_links_and_turns_adds_and_is_0_where_it_is_missing():
    links, turns, exits = tables()
    made = RouteNetwork(links, turns.assign(minutes=[0.1, 0.2, 0.3, 0.4]), exits)
    of_turns, of_exits = made.features(["minutes", "toll", "left"])
    assert of_turns.tolist() == [[2.1, 0, 1], [3.2, 0, 0], [4.3, 0, 0], [4.4, 0, 1]]
    assert of_exits.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert made.attributes == ("minutes", "left", "toll")
    assert repr(made) == "RouteNetwork(4 links, 4 turns, 3 exits to 2 destinations, ends='exit')"


def test_trips_become_turns_and_exits():
    made = network()
    read = read_trips(made, trips().sample(frac=1, random_state=0).sort_values("trip", kind="stable"))
    assert read.labels.tolist() == [1, 2]
    assert read.turns.tolist() == [0, 2, 0]
    assert read.starts.tolist() == [0, 2, 3]
    assert read.exits.tolist() == [0, 1]
    assert read.origins.tolist() == [0, 0]
    assert read.weights.tolist() == [1, 1]
    assert read.persons is None
    of_turns, of_exits = made.features(["minutes", "toll"])
    assert read.totals(of_turns, of_exits).tolist() == [[6, 0], [2, 0]]
    # two turns at a; at b there is a turn, and for work an exit beside it; at d an exit alone
    assert read.num_choices(made).tolist() == [1, 2]
    alone = trips(person=["x"] * 3 + ["y"] * 2, weight=[2.0] * 3 + [0.5] * 2)
    read = read_trips(made, alone)
    assert (read.persons, read.weights.tolist()) == (["x", "y"], [2, 0.5])
    absorbing = network(ends="absorb")
    assert read_trips(absorbing, trips()).num_choices(absorbing).tolist() == [1, 1]


def test_the_only_exit_of_the_last_link_is_taken_without_destinations():
    frame = trips().drop(columns="destination")
    assert read_trips(network(), frame[frame["trip"] == 2]).exits.tolist() == [1]
    with pytest.raises(ValueError, match=r"trip 1, position 30: its last link 'd' has 2 exits"):
        read_trips(network(), frame)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"link": list("abx") + list("ab")}, r"trip 1, position 30: the network has no link 'x'"),
        ({"link": list("abc") + list("ab")}, r"trip 1, position 20: the network has no turn from 'b' to 'c'"),
        ({"link": list("abd") + list("ac")}, r"trip 2, position 2: its last link 'c' has no exit to its dest.*'work'"),
        ({"destination": ["home"] * 3 + ["wrok"] * 2}, r"trip 2, position 2: its destination 'wrok'.*'work'"),
        (
            {"destination": ["home"] * 2 + ["work"] * 3},
            r"trip 1, position 30: it has two val.*'home' and 'work'",
        ),
        ({"position": [10, 20, 20, 1, 2]}, r"trip 1, position 20 twice"),
        ({"position": [10, 20, None, 1, 2]}, r"trips has no position in row 2"),
        ({"weight": [1, 1, 2, 1, 1]}, r"trip 1, position 30: it has two values of 'weight'"),
        ({"weight": [1.0, 1, 1, -1, -1]}, r"trip 2 has weight -1"),
        ({"weight": 0.0}, r"every trip has weight 0"),
        ({"trip": [1, 1, None, 2, 2]}, r"trips has no trip in row 2"),
    ],
)
def test_trips_that_do_not_fit_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        read_trips(network(), trips(**change))


def test_the_row_of_what_does_not_fit_is_that_of_the_table():
    frame = trips(link=list("abc") + list("ab")).iloc[[4, 3, 2, 1, 0]]
    with pytest.raises(ValueError, match=r"no turn from 'b' to 'c' \(row 3; 1 of 2 trips do not fit\)"):
        read_trips(network(), frame)


def test_numbers_written_as_text_are_the_numbers_of_the_network():
    links, turns, exits = tables()
    place = {name: 7 + i for i, name in enumerate("abcd")}
    numbered = RouteNetwork(
        links.assign(link=links["link"].map(place)),
        turns.assign(**{"from": turns["from"].map(place), "to": turns["to"].map(place)}),
        exits.assign(link=exits["link"].map(place), destination=exits["destination"].map({"home": 1, "work": 2})),
    )
    text = trips(link=[str(place[name]) for name in "abdab"], destination=["1"] * 3 + ["2"] * 2)
    read, want = read_trips(numbered, text), read_trips(network(), trips())
    assert (read.turns.tolist(), read.exits.tolist()) == (want.turns.tolist(), want.exits.tolist())
    with pytest.raises(ValueError, match="the network has no link '07'"):
        read_trips(numbered, text.assign(link=["07", "8", "10", "7", "8"]))


def test_trips_that_do_not_fit_can_be_left_out():
    read = read_trips(network(), trips(link=list("abc") + list("ab")), drop="report")
    assert read.labels.tolist() == [2]
    assert read.turns.tolist() == [0]
    assert read.dropped.to_dict("records") == [
        {"trip": 1, "position": 20.0, "reason": "the network has no turn from 'b' to 'c'"}
    ]
    with pytest.raises(ValueError, match="no trip is left"):
        read_trips(network(), trips(link=["x"] * 5), drop="report")
    assert len(read_trips(network(), trips(), drop="report").dropped) == 0


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("destination", ["home", "home", "work", "work", "work"]),
        ("weight", [2, None, 3, 1, 1]),
        ("person", [(1, 2), (1, 2), (1, 3), (1, 2), (1, 2)]),  # pandas would compare tuples entry by entry
    ],
)
def test_trips_with_two_values_can_be_left_out(column, values):
    read = read_trips(network(), trips(**{column: values}), drop="report")
    assert read.labels.tolist() == [2]
    assert read.dropped["position"].tolist() == [30.0]


def test_trips_that_fit_weigh_something():
    frame = trips(link=list("abc") + list("ab"), weight=[1, 1, 1, 0, 0])
    with pytest.raises(ValueError, match="every trip that fits the network has weight 0"):
        read_trips(network(), frame, drop="report")


def test_where_destinations_absorb_no_trip_passes_them():
    frame = trips(destination=["work"] * 5)
    assert len(read_trips(network(), frame)) == 2
    with pytest.raises(ValueError, match=r"trip 1, position 20: it has arrived at its destination on link 'b'"):
        read_trips(network(ends="absorb"), frame)


def changed(which, **columns):
    found = list(tables())
    found[which] = found[which].assign(**columns)
    return found


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (changed(0, link=["a", "a", "c", "d"]), "links lists 'a' twice"),
        (changed(1, to=["b", "b", "d", "d"]), r"turns lists \('a', 'b'\) twice, again in row 1"),
        (changed(2, link=["d"] * 3, destination=["home", "work", "work"]), r"exits lists \('d', 'work'\) twice"),
        (changed(1, to=["b", "z", "d", "d"]), "turns names the link 'z' in column 'to', row 1"),
        (changed(2, link=["d", "z", "d"]), "exits names the link 'z'"),
        (changed(0, link=["a", None, "c", "d"]), "links has no link in row 1"),
        (
            (tables()[0], tables()[1].rename(columns={"from": "form"}), tables()[2]),
            "turns has no column 'from'.*'form'",
        ),
        ((tables()[0], tables()[1], tables()[2].iloc[:0]), "exits is empty"),
    ],
)
def test_bad_tables_are_refused(given, text):
    with pytest.raises(ValueError, match=text):
        RouteNetwork(*given)


@pytest.mark.parametrize(
    ("given", "names", "text"),
    [
        (tables(), ["minuets"], "no table has an attribute 'minuets'.*did you mean 'minutes'"),
        (tables(), [], "features is empty"),
        (tables(), ["left", "left"], "names 'left' twice"),
        (changed(0, minutes=[1, 2, np.nan, 4]), ["minutes"], "column 'minutes' of links is nan in row 2"),
        (changed(1, left=0), ["left"], "feature 'left' is 0 on every turn and exit"),
        (changed(0, kind=list("wxyz")), ["kind"], "column 'kind' of links holds .*, not numbers"),
    ],
)
def test_bad_features_are_refused(given, names, text):
    with pytest.raises(ValueError, match=text):
        RouteNetwork(*given).features(names)


def test_options_are_checked():
    with pytest.raises(ValueError, match="'exit' or 'absorb'"):
        network(ends="stop")
    with pytest.raises(ValueError, match="no table has an attribute 'log_p'"):
        network(prior="log_p")
    with pytest.raises(ValueError, match=r"destination is 'hom'.*did you mean 'home'"):
        network().destination("hom")
    with pytest.raises(TypeError, match="expected a list of names"):
        network().features("left")


def test_files_keep_ints_and_text(tmp_path):
    links, turns, exits = tables()
    number = {"a": 7, "b": 8, "c": 9, "d": 10}
    links["link"], exits["link"] = links["link"].map(number), exits["link"].map(number)
    turns["from"], turns["to"] = turns["from"].map(number), turns["to"].map(number)
    frame = trips()
    frame["link"] = frame["link"].map(number)
    frame.loc[1:2, "destination"] = None  # a blank takes the value of the trip's other rows
    for name, table in (("links", links), ("turns", turns), ("exits", exits), ("trips", frame)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    made = RouteNetwork.read_csv(*(tmp_path / f"{name}.csv" for name in ("links", "turns", "exits")), ends="absorb")
    assert list(made.link_index) == [7, 8, 9, 10]
    assert made.ends == "absorb"
    assert read_trips(made, tmp_path / "trips.csv").turns.tolist() == [0, 2, 0]
    links.assign(link=["7a", "8", "9", "10"]).to_csv(tmp_path / "links.csv", index=False)
    turns.assign(**{"from": turns["from"].replace({7: "7a"})}).to_csv(tmp_path / "turns.csv", index=False)
    mixed = RouteNetwork.read_csv(*(tmp_path / f"{name}.csv" for name in ("links", "turns", "exits")))
    assert list(mixed.link_index) == ["7a", "8", "9", "10"]
    read = read_trips(mixed, trips(link=["7a", "8", "10", "7a", "8"]))
    assert read.turns.tolist() == [0, 2, 0]


def written(folder, frame):
    """Paths of the three tables of a network and of trips."""
    for name, table in zip(("links", "turns", "exits", "trips"), (*tables(), frame), strict=True):
        table.to_csv(folder / f"{name}.csv", index=False)
    return [folder / f"{name}.csv" for name in ("links", "turns", "exits", "trips")]


def test_links_in_files_may_be_called_as_what_is_missing(tmp_path):
    paths = written(tmp_path, trips())
    paths[0].write_text("link,minutes\nNA,1\nb,2\nc,3\nnan,4\n")
    paths[1].write_text("from,to,left\nNA,b,1\nNA,c,0\nb,nan,0\nc,nan,1\n")
    paths[2].write_text("link,destination\nnan,None\nb,work\n")
    paths[3].write_text(
        "trip,position,link,destination,person\n1,1,NA,None,x\n1,2,b,,x\n1,3,nan,None,x\n2,1,NA,work,NA\n2,2,b,work,NA\n"
    )
    made = RouteNetwork.read_csv(*paths[:3])
    assert list(made.link_index) == ["NA", "b", "c", "nan"]
    read = read_trips(made, paths[3])
    assert read.turns.tolist() == [0, 2, 0]
    assert pd.isna(read.persons[1])


def test_files_of_other_kinds_say_so(tmp_path):
    paths = written(tmp_path, trips())
    paths[0].write_text(paths[0].read_text().replace(",", ";"))
    with pytest.raises(ValueError, match=r"divided by semicolons; write it with commas"):
        RouteNetwork.read_csv(*paths[:3])
    made = network()
    text = paths[3].read_text()
    paths[3].write_text(text.replace("1,20,", "1,second,"))
    with pytest.raises(ValueError, match="trips has position 'second' in row 1; expected a number"):
        read_trips(made, paths[3])
    with pytest.raises(ValueError, match="trip 2 has weight 'heavy'"):
        read_trips(made, trips(weight=["1"] * 3 + ["heavy"] * 2))
    with pytest.raises(ValueError, match="trips has a column ' Weight', which is not looked at; call it 'weight'"):
        read_trips(made, trips(**{" Weight": 2.0}))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("wieght", "weight"), ("weights", "weight"), ("Wight", "weight"), ("persn", "person"), ("pesron ", "person")],
)
def test_misspelt_columns_of_trips_are_named(given, meant):
    text = f"trips has a column {given!r}, which is not looked at; call it {meant!r}, or drop it"
    with pytest.raises(ValueError, match=text):
        read_trips(network(), trips(**{given: 1.0}))
    both = read_trips(network(), trips(**{given: "p", meant: 2.0}))  # what is meant is there
    assert (both.weights.tolist() == [2.0, 2.0]) == (meant == "weight")


def test_a_misspelt_destination_is_named():
    with pytest.raises(ValueError, match=r"trips has a column 'destiantion'.*call it 'destination'"):
        read_trips(network(), trips().rename(columns={"destination": "destiantion"}))


def test_other_columns_of_trips_are_left_alone():
    others = dict.fromkeys(("height", "parson", "linked", "reason", "weighting", "time"), 1.0)
    assert read_trips(network(), trips(**others)).weights.tolist() == [1.0, 1.0]


def test_graphs_become_networks():
    graph = networkx.DiGraph()
    graph.add_edge("x", "y", minutes=2.0)
    graph.add_edge("y", "z", minutes=3.0, toll=1.0)
    graph.add_edge("y", "x", minutes=4.0, name="back street")
    for i, node in enumerate("xyz"):
        graph.nodes[node]["pos"] = (i, 0.0)
    made = RouteNetwork.from_graph(graph)
    assert list(made.link_index) == [("x", "y"), ("y", "z"), ("y", "x")]
    assert list(zip(made.turns["from"], made.turns["to"], strict=True)) == [
        (("x", "y"), ("y", "z")),
        (("x", "y"), ("y", "x")),
        (("y", "x"), ("x", "y")),
    ]
    assert made.exits["destination"].tolist() == ["y", "z", "x"]
    assert made.positions.tolist()[1] == [1, 0, 2, 0]
    with pytest.raises(ValueError, match="'toll' of links is nan"):
        made.features(["toll"])
    turned = RouteNetwork.from_graph(
        graph, exits=["z"], turns=lambda edge, after: None if edge == after[::-1] else {"left": 1.0}, ends="absorb"
    )
    assert len(turned.turns) == 1
    assert turned.exits["destination"].tolist() == ["z"]
    trip = pd.DataFrame({"trip": 0, "position": [0, 1], "link": [("x", "y"), ("y", "z")]})
    assert read_trips(turned, trip).turns.tolist() == [0]
    with pytest.raises(TypeError, match="expected a networkx DiGraph"):
        RouteNetwork.from_graph(graph.to_undirected())
    with pytest.raises(ValueError, match="exits names 'w'"):
        RouteNetwork.from_graph(graph, exits=["w"])


def test_tables_with_nothing_in_them_are_named(tmp_path):
    with pytest.raises(ValueError, match="trips is empty; give a row for each link"):
        read_trips(network(), trips().iloc[:0])
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(ValueError, match=r"links: '.*empty.csv' cannot be read as a CSV file"):
        RouteNetwork.read_csv(empty, *tables()[1:])
    with pytest.raises(FileNotFoundError, match=r"trips: there is no file 'none.csv'"):
        read_trips(network(), "none.csv")


def spelled_out(folder, **texts):
    """Files of tables as they are spelled."""
    made = {"links": "link,minutes\n1,2.0\n2,1.5\n", "turns": "from,to\n1,2\n", "exits": "link,destination\n2,7\n"}
    for name, text in (made | texts).items():
        (folder / f"{name}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return [folder / f"{name}.csv" for name in made]


def test_names_of_columns_may_have_blanks_around_them(tmp_path):
    files = spelled_out(
        tmp_path,
        links="link, minutes\nNA, 2.0\n02, 1.5\n",
        turns=" from , to\nNA, 02\n",
        exits="link,destination\n02,7\n",
    )
    made = RouteNetwork.read_csv(*files)
    assert list(made.links["link"]) == ["NA", "02"]
    assert made.features(["minutes"])[0].tolist() == [[1.5]]
    frame = tmp_path / "trips.csv"
    frame.write_text("trip, position, link, person\n5, 0, NA, NA\n5, 1, 02, NA\n")
    read = read_trips(made, frame)
    assert len(read.turns) == 1
    assert pd.isna(read.persons[0])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            {"links": "link,minutes\n5,1,2.0\n6,2,1.5\n"},
            r"links: '.*links.csv' cannot be read .* as many entries as there are columns",
        ),
        ({"turns": "from,to\n1,2,\n"}, r"turns: .* as many entries as there are columns \(from, to\), no comma"),
        ({"links": "link minutes\n1 2.0\n2 1.5\n"}, "divided by blanks; write it with commas"),
        ({"links": "link,minutes,straße\n1,2.0,a\n2,1.5,b\n".encode("latin-1")}, "not written in UTF-8, save it again"),
        ({"exits": "link,destination\n2,7\n".encode("utf-16")}, "exits: '.*' is not written in UTF-8, save it again"),
    ],
)
def test_files_that_are_shaped_otherwise_are_named(tmp_path, texts, said):
    with pytest.raises(ValueError, match=said):
        RouteNetwork.read_csv(*spelled_out(tmp_path, **texts))


def test_names_out_of_arrays_are_plain_text():
    with pytest.raises(ValueError, match="no table has an attribute 'minuts'"):
        network().features(np.array(["minuts"]))
