"""What must hold on the device that JAX_PLATFORMS selects, with the rounding of that device.

The project's tests run on CPU; `pytest -m accelerator` runs these on a GPU or a TPU, with the other
tests of the same marker: values of published PyTorch code, and the loop on the device.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import distributed, losses
from amdjax.checkpoint import Checkpoints
from amdjax.configs import default
from amdjax.data import Dataset, InMemorySource
from amdjax.experiment import RunSpec
from amdjax.models import create_model, import_torch_state_dict, init_variables
from amdjax.models.layers import conv
from amdjax.training.step_runner import StepRunner
from amdjax.training.trainer import Trainer, build_trainer
from tests.reference_values import cases, load, nhwc, prefixed

pytestmark = pytest.mark.accelerator

_BFLOAT16 = 2.0**-8  # relative rounding error
_SHAPE = (8, 8, 3)


@pytest.mark.parametrize(
    ("name", "loss", "settings", "tolerance"),
    [
        ("kd", losses.kd_loss, ("temperature",), 1e-4),
        ("at", losses.at_loss, (), 1e-4),
        ("amd_global_local", losses.am_global_local_loss, ("margin",), 1e-4),
    ],
)
def test_loss_of_bfloat16_features_is_that_of_their_values(name, loss, settings, tolerance):
    case = next(cases(name))
    values = {key: float(case[key]) for key in settings}
    mean = jax.jit(lambda student, teacher: loss(student, teacher, **values).mean())
    features = [jnp.asarray(case[side], jnp.bfloat16) for side in ("student", "teacher")]
    value, exact = mean(*features), mean(*(x.astype(jnp.float32) for x in features))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=tolerance)


@pytest.mark.parametrize("loss", [losses.at_loss, losses.ft_loss, losses.am_loss])
def test_loss_pools_bfloat16_features_in_float32(loss):
    features = [
        jax.random.normal(jax.random.key(side), (2, side, side, 3), jnp.bfloat16) for side in (4, 8)
    ]
    value, exact = loss(*features), loss(*(x.astype(jnp.float32) for x in features))
    np.testing.assert_allclose(value, exact, rtol=1e-4)


def test_network_in_bfloat16_has_the_logits_of_pytorch_within_its_rounding():
    arrays = load("model_wrn_16_1")
    variables = import_torch_state_dict("wrn_16_1", prefixed(arrays, "param"))
    model = create_model("wrn_16_1", 10, jnp.bfloat16)
    logits = jax.jit(model.apply)(variables, nhwc(arrays["image"])).logits
    error = np.linalg.norm(np.float32(logits) - arrays["logits_eval"])
    # Sixteen layers whose rounding errors add up like a random walk: 4 of them.
    assert error < 4 * _BFLOAT16 * np.linalg.norm(arrays["logits_eval"])
    assert error > 0.01 * _BFLOAT16 * np.linalg.norm(arrays["logits_eval"])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2 * _BFLOAT16)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_convolution_has_the_kernel_gradient_of_its_definition(kernel, stride, dtype, tolerance):
    layer = conv(6, kernel, stride, dtype=dtype, name="conv")
    rng = np.random.default_rng(0)
    shapes = (4, 8, 8, 5), (kernel, kernel, 5, 6), (4, 8 // stride, 8 // stride, 6)
    images, weights, result = (
        np.float64(jnp.asarray(rng.standard_normal(shape), dtype).astype(jnp.float32))
        for shape in shapes
    )

    @jax.jit
    def gradient(weights, images, result):
        def apply(weights):
            return layer.apply({"params": {"kernel": weights}}, images)

        return jax.vjp(apply, weights)[1](result)[0]

    ours = gradient(*(jnp.asarray(x, dtype) for x in (weights, images, result)))
    pad = kernel // 2
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    expected = np.zeros(weights.shape)
    for row in range(kernel):
        for column in range(kernel):
            seen = padded[:, row : row + 8 : stride, column : column + 8 : stride]
            expected[row, column] = np.einsum("bhwi,bhwo->io", seen, result)
    assert np.linalg.norm(ours - expected) < tolerance * np.linalg.norm(expected)


def _build() -> tuple[Trainer, dict]:
    """Returns a trainer with three steps an epoch, and the teacher's variables."""
    config = default.get_config()
    # So low that rounding does not grow from step to step.
    config.optim.learning_rate, config.optim.boundaries = 1e-3, ()
    config.batch_size, config.epochs, config.log_every_steps = 8, 2, 3
    config.teacher.name, config.augment.flip = "resnet8", True
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, *_SHAPE), np.uint8)
    source = InMemorySource(images, rng.integers(0, 4, 24).astype(np.int32))
    dataset = Dataset("random", ("a", "b", "c", "d"), _SHAPE, source, source)
    terms = {"ce": {}, "kd": {}, "am": {"weight": 50.0}}
    spec = RunSpec(name="x", method="x", model="resnet8", losses=terms, seed=0, teacher="teacher")
    trainer = build_trainer(config, spec, dataset, distributed.make_mesh(jax.devices()[:1]))
    variables = init_variables(trainer.teacher, jax.random.key(2), _SHAPE)
    return trainer, distributed.replicate(variables, trainer.mesh)


def _train(runner, state, start, total):
    """Returns the state after the last step, and name -> values of each metric."""
    history, done = {}, start
    with runner.open(start, total) as run_steps:
        while done < total:
            last = min(done + runner.max_chunk, total)
            (state,), (metrics,) = run_steps((state,), done, last)
            for name, values in metrics.items():
                history.setdefault(name, []).extend(np.atleast_1d(values)[: last - done])
            done = last
    return state, history


def test_restored_checkpoint_continues_with_the_numbers_of_the_run(tmp_path):
    trainer, teacher = _build()
    runner = StepRunner(trainer, (3,), teacher, on_device=False)
    state, _ = _train(runner, trainer.init_state(3), 0, 2)
    saved = jax.device_get(state)
    with Checkpoints(tmp_path, {"method": "x", "settings": {}}) as checkpoints:
        checkpoints.save(2, state)
    _, expected = _train(runner, state, 2, 4)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(trainer.init_state(3))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), saved)
    _, again = _train(runner, restored, 2, 4)
    assert again.keys() == expected.keys() > {"loss", "ce", "kd", "am"}
    for name, values in expected.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-3, atol=1e-5, err_msg=name)
