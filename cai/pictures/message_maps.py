"""Messages of a large map: a line of maps for each message, at some times."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import draw_grid

__all__ = ["draw_message_maps"]

TIMES = 4


def draw_message_maps(model: TrajectoryModel, tables: Sequence[Tensor], floor: float, colors: str, name: str) -> Figure:
    """Forward and backward messages and their product at four times, evenly spaced from t = 1 to T + 1.

    Args:
        model: which has a map.
        tables: [T + 1, S] of each, in nats below the largest of its time, the product as a probability.
        floor: the lower end of the scale of both messages, in nats.
        colors: a colour map of matplotlib.
        name: of the answer.
    """
    layout = model.mdp.layout
    assert layout is not None  # the caller looked
    last = len(tables[0]) - 1
    times = sorted({round(last * k / (TIMES - 1)) for k in range(TIMES)})
    most = max(float(tables[2][times].max()), 1e-300)
    below = f"nats below the largest\n(clipped at {floor:g})"
    kinds = (
        ("forward $p(s_t, O_{1:t-1})$", below, (floor, 0.0)),
        ("backward $p(O_{t:T} \\mid s_t)$", below, (floor, 0.0)),
        ("product $p(s_t \\mid O_{1:T})$", "probability", (0.0, most)),
    )
    cell = min(3.4 / layout.columns, 2.6 / layout.rows)
    size = ((cell * layout.columns + 0.25) * len(times) + 1.6, 3 * (cell * layout.rows + 0.55) + 0.6)
    figure, axes = plt.subplots(3, len(times), figsize=size, squeeze=False, layout="constrained")
    for table, (title, label, ends), row in zip(tables, kinds, axes, strict=True):
        for time, ax in zip(times, row, strict=True):
            draw_grid(ax, layout, table[time], label, colors, limits=ends, bar=False)
            ax.set(xticks=[], yticks=[], xlabel="column", ylabel="")
            ax.set_title(f"t = {time + 1}", fontsize=12)
            for text in list(ax.texts):
                text.remove()  # letters would hide such small cells
        row[0].set_ylabel("row")
        row[0].set_title(f"{title}\nt = 1", fontsize=12)
        figure.colorbar(row[-1].images[-1], ax=row, label=label)
    figure.suptitle(f"Messages at {len(times)} times, {name} (hatched: impossible)", fontsize=15)
    return figure
