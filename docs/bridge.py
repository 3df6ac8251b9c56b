"""Makes docs/bridge.png, the README's picture: what two backends plan on the bridge, and what comes of it."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import cai
from cai.models import bridge
from cai.pictures import REAL_COLOR, TARGET_COLORS, share_scale

model = bridge(slip=0.2, horizon=20)
comparison = cai.compare(model, ["exact", "variational"])
figure, axes = plt.subplots(1, 3, figsize=(15.5, 4.1), width_ratios=[1.25, 1.25, 1], layout="constrained")
for ax, row in zip(axes, comparison.rows, strict=False):
    cai.plot_values(row.posterior, ax=ax)
    ax.set_title(f"{row.backend}: ends in the chasm with probability {row.outcome.ends_in['chasm']:.2f}")
share_scale(axes[:2])
last = axes[2]
for place, row in enumerate(comparison.rows):
    last.bar(place - 0.2, row.believed_return, 0.38, color=TARGET_COLORS[row.target])
    last.bar(place + 0.2, row.real_return, 0.38, color=REAL_COLOR)
    last.annotate("believed", (place - 0.2, 0.3 + max(0, row.believed_return)), ha="center", fontsize=9)
    last.annotate("real", (place + 0.2, 0.3), ha="center", fontsize=9)
last.axhline(0, color="0.2", linewidth=0.8)
last.set_xticks(range(2), [row.backend for row in comparison.rows])
last.set_ylabel("return (reward units)")
last.set_ylim(top=6)
last.set_title("Believed and real return")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)
