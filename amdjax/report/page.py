"""The files of a report: a self-contained page, its figures, and its numbers in other formats."""

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple

import jinja2
import markupsafe
from tqdm import tqdm

from amdjax.errors import UserError
from amdjax.files import write_atomically
from amdjax.report.class_scores import accuracy_csv, confusion_csv
from amdjax.report.figures import FigureSpec, create_sections, figure_style
from amdjax.report.report_data import ReportData
from amdjax.report.summary import MethodSummary
from amdjax.report.table import create_table, describe_methods, table_csv, table_latex

_CSS_PIXELS = 96  # per inch, in a browser


class _Image(NamedTuple):
    """A figure for the page: data URI and size in CSS pixels."""

    uri: str
    width: int
    height: int


def write_report(report: ReportData, summaries: list[MethodSummary], folder: Path) -> Path:
    """Writes `index.html`, its figures as PNG, and its numbers as JSON, CSV and LaTeX.

    The files of numbers are `report.json`, `table.csv`, `table.tex`, `classes.csv` and
    `confusion.csv`.

    Args:
      report: its contents.
      summaries: of its methods, from `summarize`.
      folder: is created if necessary; PNG files of an earlier report are removed.

    Returns:
      Path of the page.

    Raises:
      UserError: if a file cannot be written.
    """
    try:
        return _write(report, summaries, folder)
    except OSError as error:
        raise UserError(f"cannot write the report: {error}") from error


def _write(report: ReportData, summaries: list[MethodSummary], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    by_method = {summary.method: summary for summary in summaries}
    sections = create_sections(report, by_method)
    figures = [figure for section in sections for figure in section.figures]
    bar = tqdm(figures, "figures", unit=" figures", leave=False, disable=None)
    images = {figure.name: _write_figure(figure, folder) for figure in bar}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    table = create_table(by_method, len(report.labels), report.unknown) if summaries else None
    page = environment.get_template("page.html").render(
        report=report,
        summaries=by_method,
        table=table,
        methods=describe_methods(report),
        config=json.dumps(report.config, indent=2),
        sections=sections,
        images=images,
    )
    numbers = json.dumps(to_json(report, summaries), indent=2)
    write_atomically(folder / "report.json", numbers + "\n")
    if table:
        write_atomically(folder / "table.csv", table_csv(table))
        write_atomically(folder / "table.tex", table_latex(table))
    classes = {method: summary.classes for method, summary in by_method.items()}
    accuracy = accuracy_csv(classes, report.labels, report.class_names)
    write_atomically(folder / "classes.csv", accuracy)
    write_atomically(folder / "confusion.csv", confusion_csv(classes, report.class_names))
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def _code(sentence: str) -> markupsafe.Markup:
    """Formats the text between backquotes as code."""
    parts = map(markupsafe.escape, sentence.split("`"))
    return markupsafe.Markup().join(
        markupsafe.Markup("<code>%s</code>") % part if i % 2 else part
        for i, part in enumerate(parts)
    )


def to_json(report: ReportData, summaries: list[MethodSummary]) -> dict:
    """Returns the contents of `report.json`."""
    return {
        "workdir": str(report.workdir),
        "data": report.data,
        "test_images": len(report.labels),
        "unknown": report.unknown,
        "samples": report.samples.tolist(),
        "config": report.config,
        "sweeps": report.sweeps,
        "notes": list(report.notes),
        "methods": [summary.to_json() for summary in summaries],
    }


def _write_figure(spec: FigureSpec, folder: Path) -> _Image:
    """Draws a figure and writes it as a PNG file, whose bytes the page embeds."""
    buffer = io.BytesIO()
    with figure_style():
        figure = spec.draw()
        figure.savefig(buffer, format="png", pil_kwargs={"optimize": True})
    png = buffer.getvalue()
    (folder / f"{spec.name}.png").write_bytes(png)
    width, height = (round(_CSS_PIXELS * inches) for inches in figure.get_size_inches())
    return _Image(f"data:image/png;base64,{base64.b64encode(png).decode()}", width, height)
