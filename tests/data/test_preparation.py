"""A data set is prepared once, and what is wrong with it is named."""

import errno
import os
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from amdjax.data import load_dataset
from amdjax.errors import UserError
from tests.data.archives import write_cifar10
from tests.make_data import data_settings, write_folder


@pytest.fixture
def cifar10_dir(tmp_path: Path) -> Path:
    """A data directory with a prepared CIFAR-10."""
    write_cifar10(tmp_path)
    load_dataset(data_settings("cifar10", tmp_path))
    return tmp_path


def test_prepare_reports_on_stderr_only(tmp_path, capfd):
    folder = write_folder(tmp_path / "images", per_class=2)
    load_dataset(data_settings("folder", tmp_path, folder=str(folder), image_size=32))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("note: preparing folder in ")


def test_prepare_error_names_a_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot prepare digits in .*file"):
        load_dataset(data_settings("digits", tmp_path / "file"))


def test_prepare_error_on_a_full_disk_says_what_helps(tmp_path, limit_file_size):
    import sklearn.datasets  # noqa: F401  its import may write files

    limit_file_size(50_000)
    message = (
        rf"^cannot prepare digits in {tmp_path}.*: File too large; raise the limit of the file "
        r"size or choose another config\.data\.data_dir$"
    )
    with pytest.raises(UserError, match=message):
        load_dataset(data_settings("digits", tmp_path))
    assert not list(tmp_path.glob("**/*.array_record*"))


def test_prepare_does_not_hide_other_errors(tmp_path, monkeypatch):
    def fail(self, **kwargs):
        raise RuntimeError("a defect")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        load_dataset(data_settings("digits", tmp_path))


def test_prepare_accepts_the_files_of_a_concurrent_process(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "images", per_class=2)
    data = data_settings("folder", tmp_path, folder=str(folder), image_size=32)
    build = tfds.core.GeneratorBasedBuilder._download_and_prepare

    def build_while_another_finishes(self, *args, **kwargs):
        build(self, *args, **kwargs)
        monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, "_download_and_prepare", build)
        load_dataset(data)

    monkeypatch.setattr(
        tfds.core.GeneratorBasedBuilder, "_download_and_prepare", build_while_another_finishes
    )
    assert len(load_dataset(data).train) == 8


def test_open_split_error_on_tfrecord_files(cifar10_dir):
    info = cifar10_dir / "cifar10/3.0.2/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="prepared as tfrecord, which only TensorFlow reads"):
        load_dataset(data_settings("cifar10", cifar10_dir))


def test_prepare_error_on_an_incomplete_data_set(cifar10_dir):
    (cifar10_dir / "cifar10/3.0.2/dataset_info.json").unlink()
    with pytest.raises(UserError, match="holds no complete data set; remove it"):
        load_dataset(data_settings("cifar10", cifar10_dir))


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_load_dataset_error_names_the_folder_of_a_damaged_description(cifar10_dir, content):
    (cifar10_dir / "cifar10/3.0.2/dataset_info.json").write_text(content)
    message = f"^the data prepared in {cifar10_dir}/cifar10 cannot be read: .*; remove it and try"
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(data_settings("cifar10", cifar10_dir))
    assert "\n" not in str(caught.value)


def test_load_dataset_does_not_call_data_damaged_that_may_not_be_read(cifar10_dir, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tfds.core.DatasetInfo, "read_from_directory", refuse)
    with pytest.raises(PermissionError):
        load_dataset(data_settings("cifar10", cifar10_dir))


@pytest.mark.parametrize("names", [None, b"", b"cat\ndog\n", b"cat\n" * 10, b"\xff"])
def test_load_dataset_error_on_class_names_that_are_not_all(cifar10_dir, names):
    file = cifar10_dir / "cifar10/3.0.2/label.labels.txt"
    file.unlink() if names is None else file.write_bytes(names)
    message = f"^{file} cannot be read: .*; remove {file.parent} and try again$"
    with pytest.raises(UserError, match=message):
        load_dataset(data_settings("cifar10", cifar10_dir))


@pytest.mark.parametrize("end", [5000, None], ids=["truncated", "missing"])
def test_open_split_error_names_damaged_files(cifar10_dir, end):
    (records,) = cifar10_dir.glob("cifar10/3.0.2/*train.array_record*")
    if end is None:
        records.unlink()
    else:
        records.write_bytes(records.read_bytes()[:end])
    with pytest.raises(UserError, match=r"cifar10.* cannot be read.*; remove"):
        load_dataset(data_settings("cifar10", cifar10_dir))
