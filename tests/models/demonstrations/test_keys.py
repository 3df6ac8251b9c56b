"""Keys of links, destinations and trips in every spelling that files and frames give them."""

import pandas as pd
import pytest

from cai.models.demonstrations import trips as module
from cai.models.demonstrations.route_network import RouteNetwork
from cai.models.demonstrations.trips import read_trips

PLAIN = ["1", "2", "3", "4"]
FLOATS = ["1.0", "2.0", "3.0", "4.0"]
NAMES = ("links", "turns", "exits", "trips")


def texts(*, links=PLAIN, turns=None, exits=None, trips=None, goal="9", end="9", more=""):
    """The four files, with spellings of the keys 1 to 4 in each."""
    turns, exits, trips = (links if given is None else given for given in (turns, exits, trips))
    ways = [(0, 1), (0, 2), (1, 3), (2, 3)]
    walked = [(7, 0, 0), (7, 1, 2), (7, 2, 3), (8, 0, 1), (8, 1, 3)]
    return (
        "link,minutes\n" + "".join(f"{key},{i + 1}\n" for i, key in enumerate(links)),
        "from,to\n" + "".join(f"{turns[a]},{turns[b]}\n" for a, b in ways),
        f"link,destination\n{exits[3]},{goal}\n",
        "trip,position,link,destination\n" + "".join(f"{t},{p},{trips[k]},{end}\n" for t, p, k in walked) + more,
    )


def read(folder, files, drop=None):
    for name, text in zip(NAMES, files, strict=True):
        (folder / f"{name}.csv").write_text(text)
    network = RouteNetwork.read_csv(*(folder / f"{name}.csv" for name in NAMES[:3]))
    return network, read_trips(network, folder / "trips.csv", drop)


@pytest.mark.parametrize(
    ("given", "links"),
    [
        ({}, [1, 2, 3, 4]),
        ({"trips": FLOATS, "end": "9.0"}, [1, 2, 3, 4]),
        ({"links": FLOATS}, [1, 2, 3, 4]),
        ({"links": FLOATS, "turns": PLAIN, "goal": "9."}, [1, 2, 3, 4]),
        ({"exits": FLOATS}, [1, 2, 3, 4]),
        ({"links": ["01", "02", "03", "04"], "trips": PLAIN}, [1, 2, 3, 4]),
        ({"links": ["01", "1", "3", "4"]}, ["01", "1", "3", "4"]),
        ({"links": ["01", "2", "3", "A4"]}, ["01", "2", "3", "A4"]),
        ({"links": ["1", "2", "3", "A4"], "trips": ["1", "2.0", "3.0", "A4"]}, ["1", "2", "3", "A4"]),
        ({"links": ["a ", " b", "c", "d"], "turns": [" a", *"bcd"], "trips": ["a", "b", "c ", "d"]}, list("abcd")),
    ],
)
def test_files_spell_keys_in_many_ways(given, links, tmp_path):
    network, trips = read(tmp_path, texts(**given))
    assert list(network.link_index) == links
    assert list(network.destination_index) == [9]
    assert (trips.turns.tolist(), trips.origins.tolist()) == ([1, 3, 2], [0, 1])


@pytest.mark.parametrize("links", [PLAIN, FLOATS, ["01", "02", "03", "04"]])
def test_one_key_that_nobody_knows_leaves_the_others_known(links, tmp_path):
    files = texts(links=links, more=f"9,0,A5,9\n9,1,{links[3]},9\n10,0,{links[1]},home\n10,1,{links[3]},home\n")
    with pytest.raises(ValueError, match=r"trip 9, position 0: the network has no link 'A5'.*row 5; 2 of 4 trips"):
        read(tmp_path, files)
    _, trips = read(tmp_path, files, "report")
    assert trips.labels.tolist() == [7, 8]
    assert trips.dropped["trip"].tolist() == [9, 10]
    assert trips.dropped["reason"][1] == "its destination 'home' has no exit in the network"
    network = RouteNetwork.read_csv(*(tmp_path / f"{name}.csv" for name in NAMES[:3]))
    frame = pd.read_csv(tmp_path / "trips.csv", dtype={"link": str, "destination": str})
    frame["link"] = frame["link"].str.lstrip("0")  # of a frame 01 is another key than 1
    assert read_trips(network, frame, "report").labels.tolist() == [7, 8]


def test_trips_whose_labels_are_equal_as_numbers_stay_apart(tmp_path):
    files = texts()
    _, trips = read(tmp_path, (*files[:3], files[3].replace("\n7,", "\n01,").replace("\n8,", "\n1,")))
    assert trips.labels.tolist() == ["01", "1"]


@pytest.mark.parametrize(
    ("network", "trips"),
    [("int64", "float64"), ("int64", str), ("float64", "int64"), (str, "int64"), (str, "float64"), (object, "Int64")],
)
def test_frames_of_different_kinds_fit(network, trips, tmp_path):
    read(tmp_path, texts())
    links, turns, exits, frame = (pd.read_csv(tmp_path / f"{name}.csv") for name in NAMES)
    made = RouteNetwork(links.astype({"link": network}), turns, exits)
    found = read_trips(made, frame.astype({"link": trips, "destination": trips}))
    assert found.turns.tolist() == [1, 3, 2]
    assert made.link(2.0) == made.link("2") == 1


def test_similar_keys_are_looked_for_a_few_times_only(tmp_path, monkeypatch):
    """A search among the keys of a city takes 40 ms; trips through another one would take minutes."""
    asked = []
    monkeypatch.setattr(module, "did_you_mean", lambda key, names: asked.append(key) or "")
    more = "".join(f"{n},0,x{n},y{n}\n{n},1,4,y{n}\n" for n in range(20, 60))
    _, trips = read(tmp_path, texts(more=more), "report")
    assert len(trips.dropped) == 40
    assert len(asked) <= 5
