"""Sphinx configuration: `python -m sphinx -W docs docs/_build`."""

import re

import amdjax

project = "amdjax"
author = "The amdjax authors"
copyright = author
version = release = amdjax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "code"  # `x` in docstrings

myst_heading_anchors = 3

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]  # no index entries of their own

html_theme = "furo"
html_title = f"amdjax {version}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]


def _indent(line):
    return len(line) - len(line.lstrip())


def _to_markup(app, what, name, obj, options, lines):
    """Turns plain text into reStructuredText: literal blocks, and |x| and * as they stand."""
    literal = None  # indentation of the line that introduces the block
    for i, line in enumerate(lines):
        if literal is not None and (not line.strip() or _indent(line) > literal):
            continue
        literal = None
        following = next((later for later in lines[i + 1 :] if later.strip()), "")
        lines[i] = "".join(
            part if part.startswith("`") else re.sub(r"([|*])", r"\\\1", part)
            for part in re.split(r"(`+[^`]*`+)", line)
        )
        if (
            line.endswith(":")
            and lines[i + 1 : i + 2] == [""]
            and _indent(following) > _indent(line)
        ):
            lines[i] += ":"
            literal = _indent(line)


def _skip(app, what, name, obj, skip, options):
    """Skips the fields of named tuples, which the class describes under "Attributes"."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def setup(app):
    """Connects the hooks; the markup comes before napoleon's."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _to_markup, priority=400)
