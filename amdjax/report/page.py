"""The report as files: one page that needs no other, its figures as PNG, its numbers as JSON."""

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple

import jinja2
import markupsafe
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from amdjax.errors import UserError
from amdjax.report.figures import THEMES, WIDTHS, FigureSpec, sections, theme
from amdjax.report.report_data import ReportData
from amdjax.report.summary import Row
from amdjax.report.table import methods_in_words, table
from amdjax.training.metric_writer import write_atomically

_CSS_PIXELS = 96  # of an inch, in a browser
_LOSSLESS = 300_000  # bytes of a figure in the page; beyond, it is full of photographs
_QUALITY = 85  # of 100


class _Image(NamedTuple):
    """A figure for one kind of page: data URIs, and its size in the browser's pixels."""

    light: str
    dark: str
    width: int
    height: int


def write_report(study: ReportData, rows: list[Row], folder: Path) -> Path:
    """Writes `index.html`, `report.json` and a PNG file of each figure on light ground.

    Args:
      study: what is shown.
      rows: its numbers, from `score`.
      folder: is made, and PNG files that an earlier report left there are removed.

    Returns:
      Path of the page.

    Raises:
      UserError: if something there cannot be written.
    """
    try:
        return _write(study, rows, folder)
    except OSError as error:
        raise UserError(f"the report cannot be written: {error}") from error


def _write(study: ReportData, rows: list[Row], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    by_method = {row.method: row for row in rows}
    parts = sections(study, by_method)
    pictures = [picture for part in parts for picture in part.pictures]
    bar = tqdm(pictures, "figures", unit=" figures", leave=False, disable=None)
    images = {picture.name: _images(picture, folder) for picture in bar}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    page = environment.get_template("page.html").render(
        study=study,
        rows=by_method,
        table=table(by_method, len(study.labels)) if rows else None,
        methods=methods_in_words(study),
        config=json.dumps(study.config, indent=2),
        sections=parts,
        images=images,
    )
    write_atomically(folder / "report.json", json.dumps(numbers(study, rows), indent=2) + "\n")
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def _code(sentence: str) -> markupsafe.Markup:
    """Sets what stands between backquotes as code."""
    parts = map(markupsafe.escape, sentence.split("`"))
    return markupsafe.Markup().join(
        markupsafe.Markup("<code>%s</code>") % part if i % 2 else part
        for i, part in enumerate(parts)
    )


def numbers(study: ReportData, rows: list[Row]) -> dict:
    """Returns what `report.json` holds."""
    return {
        "workdir": str(study.workdir),
        "data": study.data,
        "test_images": len(study.labels),
        "shown": study.shown.tolist(),
        "config": study.config,
        "sweeps": study.sweeps,
        "missing": list(study.missing),
        "methods": [row.to_json() for row in rows],
    }


def _images(picture: FigureSpec, folder: Path) -> dict[str, _Image]:
    """Draws a figure for each width and theme, and writes the wide light one."""
    images = {}
    for width in WIDTHS:
        uris = {}
        for name in THEMES:
            with theme(name, width):
                figure = picture.draw()
                image = to_image(figure)
            if (width, name) == ("wide", "light"):
                image.save(folder / f"{picture.name}.png", optimize=True)
            uris[name] = f"data:image/webp;base64,{base64.b64encode(to_webp(image)).decode()}"
        size = (round(_CSS_PIXELS * inches) for inches in figure.get_size_inches())
        images[width] = _Image(uris["light"], uris["dark"], *size)
    return images


def to_image(figure: Figure) -> Image.Image:
    """Returns a figure as pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def to_webp(image: Image.Image) -> bytes:
    """Returns an image file: without any loss, or, where that takes much room, with little."""
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    if file.tell() > _LOSSLESS:
        file = io.BytesIO()
        image.save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()
