import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.models import create_model, init_variables

# Published, or computed from the published definitions, with 10 classes (ImageNet: 1,000).
PARAMETERS = {
    "wrn_16_1": 175_066,
    "wrn_16_2": 691_674,
    "wrn_16_3": 1_549_530,
    "wrn_16_8": 10_961_370,
    "wrn_28_1": 369_498,
    "wrn_28_3": 3_294_042,
    "wrn_40_1": 563_930,
    "wrn_40_2": 2_243_546,
    "resnet20": 272_474,
    "resnet26": 369_690,
    "resnet44": 661_338,
    "resnet56": 855_770,
    "resnet80": 1_244_634,
    "resnet110": 1_730_714,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
}
IMAGENET = ("resnet18", "resnet34", "resnet50")


def _shapes(name, size=32, classes=10):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    model = create_model(name, classes)
    return jax.eval_shape(
        lambda images: model.init_with_output(jax.random.key(0), images, train=True), images
    )


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    _, variables = _shapes(name, classes=1000 if name in IMAGENET else 10)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", ["wrn_10_2", "wrn_16_3", "resnet8", "resnet44", *IMAGENET])
def test_shapes(name, size):
    outputs, _ = _shapes(name, size, classes=7)
    assert outputs.logits.shape == (2, 7)
    assert outputs.embedding.shape[0] == 2
    first = size // 4 if name in IMAGENET else size
    stages = 4 if name in IMAGENET else 3
    assert set(outputs.features) == {"stem", *(f"stage{i + 1}" for i in range(stages))}
    for i in range(stages):
        assert outputs.features[f"stage{i + 1}"].shape[1:3] == (first // 2**i, first // 2**i)


@pytest.mark.parametrize("name", ["wrn_10_1", "resnet8", "resnet18"])
def test_statistics_move_once_and_in_training_alone(name):
    model = create_model(name, 4)
    variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    images = 2.0 + jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    _, updates = model.apply(variables, images, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    if name != "wrn_10_1":  # its first norm comes behind the first convolution as well
        stem = jax.lax.conv_general_dilated(
            images,
            variables["params"]["conv1"]["kernel"],
            (2, 2) if name == "resnet18" else (1, 1),
            [(3, 3)] * 2 if name == "resnet18" else [(1, 1)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        np.testing.assert_allclose(
            updates["batch_stats"]["bn1"]["mean"], 0.1 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            updates["batch_stats"]["bn1"]["var"],
            0.9 + 0.1 * np.var(stem, axis=(0, 1, 2), ddof=1),
            rtol=1e-4,
        )


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    model = create_model("wrn_10_1", 4, dtype=jnp.bfloat16)
    variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    outputs = model.apply(variables, images)
    assert outputs.features["stage3"].dtype == jnp.bfloat16
    assert outputs.logits.dtype == outputs.embedding.dtype == jnp.float32
    exact = create_model("wrn_10_1", 4).apply(variables, images).logits
    np.testing.assert_allclose(outputs.logits, exact, atol=0.05)


@pytest.mark.parametrize(
    ("name", "same"), [("WRN-16-2", "wrn_16_2"), ("wrn16_2", "wrn_16_2"), ("ResNet-20", "resnet20")]
)
def test_spelling_of_names(name, same):
    assert create_model(name, 10) == create_model(same, 10)


def test_any_wide_resnet():
    assert create_model("wrn_22_4", 10).depth == 22


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", "unknown model 'resnet21'; did you mean resnet"),
        ("wrn_17_1", "depth of 6n"),
        ("transformer", "known: "),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UserError, match=message):
        create_model(name, 10)
