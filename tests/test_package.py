"""The package as it is built and installed: contents, requirements, commands, a training run."""

import ast
import graphlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_run import QUICK_COMPILATION, ROOT

DATA = {"report/page.html", "cpu/kernels.cc", "cpu/README.md"}
SOURCES = ("amdjax", "configs", "pyproject.toml", "README.md", "LICENSE")


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _requirements(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive of a clean copy, and the wheel that is built from it."""
    pytest.importorskip("build", reason="build is not installed")
    clean, output = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, clean / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, clean)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", output, clean]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    return archive, wheel


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    words = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([sys.executable, *words, distributions[1]], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def _run(cwd: Path, *words: str | Path) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"XLA_FLAGS": QUICK_COMPILATION, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)


def _files(folder: Path) -> set[str]:
    wanted = (path for path in folder.rglob("*") if path.suffix == ".py")
    return {path.relative_to(folder).as_posix() for path in wanted}


def test_wheel_contains_code_data_and_recipes(distributions):
    names = set(zipfile.ZipFile(distributions[1]).namelist())
    files = {name.removeprefix("amdjax/") for name in names if name.startswith("amdjax/")}
    recipes = {f"configs/{name}" for name in _files(ROOT / "configs")}
    assert files == _files(ROOT / "amdjax") | recipes | DATA
    assert {name.split("/")[0].split("-")[0] for name in names} == {"amdjax"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_contains_recipes_as_files(distributions):
    with tarfile.open(distributions[0]) as archive:
        recipe = next(m for m in archive if m.name.endswith("amdjax/configs/cifar10.py"))
        assert recipe.isreg()
        assert any(m.name.endswith("/LICENSE") for m in archive)


def test_package_imports_without_the_repository(installed, tmp_path):
    code = (
        "import amdjax; print(amdjax.__version__, amdjax.losses.kd_loss.__name__, amdjax.__file__)"
    )
    done = _run(tmp_path, installed / "python", "-c", code)
    assert done.returncode == 0, done.stderr
    version, name, file = done.stdout.split()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert name == "kd_loss"
    assert Path(file).is_relative_to(installed.parent)


def test_console_scripts_run(installed, tmp_path):
    expected = {
        ("amdjax", "--list"): {"amd_gl"},
        ("amdjax-report", "--help"): {"--images", "--workdir", "--data_folder"},
        ("amdjax-predict", "--help"): {"--layer", "--workdir", "--data_folder"},
        ("amdjax-export", "--help"): {"--license", "--workdir", "--data_folder"},
        ("amdjax-teacher-outputs", "--help"): {"--teacher"},
    }
    with ThreadPoolExecutor() as pool:  # they import for seconds, each on one core
        runs = pool.map(lambda words: _run(tmp_path, installed / words[0], words[1]), expected)
        for done, texts in zip(runs, expected.values(), strict=True):
            assert all(text in done.stdout for text in texts), done.stdout + done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_packaged_recipe_trains_from_an_empty_folder(installed, tmp_path):
    flags = ["--config=digits.py", "--config.max_steps=2", "--config.methods=kd"]
    done = _run(
        tmp_path, installed / "amdjax", *flags, f"--config.data.data_dir={tmp_path / 'data'}"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "digits" / "results.json").is_file()


@pytest.mark.slow
def test_example_of_own_parts_runs_from_an_empty_folder(installed, tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text()
    (example,) = re.findall(r"^```python\n(# mylab\.py\n.*?)^```", text, re.DOTALL | re.MULTILINE)
    (commands,) = re.findall(
        r"^```sh\n(amdjax --config=mylab.*?)^```", text, re.DOTALL | re.MULTILINE
    )
    (tmp_path / "mylab.py").write_text(example)
    image = tmp_path / "image.png"
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(image)
    outputs = {}
    for command in commands.replace("IMAGE...", image.name).splitlines():
        name, *words = command.split()
        done = _run(tmp_path, installed / name, *words)
        assert done.returncode == 0, done.stderr
        outputs[name] = done.stdout
    run = json.loads((tmp_path / "runs" / "mylab" / "mse" / "run.json").read_text())
    assert run["imports"] == {"mylab": str(tmp_path / "mylab.py")}
    assert run["settings"]["losses"]["logit_mse"]["scale"] == 2.0
    assert (tmp_path / "runs" / "mylab" / "report" / "index.html").is_file()
    assert re.search(r"1 +bright +\d+\.\d+ %", outputs["amdjax-predict"])
    # From another folder, the module is found where it was.
    words = [f"--workdir={tmp_path / 'runs' / 'mylab'}", image]
    assert _run(Path("/"), installed / "amdjax-predict", *words).returncode == 0


def _imports(node: ast.AST) -> Iterator[str]:
    """Yield what a module imports from amdjax, at any depth, but not for type checkers alone."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "imports of the package are absolute"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        names = []
    yield from (name.removeprefix("amdjax.") for name in names if name.startswith("amdjax."))
    for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for child in node.orelse if for_types else ast.iter_child_nodes(node):
        yield from _imports(child)


def test_imports_between_packages_have_no_cycle():
    folder = ROOT / "amdjax"
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    imports: dict[str, set[str]] = {part: set() for part in parts}
    for part in parts:
        file = folder / f"{part}.py"
        for path in [file] if file.exists() else (folder / part).rglob("*.py"):
            names = (name.split(".")[0] for name in _imports(ast.parse(path.read_text())))
            imports[part] |= {name for name in names if name in parts} - {part}
    assert {"data", "losses", "models"} <= imports["training"]
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError


def test_requirements_agree_with_the_project():
    project = _project()
    assert _requirements(ROOT / "requirements.txt") == project["dependencies"]
    extras = project["optional-dependencies"]
    assert _requirements(ROOT / "tests" / "requirements.txt") == extras["dev"] + extras["docs"]


def test_installed_version_is_that_of_the_package():
    import amdjax

    try:
        assert importlib.metadata.version("amdjax") == amdjax.__version__
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("amdjax is not installed here")
    assert f"version: {amdjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {amdjax.__version__} " in (ROOT / "CHANGELOG.md").read_text()
