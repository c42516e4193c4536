"""Sphinx's settings; build.py makes the sources."""

from __future__ import annotations

from pathlib import Path

import fastoptim as fo

project = "fastoptim"
author = "The fastoptim developers"
version = release = fo.build_info()["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # so that the pages load nothing from other sites
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
html_theme = "furo"
html_title = f"fastoptim {release}"
html_copy_source = html_show_copyright = False
html_static_path = [str(Path(__file__).parent / "style.css")]
html_css_files = ["style.css"]

# Names of options in formulas: \text{grad\_tol} is LaTeX, of which MathJax needs an extension.
mathjax3_config = {"loader": {"load": ["[tex]/textmacros"]}, "tex": {"packages": {"[+]": ["textmacros"]}}}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.strikethrough"]

default_role = "code"  # the docstrings write names in single backquotes
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings have the types in words
napoleon_google_docstring = True
napoleon_custom_sections = ["Source"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

linkcheck_ignore = [r"https://doi\.org/"]  # publishers reject programs
linkcheck_timeout = 20
linkcheck_retries = 2
