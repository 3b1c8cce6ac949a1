"""Modules that a config names are imported, again by every command that reads its workdir."""

import importlib
import json
import sys

import pytest

import amdjax
from amdjax.configs import default
from amdjax.data import Fingerprint
from amdjax.data.policies import AUGMENTATIONS
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.imports import import_modules, outdated, unrecorded
from amdjax.listing import list_registries
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.resuming import check_resumable
from amdjax.run_description import write_run
from amdjax.run_settings import describe_run
from amdjax.trained import restore
from amdjax.workdir import read_config, write_config
from tests.lab_module import LAB, RECIPE
from tests.parse_config import parse_config
from tests.trained_run import change_run, copy

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the module `lab`."""
    (tmp_path / "lab.py").write_text(LAB)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("imports", "statement", "flags"),
    [
        ("imports=('lab',)", "config.losses.gap.weight = 3.0", ()),
        ("", "config.imports = ('lab',)", ("--config.losses.gap.weight=3.0",)),
        ("", "pass", ("--config.imports=lab", "--config.losses.gap.weight=3.0")),
        ("", "pass", ("--config.losses.gap.weight=3.0", "--config.imports", "lab")),
        ("", "config.losses.gap.weight = 3.0", ("--config.imports=lab",)),
        (
            "",
            "config.imports = ('other',)",
            ("--config.imports=lab", "--config.losses.gap.weight=3"),
        ),
    ],
)
def test_settings_of_an_imported_loss_are_overridden(folder, imports, statement, flags):
    (folder / "recipe.py").write_text(RECIPE % (imports, statement))
    config = parse_config("--config=recipe.py", *flags)
    assert config.imports == ("lab",)
    assert config.losses.gap.to_dict() == {**LOSSES["gap"].defaults(), "weight": 3.0}
    assert plan_runs(config)[-1].losses["gap"]["weight"] == 3.0
    assert "gap_only" in list_registries()


def test_module_beside_the_recipe_is_found(folder, monkeypatch):
    (folder / "recipe.py").write_text(RECIPE % ("imports=('lab',)", "pass"))
    monkeypatch.chdir("/")
    assert parse_config(f"--config={folder / 'recipe.py'}").losses.gap.weight == 0.5


def test_recipe_may_import_itself(folder):
    (folder / "both.py").write_text(LAB + RECIPE % ("imports=('both',)", "pass"))
    assert parse_config("--config=both.py").imports == ("both",)
    assert LOSSES["gap"].function is sys.modules["both"].gap


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no module 'broken'"),
        ("x = 1\ny = z\n", r"broken\.py, line 2: NameError: name 'z' is not defined"),
        ("def f(:\n", r"broken\.py, line 1: invalid syntax"),
        ("import nothing_there\n", r"broken\.py, line 1: ModuleNotFoundError: No module named 'no"),
        (LAB.replace('"gap"', '"kd"'), r"broken\.py, line 4: the loss 'kd' is already registered"),
        ("import json\njson.loads('{')\n", r"broken\.py, line 2: JSONDecodeError"),
        ("raise ValueError('two\\nlines')\n", r"broken\.py, line 1: ValueError: two lines"),
    ],
)
def test_import_error_names_the_file_and_the_line(folder, text, message):
    if text is not None:
        (folder / "broken.py").write_text(text)
    (folder / "recipe.py").write_text(RECIPE % ("imports=('broken',)", "pass"))
    flag = ("--config=digits.py", "--config.imports=broken")
    for words in (flag, ("--config=recipe.py",)):
        with pytest.raises(UserError, match=f"config.imports: .*{message}") as caught:
            parse_config(*words)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["lab.py", "a/lab", "", "my-lab"])
def test_imports_are_names_of_modules(name):
    with pytest.raises(UserError, match="modules are named as in an import statement"):
        import_modules((name,))


def test_workdir_imports_its_modules_again(folder, monkeypatch):
    config = default.get_config(imports=("lab",))
    config.methods = ("gap_only",)
    write_config(config, folder / "run")
    for registry, name in ((LOSSES, "gap"), (METHODS, "gap_only"), (sys.modules, "lab")):
        del registry[name]  # as in another process
    monkeypatch.chdir("/")
    saved = read_config(folder / "run")
    assert saved.to_dict() == config.to_dict()
    assert plan_runs(saved) == plan_runs(config)
    assert sys.modules["lab"].__file__ == str(folder / "lab.py")


def test_workdir_names_a_module_that_is_gone(folder, monkeypatch):
    write_config(default.get_config(imports=("lab",)), folder / "run")
    (folder / "lab.py").rename(folder / "moved.py")
    sys.modules.pop("lab")
    monkeypatch.chdir("/")
    message = (
        rf"run was trained with config\.imports=lab: there is no module 'lab'.*was {folder}/lab\.py"
    )
    with pytest.raises(UserError, match=message) as caught:
        read_config(folder / "run")
    assert len(str(caught.value).splitlines()) == 1


def test_restore_imports_the_modules_of_the_run(trained, folder):
    run = copy(trained / "kd", folder / "kd")
    change_run(run, imports={"lab": str(folder / "lab.py")})
    restore(run)
    assert "gap" in LOSSES
    (folder / "broken.py").write_text("x = y\n")
    change_run(run, imports={"broken": str(folder / "broken.py")})
    with pytest.raises(UserError, match=r"kd was trained with .*broken\.py, line 1: NameError"):
        restore(run)


def test_run_spec_has_the_imports_and_they_may_change(folder):
    (folder / "lab.py").write_text(
        f"""{LAB}
@amdjax.register_augmentation("nothing", "changes nothing")
def nothing(keys, images, strength=1.0):
    return images
"""
    )
    config = default.get_config(imports=("lab",))
    spec = plan_runs(config)[-1]
    data = Fingerprint("lab", ("a", "b"), (8, 8, 3), {"train": 4, "test": 4})
    write_run(describe_run(config, spec, data), folder / "run")
    run = json.loads((folder / "run" / "run.json").read_text())
    assert run["imports"] == {"lab": str(folder / "lab.py")}
    assert config.augment.nothing.strength == 1.0
    for registry, name in ((LOSSES, "gap"), (METHODS, "gap_only"), (AUGMENTATIONS, "nothing")):
        del registry[name]  # as in another process
    check_resumable(default.get_config(), spec, folder / "run")


def test_a_module_that_has_changed_since_it_was_imported_is_reported(folder):
    default.get_config(imports=("lab",))
    assert outdated(("lab",)) == []
    (folder / "lab.py").write_text(LAB.replace("scale=1.0", "scale=20.0"))
    (sentence,) = outdated(("lab",))
    assert sentence.startswith(f"{folder / 'lab.py'} has changed since this process imported it")
    importlib.reload(sys.modules["lab"])
    assert default.get_config(imports=("lab",)).losses.gap.scale == 20.0
    assert outdated(("lab",)) == []


def test_registrations_without_imports_are_reported():
    config = default.get_config()
    assert unrecorded(config) == []
    amdjax.register_loss("mine", "a loss", inputs=("student.logits",))(lambda student: student)
    (sentence,) = unrecorded(config)
    assert "test_imports.py registers" in sentence
    config.imports = ("lab",)
    assert unrecorded(config) == []
