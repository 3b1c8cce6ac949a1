"""The other data sets, each from a few generated images in the official layout."""

import gzip
import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from amdjax.data import TrainBatches, load_dataset
from amdjax.data.image_io import center_box, decode_image, random_resized_box
from amdjax.errors import UserError
from tests.make_data import class_images, data_settings, encode, manual_archive

RNG = np.random.default_rng(0)


def _everything(split):
    return split.read(np.arange(len(split)))


def _write_tar(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def _tar_bytes(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


# CINIC-10

CINIC_CLASSES = ("truck", "airplane", "cat")
CINIC_IMAGES = RNG.integers(0, 256, (3, 3, 2, 32, 32, 3), np.uint8)


def _cinic_files():
    for s, split in enumerate(("valid", "train", "test")):
        for c, class_name in enumerate(CINIC_CLASSES):
            for i, image in enumerate(CINIC_IMAGES[s, c]):
                grey = (s, c, i) == (1, 0, 0)
                data = encode(image[..., 0] if grey else image)
                yield f"{split}/{class_name}/n{c}-{i}.png", data
    yield "README", b"words"


def _cinic(tmp_path, files):
    _write_tar(manual_archive(tmp_path, "CINIC-10.tar.gz"), files, "w:gz")
    return load_dataset(data_settings("cinic10", tmp_path))


def test_cinic10(tmp_path):
    dataset = _cinic(tmp_path, _cinic_files())
    assert len(dataset.class_names) == 10
    assert [dataset.class_names[i] for i in (9, 0, 3)] == list(CINIC_CLASSES)
    for split, s in ((dataset.train, 1), (dataset.test, 2)):
        images, labels = _everything(split)
        np.testing.assert_array_equal(labels, [9, 9, 0, 0, 3, 3])
        np.testing.assert_array_equal(images[1:], CINIC_IMAGES[s].reshape(6, 32, 32, 3)[1:])
    grey = _everything(dataset.train)[0][0]
    np.testing.assert_array_equal(grey, np.repeat(CINIC_IMAGES[1, 0, 0, :, :, :1], 3, axis=2))


def test_cinic10_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"label 'tank' is not one of CINIC"):
        _cinic(tmp_path / "a", [("train/tank/1.png", encode(CINIC_IMAGES[0, 0, 0]))])
    with pytest.raises(UserError, match=r"CINIC-10\.tar\.gz has no test/CLASS"):
        _cinic(tmp_path / "b", [("train/cat/1.png", encode(CINIC_IMAGES[0, 0, 0]))])
    path = manual_archive(tmp_path / "c", "CINIC-10.tar.gz")
    _write_tar(path, _cinic_files(), "w:gz")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"CINIC-10\.tar\.gz is damaged"):
        load_dataset(data_settings("cinic10", tmp_path / "c"))


# ImageNet

WNIDS = ("n02", "n01", "n03")  # by ILSVRC number, which is not their order


def _write_devkit(data_dir, truth=(2, 3, 1, 1)):
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(i + 1, wnid, f"word {wnid}, other", 0) for i, wnid in enumerate(WNIDS)]
    rows.append((4, "n00", "inner node", 3))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, kind)[:, None]})
    folder = "ILSVRC2012_devkit_t12/data"
    lines = "".join(f"{number}\n" for number in truth).encode()
    files = [
        (f"{folder}/meta.mat", meta.getvalue()),
        (f"{folder}/ILSVRC2012_validation_ground_truth.txt", lines),
    ]
    _write_tar(manual_archive(data_dir, "ILSVRC2012_devkit_t12.tar.gz"), files, "w:gz")


IMAGENET = class_images(3, 4, 48, 0)


def _write_imagenet(data_dir, train_wnids=WNIDS):
    _write_devkit(data_dir)
    train = []
    for c, wnid in enumerate(train_wnids):
        files = [
            (f"{wnid}_{i}.JPEG", encode(image[: 40 + i], "JPEG"))
            for i, image in enumerate(IMAGENET[c])
        ]
        train.append((f"{wnid}.tar", _tar_bytes(files)))
    _write_tar(manual_archive(data_dir, "ILSVRC2012_img_train.tar"), train)
    val = [
        (f"ILSVRC2012_val_{i + 1:08d}.JPEG", encode(IMAGENET[c, 0], "JPEG"))
        for i, c in enumerate((1, 2, 0, 0))
    ]
    _write_tar(manual_archive(data_dir, "ILSVRC2012_img_val.tar"), val)


def _imagenet(data_dir, **changes):
    return load_dataset(data_settings("imagenet", data_dir, image_size=32, **changes))


def test_imagenet(tmp_path):
    _write_imagenet(tmp_path)
    dataset = _imagenet(tmp_path)
    assert dataset.class_names == ("n01 word n01", "n02 word n02", "n03 word n03")
    images, labels = _everything(dataset.train)
    np.testing.assert_array_equal(labels, np.repeat([1, 0, 2], 4))
    assert images.shape == (12, 32, 32, 3)
    images, labels = _everything(dataset.test)
    np.testing.assert_array_equal(labels, [0, 2, 1, 1])
    colours = IMAGENET[[1, 2, 0, 0], 0].mean((1, 2))
    np.testing.assert_allclose(images.mean((1, 2)), colours, atol=8)


def test_random_resized_crops_are_of_the_epoch_and_the_example(tmp_path):
    _write_imagenet(tmp_path)
    dataset = _imagenet(tmp_path, random_resized_crop=True)
    indices = np.array([3, 7])
    first, _ = dataset.train.read(indices, (5, 0))
    np.testing.assert_array_equal(dataset.train.read(indices, (5, 0))[0], first)
    np.testing.assert_array_equal(dataset.train.read(indices[1:], (5, 0))[0], first[1:])
    for other in ((5, 1), (6, 0)):
        assert np.abs(dataset.train.read(indices, other)[0] - first.astype(int)).max() > 0
    batches = TrainBatches(dataset.train, 6, seed=5)
    np.testing.assert_array_equal(batches[3]["image"], batches[3]["image"])
    test = dataset.test.read(np.array([0]))[0][0]
    source = Image.open(io.BytesIO(encode(IMAGENET[1, 0], "JPEG")))
    expected = source.crop((3, 3, 45, 45)).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(test[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2], atol=3)


def test_boxes():
    boxes = np.array([random_resized_box(np.random.default_rng(i))(300, 200) for i in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert np.all(boxes >= 0)
    assert np.all(boxes[:, 2] <= 300)
    assert np.all(boxes[:, 3] <= 200)
    share, ratio = width * height / 60_000, width / height
    assert 0.07 < share.min() < 0.12
    assert 0.85 < share.max() < 0.89  # 8/9 has the ratio 4/3
    assert 0.74 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.35
    strip = random_resized_box(np.random.default_rng(0))(1000, 10)  # no draw fits
    np.testing.assert_allclose(strip, ((1000 - 40 / 3) / 2, 0, (1000 + 40 / 3) / 2, 10))
    assert center_box(256, 512) == (16, 144, 240, 368)


def test_a_box_is_what_is_resized():
    image = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    out = decode_image(encode(image), 5, "x", lambda width, height: (10, 5, 15, 10))
    np.testing.assert_array_equal(out, image[5:10, 10:15])


def test_imagenet_mistakes(tmp_path):
    with pytest.raises(UserError, match="'imagenet' needs config"):
        load_dataset(data_settings("imagenet", tmp_path))
    with pytest.raises(UserError, match=r"put ILSVRC2012_img_train\.tar, from https"):
        _imagenet(tmp_path)
    _write_imagenet(tmp_path / "a", train_wnids=("n02", "n09"))
    with pytest.raises(UserError, match="label 'n09' is not in the development kit"):
        _imagenet(tmp_path / "a")
    _write_imagenet(tmp_path / "b")
    _write_devkit(tmp_path / "b", truth=(1, 2, 3, 1, 1))
    with pytest.raises(UserError, match=r"img_val\.tar has 4 images, the development kit 5 labels"):
        _imagenet(tmp_path / "b")
    _write_devkit(tmp_path / "b", truth=(1, 2, 3, 7))
    with pytest.raises(UserError, match=r"a label outside the classes 1\.\.3"):
        _imagenet(tmp_path / "b")
    manual_archive(tmp_path / "b", "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"devkit_t12\.tar\.gz is damaged"):
        _imagenet(tmp_path / "b")


# SVHN

SVHN = RNG.integers(0, 256, (2, 4, 32, 32, 3), np.uint8)


def _write_svhn(data_dir, labels=(10, 1, 9, 5)):
    for split, images in zip(("train", "test"), SVHN, strict=True):
        path = manual_archive(data_dir, f"{split}_32x32.mat")
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array(labels)[:, None]})
    return path


def test_svhn(tmp_path):
    _write_svhn(tmp_path)
    dataset = load_dataset(data_settings("svhn_cropped", tmp_path))
    for split, expected in zip((dataset.train, dataset.test), SVHN, strict=True):
        images, labels = _everything(split)
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, [0, 1, 9, 5])


def test_svhn_mistakes(tmp_path):
    _write_svhn(tmp_path / "a", labels=(0, 1, 2, 3))
    with pytest.raises(UserError, match=r"32\.mat: a label is outside the classes 1\.\.10"):
        load_dataset(data_settings("svhn_cropped", tmp_path / "a"))
    path = _write_svhn(tmp_path / "b")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"test_32x32\.mat is damaged"):
        load_dataset(data_settings("svhn_cropped", tmp_path / "b"))


# MNIST and Fashion-MNIST

MNIST = RNG.integers(0, 256, (2, 5, 28, 28), np.uint8)


def _idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def _write_mnist(data_dir, name, labels=(3, 0, 9, 1, 1)):
    folder = manual_archive(data_dir, name)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, images in zip(("train", "t10k"), MNIST, strict=True):
        for kind, array in (("images-idx3", images), ("labels-idx1", np.array(labels))):
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(_idx(array)))
    return folder


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(tmp_path, name):
    _write_mnist(tmp_path, name)
    dataset = load_dataset(data_settings(name, tmp_path))
    assert dataset.image_shape == (28, 28, 3)
    assert dataset.class_names[9] == {"mnist": "9", "fashion_mnist": "Ankle boot"}[name]
    for split, expected in zip((dataset.train, dataset.test), MNIST, strict=True):
        images, labels = _everything(split)
        np.testing.assert_array_equal(images, np.repeat(expected[..., None], 3, axis=3))
        np.testing.assert_array_equal(labels, [3, 0, 9, 1, 1])
    larger = load_dataset(data_settings(name, tmp_path, image_size=32))
    assert larger.train.read(np.arange(2))[0].shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", b"no gzip", "train-images-idx3-ubyte.gz is damaged"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(_idx(MNIST[0])), "IDX file of 1 dimensions"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(_idx(MNIST[0])[:-1]), "is cut off"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(_idx(np.arange(3))), "5 images, .* 3 labels"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(_idx(np.arange(8, 13))), "label 12 is outside"),
    ],
)
def test_mnist_mistakes(tmp_path, file, content, message):
    (_write_mnist(tmp_path, "mnist") / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_dataset(data_settings("mnist", tmp_path))
