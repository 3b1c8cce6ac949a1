import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from amdjax.errors import UserError
from amdjax.losses import LOSSES, LossInputs, build_objective
from amdjax.models import Outputs

NO_TEACHER = (
    *("ce", "amc", "contrastive", "center", "a_softmax", "cosface", "arcface"),
    *("spherical_softmax", "taylor_softmax"),
)
WITH_VARIABLES = ("center", "fitnet", "vid", "afd", "afds", "cc")


def _outputs(seed, channels=3):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    features = {"stem": draw(4, 8, 8, channels), "stage1": draw(4, 8, 8, channels)}
    features |= {"stage2": draw(4, 4, 4, channels), "stage3": draw(4, 2, 2, channels)}
    return Outputs(draw(4, 5), features, draw(4, channels), draw(channels, 5))


@pytest.fixture
def inputs():
    labels = jnp.asarray([0, 1, 0, 3])
    return LossInputs(_outputs(0), _outputs(1), labels, jnp.asarray(0), gather=lambda x: x)


def _apply(objective, inputs, step=0):
    """Total and parts, with new variables where a loss has some."""
    inputs = inputs._replace(step=jnp.asarray(step))
    return objective.apply(objective.init(jax.random.key(0), inputs), inputs)[:2]


def test_amd_is_the_weighted_sum_of_its_parts(inputs):
    settings = {
        "ce": {"weight": 0.1},
        "kd": {"weight": 0.9, "temperature": 4.0},
        "am": {"weight": 5000.0},
    }
    total, parts = _apply(build_objective(settings), inputs)
    by_hand = {
        "ce": losses.cross_entropy(inputs.student.logits, inputs.labels).mean(),
        "kd": losses.kd_loss(inputs.student.logits, inputs.teacher.logits, 4.0).mean(),
        "am": np.mean(
            [
                losses.am_global_local_loss(
                    inputs.student.features[f], inputs.teacher.features[f]
                ).mean()
                for f in ("stage1", "stage2", "stage3")
            ]
        ),
    }
    assert list(parts) == ["ce", "kd", "am"]
    for name, value in by_hand.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-6)
    expected = 0.1 * by_hand["ce"] + 0.9 * by_hand["kd"] + 5000 * by_hand["am"]
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_every_registered_loss_has_a_gradient(inputs):
    for name in losses.LOSSES:
        objective = build_objective({name: {}})
        assert objective.needs_teacher == (name not in NO_TEACHER)
        assert (name in WITH_VARIABLES) == LOSSES[name].has_variables

        def total(student, objective=objective):
            return _apply(objective, inputs._replace(student=student))[0]

        gradient = jax.grad(total)(inputs.student)
        assert sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(gradient)) > 0


def test_a_loss_of_weight_zero_is_not_computed(inputs):
    no_teacher = inputs._replace(teacher=None)
    objective = build_objective({"ce": {}, "kd": {"weight": 0.0}})
    assert not objective.needs_teacher
    assert list(_apply(objective, no_teacher)[1]) == ["ce"]
    with pytest.raises(UserError, match="no loss with a weight other than zero"):
        build_objective({"ce": {"weight": 0}})


def test_weight_ramps_up_by_epoch(inputs):
    objective = build_objective({"ce": {"ramp_up_epochs": 10.0}}, steps_per_epoch=3)
    plain = _apply(build_objective({"ce": {}}), inputs)[0]
    for step, factor in [(0, 0.0), (2, 0.0), (3, np.exp(-5 * 0.9**2)), (30, 1.0), (99, 1.0)]:
        total, parts = _apply(objective, inputs, step)
        np.testing.assert_allclose(total, factor * plain, rtol=1e-5)
        np.testing.assert_allclose(parts["ce"], plain, rtol=1e-6)


def test_a_loss_ends_after_its_share_of_the_epochs(inputs):
    settings = {"ce": {}, "kd": {"weight": 2.0, "end_fraction": 0.5}}
    objective = build_objective(settings, steps_per_epoch=3, epochs=4)
    for step, weight in [(0, 2.0), (5, 2.0), (6, 0.0), (11, 0.0)]:
        total, parts = _apply(objective, inputs, step)
        np.testing.assert_allclose(total, parts["ce"] + weight * parts["kd"], rtol=1e-6)


def test_masked_am_looks_where_the_teacher_looks(inputs):
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


def test_what_a_margin_loss_predicts_by_is_what_others_see(inputs):
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


@pytest.mark.parametrize("name", ["spherical_softmax", "taylor_softmax"])
def test_other_softmaxes_predict_what_they_are_trained_for(inputs, name):
    objective = build_objective({name: {}})
    _, parts = _apply(objective, inputs)
    nll = losses.cross_entropy(objective.predict(inputs.student).logits, inputs.labels).mean()
    np.testing.assert_allclose(parts[name], nll, rtol=1e-6)


def test_two_ways_to_predict_are_refused():
    with pytest.raises(UserError, match="cosface and arcface predict in different ways"):
        build_objective({"cosface": {}, "arcface": {}})


def test_who_needs_hard_labels():
    everything = {name: {} for name in LOSSES if LOSSES[name].logits_fn is None}
    assert set(build_objective(everything).needs_hard_labels) == {
        "center",
        "dkd",
        "amc",
        "contrastive",
    }
    assert build_objective({"amc": {"pair_labels": "predicted"}}).needs_hard_labels == ()
    assert build_objective({"arcface": {}}).needs_hard_labels == ("arcface",)


def test_variables_by_loss_and_place(inputs):
    objective = build_objective({"vid": {"features": ("stage1", "stage3")}, "center": {}, "ce": {}})
    variables = objective.init(jax.random.key(0), inputs)
    assert set(variables["params"]) == {"vid"}
    assert set(variables["params"]["vid"]) == {"stage1", "stage3"}
    assert set(variables["state"]) == {"center"}
    state = objective.apply(variables, inputs)[2]
    assert jax.tree.structure(state) == jax.tree.structure(variables["state"])
    plain = build_objective({"ce": {}})
    assert plain.init(jax.random.key(0), inputs) == {"params": {}, "state": {}}


def test_pairs_by_true_or_predicted_labels(inputs):
    predicted = jnp.argmax(inputs.student.logits, -1)
    for kind, labels in (("true", inputs.labels), ("predicted", predicted)):
        objective = build_objective({"amc": {"pair_labels": kind, "weight": 1.0}})
        total, _ = _apply(objective, inputs)
        np.testing.assert_allclose(
            total, losses.amc_loss(inputs.student.embedding, labels), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adm": {}}, "unknown loss 'adm'; did you mean am"),
        ({"am": {"margn": 1}}, "unknown hyper-parameter of the loss am 'margn'; did you mean marg"),
        ({"at": {"features": ("stage9",)}}, "unknown feature of the student 'stage9'"),
        ({"at": {"features": ()}}, "empty list of features"),
        ({"amc": {"pair_labels": "ture"}}, "did you mean true"),
        ({"vid": {"features": ("stage4",)}}, "unknown feature of the student 'stage4'"),
    ],
)
def test_mistakes_are_named(inputs, settings, message):
    with pytest.raises(UserError, match=message):
        _apply(build_objective(settings), inputs)
