"""Losses, methods and networks are registered by name, from outside the package."""

import sys

import jax.numpy as jnp
import pytest
from flax import linen as nn

import amdjax
from amdjax.config import validate
from amdjax.configs import default
from amdjax.errors import UserError
from amdjax.imports import import_modules
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.models import MODELS
from tests.lab_module import LAB

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


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
    with pytest.raises(UserError, match=r"'mine' is already registered by .*test_registry\.py"):
        _loss(function=other)


def test_register_replaces_the_entry_of_a_module_that_is_loaded_again(lab_folder):
    import_modules(("lab",))
    first = LOSSES["gap"].function
    (lab_folder / "lab.py").write_text(LAB.replace("weight=0.5", "weight=0.25"))
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


def test_register_method_keeps_the_last_definition_of_a_file(lab_folder):
    for temperature in (2.0, 3.0):
        amdjax.register_method("mine", "a method", {"kd": {"temperature": temperature}})
    assert METHODS["mine"].losses == {"kd": {"temperature": 3.0}}
    (lab_folder / "other.py").write_text(
        LAB + 'amdjax.register_method("mine", "another", {"gap": {}})'
    )
    with pytest.raises(UserError, match=r"'mine' is already registered by .*test_registry\.py"):
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
