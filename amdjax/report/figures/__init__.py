"""The figures of a report: functions from `ReportData` and its summaries to Matplotlib figures."""

from amdjax.report.figures.sections import FigureSpec, Section, create_sections
from amdjax.report.figures.style import figure_style

__all__ = ["FigureSpec", "Section", "create_sections", "figure_style"]
