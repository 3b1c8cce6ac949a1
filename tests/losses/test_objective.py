import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from amdjax.errors import UserError
from amdjax.losses import Inputs, objective
from amdjax.models import Outputs


def _outputs(seed, channels=3):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    features = {"stem": draw(4, 8, 8, channels), "stage1": draw(4, 8, 8, channels)}
    features |= {"stage2": draw(4, 4, 4, channels), "stage3": draw(4, 2, 2, channels)}
    return Outputs(draw(4, 5), features, draw(4, channels), draw(channels, 5))


@pytest.fixture
def inputs():
    return Inputs(_outputs(0), _outputs(1), jnp.asarray([0, 1, 0, 3]), gather=lambda x: x)


def test_amd_is_the_weighted_sum_of_its_parts(inputs):
    settings = {
        "ce": {"weight": 0.1},
        "kd": {"weight": 0.9, "temperature": 4.0},
        "am": {"weight": 5000.0},
    }
    total, parts = objective(settings).apply(inputs, 0)
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
        goal = objective({name: {}})
        assert goal.needs_teacher == (name not in ("ce", "amc", "contrastive"))

        def total(student, goal=goal):
            return goal.apply(inputs._replace(student=student), 0)[0]

        gradient = jax.grad(total)(inputs.student)
        assert sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(gradient)) > 0


def test_a_loss_of_weight_zero_is_not_computed(inputs):
    no_teacher = inputs._replace(teacher=None)
    goal = objective({"ce": {}, "kd": {"weight": 0.0}})
    assert not goal.needs_teacher
    assert list(goal.apply(no_teacher, 0)[1]) == ["ce"]
    with pytest.raises(UserError, match="no loss with a weight other than zero"):
        objective({"ce": {"weight": 0}})


def test_weight_ramps_up_by_epoch(inputs):
    goal = objective({"ce": {"ramp_up_epochs": 10.0}}, steps_per_epoch=3)
    plain = objective({"ce": {}}).apply(inputs, 0)[0]
    for step, factor in [(0, 0.0), (2, 0.0), (3, np.exp(-5 * 0.9**2)), (30, 1.0), (99, 1.0)]:
        total, parts = goal.apply(inputs, jnp.asarray(step))
        np.testing.assert_allclose(total, factor * plain, rtol=1e-5)
        np.testing.assert_allclose(parts["ce"], plain, rtol=1e-6)


def test_pairs_by_true_or_predicted_labels(inputs):
    predicted = jnp.argmax(inputs.student.logits, -1)
    for kind, labels in (("true", inputs.labels), ("predicted", predicted)):
        total, _ = objective({"amc": {"pair_labels": kind, "weight": 1.0}}).apply(inputs, 0)
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
    ],
)
def test_mistakes_are_named(inputs, settings, message):
    with pytest.raises(UserError, match=message):
        objective(settings).apply(inputs, 0)
