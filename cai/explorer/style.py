"""How numbers and messages look, in a notebook and on the page."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
.cai-caption {font-family: sans-serif; font-size: 13px; margin: 2px 0 6px 0}
.cai-numbers {border-collapse: collapse; font-family: sans-serif; font-size: 13px}
.cai-numbers th, .cai-numbers td {padding: 2px 10px; text-align: right; border-bottom: 1px solid #ccc}
.cai-numbers td {font-variant-numeric: tabular-nums}
.cai-numbers small {font-weight: normal}
.cai-about {font-family: sans-serif; font-size: 13px; margin: 2px 0 6px 0; max-width: 1150px; color: #333}
.cai-message {font-family: sans-serif; font-size: 14px; margin: 4px 0; padding: 6px 10px; color: #000;
              background: #fff4e0; border-left: 5px solid #D55E00; max-width: 1150px}
"""
