"""Losses, methods, networks and data sets that are registered outside the package."""

import dataclasses
import functools
import importlib
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import amdjax
from amdjax.config import validate
from amdjax.configs import default
from amdjax.data import Fingerprint, describe_dataset, load_dataset
from amdjax.data.policies import AUGMENTATIONS
from amdjax.data.splits import known_labels
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.imports import import_modules, outdated, unrecorded
from amdjax.listing import list_registries
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.models import MODELS, Outputs
from amdjax.report.figures import create_sections
from amdjax.report.outputs import compare_maps
from amdjax.report.summary import summarize
from amdjax.resuming import check_resumable
from amdjax.run_description import write_run
from amdjax.run_settings import describe_run
from amdjax.trained import restore
from amdjax.training.preflight import check_shapes
from amdjax.workdir import read_config, write_config
from tests.parse_config import parse_config
from tests.report.fake_report import fake_report
from tests.trained_run import change_run, copy

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

LAB = """
import amdjax

@amdjax.register_loss("gap", "a loss", inputs=("student.logits", "teacher.logits"), weight=0.5)
def gap(student, teacher, scale=1.0):
    return scale * (student - teacher)[:, 0] ** 2

amdjax.register_method("gap_only", "a method", {"gap": {}})
"""
RECIPE = """
from amdjax.configs import default

def get_config():
    config = default.get_config(%s)
    %s
    config.methods = ("gap_only",)
    return config
"""

BLACK, LABELS = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the module `lab`."""
    (tmp_path / "lab.py").write_text(LAB)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _loss(name="mine", function=lambda student: student, **options):
    options = {"inputs": ("student.logits",), **options}
    return amdjax.register_loss(name, "a loss", **options)(function)


@pytest.mark.parametrize("name", ["Mine", "my loss", "kd+at", "", "2nd", None])
def test_register_refuses_what_is_not_a_name(name):
    with pytest.raises(UserError, match="cannot be the name of a loss"):
        _loss(name)


def test_register_refuses_a_name_that_is_taken():
    with pytest.raises(UserError, match="the loss 'kd' is already registered by amdjax"):
        _loss("kd")

    def other(student):
        return student

    _loss()
    with pytest.raises(UserError, match=r"'mine' is already registered by .*test_own_parts\.py"):
        _loss(function=other)


def test_register_replaces_the_entry_of_a_module_that_is_loaded_again(folder):
    import_modules(("lab",))
    first = LOSSES["gap"].function
    (folder / "lab.py").write_text(LAB.replace("weight=0.5", "weight=0.25"))
    sys.modules.pop("lab")
    import_modules(("lab",))
    assert LOSSES["gap"].function is not first
    assert LOSSES["gap"].weight == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "student.logits"}, r"a tuple, \('student.logits',\)"),
        ({"inputs": ("student.logit",)}, "unknown loss input 'student.logit'; did you mean"),
        ({"inputs": ("student.logits", "labels")}, r"2 inputs .* takes 1 arrays \(student\)"),
        ({"function": lambda x, weight=1.0: x}, "argument 'weight', which is a setting of every"),
        ({"function": lambda x, norm=abs: x}, "default norm=<built-in function abs>; a setting is"),
    ],
)
def test_register_loss_refuses_what_cannot_be_called(options, message):
    with pytest.raises(UserError, match=message):
        _loss(**options)
    assert "mine" not in LOSSES


def test_register_loss_takes_a_linen_module():
    @amdjax.register_loss("mine", "a loss", inputs=("student.embedding", "teacher.embedding"))
    class Mine(nn.Module):
        width: int = 8

        @nn.compact
        def __call__(self, student, teacher):
            return (nn.Dense(self.width)(student) - teacher[:, : self.width]) ** 2

    assert default.get_config().losses.mine.width == 8


@pytest.mark.parametrize(
    ("name", "losses", "message"),
    [
        ("mine", {"kdd": {}}, "the method 'mine': unknown loss 'kdd'; did you mean"),
        ("mine", {"kd": {"temprature": 2.0}}, "setting of the loss kd 'temprature'"),
        ("mine", {"kd": {"weight": "0.9"}}, "the method 'mine': .*weight .* a number, not '0.9'"),
        ("teacher", {"ce": {}}, "'teacher' cannot be the name of a method"),
        ("kd", {"ce": {}}, "the method 'kd' is already registered by amdjax"),
    ],
)
def test_register_method_refuses_what_cannot_be_trained(name, losses, message):
    with pytest.raises(UserError, match=message):
        amdjax.register_method(name, "a method", losses)


def test_validate_accepts_a_setting_of_a_loss_whose_default_is_none():
    @amdjax.register_loss("mine", "a loss", inputs=("student.logits",))
    def mine(logits, limit=None):
        return jnp.mean(logits) if limit is None else jnp.mean(jnp.minimum(logits, limit))

    config = default.get_config()
    assert config.losses.mine.limit is None
    validate(config)


def test_register_method_keeps_the_last_definition_of_a_file(folder):
    for temperature in (2.0, 3.0):
        amdjax.register_method("mine", "a method", {"kd": {"temperature": temperature}})
    assert METHODS["mine"].losses == {"kd": {"temperature": 3.0}}
    (folder / "other.py").write_text(LAB + 'amdjax.register_method("mine", "another", {"gap": {}})')
    with pytest.raises(UserError, match=r"'mine' is already registered by .*test_own_parts\.py"):
        import_modules(("other",))


@pytest.mark.parametrize("name", ["loss", "accuracy", "step", "learning_rate"])
def test_register_loss_refuses_the_name_of_another_value_in_a_log(name):
    with pytest.raises(UserError, match=f"'{name}' cannot be the name of a loss"):
        amdjax.register_loss(name, "a loss", inputs=("student.logits",))(lambda logits: logits)


@pytest.mark.parametrize("name", ["wrn_16_4", "wrn_162", "resnet_20"])
def test_register_model_refuses_the_name_of_another_network(name):
    with pytest.raises(UserError, match=f"the network '{name}' exists already as"):
        amdjax.register_model(name, "a network")(MODELS["resnet20"].builder)


def test_register_model_refuses_a_module_without_the_arguments_of_a_network():
    with pytest.raises(UserError, match=r"missing a required argument: 'features'.*Model"):
        amdjax.register_model("mine", "a network")(nn.Dense)


def test_loss_names_what_a_network_does_not_have():
    @amdjax.register_model("mine", "a network")
    class Mine(amdjax.models.Model):
        @nn.compact
        def __call__(self, x, train=False, feature_hook=None):
            embedding = x.mean((1, 2))
            return Outputs(nn.Dense(self.num_classes)(embedding), {"stage1": x}, embedding)

    config = default.get_config()
    config.student.name = "mine"
    config.methods = ("scratch", "kd")
    check_shapes(config, plan_runs(config), 4, (8, 8, 3))
    wanted = {
        "at": "at: the loss at: unknown feature of the student 'stage2'; the student has stage1",
        "cosface": "cosface: the loss cosface: the student has no class_weights",
    }
    for method, message in wanted.items():
        config.methods = (method,)
        with pytest.raises(UserError, match=message):
            check_shapes(config, plan_runs(config)[-1:], 4, (8, 8, 3))


def _register_network(name, returns, **attributes):
    """Registers a network that returns what `returns(pixels [B,192], num_classes)` returns."""

    @amdjax.register_model(name, "a network")
    class Mine(amdjax.models.Model):
        widths: tuple[int, ...] = (4,)

        def __call__(self, x, train=False, feature_hook=None):
            return returns(x.reshape(len(x), -1), self.num_classes)

    if attributes:
        del MODELS[name]
        amdjax.register_model(name, "a network")(functools.partial(Mine, **attributes))


def _outputs(x, classes, **changes):
    return Outputs(x[:, :classes], {}, x, jnp.zeros((192, classes))).replace(**changes)


def _tokens(x):
    return x.reshape(len(x), 16, 12)


def _check_networks(*methods, student="mine", **teacher):
    config = default.get_config()
    config.methods, config.student.name = methods, student
    config.teacher.update(teacher or {"name": "mine"})
    check_shapes(config, plan_runs(config), 4, (8, 8, 3))


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (
            lambda x, classes: _outputs(x, 7),
            r"logits of the network 'mine' must have the shape \[2, 4\] .* not \[2, 7\]",
        ),
        (
            lambda x, classes: _outputs(x, classes, logits=_tokens(x)[..., :classes]),
            r"logits of the network 'mine' must have the shape \[2, 4\] .* not \[2, 16, 4\]",
        ),
        (
            lambda x, classes: _outputs(x, classes, embedding=_tokens(x)),
            r"embedding of the network 'mine' must have the shape \[2, D\] .* not \[2, 16, 12\]",
        ),
        (
            lambda x, classes: _outputs(x, classes, embedding=None),
            r"embedding of the network 'mine' must have the shape \[2, D\] .* not None",
        ),
        (
            lambda x, classes: _outputs(x, classes, features={"stage2": _tokens(x)}),
            r"stage2 of the network 'mine' must have the shape \[2, H, W, C\] .* not \[2, 16, 12\]",
        ),
        (
            lambda x, classes: _outputs(x, classes, features=[x]),
            "features of the network 'mine' are of type list; they must be a dict",
        ),
        (
            lambda x, classes: _outputs(x, classes, logits=x[:, :classes].astype(jnp.bfloat16)),
            "logits of the network 'mine' must be float32, not bfloat16",
        ),
        (
            lambda x, classes: (x[:, :classes], x),
            r"'mine' returns an object of type tuple; it must return amdjax\.models\.Outputs\(",
        ),
    ],
    ids=("classes", "axes", "embedding", "no_embedding", "map", "features", "dtype", "type"),
)
def test_check_shapes_refuses_networks_with_other_outputs(returns, message):
    _register_network("mine", returns)
    _register_network("right", _outputs)
    with pytest.raises(UserError, match=message):
        _check_networks("scratch")
    with pytest.raises(UserError, match=message):
        _check_networks("kd", student="right", name="mine", checkpoint="weights.npz")
    ensemble = {"ensemble": ("a", "b"), "ensemble_models": ("right", "mine")}
    with pytest.raises(UserError, match=message):
        _check_networks("kd", student="right", **ensemble)


def test_check_shapes_names_the_line_of_a_registered_loss():
    @amdjax.register_loss("mine", "a loss", inputs=("student.logits", "labels"))
    def mine(logits, labels):
        return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]

    amdjax.register_method("mine_only", "a method", {"mine": {}})
    _register_network("right", _outputs)
    config = default.get_config()
    config.methods, config.student.name = ("mine_only",), "right"
    check_shapes(config, plan_runs(config), 4, (8, 8, 3))
    config.mix.name = "mixup"
    line = mine.__code__.co_firstlineno + 2
    message = rf"mine_only: a loss .*test_own_parts\.py, line {line}: \w+: .*'mixup' labels are pro"
    with pytest.raises(UserError, match=message):
        check_shapes(config, plan_runs(config), 4, (8, 8, 3))


def test_check_shapes_names_the_line_of_a_registered_network():
    def broken(pixels, classes):
        return _outputs(pixels @ jnp.zeros((7, 7)), classes)

    _register_network("mine", broken)
    line = broken.__code__.co_firstlineno + 1
    message = rf"outputs of the network 'mine' cannot .*test_own_parts\.py, line {line}: TypeError"
    with pytest.raises(UserError, match=message):
        _check_networks("scratch")


def test_check_shapes_refuses_a_prediction_for_other_classes():
    weights = jnp.zeros((192, 7))
    _register_network("mine", lambda x, classes: _outputs(x, classes, class_weights=weights))
    _check_networks("scratch")
    message = r"the loss cosface predicts with the network 'mine' must .* \[2, 4\] .* not \[2, 7\]"
    with pytest.raises(UserError, match=message):
        _check_networks("cosface")


def test_check_shapes_refuses_a_prediction_of_a_trained_layer_for_other_classes():
    class Head(nn.Module):
        @nn.compact
        def __call__(self, embedding, labels):
            return jnp.zeros(len(labels)) + nn.Dense(7, name="head")(embedding).mean()

        @nn.compact
        def predict(self, outputs, selection):
            return nn.Dense(7, name="head")(outputs.embedding)

    inputs = ("student.embedding", "labels")
    amdjax.register_loss("head", "a loss", inputs=inputs, logits_fn=Head.predict)(Head)
    amdjax.register_method("head_only", "a method", {"head": {}})
    _register_network("mine", _outputs)
    with pytest.raises(UserError, match=r"the loss head predicts .* \[2, 4\] .* not \[2, 7\]"):
        _check_networks("head_only")


def test_check_shapes_refuses_networks_that_are_not_hashable():
    _register_network("mine", _outputs, widths=[4, 8])
    with pytest.raises(UserError, match=r"network 'mine' .* widths=\[4, 8\] .*use a tuple"):
        _check_networks("scratch")


def test_check_shapes_refuses_networks_that_training_cannot_call():
    @amdjax.register_model("mine", "a network")
    class Mine(amdjax.models.Model):
        def __call__(self, x):
            return _outputs(x.reshape(len(x), -1), self.num_classes)

    @amdjax.register_model("teacher_alone", "a network")
    class TeacherAlone(amdjax.models.Model):
        def __call__(self, x, train):
            return _outputs(x.reshape(len(x), -1), self.num_classes)

    _register_network("right", _outputs)
    given = {"checkpoint": "weights.npz"}
    _check_networks("kd", student="right", name="teacher_alone", **given)
    with pytest.raises(UserError, match=r"'teacher_alone' .*'feature_hook'; define `__call__"):
        _check_networks("scratch", student="teacher_alone")
    for student, teacher in (("mine", {}), ("right", {"name": "mine", **given})):
        with pytest.raises(UserError, match=r"'mine' cannot be called .* argument 'train'; "):
            _check_networks("kd", student=student, **teacher)


def test_check_shapes_accepts_features_that_are_not_maps_where_losses_do():
    _register_network("mine", lambda x, c: _outputs(x, c, features={"block": _tokens(x)}))
    config = default.get_config()
    config.methods, config.student.name, config.teacher.name = ("sp",), "mine", "mine"
    config.losses.sp.features = config.losses.at.features = ("block",)
    check_shapes(config, plan_runs(config), 4, (8, 8, 3))
    config.methods = ("at",)
    message = r"at: the loss at cannot .* block of the student 'mine', which is \[2, 16, 12\]"
    with pytest.raises(UserError, match=message):
        check_shapes(config, plan_runs(config), 4, (8, 8, 3))


def test_report_leaves_out_maps_that_networks_do_not_have():
    report = fake_report(("kd",), examples=20)
    without = [dataclasses.replace(one, maps={}, cams={}, angles={}) for one in report.networks]
    report = dataclasses.replace(report, networks=tuple(without))
    summaries = {summary.method: summary for summary in summarize(report)}
    sections = {one.key: one for one in create_sections(report, summaries)}
    for key, left in (("activation", "distance"), ("angles", "geodesic")):
        assert [figure.name for figure in sections[key].figures] == [left]
        assert "stage1, stage2 and stage3 in common" in sections[key].notes[0]
    maps = {"stage1": np.ones((2, 4, 4, 3)), "stage2": np.ones((2, 2, 2, 3))}
    compared = compare_maps({"stage2": maps["stage2"]}, maps, 1.35, 64.0)
    assert compared["similarity"].keys() == {"stage2"}


def _arrays(images=BLACK, labels=LABELS, test=None):
    @amdjax.register_dataset("mine", "a data set", class_names=("a", "b"))
    def load(split):
        return (images if split == "train" or test is None else test), labels

    data = default.get_config().data
    data.name = "mine"
    return data


def test_dataset_of_arrays_returns_them_with_a_digest_of_their_content():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    dataset = load_dataset(_arrays(images))
    assert (dataset.class_names, dataset.image_shape) == (("a", "b"), (8, 8, 3))
    read, labels = dataset.train.read(np.array([3, 0]))
    np.testing.assert_array_equal(read, images[[3, 0]])
    assert labels.tolist() == [1, 0] and labels.dtype == np.int32
    changed = images.copy()
    changed[1, 2, 3, 0] ^= 1
    digests = [load_dataset(_arrays(x)).fingerprint.digest for x in (images, images, changed)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 8, 8, 3))}, r"'train': images must be uint8 .* not float64"),
        ({"images": np.zeros((4, 8, 8), np.uint8)}, r"not uint8 \[4, 8, 8\]"),
        ({"labels": np.zeros(4)}, r"labels must be integers \[4\].*not float64"),
        ({"labels": np.arange(3)}, r"labels must be integers \[4\].*not int64 \[3\]"),
        ({"labels": np.arange(4)}, r"labels from 0 to 3 are outside the classes 0\.\.1"),
        ({"test": np.zeros((4, 9, 9, 3), np.uint8)}, "training images .*8, 8, 3.*9, 9, 3"),
    ],
)
def test_dataset_of_arrays_refuses_other_arrays(arrays, message):
    with pytest.raises(UserError, match=message):
        describe_dataset(_arrays(**arrays))


def test_dataset_of_arrays_is_not_resized():
    data = _arrays()
    data.image_size = 8
    describe_dataset(data)
    data.image_size = 16
    with pytest.raises(UserError, match=r"8x8, which are not resized to 16x16: set .* to 8$"):
        describe_dataset(data)
    data.update(image_size=8, random_resized_crop=True)
    with pytest.raises(UserError, match=r"not cropped: set .*random_resized_crop to False"):
        describe_dataset(data)


def test_dataset_of_arrays_has_class_names_in_one_normal_form():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    names = (decomposed, "tea", "water")
    amdjax.register_dataset("mine", "a data set", class_names=names)(lambda split: (BLACK, LABELS))
    data = default.get_config().data
    data.name = "mine"
    fingerprint = load_dataset(data).fingerprint
    assert fingerprint.class_names == (composed, "tea", "water")
    assert Fingerprint.from_dict(fingerprint.to_dict()) == fingerprint  # so a run is resumed
    for name in (composed, decomposed):
        assert known_labels(fingerprint.class_names, (name,)).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("names", ["ab", ("a",), ("a", "a"), ("caf\u00e9", "cafe\u0301")])
def test_register_dataset_refuses_wrong_class_names(names):
    with pytest.raises(UserError, match="at least two class_names"):
        amdjax.register_dataset("mine", "a data set", class_names=names)


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
    data = load_dataset(_arrays()).fingerprint
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
    _loss()
    (sentence,) = unrecorded(config)
    assert "test_own_parts.py registers" in sentence
    config.imports = ("lab",)
    assert unrecorded(config) == []
