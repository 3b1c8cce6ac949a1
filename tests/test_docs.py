"""The documentation builds without warnings, its code runs, and it names only what exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amdjax import losses
from amdjax.config import validate
from amdjax.configs import default
from amdjax.data.image_io import decode_image, imagenet_crop_box
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.recipes import RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*DOCS.glob("*.md"), *ROOT.glob("*.md")]
RENAMES = ROOT / "CHANGELOG.md"  # names old settings, too
OLD_NAMES = re.compile(r"average_decay|\.until|early_share|mix\.place|moex_share|sweep\.values")


def _blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def _rows(page: Path, heading: str) -> dict[str, list[str]]:
    """Return the rows of the table below a heading; a row of several names is given for each."""
    section = page.read_text().split(f"\n{heading}\n")[1].split("\n## ")[0]
    rows = {}
    for line in section.splitlines():
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        for name in re.findall(r"`(\w+)`", cells[0]) if cells else ():
            rows[name] = [cell.strip() for cell in cells]
    return rows


@pytest.mark.slow
def test_docs_build_without_warnings(tmp_path):
    pytest.importorskip("sphinx", reason="sphinx is not installed")
    pytest.importorskip("myst_parser", reason="myst-parser is not installed")
    pytest.importorskip("furo", reason="furo is not installed")
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    build = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    for name in ("kd_loss", "am_global_local_loss", "create_model", "build_trainer"):
        assert name in (tmp_path / "api.html").read_text()


@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p)], ids=lambda page: page.stem)
def test_python_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    names = {"__name__": "page"}
    monkeypatch.chdir(tmp_path)
    for block in _blocks(page):
        if file := re.match(r"# (\w+\.py)\n", block):  # that the page imports
            names["__file__"] = str(tmp_path / file[1])
            (tmp_path / file[1]).write_text(block)
        exec(compile(block, str(page), "exec"), names)
    if "get_config" in names:
        validate(names["get_config"]())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "CMYK"])
def test_resizing_recipe_gives_the_pixels_of_training(mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (75, 100, 4), np.uint8)
    image = Image.fromarray(pixels, "CMYK" if mode == "CMYK" else "RGBA").convert(mode)
    options = {"transparency": image.getpixel((40, 40))} if mode == "P" else {}
    image.save("photo.jpg", "TIFF" if mode == "CMYK" else "PNG", **options)
    section = (DOCS / "export.md").read_text().split("## Resizing images")[1]
    square, tight = re.findall(r"^```py\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[:2]
    for code, size, box in (
        (square, 64, None),
        (square.rpartition("image = ImageOps.fit")[0] + tight, 224, imagenet_crop_box),
    ):
        names = {}
        exec(code, names)
        expected = decode_image(Path("photo.jpg").read_bytes(), size, "photo.jpg", box)
        np.testing.assert_array_equal(names["image"], expected)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_only_settings_that_exist(page):
    config = default.get_config()
    settings = set(re.findall(r"--config\.([a-z_.0-9]+)", page.read_text()))
    old = set(filter(OLD_NAMES.search, (f"--config.{name}" for name in settings)))
    if page == RENAMES:
        settings -= {name.removeprefix("--config.") for name in old}
    registered = re.findall(r'register_\w+\(\s*"(\w+)"', page.read_text())
    settings = {name for name in settings if not set(registered) & set(name.split("."))}
    for setting in settings - {"losses."}:
        entry = config
        for key in setting.split("."):
            assert key in entry, f"--config.{setting}"
            entry = entry[key]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_only_recipes_and_links_that_exist(page):
    text = page.read_text()
    for name in re.findall(r"--config=(\w+)\.py", text):
        assert name in ("mine", "mylab", "NAME") or (RECIPES / f"{name}.py").is_file(), name
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_recipe_is_documented():
    text = (DOCS / "recipes.md").read_text()
    for path in RECIPES.glob("[!_]*.py"):
        assert path.stem in ("default", "amc_cifar10") or f"{path.stem}.py" in text, path.stem


def test_every_method_and_loss_is_documented():
    assert _rows(DOCS / "losses.md", "## Methods").keys() == METHODS.keys()
    assert _rows(DOCS / "losses.md", "## Losses").keys() == LOSSES.keys()


def test_every_loss_is_in_the_api_reference():
    text = (DOCS / "api.md").read_text()
    for spec in LOSSES.values():
        name = spec.function.__name__
        assert name in losses.__all__ or f"{spec.function.__module__}.{name}\n" in text, name


def test_documented_weights_are_the_defaults():
    config = default.get_config()
    for name, (_, _, weight, _) in _rows(DOCS / "losses.md", "## Losses").items():
        assert float(weight.split()[-1]) == config.losses[name].weight, name


def test_stored_outputs_serve_the_documented_losses():
    documented = _rows(DOCS / "teachers.md", "### Losses of stored outputs").keys()
    served = {n for n, loss in LOSSES.items() if loss.needs_teacher and not loss.uncacheable_inputs}
    assert documented == served


def test_map_names_every_file_of_the_package():
    text = (DOCS / "architecture.md").read_text()
    for path in (ROOT / "amdjax").iterdir():
        if path.name != "__pycache__":
            name = path.name if path.is_file() else f"{path.name}/"
            assert re.search(rf"(^|[\s`]){re.escape(name)}", text, re.MULTILINE), name


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
