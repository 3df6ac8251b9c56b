"""What Sphinx is told. The sources are those that `docs.sources` has laid out, not this folder."""

import warnings

import cai

warnings.simplefilter("ignore", DeprecationWarning)

project = "cai"
copyright = "the cai developers; Apache-2.0"
release = version = cai.__version__
html_title = f"cai {release}"
html_theme = "furo"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_style"]
html_css_files = ["site.css"]
language = "en"

extensions = [
    "docs.docstrings",  # before napoleon, which reads what this one leaves
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "myst_nb",
]
exclude_patterns = ["_included", "tutorials/plugin_example/src"]
suppress_warnings = ["config.cache"]

# Notebooks are shown with the outputs that they were committed with. Nothing is fetched when a page is read.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [
    ("html", "application/vnd.jupyter.widget-view+json", None),  # its text stands there instead
]
mathjax_path = "mathjax/tex-chtml.js"
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
toc_object_entries = False  # a page of the reference begins with its names
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
