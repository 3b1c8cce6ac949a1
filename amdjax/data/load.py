"""Opening of data sets: tfds prepares them once, and they are read without TensorFlow."""

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from amdjax.data.fingerprint import normal_form
from amdjax.data.preparation import open_split, prepare, quiet
from amdjax.data.prepared_entries import prepared_entries
from amdjax.data.registry import (
    DATASETS,
    ArrayEntry,
    BuilderEntry,
    Dataset,
    DatasetSpec,
    MakeBuilder,
)
from amdjax.data.sources import (
    ImageSource,
    InMemorySource,
    RecordSource,
    RecordSubset,
    StreamedSource,
    choose_crop,
    decode_to_memory,
    read_entries,
)
from amdjax.data.splits import hold_out, known_labels, num_known
from amdjax.errors import UserError, one_line, unknown_name
from amdjax.files import disk_error, local_path
from amdjax.ranges import check_ranges


def load_dataset(data: ml_collections.ConfigDict) -> Dataset:
    """Opens a data set; downloads and prepares it first if that has not been done.

    Args:
      data: `config.data`, with
        `name`, a key of `DATASETS`;
        `data_dir`, the directory of the prepared data sets ("": $TFDS_DATA_DIR or
        ~/tensorflow_datasets);
        `folder`, the path of the images for "folder";
        `image_size`, the side to which images are resized and cropped square (0: the size of the
        data set);
        `memory_gib`, the memory for decoded images: train is held in memory if it fits, then
        validation and test if they fit in the rest, and a split that does not fit is decoded at
        each read;
        `validation`, the fraction of the training images that becomes the validation split, and
        `validation_seed` of its choice, see `hold_out`;
        `validation_split`, the part of "folder" that is the validation split instead;
        `unknown_classes`, the names of classes that are held out from all splits, see
        `known_labels`;
        `random_resized_crop`, ImageNet's crops: a random part of each training image, different
        in each epoch, and the centre of each test image.

    Raises:
      UserError: on a wrong setting, or on files that are missing, damaged or mislabelled.
    """
    return describe_dataset(data).open()


def prepared_folder(data_dir: str) -> str:
    """Returns the folder of the prepared data sets for a value of `config.data.data_dir`."""
    return data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"


def describe_dataset(data: ml_collections.ConfigDict) -> DatasetSpec:
    """Checks `config.data` and describes the data set; reads no images but registered arrays.

    Args:
      data: see `load_dataset`.

    Raises:
      UserError: on a wrong setting, an image folder that is missing or empty, wrong arrays, or a
        damaged description of prepared data.
    """
    if data.name not in DATASETS:
        raise unknown_name("data set", data.name, DATASETS)
    check_ranges("data", data)
    if data.random_resized_crop and not data.image_size:
        raise UserError("config.data.random_resized_crop needs config.data.image_size")
    if data.validation_split and data.name != "folder":
        raise UserError(
            f"config.data.validation_split is for data set 'folder', not for {data.name!r}; hold "
            "out a fraction of the training images with config.data.validation"
        )
    if data.validation_split and data.validation:
        raise UserError(
            f"config.data.validation={data.validation} and config.data.validation_split="
            f"{data.validation_split!r} exclude each other"
        )
    entry = DATASETS[data.name]
    if isinstance(entry, ArrayEntry):
        return _describe_arrays(entry, data)
    data_dir = local_path(prepared_folder(data.data_dir), "config.data.data_dir")
    make_builder = _reporting_damage(entry.builder(data, data_dir), data_dir / data.name)
    with quiet():
        builder = make_builder()
    size = data.image_size
    shape = (size, size, 3) if size else builder.info.features["image"].shape
    if entry.num_classes is None or builder.is_prepared():
        num_classes = len(_known_names(_class_names(entry, builder), data))
    else:
        num_classes = num_known(entry.num_classes, data.unknown_classes)
    return DatasetSpec(
        num_classes, shape, partial(_open_prepared, entry, data, make_builder, shape)
    )


def _reporting_damage(make_builder: MakeBuilder, folder: Path) -> MakeBuilder:
    """Returns the function with an error that names the folder, if the files in it are damaged.

    A full or protected disk is not damage, nor is an error where nothing has been prepared.
    """

    def make() -> tfds.core.DatasetBuilder:
        try:
            return make_builder()
        except Exception as error:  # tfds and protobuf raise many types
            if disk_error(error) or not folder.exists():
                raise
            raise UserError(
                f"the data prepared in {folder} cannot be read: {one_line(error)}; remove it and "
                "try again"
            ) from error

    return make


def _class_names(entry: BuilderEntry, builder: tfds.core.DatasetBuilder) -> list[str]:
    """Returns the names of all classes of a data set, which is prepared or whose builder has them.

    Raises:
      UserError: if the prepared names are missing, or are not as many as the data set has classes.
    """
    label = builder.info.features["label"]
    if entry.num_classes is None:
        return label.names
    # Read here, as tfds replaces names that it cannot read by numbers.
    file = Path(label.get_names_filepath(builder.data_dir, "label"))
    try:
        lines = file.read_text("utf-8").split("\n")
        names = [line.strip() for line in lines if line.strip()]
        features = json.loads(file.with_name("features.json").read_bytes())["featuresDict"]
        prepared = int(features["features"]["label"]["classLabel"]["numClasses"])
        if len(set(names)) != prepared:
            raise ValueError(f"it has {len(set(names))} names of {prepared} classes")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read: {one_line(error)}; remove {builder.data_dir} and try again"
        ) from error
    return names


def _describe_arrays(entry: ArrayEntry, data: ml_collections.ConfigDict) -> DatasetSpec:
    sources, digest = {}, hashlib.sha256()
    class_names = _known_names(entry.class_names, data)
    new_labels = known_labels(entry.class_names, data.unknown_classes)
    for split in ("train", "test"):
        images, labels = _read_arrays(entry, split, data.name)
        for array in (images, labels):
            digest.update(np.ascontiguousarray(array).data)
        if data.unknown_classes:
            unknown = _find_unknown(labels, new_labels, split, data)
            if split == "test":
                sources["unknown"] = InMemorySource(images[unknown], labels[unknown])
            images, labels = images[~unknown], new_labels[labels[~unknown]]
        sources[split] = InMemorySource(images, labels)
    train, test = (sources[split].arrays()[0].shape[1:] for split in ("train", "test"))
    if train != test:
        raise UserError(f"data set {data.name!r} has training images {train}, test images {test}")
    (height, width, _), side = train, data.image_size
    if side and (height, width) != (side, side):
        raise UserError(
            f"data set {data.name!r} has arrays of {height}x{width}, which are not resized to "
            f"{side}x{side}: set config.data.image_size to {height if height == width else 0}"
        )
    if data.random_resized_crop:
        raise UserError(
            f"data set {data.name!r} has arrays, which are not cropped: set "
            "config.data.random_resized_crop to False"
        )
    if data.validation:
        held_out = _hold_out_validation(*read_entries(sources["train"]), data)
        images, labels = sources["train"].arrays()
        for split, rows in (("train", ~held_out), ("validation", held_out)):
            sources[split] = InMemorySource(images[rows], labels[rows])
    dataset = _join_splits(data.name, class_names, train, sources, digest.hexdigest()[:16])
    return DatasetSpec(dataset.num_classes, train, lambda: dataset)


def _read_arrays(entry: ArrayEntry, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8 [N,H,W,3], and labels, int32 [N], that a function has returned."""
    where = f"data set {name!r}, split {split!r}"
    pair = entry.load(split)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise UserError(f"{where}: its function must return a tuple (images, labels)")
    images, labels = map(np.asarray, pair)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise UserError(
            f"{where}: images must be uint8 [N,H,W,3] of values from 0 to 255, not {images.dtype} "
            f"{list(images.shape)}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(
            f"{where}: labels must be integers [{len(images)}], one for each image, not "
            f"{labels.dtype} {list(labels.shape)}"
        )
    if not 0 <= labels.min() <= labels.max() < len(entry.class_names):
        raise UserError(
            f"{where}: labels from {labels.min()} to {labels.max()} are outside the classes "
            f"0..{len(entry.class_names) - 1}"
        )
    return images, labels.astype(np.int32)


def _open_prepared(
    entry: BuilderEntry,
    data: ml_collections.ConfigDict,
    make_builder: MakeBuilder,
    shape: tuple[int, int, int],
) -> Dataset:
    builder = prepare(make_builder)
    all_names = _class_names(entry, builder)
    class_names = _known_names(all_names, data)
    new_labels = known_labels(all_names, data.unknown_classes)

    def stream(split: str, records: RecordSource, crop: str = "center") -> StreamedSource:
        name, classes = f"{data.name} {split}", all_names if split == "unknown" else class_names
        return StreamedSource(name, records, data.image_size, shape, len(classes), crop)

    @functools.cache
    def entries_of(split: str) -> tuple[list[str], np.ndarray]:
        source = stream(split, open_split(builder, split))
        cache = Path(builder.data_dir) / f"entries-{split}.npz"
        return prepared_entries(source, builder.info.splits[split].filepaths, cache)

    unknown_records: dict[str, RecordSource] = {}

    def open_known(split: str) -> RecordSource:
        records = open_split(builder, split)
        if not data.unknown_classes:
            return records
        unknown = _find_unknown(entries_of(split)[1], new_labels, split, data)
        unknown_records[split] = RecordSubset(records, np.flatnonzero(unknown))
        return RecordSubset(records, np.flatnonzero(~unknown), new_labels)

    records = {"train": open_known("train")}
    if data.validation_split:
        records["validation"] = open_known("validation")
    elif data.validation:
        whole = records["train"]
        names, labels = entries_of("train")
        known = np.flatnonzero(~_is_unknown(labels, new_labels))
        held_out = _hold_out_validation([names[row] for row in known], labels[known], data)
        for split, rows in (("train", ~held_out), ("validation", held_out)):
            records[split] = RecordSubset(whole, np.flatnonzero(rows))
    records["test"] = open_known("test")

    budget = data.memory_gib * 2**30
    sources: dict[str, ImageSource] = {}
    for split, split_records in records.items():
        source = stream(split, split_records, choose_crop(data.random_resized_crop, split))
        num_bytes = len(source) * math.prod(shape)
        if num_bytes <= budget and not source.has_random_crop:
            budget -= num_bytes
            source = decode_to_memory(source)
        sources[split] = source
    if unknown_records:
        crop = choose_crop(data.random_resized_crop, "unknown")
        sources["unknown"] = stream("unknown", unknown_records["test"], crop)
    digest = getattr(builder.builder_config, "content_digest", "")
    return _join_splits(data.name, class_names, shape, sources, digest)


def _join_splits(
    name: str,
    class_names: tuple[str, ...],
    shape: tuple[int, int, int],
    sources: Mapping[str, ImageSource],
    digest: str,
) -> Dataset:
    return Dataset(
        name,
        class_names,
        shape,
        train=sources["train"],
        test=sources["test"],
        digest=digest,
        validation=sources.get("validation"),
        unknown=sources.get("unknown"),
    )


def _hold_out_validation(
    names: list[str], labels: np.ndarray, data: ml_collections.ConfigDict
) -> np.ndarray:
    """Returns bool [N], which of the training images are held out for validation."""
    if data.name == "folder":  # the same in Train/ and train/, which have the same fingerprint
        names = [re.sub("(?i)^train/", "train/", normal_form(name)) for name in names]
    else:  # images that do not change are known by their numbers
        names = [str(index) for index in range(len(names))]
    held_out = hold_out(labels, names, data.validation, data.validation_seed)
    if not held_out.any():
        raise UserError(
            f"config.data.validation={data.validation}: no class of {data.name} has two training "
            "images, of which one could be held out"
        )
    return held_out


def _known_names(class_names: Sequence[str], data: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the names of the classes that are not held out."""
    labels = known_labels(class_names, data.unknown_classes)
    return tuple(name for name, label in zip(class_names, labels, strict=True) if label >= 0)


def _is_unknown(labels: np.ndarray, new_labels: np.ndarray) -> np.ndarray:
    """Returns bool [N], which labels are those of classes that are held out."""
    return np.isin(labels, np.flatnonzero(new_labels < 0))


def _find_unknown(
    labels: np.ndarray, new_labels: np.ndarray, split: str, data: ml_collections.ConfigDict
) -> np.ndarray:
    """Returns bool [N], which images of a split are of classes that are held out.

    Raises:
      UserError: if all are, or if none of the test images is.
    """
    unknown = _is_unknown(labels, new_labels)
    if unknown.all() or (split == "test" and not unknown.any()):
        names = ", ".join(map(str, data.unknown_classes))
        other = "other" if unknown.any() else "these"
        raise UserError(
            f"config.data.unknown_classes={names}: the {split} split of {data.name} has no images "
            f"of {other} classes"
        )
    return unknown
