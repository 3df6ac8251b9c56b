"""Builds the site: `python -m docs --out out/docs`. Warnings are errors, and links within it must lead somewhere."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from docs.links import problems
from docs.names import MODULES, members
from docs.pictures import draw_all
from docs.play_tables import play_tables
from docs.sources import ROOT, lay_out

LAID_OUT = ROOT / "build" / "docs"


def main() -> None:
    """Lays the sources out, draws pictures, runs Sphinx, adds what it does not make, and checks all pages."""
    parser = argparse.ArgumentParser(prog="python -m docs", description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "docs", help="where the pages go")
    out = parser.parse_args().out.resolve()
    shutil.rmtree(LAID_OUT, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    LAID_OUT.mkdir(parents=True)
    lay_out(LAID_OUT)
    draw_all(LAID_OUT / "pictures")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-j", str(min(4, os.cpu_count() or 1))]
    command += ["-d", str(ROOT / "build" / "doctrees"), "-c", str(ROOT / "docs"), str(LAID_OUT), str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    if done.returncode:
        raise SystemExit(f"Sphinx ended with {done.returncode}: its messages above say which page is wrong")
    add_mathjax(out / "_static" / "mathjax")
    shutil.copytree(ROOT / "docs" / "play", out / "play")
    (out / "play" / "tables.js").write_text(play_tables(), encoding="utf-8")
    found = problems(
        out, {f"api/{module}.html": [f"{module}.{name}" for name in members(module)] for module in MODULES}
    )
    if found:
        raise SystemExit("\n".join(["the site is not whole:", *found]))
    print(f"{len(list(out.rglob('*.html')))} pages in {out}; open {out / 'index.html'}")


def add_mathjax(folder: Path) -> None:
    """One script and its fonts, of the package that carries MathJax for pages without a network."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise SystemExit("MathJax is missing: install the extra 'docs' (make docs does)")
    carried = Path(spec.origin).parent / "static" / "mathjax"
    folder.mkdir(parents=True)
    shutil.copyfile(carried / "tex-chtml.js", folder / "tex-chtml.js")
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(carried / fonts, folder / fonts)


if __name__ == "__main__":
    main()
