"""Loss declarations, and the objective built from them."""

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from amdjax.configs import default
from amdjax.errors import UserError
from amdjax.losses import LOSSES, LossInputs, LossSpec, Objective, build_objective
from amdjax.methods import method_losses
from amdjax.models import Outputs
from amdjax.predictor import count_prediction_parameters
from tests.losses.random_arrays import draw

# name: (needs a teacher, needs hard labels, can read cached outputs, whole batch, has variables)
PROPERTIES = {
    "ce": (False, False, True, False, False),
    "ce_strong": (False, True, True, False, False),
    "center": (False, True, True, False, True),
    "a_softmax": (False, True, True, False, False),
    "cosface": (False, True, True, False, False),
    "arcface": (False, True, True, False, False),
    "spherical_softmax": (False, False, True, False, False),
    "taylor_softmax": (False, False, True, False, False),
    "amc": (False, True, True, True, False),
    "contrastive": (False, True, True, True, False),
    "kd": (True, False, True, False, False),
    "dkd": (True, True, True, False, False),
    "dist": (True, False, True, True, False),
    "ttm": (True, False, True, False, False),
    "wttm": (True, False, True, False, False),
    "nkd": (True, True, True, False, False),
    "rld": (True, True, True, False, False),
    "wkd_l": (True, True, False, False, False),
    "ctkd": (True, False, True, False, True),
    "mlkd": (True, True, False, True, False),
    "am": (True, False, True, False, False),
    "at": (True, False, True, False, False),
    "ft": (True, False, False, False, False),
    "fitnet": (True, False, False, False, True),
    "nst": (True, False, False, False, False),
    "vid": (True, False, False, False, True),
    "afd": (True, False, False, True, True),
    "afds": (True, False, False, False, True),
    "ab": (True, False, False, True, True),
    "fsp": (True, False, False, False, True),
    "ft_factor": (True, False, False, True, True),
    "reviewkd": (True, False, False, True, True),
    "wkd_f": (True, False, False, True, True),
    "simkd": (True, False, False, True, True),
    "sp": (True, False, False, True, False),
    "rkd": (True, False, True, True, False),
    "pkt": (True, False, True, True, False),
    "cc": (True, False, True, True, True),
    "crd": (True, True, True, True, True),
}
AMD = {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}, "am": {"weight": 5000.0}}
STAGES = ("stage1", "stage2", "stage3")


def _outputs(seed: int, channels: int = 3) -> Outputs:
    rng = np.random.default_rng(seed)
    sizes = {"stem": 8, "stage1": 8, "stage2": 4, "stage3": 2, "final": 2}
    return Outputs(
        logits=draw(4, 5, seed=rng),
        features={layer: draw(4, n, n, channels, seed=rng) for layer, n in sizes.items()},
        embedding=draw(4, channels, seed=rng),
        class_weights=draw(channels, 5, seed=rng),
        class_bias=draw(5, seed=rng),
    )


@pytest.fixture
def inputs() -> LossInputs:
    labels = jnp.asarray([0, 1, 0, 3])
    return LossInputs(
        _outputs(0),
        _outputs(1),
        labels,
        jnp.asarray(0),
        gather=lambda x: x,
        example_index=jnp.asarray([5, 0, 3, 2]),
        num_examples=6,
        key=jax.random.key(0),
        strong_student=_outputs(2),
        strong_teacher=_outputs(3),
    )


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, LossSpec], None]:
    """Registers a loss until the end of the test."""
    return lambda name, spec: monkeypatch.setitem(LOSSES, name, spec)


def _apply(objective: Objective, inputs: LossInputs, step: int = 0) -> tuple[jax.Array, dict]:
    """Returns total and parts, with newly initialised variables of the losses."""
    inputs = inputs._replace(step=jnp.asarray(step))
    return objective.apply(objective.init(jax.random.key(0), inputs), inputs)[:2]


def _gradient(settings: dict[str, Any], inputs: LossInputs) -> Outputs:
    """Returns the gradient of the total with respect to the student's outputs."""
    objective = build_objective(settings)
    return jax.grad(lambda student: _apply(objective, inputs._replace(student=student))[0])(
        inputs.student
    )


def test_loss_spec_properties_are_those_of_the_table():
    properties = {
        name: (
            spec.needs_teacher,
            spec.refuses_mixed_batches({}),
            not spec.uncacheable_inputs,
            spec.whole_batch,
            spec.has_variables,
        )
        for name, spec in LOSSES.items()
    }
    assert properties == PROPERTIES


def test_loss_spec_attention_only_and_default_layers():
    assert {name for name, spec in LOSSES.items() if spec.attention_only} == {"am", "at"}
    layers = {n: s.defaults()["features"] for n, s in LOSSES.items() if s.reads_features}
    assert layers == {
        **dict.fromkeys(("am", "at", "ft", "nst", "vid", "afds", "sp", "ab", "reviewkd"), STAGES),
        **dict.fromkeys(("afd", "fsp"), ("stem", *STAGES)),
        **dict.fromkeys(("ft_factor", "wkd_f"), ("stage3",)),
        "fitnet": ("stage2",),
        "simkd": ("final",),
    }


@pytest.mark.parametrize("name", [name for name, row in PROPERTIES.items() if row[3]])
def test_loss_spec_gathers_exactly_the_batch_of_whole_batch_losses(inputs, name):
    gathered = []
    objective = build_objective({name: {}})
    variables = objective.init(jax.random.key(0), inputs)
    objective.apply(variables, inputs._replace(gather=lambda x: gathered.append(x.shape) or x))
    assert gathered
    assert all(shape[0] == 4 for shape in gathered)


@pytest.mark.parametrize("name", [name for name, row in PROPERTIES.items() if not row[3]])
def test_loss_spec_does_not_gather_for_per_sample_losses(inputs, name):
    objective = build_objective({name: {}})
    variables = objective.init(jax.random.key(0), inputs)
    objective.apply(variables, inputs._replace(gather=lambda x: pytest.fail("gathered")))


def test_loss_spec_gathers_neither_step_nor_class_weights(inputs):
    spec = LossSpec(
        lambda *arrays: arrays,
        inputs=("student.embedding", "student.class_weights", "labels", "step", "key"),
        whole_batch=True,
    )
    inputs = inputs._replace(gather=lambda x: jnp.concatenate([x, x]))
    (arguments,) = spec.calls(inputs, {}).values()
    assert [x.shape for x in arguments] == [(8, 3), (3, 5), (8,), (), ()]


def test_objective_compares_the_layers_of_teacher_features(inputs):
    pairs = {"features": ("stage1", "stage2"), "teacher_features": ("stem", "stage1")}
    _, parts = _apply(build_objective({"at": pairs}), inputs)
    by_hand = [
        losses.at_loss(inputs.student.features[ours], inputs.teacher.features[theirs]).mean()
        for ours, theirs in (("stage1", "stem"), ("stage2", "stage1"))
    ]
    np.testing.assert_allclose(parts["at"], np.mean(by_hand), rtol=1e-6)
    assert build_objective({"at": pairs}).attention_features == ("stage1", "stem")
    together = LossSpec(
        lambda student, teacher: student, inputs=("student.features", "teacher.features")
    )
    calls = together.calls(inputs, pairs)
    np.testing.assert_array_equal(calls["stage2"][1], inputs.teacher.features["stage1"])


def test_objective_compares_a_layer_with_several_of_the_teacher(inputs):
    pairs = {"features": ("stage1", "stage1"), "teacher_features": ("stem", "stage1")}
    _, parts = _apply(build_objective({"at": pairs}), inputs)
    by_hand = [
        losses.at_loss(inputs.student.features["stage1"], inputs.teacher.features[name]).mean()
        for name in ("stem", "stage1")
    ]
    np.testing.assert_allclose(parts["at"], np.mean(by_hand), rtol=1e-6)
    calls = LOSSES["at"].calls(inputs, pairs)
    assert list(calls) == ["stage1", "stage1-stage1"]


def test_objective_gives_losses_the_number_of_completed_epochs(inputs, register):
    register("epoch", LossSpec(lambda epoch: 2.0 * epoch, inputs=("epoch",)))
    objective = build_objective({"epoch": {}}, steps_per_epoch=3)
    assert [float(_apply(objective, inputs, step)[0]) for step in (0, 2, 3, 8)] == [0, 0, 2, 4]


def test_objective_predicts_with_the_variables_of_a_loss(inputs):
    objective = build_objective({"simkd": {}, "center": {}})
    variables = objective.init(jax.random.key(0), inputs)
    predicting = objective.predicting_variables(variables)
    assert {name: set(trees) for name, trees in predicting.items()} == {
        "params": {"simkd"},
        "state": {"simkd"},
    }
    logits = objective.predict(inputs.student, predicting).logits
    assert logits.shape == inputs.student.logits.shape
    assert np.abs(logits - inputs.student.logits).max() > 0.1
    with pytest.raises(ValueError, match="the loss simkd predicts with variables: pass them"):
        objective.predict(inputs.student)
    assert build_objective({"center": {}}).predicting_variables(variables) == {}


def test_count_prediction_parameters_counts_what_a_loss_predicts_with(inputs):
    def count(losses):
        objective = build_objective(losses)
        variables = objective.predicting_variables(objective.init(jax.random.key(0), inputs))
        network = {"params": {"w": np.zeros(5)}, "batch_stats": {"mean": np.zeros(3)}}
        return count_prediction_parameters({**network, "losses": variables})

    (before, after), classes = (
        (side.features["final"].shape[-1] for side in (inputs.student, inputs.teacher)),
        inputs.teacher.class_bias.size,
    )
    inner = after // 2
    convolutions = before * inner + 9 * inner * inner + inner * after
    norms = 2 * (inner + inner + after)  # scales and biases, not the running statistics
    assert count({"simkd": {}}) == 5 + convolutions + norms + (after + 1) * classes
    assert count({"center": {}, "ce": {}}) == count({"cosface": {}}) == 5
    prototypes = {"params": {"gaussian": {"mean": np.zeros((4, 2))}}, "state": {}}
    assert count_prediction_parameters({"params": {}, "losses": prototypes}) == 8


def test_objective_predicts_with_a_loss_that_has_parameters_alone(inputs, register):
    class Head(nn.Module):
        @nn.compact
        def __call__(self, embedding, labels):
            return losses.cross_entropy(nn.Dense(5, name="head")(embedding), labels)

        @nn.compact
        def predict(self, outputs, selection):
            return nn.Dense(5, name="head")(outputs.embedding)

    names = ("student.embedding", "labels")
    register("head", LossSpec(Head, inputs=names, logits_fn=Head.predict))
    objective = build_objective({"head": {}, "kd": {}})
    variables = objective.init(jax.random.key(0), inputs)
    kernel = variables["params"]["head"]["embedding"]["head"]["kernel"]
    logits = objective.predict(inputs.student, objective.predicting_variables(variables)).logits
    np.testing.assert_allclose(logits, inputs.student.embedding @ kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("student.logit",), "unknown loss input 'student.logit'; did you mean student.logits"),
        (("teacher.logits", "label"), "unknown loss input 'label'; did you mean labels"),
        ((), "a loss needs at least one input; known: student.logits, "),
    ],
)
def test_loss_spec_refuses_unknown_inputs(names, message):
    with pytest.raises(UserError, match=message):
        LossSpec(losses.kd_loss, inputs=names)


def test_loss_spec_takes_lists_of_names_and_has_a_hash():
    names = ["student.features", "teacher.features"]
    spec = LossSpec(losses.at_loss, inputs=names, features=["stage1"])
    same = LossSpec(losses.at_loss, inputs=tuple(names), features=("stage1",))
    assert (spec, hash(spec)) == (same, hash(same))
    with pytest.raises(UserError, match=r"the features of a loss are a tuple, \('stage1',\)"):
        LossSpec(losses.at_loss, inputs=names, features="stage1")


def test_user_loss_is_applied_and_has_a_gradient(inputs, register):
    def confident_mse(student, teacher, labels, scale=2.0):
        return scale * jnp.mean((student - teacher) ** 2, axis=-1) * (labels > 0)

    register(
        "confident_mse",
        LossSpec(
            confident_mse,
            inputs=("student.logits", "teacher.logits", "hard_labels"),
            weight=0.5,
        ),
    )
    objective = build_objective({"ce": {}, "confident_mse": {"scale": 3.0}})
    assert objective.needs_teacher
    assert objective.unmixable_losses == ("confident_mse",)
    assert objective.uncacheable_losses == ()
    assert losses.default_losses().confident_mse.to_dict() == {
        "weight": 0.5,
        "ramp_up_epochs": 0.0,
        "ramp": "gaussian",
        "end_fraction": 1.0,
        "end_weight": 0.0,
        "scale": 2.0,
    }
    student, teacher = inputs.student.logits, inputs.teacher.logits
    expected = np.mean(3.0 * np.mean((student - teacher) ** 2, -1) * (inputs.labels > 0))
    total, parts = _apply(objective, inputs)
    np.testing.assert_allclose(parts["confident_mse"], expected, rtol=1e-6)
    np.testing.assert_allclose(total, parts["ce"] + 0.5 * expected, rtol=1e-6)
    gradient = _gradient({"confident_mse": {"weight": 1.0}}, inputs).logits
    by_hand = 2.0 * 2.0 * (student - teacher) / 5 / 4 * (inputs.labels > 0)[:, None]
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-5)


def test_user_loss_of_features_is_the_mean_over_layers(inputs, register):
    register(
        "sparsity",
        LossSpec(
            lambda feature, labels: jnp.mean(jnp.abs(feature), (1, 2, 3)) * labels,
            inputs=("student.features", "labels"),
            features=("stage1", "stage3"),
        ),
    )
    _, parts = _apply(build_objective({"sparsity": {}}), inputs._replace(teacher=None))
    means = [
        np.mean(np.mean(np.abs(inputs.student.features[layer]), (1, 2, 3)) * inputs.labels)
        for layer in ("stage1", "stage3")
    ]
    np.testing.assert_allclose(parts["sparsity"], np.mean(means), rtol=1e-6)


def test_user_loss_with_variables_trains(inputs, register):
    class Adapter(nn.Module):
        @nn.compact
        def __call__(self, student, teacher):
            return jnp.mean((nn.Dense(5)(student) - teacher) ** 2, axis=-1)

    register(
        "adapter", LossSpec(Adapter, inputs=("student.embedding", "teacher.logits"), weight=2.0)
    )
    objective = build_objective({"adapter": {}})
    variables = objective.init(jax.random.key(0), inputs)

    def total(params):
        return objective.apply({**variables, "params": params}, inputs)[0]

    params = variables["params"]
    first = total(params)
    for _ in range(5):
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(total)(params))
    assert total(params) < first


def test_objective_is_the_weighted_sum_of_its_losses(inputs):
    total, parts = _apply(build_objective(AMD), inputs)
    by_hand = {
        "ce": losses.cross_entropy(inputs.student.logits, inputs.labels).mean(),
        "kd": losses.kd_loss(inputs.student.logits, inputs.teacher.logits, 4.0).mean(),
        "am": np.mean(
            [
                losses.am_global_local_loss(
                    inputs.student.features[f], inputs.teacher.features[f]
                ).mean()
                for f in STAGES
            ]
        ),
    }
    assert list(parts) == ["ce", "kd", "am"]
    for name, value in by_hand.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-6)
    expected = 0.1 * by_hand["ce"] + 0.9 * by_hand["kd"] + 5000 * by_hand["am"]
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_objective_of_equal_settings_is_equal_and_hashable():
    objective = build_objective(AMD, steps_per_epoch=3)
    assert objective == build_objective(AMD, steps_per_epoch=3)
    assert hash(objective) == hash(build_objective(AMD, steps_per_epoch=3))
    assert objective != build_objective(AMD, steps_per_epoch=4)


@pytest.mark.parametrize("name", LOSSES)
def test_registered_loss_has_a_gradient(inputs, name):
    gradient = _gradient({name: {}}, inputs)
    if LOSSES[name].needs_strong_view:
        objective = build_objective({name: {}})
        gradient = jax.grad(
            lambda strong: _apply(objective, inputs._replace(strong_student=strong))[0]
        )(inputs.strong_student)
    assert sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(gradient)) > 0


def test_objective_skips_losses_of_weight_zero(inputs):
    no_teacher = inputs._replace(teacher=None)
    objective = build_objective({"ce": {}, "kd": {"weight": 0.0}})
    assert not objective.needs_teacher
    assert list(_apply(objective, no_teacher)[1]) == ["ce"]
    with pytest.raises(UserError, match="no loss has a weight other than zero"):
        build_objective({"ce": {"weight": 0}})


def test_objective_ramps_a_weight_up_by_epoch(inputs):
    objective = build_objective({"ce": {"ramp_up_epochs": 10.0}}, steps_per_epoch=3)
    plain = _apply(build_objective({"ce": {}}), inputs)[0]
    for step, factor in [(0, 0.0), (2, 0.0), (3, np.exp(-5 * 0.9**2)), (30, 1.0), (99, 1.0)]:
        total, parts = _apply(objective, inputs, step)
        np.testing.assert_allclose(total, factor * plain, rtol=1e-5)
        np.testing.assert_allclose(parts["ce"], plain, rtol=1e-6)


def test_objective_ramps_a_weight_up_linearly_from_the_first_epoch(inputs):
    settings = {"ce": {"ramp_up_epochs": 10.0, "ramp": "linear"}}
    objective = build_objective(settings, steps_per_epoch=3)
    plain = _apply(build_objective({"ce": {}}), inputs)[0]
    for step, factor in [(0, 0.1), (2, 0.1), (3, 0.2), (27, 1.0), (99, 1.0)]:
        np.testing.assert_allclose(_apply(objective, inputs, step)[0], factor * plain, rtol=1e-5)


def test_loss_spec_warm_up_is_a_linear_ramp_by_default():
    ramps = {name: spec.defaults()["ramp_up_epochs"] for name, spec in LOSSES.items()}
    warmed = {"dkd", "rld", "reviewkd"}
    assert ramps == {name: 20.0 if name in warmed else 0.0 for name in LOSSES}
    assert {name for name in LOSSES if LOSSES[name].defaults()["ramp"] == "linear"} == warmed


def test_objective_ends_a_loss_after_its_end_fraction(inputs):
    settings = {"ce": {}, "kd": {"weight": 2.0, "end_fraction": 0.5}}
    objective = build_objective(settings, steps_per_epoch=3, epochs=4)
    for step, weight in [(0, 2.0), (5, 2.0), (6, 0.0), (11, 0.0)]:
        total, parts = _apply(objective, inputs, step)
        np.testing.assert_allclose(total, parts["ce"] + weight * parts["kd"], rtol=1e-6)


def test_objective_continues_a_loss_with_its_end_weight(inputs):
    ce = {"weight": 0.1, "end_fraction": 0.5, "end_weight": 1.0, "ramp_up_epochs": 4.0}
    ce["ramp"] = "linear"
    for settings in (ce, {**ce, "weight": 0.0}):
        objective = build_objective({"ce": settings, "kd": {}}, steps_per_epoch=3, epochs=4)
        for step, ramp, end in [(0, 0.25, 0.0), (5, 0.5, 0.0), (6, 0.0, 1.0), (11, 0.0, 1.0)]:
            total, parts = _apply(objective, inputs, step)
            weight = ramp * settings["weight"] + end
            expected = weight * parts["ce"] + 0.9 * parts["kd"]
            np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_eskd_ends_with_cross_entropy_alone(inputs):
    settings = method_losses("eskd", default.get_config().losses)
    objective = build_objective(settings, steps_per_epoch=1, epochs=8)
    for step, weights in [(1, (0.1, 0.9)), (2, (1.0, 0.0))]:
        total, parts = _apply(objective, inputs, step)
        expected = weights[0] * parts["ce"] + weights[1] * parts["kd"]
        np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_am_mask_ignores_positions_of_low_teacher_attention(inputs):
    student, teacher = (x.features["stage1"] for x in (inputs.student, inputs.teacher))
    attention = jnp.sum(teacher**2, -1)
    keep = (attention > 0.5 * attention.max((1, 2), keepdims=True))[..., None]
    assert 0 < keep.mean() < 1
    masked = losses.am_global_local_loss(student, teacher, mask_threshold=0.5)
    by_hand = losses.am_global_local_loss(student * keep, teacher * keep)
    np.testing.assert_allclose(masked, by_hand, rtol=1e-5)
    changed = jnp.where(keep, student, 7.0)
    np.testing.assert_allclose(
        losses.am_global_local_loss(changed, teacher, mask_threshold=0.5), masked, rtol=1e-5
    )
    with pytest.raises(UserError, match="mask_threshold must be at least 0 and below 1, not 1"):
        losses.am_global_local_loss(student, teacher, mask_threshold=1.0)


def test_predict_gives_the_logits_that_other_losses_read(inputs):
    objective = build_objective({"cosface": {"scale": 8.0}, "kd": {"weight": 1.0}})
    predicted = objective.predict(inputs.student)
    cosine = predicted.logits / 8.0
    assert np.all(np.abs(cosine) <= 1.0)
    _, parts = _apply(objective, inputs)
    np.testing.assert_allclose(
        parts["kd"], losses.kd_loss(predicted.logits, inputs.teacher.logits).mean(), rtol=1e-6
    )
    np.testing.assert_array_equal(
        build_objective({"ce": {}}).predict(inputs.student).logits, inputs.student.logits
    )


def test_predict_gives_the_logits_that_losses_of_the_second_view_read(inputs):
    objective = build_objective({"cosface": {}, "ce_strong": {}})
    _, parts = _apply(objective, inputs)
    predicted = objective.predict(inputs.strong_student).logits
    expected = losses.cross_entropy(predicted, inputs.labels).mean()
    np.testing.assert_allclose(parts["ce_strong"], expected, rtol=1e-6)
    unpredicted = losses.cross_entropy(inputs.strong_student.logits, inputs.labels).mean()
    assert np.abs(expected - unpredicted) > 0.1


@pytest.mark.parametrize("name", ["spherical_softmax", "taylor_softmax"])
def test_softmax_variants_predict_the_probabilities_they_train(inputs, name):
    objective = build_objective({name: {}})
    _, parts = _apply(objective, inputs)
    nll = losses.cross_entropy(objective.predict(inputs.student).logits, inputs.labels).mean()
    np.testing.assert_allclose(parts[name], nll, rtol=1e-6)


def test_build_objective_refuses_two_losses_with_predictions():
    with pytest.raises(UserError, match="cosface and arcface define different predictions"):
        build_objective({"cosface": {}, "arcface": {}})


def test_objective_names_losses_by_requirement():
    combinable = {name: {} for name, spec in LOSSES.items() if spec.logits_fn is None}
    objective = build_objective(combinable)
    unmixable = {"center", "amc", "contrastive", "dkd", "nkd", "rld", "wkd_l", "crd"}
    unmixable |= {"ce_strong", "mlkd"}
    assert set(objective.unmixable_losses) == unmixable
    uncacheable = {"ft", "fitnet", "nst", "vid", "afd", "afds", "sp", "ab", "fsp", "ft_factor"}
    uncacheable |= {"reviewkd", "wkd_f", "wkd_l", "mlkd"}
    assert set(objective.uncacheable_losses) == uncacheable
    assert objective.attention_features == STAGES
    assert build_objective({"amc": {"pair_labels": "predicted"}}).unmixable_losses == ()
    assert build_objective({"arcface": {}}).unmixable_losses == ("arcface",)
    chosen = {"at": {"features": ("stage3", "stage1")}, "am": {"features": ("stage1",)}}
    assert build_objective(chosen).attention_features == ("stage1", "stage3")
    assert build_objective({"ce": {}, "kd": {}}).attention_features == ()


def test_objective_init_stores_variables_by_loss_and_call(inputs):
    objective = build_objective(
        {"vid": {"features": ("stage1", "stage3")}, "cc": {}, "afd": {}, "center": {}, "ce": {}}
    )
    variables = objective.init(jax.random.key(0), inputs)
    assert {name: set(calls) for name, calls in variables["params"].items()} == {
        "vid": {"stage1", "stage3"},
        "cc": {"embedding"},
        "afd": {"features"},
    }
    assert {name: set(calls) for name, calls in variables["state"].items()} == {
        "center": {"embedding"}
    }
    state = objective.apply(variables, inputs)[2]
    assert jax.tree.structure(state) == jax.tree.structure(variables["state"])
    plain = build_objective({"ce": {}})
    assert plain.init(jax.random.key(0), inputs) == {"params": {}, "state": {}}


def test_objective_init_draws_other_variables_for_each_loss_and_call(inputs, register):
    class Adapter(nn.Module):
        @nn.compact
        def __call__(self, feature):
            return nn.Dense(4, name="dense")(feature).mean((1, 2, 3))

    for name in ("a", "b"):
        register(name, LossSpec(Adapter, inputs=("student.features",), features=STAGES[:2]))
    params = build_objective({"a": {}, "b": {}}).init(jax.random.key(0), inputs)["params"]
    kernels = [params[name][call]["dense"]["kernel"] for name in "ab" for call in STAGES[:2]]
    for one, other in itertools.combinations(kernels, 2):
        assert np.all(one != other)


@pytest.mark.parametrize(("height", "width"), [(8, 4), (4, 8)])
def test_pooled_pair_is_that_whose_map_of_the_teacher_is_larger_in_any_direction(
    inputs, height, width
):
    objective = build_objective({"at": {"features": ("stage1", "stage2", "stage3")}})
    assert objective.pooled_pair(inputs.student, inputs.teacher) is None
    larger = {**inputs.teacher.features, "stage2": jnp.zeros((4, height, width, 3))}
    teacher = inputs.teacher.replace(features=larger)
    assert objective.pooled_pair(inputs.student, teacher) == ("stage2", "stage2")
    assert objective.pooled_pair(teacher, inputs.teacher) is None


def test_amc_pairs_by_true_or_predicted_labels(inputs):
    # The halves of the batch are compared: labels 0 1 and 0 3, student 1 2 and 3 2, teacher 4 0
    # and 4 0.
    student, teacher = (
        side.replace(logits=jax.nn.one_hot(jnp.asarray(classes), 5))
        for side, classes in ((inputs.student, [1, 2, 3, 2]), (inputs.teacher, [4, 0, 4, 0]))
    )
    inputs = inputs._replace(student=student, teacher=teacher)
    totals = []
    for pair_labels, labels in (("true", inputs.labels), ("predicted", [1, 2, 3, 2])):
        objective = build_objective({"amc": {"pair_labels": pair_labels, "weight": 1.0}})
        totals.append(_apply(objective, inputs)[0])
        np.testing.assert_allclose(
            totals[-1], losses.amc_loss(student.embedding, jnp.asarray(labels)), rtol=1e-6
        )
    assert min(totals) > 0
    assert totals[0] != totals[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adm": {}}, "unknown loss 'adm'; did you mean am"),
        ({"am": {"margn": 1}}, "unknown setting of the loss am 'margn'; did you mean marg"),
        ({"at": {"features": ("stage9",)}}, "unknown feature of the student 'stage9'"),
        ({"at": {"features": ()}}, "list of features of a loss is empty"),
        ({"at": {"features": ("stem", "stem")}}, "name layers twice: stem and stem, stem and stem"),
        ({"at": {"teacher_features": ("stem",)}}, "names 3 layers of the student .* and teacher_f"),
        (
            {"at": {"features": ("stem",), "teacher_features": ("stage9",)}},
            "unknown feature of the teacher 'stage9'",
        ),
        ({"amc": {"pair_labels": "ture"}}, "did you mean true"),
        ({"vid": {"features": ("stage4",)}}, "unknown feature of the student 'stage4'"),
        ({"kd": {"ramp": "linaer"}}, "unknown ramp of the loss kd 'linaer'; did you mean linear"),
        ({"kd": {"reduction": "sum"}}, "unknown reduction of the loss kd 'sum'"),
        ({"kd": {"reduction": 1}}, "reduction of the loss kd must be a text, not 1"),
        ({"kd": {"weight": "0.9"}}, "setting weight of the loss kd must be a number, not"),
        ({"kd": {"temperature": None}}, "temperature of the loss kd must be a number, not None"),
        ({"kd": {"ramp": None}}, "setting ramp of the loss kd must be a text, not None"),
        ({"at": {"features": (1, 1)}}, "features of the loss at must have names of layers, not 1"),
        ({"kd": {"standardize": "yes"}}, "standardize of the loss kd must be True or False, not"),
        ({"at": {"features": "stem"}}, "features of the loss at must be a tuple, not 'stem'"),
    ],
)
def test_objective_names_the_invalid_setting(inputs, settings, message):
    with pytest.raises(UserError, match=message):
        _apply(build_objective(settings), inputs)


def test_objective_refuses_loss_variables_of_other_collections(inputs, register):
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, embedding):
            return nn.BatchNorm(use_running_average=False)(embedding).mean(-1)

    register("normed", LossSpec(Normed, inputs=("student.embedding",)))
    with pytest.raises(UserError, match=r"the loss normed has variables of .* 'batch_stats'"):
        build_objective({"normed": {}}).init(jax.random.key(0), inputs)


@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_objective_refuses_values_that_are_not_of_single_images_without_labels(
    inputs, register, shape
):
    def loss(logits, labels):
        return jnp.zeros(shape if not shape else (len(logits), 1))

    register("odd", LossSpec(loss, inputs=("student.logits", "labels")))
    objective = build_objective({"odd": {}}, some_unlabeled=True)
    with pytest.raises(UserError, match=r"the loss odd.* it must (be|return) one value for"):
        objective.apply({"params": {}, "state": {}}, inputs)


def test_objective_refuses_a_value_that_lacks_a_sum(inputs, register):
    loss = LossSpec(lambda logits: jnp.square(logits), inputs=("student.logits",))
    register("unreduced", loss)
    message = (
        r"the loss unreduced: its value has the shape \[4, \d+\]; it must be one value for each"
    )
    with pytest.raises(UserError, match=message):
        _apply(build_objective({"unreduced": {}}), inputs)


def test_objective_averages_narrow_values_in_float32(inputs, register):
    narrow = jnp.asarray([1.0, 1.0, 1.0, 1.0078125], jnp.bfloat16)
    register("narrow", LossSpec(lambda logits: narrow, inputs=("student.logits",)))
    total, parts = _apply(build_objective({"narrow": {"weight": 1.0}}), inputs)[:2]
    assert (total.dtype, parts["narrow"].dtype) == (jnp.float32, jnp.float32)
    assert float(parts["narrow"]) == narrow.astype(np.float32).mean()
