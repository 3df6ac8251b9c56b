"""The check over every figure of the course sees the faults that it is for, and lets right figures pass."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figure_checks import faults

import cai
from cai.models import bridge
from cai.pictures import share_scale


def maps(right):
    figure, axes = plt.subplots(1, 2)
    for ax, most in zip(axes, (1.0, 1e-6), strict=True):
        figure.colorbar(ax.imshow(most * np.eye(3)), ax=ax, label="luck (nats)")
    if right:
        share_scale(axes)
    return figure


def meshes(right):
    figure, axes = plt.subplots(1, 2)
    for ax, most in zip(axes, (0.03, 0.08), strict=True):
        mesh = ax.pcolormesh(most * np.eye(3), vmin=0, vmax=0.08 if right else most)
        figure.colorbar(mesh, ax=ax, label="probability")
    return figure


def lines(right):
    figure, ax = plt.subplots()
    ax.plot([0, 1], [1, 2], label="believed")
    ax.axhline(1.5, color="0.2", label="optimum" if right else None)
    ax.axhline(0, color="0.2", linewidth=0.8)  # a part of the axes
    ax.legend()
    return figure


def shares(right):
    figure, ax = plt.subplots()
    ax.barh([0], [0.3])
    ax.barh([0], [0.7 if right else 0.6], left=[0.3])
    ax.set_xlabel("probability in the true world")
    return figure


def bars(right):
    figure, axes = plt.subplots(1, 2, sharey=right)
    for ax, most in zip(axes, (0.4, 0.9), strict=True):
        ax.bar([0, 1], [0.1, most])
        ax.set_ylabel("probability given O")
    return figure


def windows(right):
    figure, axes = plt.subplots(1, 2)
    for ax, end in zip(axes, (1.0, 1.0 if right else 2.0), strict=True):
        ax.contourf([0, end], [0, 1], np.eye(2))
        ax.set(xlabel="position", ylabel="velocity")
    return figure


def units(right):
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0, 2])
    ax.set_ylabel("mean return (reward units)" if right else "mean return")
    return figure


def hidden(right):
    figure, ax = plt.subplots()
    for label, height, width in (("below", 1.0, 6.0 if right else 2.4), ("above", 1.001, 2.4)):
        ax.plot([0, 1, 2], [0.0, height, 2.0], linewidth=width, label=label)
    ax.legend(loc="upper left")
    return figure


def covered(right):
    figure, ax = plt.subplots()
    ax.plot([0, 1, 2], [0, 1, 2], label="believed")
    ax.plot([0, 1, 2], [0, 0.5, 0], label="real")
    ax.legend(loc="upper left" if right else "lower left", frameon=False)
    return figure


def framed(right):
    figure, ax = plt.subplots()
    ax.plot([0, 1, 2], [0, 1, 2], label="a")
    ax.plot([0, 1, 2], [0, 0.5, 0], label="b")
    ax.legend(loc="upper left" if right else "center", framealpha=0.9)
    return figure


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (maps, "use share_scale"),
        (meshes, "use share_scale"),
        (lines, "have no name"),
        (shares, "add up to 0.9"),
        (bars, "use sharey"),
        (windows, "one window"),
        (units, "no unit"),
        (hidden, "'below' lies under 'above'"),
        (covered, "lies on"),
        (framed, "lies on"),
    ],
)
def test_a_figure_that_misleads_is_seen_and_its_mended_one_passes(draw, said):
    found = faults(draw(right=False))
    assert found
    assert all(said in text for text in found)
    assert faults(draw(right=True)) == []


def test_pictures_of_the_library_pass():
    comparison = cai.compare(bridge(horizon=6), ["exact", "variational"])  # six steps are too few to end in all cases
    sweep = cai.sweep(bridge(), "risk", eta=[-1.0, 0.0, 1.0])
    for figure in (comparison.plot(), sweep.plot(), cai.plot_messages(cai.infer(bridge()))):
        assert faults(figure) == []
