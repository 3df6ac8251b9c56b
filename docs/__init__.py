"""The documentation site: `python -m docs --out out/docs` builds it. Written pages are in pages/, the rest is made."""
