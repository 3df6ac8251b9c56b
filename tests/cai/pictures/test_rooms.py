"""Maps with rooms: which there are, one of them alone, and walls between cells."""

import numpy as np
import pytest
import torch

import cai
from cai.cli import main
from cai.models import bridge, gymnasium_model, kitchen, windy
from cai.pictures.model_pictures import plot_model
from cai.pictures.rooms import one_room, rooms_of, walls_between


@pytest.fixture(scope="module")
def taxi():
    return gymnasium_model("Taxi-v4", horizon=30)


def test_rooms_are_read_from_the_names_of_states(taxi):
    assert list(rooms_of(kitchen().mdp)) == ["kettle", "fridge"]
    assert rooms_of(bridge().mdp) == {}
    rooms = rooms_of(taxi.mdp)
    assert {len(states) for states in rooms.values()} == {25}
    assert len(rooms) == 20


def test_one_room_shows_its_values_and_nothing_else(taxi):
    posterior = cai.infer(taxi, "variational")
    layout = one_room(taxi.mdp, "from R to G")
    assert (layout.rows, layout.columns) == (5, 5)
    ax = cai.plot_values(posterior, room="from R to G").axes[0]
    shown = np.asarray(ax.get_images()[0].get_array()).reshape(-1)
    states = rooms_of(taxi.mdp)["from R to G"]
    np.testing.assert_array_equal(shown, posterior.values[0][states].numpy())
    said = [text.get_text() for text in ax.texts]
    assert [said.count(word) for word in ("R", "G", "Y", "B", "pickup", "dropoff")] == [1, 1, 1, 1, 1, 0]
    assert "from R to G" in ax.get_title()
    aboard = cai.plot_values(posterior, room="aboard to G").axes[0]
    assert [text.get_text() for text in aboard.texts].count("dropoff") == 1


def test_all_rooms_are_named(taxi):
    ax = plot_model(taxi).axes[0]
    assert {text.get_text() for text in ax.texts} >= set(rooms_of(taxi.mdp))
    assert "'dropoff' pays −1 where it counts, −10 in vain, +20 at the end" in ax.get_xlabel()


@pytest.mark.parametrize(("model", "room", "words"), [
    ("Taxi-v4", "from R to H", "did you mean 'from R to"),
    ("kitchen", "oven", "its rooms are kettle, fridge"),
    ("bridge", "oven", "whose map has no rooms"),
])  # fmt: skip
def test_rooms_that_are_none(model, room, words, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["draw", model, "--room", room, "--out", str(tmp_path / "x.png")])
    assert words in capsys.readouterr().err


def test_walls_are_those_of_the_town(taxi):
    """Taxi's own map has `|` where a wall stands between two cells."""
    town = gymnasium_desc()
    expected = set()
    for row in range(5):
        for column in range(4):
            if town[row + 1][2 * column + 2] == "|":
                expected.add((column + 0.5, row - 0.5, column + 0.5, row + 0.5))
    lines = walls_between(taxi.mdp, one_room(taxi.mdp, "aboard to B"))
    assert {(*start, *end) for start, end in lines} == expected
    assert len(lines) == 6


def gymnasium_desc():
    import gymnasium

    return [[char.decode() for char in row] for row in gymnasium.make("Taxi-v4").unwrapped.desc]


@pytest.mark.parametrize("model", [bridge(), windy(), kitchen()])
def test_no_wall_is_invented(model):
    """A wind, a slip or an end that keeps a move from its cell is no wall."""
    assert walls_between(model.mdp, model.mdp.layout) == []
    assert bool(torch.isfinite(model.mdp.probabilities).all())
