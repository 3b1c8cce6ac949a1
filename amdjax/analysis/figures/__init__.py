"""The figures of a report: pure functions from a `Study` and its numbers to Matplotlib figures."""

from amdjax.analysis.figures.sections import Picture, Section, sections
from amdjax.analysis.figures.style import THEMES, WIDTHS, theme

__all__ = ["THEMES", "WIDTHS", "Picture", "Section", "sections", "theme"]
