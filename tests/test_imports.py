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
def test_settings_of_an_imported_loss_are_overridden(lab_folder, imports, statement, flags):
    (lab_folder / "recipe.py").write_text(RECIPE % (imports, statement))
    config = parse_config("--config=recipe.py", *flags)
    assert config.imports == ("lab",)
    assert config.losses.gap.to_dict() == {**LOSSES["gap"].defaults(), "weight": 3.0}
    assert plan_runs(config)[-1].losses["gap"]["weight"] == 3.0
    assert "gap_only" in list_registries()


def test_module_beside_the_recipe_is_found(lab_folder, monkeypatch):
    (lab_folder / "recipe.py").write_text(RECIPE % ("imports=('lab',)", "pass"))
    monkeypatch.chdir("/")
    assert parse_config(f"--config={lab_folder / 'recipe.py'}").losses.gap.weight == 0.5


def test_recipe_may_import_itself(lab_folder):
    (lab_folder / "both.py").write_text(LAB + RECIPE % ("imports=('both',)", "pass"))
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
def test_import_error_names_the_file_and_the_line(lab_folder, text, message):
    if text is not None:
        (lab_folder / "broken.py").write_text(text)
    (lab_folder / "recipe.py").write_text(RECIPE % ("imports=('broken',)", "pass"))
    flag = ("--config=digits.py", "--config.imports=broken")
    for words in (flag, ("--config=recipe.py",)):
        with pytest.raises(UserError, match=f"config.imports: .*{message}") as caught:
            parse_config(*words)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["lab.py", "a/lab", "", "my-lab"])
def test_imports_are_names_of_modules(name):
    with pytest.raises(UserError, match="modules are named as in an import statement"):
        import_modules((name,))


def test_workdir_imports_its_modules_again(lab_folder, monkeypatch):
    config = default.get_config(imports=("lab",))
    config.methods = ("gap_only",)
    write_config(config, lab_folder / "run")
    for registry, name in ((LOSSES, "gap"), (METHODS, "gap_only"), (sys.modules, "lab")):
        del registry[name]  # as in another process
    monkeypatch.chdir("/")
    saved = read_config(lab_folder / "run")
    assert saved.to_dict() == config.to_dict()
    assert plan_runs(saved) == plan_runs(config)
    assert sys.modules["lab"].__file__ == str(lab_folder / "lab.py")


def test_workdir_names_a_module_that_is_gone(lab_folder, monkeypatch):
    write_config(default.get_config(imports=("lab",)), lab_folder / "run")
    (lab_folder / "lab.py").rename(lab_folder / "moved.py")
    sys.modules.pop("lab")
    monkeypatch.chdir("/")
    message = (
        r"run was trained with config\.imports=lab: there is no module 'lab'.*was "
        rf"{lab_folder}/lab\.py"
    )
    with pytest.raises(UserError, match=message) as caught:
        read_config(lab_folder / "run")
    assert len(str(caught.value).splitlines()) == 1


def test_restore_imports_the_modules_of_the_run(trained, lab_folder):
    run = copy(trained / "kd", lab_folder / "kd")
    change_run(run, imports={"lab": str(lab_folder / "lab.py")})
    restore(run)
    assert "gap" in LOSSES
    (lab_folder / "broken.py").write_text("x = y\n")
    change_run(run, imports={"broken": str(lab_folder / "broken.py")})
    with pytest.raises(UserError, match=r"kd was trained with .*broken\.py, line 1: NameError"):
        restore(run)


def test_run_spec_has_the_imports_and_they_may_change(lab_folder):
    (lab_folder / "lab.py").write_text(
        f"""{LAB}
@amdjax.register_augmentation("nothing", "changes nothing")
def nothing(keys, images, strength=1.0):
    return images
"""
    )
    config = default.get_config(imports=("lab",))
    spec = plan_runs(config)[-1]
    data = Fingerprint("lab", ("a", "b"), (8, 8, 3), {"train": 4, "test": 4})
    write_run(describe_run(config, spec, data), lab_folder / "run")
    run = json.loads((lab_folder / "run" / "run.json").read_text())
    assert run["imports"] == {"lab": str(lab_folder / "lab.py")}
    assert config.augment.nothing.strength == 1.0
    for registry, name in ((LOSSES, "gap"), (METHODS, "gap_only"), (AUGMENTATIONS, "nothing")):
        del registry[name]  # as in another process
    check_resumable(default.get_config(), spec, lab_folder / "run")


def test_a_module_that_has_changed_since_it_was_imported_is_reported(lab_folder):
    default.get_config(imports=("lab",))
    assert outdated(("lab",)) == []
    (lab_folder / "lab.py").write_text(LAB.replace("scale=1.0", "scale=20.0"))
    (sentence,) = outdated(("lab",))
    assert sentence.startswith(
        f"{lab_folder / 'lab.py'} has changed since this process imported it"
    )
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
