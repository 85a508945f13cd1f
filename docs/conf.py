"""Settings of Sphinx, which makes the pages: `make docs`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# The reference is read from docstrings, which needs the code to be imported.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
import django  # noqa: E402

django.setup()

import cloudtask  # noqa: E402

project = "cloudtask"
author = "the authors of cloudtask"
copyright = "the authors of cloudtask"
release = version = cloudtask.__version__
html_title = f"cloudtask {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib.mermaid"]
# Only the site itself links to Django's documentation: other builds need no network.
if "READTHEDOCS" in os.environ:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "django": (
            "https://docs.djangoproject.com/en/stable/",
            "https://docs.djangoproject.com/en/stable/_objects/",
        ),
    }

# `make links`. These addresses need an account, are examples, or come with the release.
linkcheck_ignore = [
    r"https?://(localhost|127\.0\.0\.1|app\.example|example\.com)",
    r"https://console\.cloud\.google\.com/",
    r"https://github\.com/cloudtask/cloudtask/",
]
linkcheck_timeout = 20  # seconds
linkcheck_retries = 2

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
exclude_patterns = ["conf.py"]

# Docstrings put names into single backticks.
default_role = "code"
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"  # signatures of ParamSpecs say less than the text
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_theme_options = {
    "source_repository": "https://github.com/cloudtask/cloudtask/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_copy_source = False
html_show_sphinx = False
