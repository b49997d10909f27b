"""Settings of the documentation site: Sphinx with MyST Markdown and the Furo theme."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate

project = "shrinkgrid"
author = "the shrinkgrid authors"
copyright = author  # noqa: A001 (the name that Sphinx reads)
extensions = ["myst_parser"]
exclude_patterns = ["_build", "_generate"]
html_theme = "furo"
html_title = "shrinkgrid"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
smartquotes = False  # quotes in help texts are code
html_show_sphinx = False
# Every heading of the first three levels can be linked to; broken links are warnings,
# and `make docs` turns warnings into errors.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"http://localhost.*"]
linkcheck_timeout = 20

generate.write()
