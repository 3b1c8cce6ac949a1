"""Outputs of any function of images, and their checks."""

import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.losses.functional import attention_map
from amdjax.teacher_outputs.compute import (
    compute_outputs,
    load_teacher_function,
    reads_other_images,
    to_arrays,
)
from tests.teacher_outputs.make_outputs import make_dataset


def test_to_arrays_accepts_every_form_of_outputs():
    rng = np.random.default_rng(0)
    logits, embedding = rng.normal(size=(2, 4)), rng.normal(size=(2, 7)).tolist()
    feature = rng.normal(size=(2, 3, 3, 5)).astype(np.float32)
    alone = to_arrays(logits, 2, 4)
    assert list(alone) == ["logits"]
    assert alone["logits"].dtype == np.float32
    pair = to_arrays((logits, embedding), 2, 4)
    assert list(pair) == ["logits", "embedding"]
    features = {"stage1": feature, "stage2": feature[..., 0] ** 2}
    arrays = to_arrays({"features": features, "logits": logits, "embedding": None}, 2, 4)
    assert list(arrays) == ["logits", "attention_stage1", "attention_stage2"]
    np.testing.assert_allclose(arrays["attention_stage1"], attention_map(feature), rtol=1e-6)
    np.testing.assert_array_equal(arrays["attention_stage2"], feature[..., 0] ** 2)


def test_compute_outputs_copies_an_array_that_the_teacher_writes_to_again():
    dataset, buffer = make_dataset(6), np.zeros((6, 4), np.float32)

    def teach(images):
        buffer[:] = images[:, 0, :4, 0]
        return buffer

    (batch,) = compute_outputs(
        teach, dataset.train, 4, batch_size=6, mirrored=True, description="images"
    )
    images, _ = dataset.train.read(np.arange(6))
    np.testing.assert_array_equal(batch["logits"][:, 0], images[:, 0, :4, 0])
    np.testing.assert_array_equal(batch["logits"][:, 1], images[:, 0, :-5:-1, 0])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((2, 5)), r"logits are \[2, 5\], not \[2,4\]: the teacher must have the classes"),
        (np.zeros((3, 4)), r"logits are \[3, 4\], not \[2,4\]"),
        ({"logit": np.zeros((2, 4))}, "unknown output of the teacher 'logit'; did you mean logits"),
        ((None, np.zeros((2, 4))), "returned no logits"),
        ((np.zeros((2, 4)),) * 4, "returned 4 values"),
        ((np.zeros((2, 4)), np.zeros(2)), r"embedding are \[2\], not \[2,D\]"),
        ((np.zeros((2, 4)), None, [1]), "features are a list"),
        ((np.zeros((2, 4)), None, np.zeros((2, 3, 3))), "features are a ndarray"),
        ((np.zeros((2, 4)), None, {"a": np.zeros((2, 3))}), r"'a' has the shape \[2, 3\]; it"),
        ([["a"], ["b"]], "logits are not an array of numbers"),
        ((np.zeros((2, 4)), None, {"a/b": np.zeros((2, 3, 3))}), "feature 'a/b' has a '/' in its"),
    ],
)
def test_to_arrays_refuses_other_outputs(returned, message):
    with pytest.raises(UserError, match=message):
        to_arrays(returned, 2, 4)


def test_compute_outputs_pads_mirrors_and_keeps_the_order():
    dataset, shapes = make_dataset(12), []

    def teach(images):
        shapes.append(images.shape)
        return images[:, 0, :4, 0]  # the left corner: of the mirror image the right one

    batches = list(
        compute_outputs(teach, dataset.train, 4, batch_size=5, mirrored=True, description="images")
    )
    assert shapes == [(5, 16, 16, 3)] * 6
    assert [len(batch["logits"]) for batch in batches] == [5, 5, 2]
    logits = np.concatenate([batch["logits"] for batch in batches])
    images, labels = dataset.train.arrays()
    np.testing.assert_array_equal(logits[:, 0], images[:, 0, :4, 0])
    np.testing.assert_array_equal(logits[:, 1], images[:, 0, -1:-5:-1, 0])
    np.testing.assert_array_equal(np.concatenate([batch["labels"] for batch in batches]), labels)


@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_teacher_in_training_mode_is_found(batch_size):
    source, random = make_dataset(6).train, np.random.default_rng(0)

    def alone(images):
        return images[:, :4, 0, 0] / 255.0

    def normalised(images):
        logits = alone(images)
        return (logits - logits.mean(0)) / (logits.std(0) + 1.0)

    def noisy(images):
        return alone(images) * random.uniform(0.5, 1.5, (len(images), 4))

    assert not reads_other_images(alone, source, 4, batch_size)
    assert reads_other_images(normalised, source, 4, batch_size) == (batch_size > 1)
    assert reads_other_images(noisy, source, 4, batch_size)


@pytest.mark.parametrize("shape", [(6, 32, 8, 8), (6, 3, 8)])
def test_compute_outputs_refuses_maps_with_the_channels_first(shape):
    def teach(images):
        return np.zeros((6, 4)), None, {"stage1": np.ones(shape)}

    outputs = compute_outputs(
        teach, make_dataset(6).train, 4, batch_size=6, mirrored=False, description="images"
    )
    with pytest.raises(UserError, match=r"'stage1' has maps of \d+x8 for images .* channels last"):
        next(outputs)


def test_error_of_a_teacher_says_what_it_was_called_with():
    def teach(images):
        raise RuntimeError("expected 3 channels")

    outputs = compute_outputs(
        teach, make_dataset(6).train, 4, batch_size=6, mirrored=False, description="images"
    )
    with pytest.raises(RuntimeError) as caught:
        next(outputs)
    (note,) = caught.value.__notes__
    assert "uint8 [6, " in note


def test_compute_outputs_names_the_image_whose_outputs_are_not_finite():
    def teach(images):
        logits = np.zeros((len(images), 4))
        logits[1, 2] = np.nan
        return logits

    outputs = compute_outputs(
        teach, make_dataset().train, 4, batch_size=4, mirrored=False, description="images"
    )
    with pytest.raises(UserError, match=r"logits of image 1 contain NaN or Inf$"):
        list(outputs)


def test_compute_outputs_says_how_to_avoid_the_logarithm_of_zero():
    outputs = compute_outputs(
        lambda images: np.full((len(images), 4), -np.inf),
        make_dataset().train,
        4,
        batch_size=4,
        mirrored=False,
        description="images",
    )
    with pytest.raises(UserError, match=r"of image 0 .*clip these before: np\.log\(np\.clip\("):
        list(outputs)


@pytest.mark.parametrize(
    ("wrong_call", "change", "message"),
    [
        (1, {"embedding": None}, r"embedding is \[B,3\] .* the mirror image of image 0"),
        (2, {"embedding": None}, r"embedding is \[B,3\] for image 0 and missing for image 5"),
        (2, {"embedding": np.ones((5, 1))}, r"embedding is \[B,3\] for .* \[B,1\] for image 5"),
        (3, {"features": {"a": np.ones((5, 2, 2))}}, r"attention_a is missing .* \[B,2,2\] for"),
    ],
)
def test_compute_outputs_refuses_arrays_of_some_images_only(wrong_call, change, message):
    calls = iter(range(6))

    def teach(images):
        returned = {"logits": np.zeros((5, 4)), "embedding": np.ones((5, 3))}
        return {**returned, **change} if next(calls) == wrong_call else returned

    outputs = compute_outputs(
        teach, make_dataset().train, 4, batch_size=5, mirrored=True, description="images"
    )
    with pytest.raises(UserError, match=f"the same arrays for all images, but its {message}"):
        list(outputs)


def test_load_teacher_function_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_teacher_module.py").write_text(
        "SIZE = 3\ndef teach(images): ...\n"
        'Linear = type("Linear", (), {"__module__": "torch.nn.modules", "__call__": teach})\n'
        "network = Linear()\n"
    )
    assert callable(load_teacher_function("my_teacher_module:teach"))
    for reference, message in (
        ("my_teacher_module", "must be module:function"),
        ("no_such_module:teach", "there is no module 'no_such_module'"),
        ("my_teacher_module:teech", "did you mean teach"),
        ("my_teacher_module:SIZE", "is not a function, but 3"),
        ("my_teacher_module:network", "is a network of PyTorch; give a function that takes images"),
    ):
        with pytest.raises(UserError, match=message):
            load_teacher_function(reference)
