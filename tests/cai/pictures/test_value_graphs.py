"""Values of a network on its map: a circle for each street, coloured by its value, and arrows where the policy goes."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.collections import PatchCollection
from matplotlib.patches import FancyArrowPatch

import cai
from cai.models import small_roads
from cai.models.zoo.roads import street_places


def circles(ax):
    (found,) = (one for one in ax.collections if isinstance(one, PatchCollection))
    return found


def arrows(ax):
    return [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]


@pytest.mark.parametrize(("horizon", "backend", "t"), [(12, "exact", 5), (math.inf, "variational", 0)])
def test_streets_lie_on_the_map_in_the_colour_of_their_value(horizon, backend, t):
    model = small_roads(horizon=horizon)
    answer = cai.infer(model, backend)
    figure = cai.plot_values(answer, t=t)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    nonterminal = ~model.mdp.terminal
    shown = torch.as_tensor(circles(ax).get_array().filled(math.nan))
    torch.testing.assert_close(shown[nonterminal], answer.values[t].detach()[nonterminal])
    assert bool(shown[~nonterminal].isnan().all())
    middles = [path.vertices.mean(0).tolist() for path in circles(ax).get_paths()]
    for middle, place in zip(middles, street_places(model), strict=True):
        assert middle == pytest.approx(place, abs=0.05)
    taken = answer.action_probs[t].detach()[nonterminal] > 0.01
    assert len(arrows(ax)) == int(taken.sum())
    words = {text.get_text() for text in ax.texts}
    assert "b2→\nb3" in words


def test_maps_side_by_side_share_a_scale():
    model = small_roads()
    figure, axes = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
    for ax, backend in zip(axes, ("exact", "max-product"), strict=True):
        cai.plot_values(cai.infer(model, backend), ax=ax, bar=ax is axes[-1])
    low, high = cai.pictures.share_scale(axes)
    assert circles(axes[0]).get_clim() == circles(axes[1]).get_clim() == (low, high)
    given = cai.plot_values(cai.infer(model, "exact"), limits=(-20, 0))
    assert circles(given.axes[0]).get_clim() == (-20, 0)
    with pytest.raises(IndexError, match="outside the answer"):
        cai.plot_values(cai.infer(model, "exact"), t=12)
    figure.draw_without_rendering()
