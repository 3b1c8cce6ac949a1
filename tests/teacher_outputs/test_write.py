"""Files of outputs: what is written, and what is left after an error."""

import jax
import numpy as np
import pytest

from amdjax import distributed
from amdjax.configs import default
from amdjax.errors import UserError
from amdjax.experiment import RunSpec
from amdjax.models import init_variables
from amdjax.predictor import create_predictor
from amdjax.teacher_outputs.compute import compute_outputs
from amdjax.teacher_outputs.stored import open_outputs
from amdjax.teacher_outputs.write import write_outputs
from amdjax.training.teacher_cache import cache_teacher_outputs
from amdjax.training.trainer import build_trainer
from tests.teacher_outputs.make_outputs import make_arrays, make_dataset


@pytest.mark.parametrize("name", ["outputs.npz", "outputs"])
def test_write_outputs_gives_the_rows_that_a_teacher_cache_has(name, tmp_path):
    """The outputs of a network of amdjax, once as a file and once as the cache computes them."""
    config = default.get_config()
    config.teacher.name, config.batch_size, config.augment.flip = "wrn_10_1", 4, True
    spec = RunSpec(
        name="x", method="x", model="resnet8", seed=0, teacher="teacher",
        losses={"kd": {}, "at": {"features": ("stage1", "stage3")}, "rkd": {}},
    )  # fmt: skip
    mesh = distributed.make_mesh(jax.devices()[:1])
    dataset = make_dataset(10)
    trainer = build_trainer(config, spec, dataset, mesh)
    variables = init_variables(trainer.teacher, jax.random.key(0), dataset.image_shape)
    cache = cache_teacher_outputs(trainer, distributed.replicate(variables, mesh))
    predictor = create_predictor(trainer.teacher, config.augment, {})
    forward = jax.jit(lambda images: predictor(variables, images))

    def teach(images):
        outputs = forward(images)
        features = {layer: outputs.features[layer] for layer in ("stage1", "stage3")}
        return outputs.logits, outputs.embedding, features

    batches = compute_outputs(
        teach, dataset.train, 4, batch_size=4, mirrored=True, description="images"
    )
    write_outputs(tmp_path / name, batches, dataset, config.data)
    stored = open_outputs(str(tmp_path / name))
    accuracy = stored.check_rows(dataset, config.data)
    labels = dataset.train.arrays()[1]
    assert accuracy == np.mean(np.argmax(cache.logits[:, 0], axis=-1) == labels)
    rows = np.array([7, 0, 9])
    taken, expected = (jax.tree.map(lambda x: x[rows], x) for x in (stored.rows(2), cache))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), taken, expected)
    whole = jax.tree.map(np.asarray, stored.rows(1))
    assert whole.features["stage3"].shape == (10, 1, 4, 4, 1)
    assert whole.logits.dtype == np.float32
    assert stored.rows(2).features["stage3"].nbytes == 2 * whole.features["stage3"].nbytes
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", ["outputs", "outputs.npz"])
def test_write_outputs_leaves_nothing_after_an_error(tmp_path, name):
    dataset, data = make_dataset(), default.get_config().data

    def batches():
        yield {"logits": np.zeros((4, 1, 4), np.float32)}
        raise KeyboardInterrupt

    (tmp_path / f"{name}.partial").write_text("of a process that was killed")
    with pytest.raises(KeyboardInterrupt):
        write_outputs(tmp_path / name, batches(), dataset, data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["outputs", "outputs.npz"])
def test_write_outputs_error_on_a_full_disk_names_the_folder(tmp_path, limit_file_size, name):
    dataset, data = make_dataset(64), default.get_config().data
    batches = ({"logits": np.ones((16, 1, 1000), np.float32)} for _ in range(4))
    limit_file_size(100_000)
    message = f"^cannot write to {tmp_path}: File too large; raise the limit of the file size or"
    with pytest.raises(UserError, match=message):
        write_outputs(tmp_path / name, batches, dataset, data)
    assert list(tmp_path.iterdir()) == []


def test_write_outputs_does_not_take_an_error_of_the_teacher_for_a_full_disk(tmp_path):
    def batches():
        raise FileNotFoundError("weights.pt")
        yield {}

    with pytest.raises(FileNotFoundError, match=r"weights\.pt"):
        write_outputs(tmp_path / "outputs", batches(), make_dataset(), default.get_config().data)


def test_write_outputs_writes_the_files_of_numpy(tmp_path):
    dataset, data = make_dataset(), default.get_config().data
    arrays = {**make_arrays(views=2), "labels": dataset.train.arrays()[1]}
    batches = [{name: array[rows] for name, array in arrays.items()} for rows in
               (slice(5), slice(5, 10), slice(10, 12))]  # fmt: skip
    write_outputs(tmp_path / "outputs", batches, dataset, data)
    for name, array in arrays.items():
        np.save(tmp_path / "one.npy", array)
        written = (tmp_path / f"outputs/{name}.npy").read_bytes()
        assert written == (tmp_path / "one.npy").read_bytes()


def test_write_outputs_of_a_network_of_pytorch(tmp_path):
    """A network as in torchvision, with channels first, in float32 and bfloat16."""
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.layer1 = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)
            self.fc = torch.nn.Linear(16, 4)

        def forward(self, x):
            stem = torch.relu(self.conv1(x))
            stage1 = torch.relu(self.layer1(stem))
            embedding = stage1.mean(dim=(2, 3))
            return self.fc(embedding), embedding, stage1

    torch.manual_seed(0)
    network = Network().eval()

    def teach(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        logits, embedding, stage1 = network(x)
        features = {"stage1": stage1.permute(0, 2, 3, 1)}
        return {"logits": logits, "embedding": embedding.bfloat16(), "features": features}

    dataset = make_dataset(6)
    batches = compute_outputs(
        teach, dataset.train, 4, batch_size=4, mirrored=True, description="images"
    )
    write_outputs(tmp_path / "torch.npz", batches, dataset, default.get_config().data)
    stored = open_outputs(str(tmp_path / "torch.npz"))
    images = dataset.train.arrays()[0]
    with torch.no_grad():
        for view, pixels in enumerate((images, images[:, :, ::-1].copy())):
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
            logits, embedding, stage1 = (value.numpy() for value in network(x))
            maps = stored.arrays["attention_stage1"][:, view]
            np.testing.assert_allclose(stored.arrays["logits"][:, view], logits, 1e-4, 1e-6)
            np.testing.assert_allclose(stored.arrays["embedding"][:, view], embedding, rtol=1e-2)
            np.testing.assert_allclose(maps, np.sum(stage1**2, axis=1), 1e-4, 1e-6)
