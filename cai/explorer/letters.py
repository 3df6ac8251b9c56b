"""A canvas that remembers the pixels of words: most words of a picture stand where they stood in the one before."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

__all__ = ["LetterCanvas"]

MOST = 2_000  # words that are remembered


class _Recorder:
    """Hands glyphs on to what draws them, and notes them down."""

    def __init__(self, draws: Any) -> None:
        self.draws = draws
        self.glyphs: list[tuple[Any, ...]] | None = []

    def draw_text_image(self, pixels: Any, *place: Any) -> None:
        """Draws a glyph; `place` is (x, y, angle, graphics context)."""
        if isinstance(pixels, np.ndarray) and self.glyphs is not None:
            self.glyphs.append((pixels.copy(), *place[:3]))
        else:
            self.glyphs = None  # a font in place of pixels, as older versions of matplotlib have it
        self.draws.draw_text_image(pixels, *place)

    def __getattr__(self, name: str) -> Any:
        self.glyphs = None  # something else than glyphs is drawn
        return getattr(self.draws, name)


class _LetterRenderer(RendererAgg):
    """Draws a word that it has drawn at this place from the pixels of its glyphs, without the font."""

    def __init__(self, *size: float) -> None:
        super().__init__(*size)
        self._words: dict[Hashable, list[tuple[Any, ...]]] = {}

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        whole = (gc, x, y, s, prop, angle, ismath, mtext)
        if ismath or getattr(mtext, "_features", None) or getattr(mtext, "_language", None):
            super().draw_text(*whole)
            return
        draws: Any = self._renderer
        key = (s, hash(prop), prop.get_size_in_points(), x, y, angle, gc.get_antialiased())
        known = self._words.get(key)
        if known is not None:
            for pixels, *place in known:
                draws.draw_text_image(pixels, *place, gc)
            return
        recorder: Any = _Recorder(draws)
        self._renderer = recorder
        try:
            super().draw_text(*whole)
        finally:
            self._renderer = draws
        if recorder.glyphs is not None:
            if len(self._words) >= MOST:
                self._words.clear()
            self._words[key] = recorder.glyphs


class LetterCanvas(FigureCanvasAgg):
    """A canvas of Agg whose pictures are the same to the pixel, and take less time from the second on."""

    def get_renderer(self) -> RendererAgg:
        """The renderer of this size, kept from drawing to drawing."""
        size = (*self.get_width_height(physical=True), self.figure.dpi)
        if getattr(self, "_size", None) != size:
            self._size, self.renderer = size, _LetterRenderer(*size)
        return self.renderer
