"""How numbers and messages look, in a notebook and on the page."""

from __future__ import annotations

__all__ = ["STYLE"]

# On a narrow page the table of numbers is turned: a column for each answer, a line for each number.
STYLE = """
.cai-caption {font-family: sans-serif; font-size: 13px; margin: 2px 0 6px 0}
.cai-numbers {border-collapse: collapse; font-family: sans-serif; font-size: 13px; color: inherit}
.cai-numbers th, .cai-numbers td {padding: 2px 10px; text-align: right; border-bottom: 1px solid #ccc}
.cai-numbers td {font-variant-numeric: tabular-nums}
.cai-numbers small {font-weight: normal; display: block}
.cai-about {font-family: sans-serif; font-size: 13px; margin: 2px 0 6px 0; max-width: 1150px}
.cai-actions span {margin-right: 12px; white-space: nowrap}
.cai-actions i {display: inline-block; width: 12px; height: 12px; margin: 0 4px -1px 0; border: 1px solid #888}
.cai-message {font-family: sans-serif; font-size: 14px; margin: 4px 0; padding: 6px 10px; color: #000;
              background: #fff4e0; border-left: 5px solid #D55E00; max-width: 1150px}
.cai-columns {display: flex; flex-wrap: wrap}
.cai-columns img {min-width: 0; height: auto; align-self: flex-start}
.cai-returns {width: 100%; max-width: 900px; border-collapse: collapse; font-family: sans-serif; font-size: 13px}
.cai-returns th {width: 1%; white-space: nowrap; text-align: right; padding: 4px 8px}
.cai-returns td div {position: relative; height: 13px}
.cai-returns td i {position: absolute; top: 1px; bottom: 1px; min-width: 1px}
.cai-returns tr:last-child td {display: flex; justify-content: space-between}
@media (max-width: 700px) {
  .cai-numbers {display: block; font-size: 12px}
  .cai-numbers tbody {display: flex}
  .cai-numbers tr {display: flex; flex-direction: column; flex: 1 1 0; min-width: 0}
  .cai-numbers tr:first-child {flex: 0 0 112px}
  .cai-numbers th, .cai-numbers td {box-sizing: border-box; height: 46px; padding: 2px 3px; overflow: hidden;
                                    display: flex; flex-direction: column; justify-content: center; line-height: 1.15}
}
"""
