"""The figures of a report: functions from `ReportData` and its numbers to Matplotlib figures."""

from amdjax.report.figures.sections import FigureSpec, Section, sections
from amdjax.report.figures.style import THEMES, WIDTHS, theme

__all__ = ["THEMES", "WIDTHS", "FigureSpec", "Section", "sections", "theme"]
