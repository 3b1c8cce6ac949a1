"""Networks from outside the package: what training needs of them, and how it says so."""

import functools

import jax.numpy as jnp
import pytest
from flax import linen as nn

import amdjax
from amdjax.configs import default
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.models import MODELS, Outputs
from amdjax.training.preflight import check_shapes


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
    message = (
        rf"mine_only: a loss .*test_network_checks\.py, line {line}: \w+: .*'mixup' labels are pro"
    )
    with pytest.raises(UserError, match=message):
        check_shapes(config, plan_runs(config), 4, (8, 8, 3))


def test_check_shapes_names_the_line_of_a_registered_network():
    def broken(pixels, classes):
        return _outputs(pixels @ jnp.zeros((7, 7)), classes)

    _register_network("mine", broken)
    line = broken.__code__.co_firstlineno + 1
    message = (
        rf"outputs of the network 'mine' cannot .*test_network_checks\.py, line {line}: TypeError"
    )
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
