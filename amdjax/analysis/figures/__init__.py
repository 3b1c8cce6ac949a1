"""The figures of a report: pure functions from a `Study` and its numbers to Matplotlib figures."""

from amdjax.analysis.figures.sections import Picture, Section, sections
from amdjax.analysis.figures.style import THEMES, theme

__all__ = ["THEMES", "Picture", "Section", "sections", "theme"]
