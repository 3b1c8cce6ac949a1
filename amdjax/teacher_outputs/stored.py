"""The file of a teacher's outputs: one row for each training image, in the data set's order.

It is an `.npz`, or a folder with a `.npy` for each array, which is memory-mapped:

  "logits": float [N,C] or [N,views,C]. Views are the image and its mirror image.
  "embedding" (optional): float [N,D] or [N,views,D], the input of the classifier.
  "attention_LAYER" (optional): float [N,h,w] or [N,views,h,w], not negative: the attention map of a
    layer, see `losses.functional.attention_map`.
  "labels" and "metadata" (optional): what `amdjax-teacher-outputs` writes to guard the order.
"""

import dataclasses
import functools
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from amdjax.config import flat_settings, image_changing_setting
from amdjax.data import Dataset, Fingerprint, InMemorySource
from amdjax.data.unlabeled import NO_LABEL
from amdjax.errors import UserError, one_line
from amdjax.files import local_path
from amdjax.losses import Objective
from amdjax.models import Outputs
from amdjax.weight_sources import find_run

ATTENTION = "attention_"  # prefix of the names of attention maps
LABELS, METADATA = "labels", "metadata"
_DTYPES = ("float16", "float32", "float64")
_CHUNK_BYTES = 2**25  # of a file, read at one time to check it
_NUM_LABELS = 1024  # evenly spaced labels, at least, are read where reading all would be slow
_SETTING = "config.teacher.outputs"


class LazyRows:
    """The rows of an array, possibly on disk, in the form that the teacher cache has them.

    Attributes:
      shape: [N,views,...] of all rows, of an attention map [N,views,h,w,1].
    """

    dtype = np.dtype(np.float32)

    def __init__(self, array: np.ndarray, views: int, is_attention: bool):
        """Stores the arguments, and reads nothing.

        Args:
          array: float [N,views,...].
          views: the number of views to keep.
          is_attention: the array has attention maps, of which the rows are the square roots: one
            channel whose square is the sum of the squares of all.
        """
        self._array, self._is_attention = array[:, :views], is_attention
        self.shape = (*self._array.shape, 1) if is_attention else self._array.shape
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Returns rows, float32 [n,views,...]."""
        values = np.asarray(self._array[rows], self.dtype)
        return np.sqrt(values)[..., None] if self._is_attention else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns all rows."""
        return np.asarray(self[:], dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredOutputs:
    """A teacher's outputs in a file; from `open_outputs`.

    Attributes:
      path: of the file or folder.
      arrays: name -> float [N,views,...]: "logits", and where the file has them "embedding" and
        "attention_LAYER".
      labels: int [N] of the images that the rows belong to; None where the file does not have them.
      data: fingerprint of the data set that they belong to; None where the file does not say.
      held_out: the settings by which validation images are held out of that data set.
      digest: of the arrays, the same wherever the file lies.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    data: Fingerprint | None
    held_out: Mapping[str, Any]
    digest: str

    def __len__(self) -> int:
        """Returns the number of rows, N."""
        return len(self.arrays["logits"])

    @property
    def views(self) -> int:
        """The number of views: 2 with those of the mirror images, else 1."""
        return self.arrays["logits"].shape[1]

    @property
    def num_classes(self) -> int:
        """The number of classes, C."""
        return self.arrays["logits"].shape[2]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose attention maps the file has."""
        names = (name for name in self.arrays if name.startswith(ATTENTION))
        return tuple(name.removeprefix(ATTENTION) for name in names)

    def rows(self, views: int) -> Outputs:
        """Returns the teacher's outputs as the teacher cache has them, read when rows are taken.

        Args:
          views: the number of views to keep.
        """
        rows: dict[str, Any] = {
            name: LazyRows(array, views, name.startswith(ATTENTION))
            for name, array in self.arrays.items()
        }
        return self._outputs(rows)

    def dummy_outputs(self) -> Outputs:
        """Returns outputs for two images, of which only shapes matter."""
        shapes = {name: (2, *array.shape[2:]) for name, array in self.arrays.items()}
        return self._outputs(
            {
                name: jnp.zeros((*shape, 1) if name.startswith(ATTENTION) else shape)
                for name, shape in shapes.items()
            }
        )

    def _outputs(self, arrays: Mapping[str, Any]) -> Outputs:
        embedding: Any = arrays.get("embedding")  # no loss reads it where the file lacks it
        features = {layer: arrays[ATTENTION + layer] for layer in self.layers}
        return Outputs(logits=arrays["logits"], features=features, embedding=embedding)

    def check_inputs(self, objective: Objective, mirrored: bool) -> None:
        """Makes sure that the file has what the losses of a run read of the teacher.

        Args:
          objective: of the run.
          mirrored: whether images are flipped, so that outputs of mirror images are needed.

        Raises:
          UserError: naming the losses and their inputs.
        """
        missing, impossible = [], []
        for term in objective.terms:
            impossible += [f"{term.name} reads {name}" for name in term.spec.uncacheable_inputs]
            needed: list[str] = []
            if "teacher.embedding" in term.spec.inputs:
                needed.append("embedding")
            if "teacher.features" in term.spec.inputs and term.spec.attention_only:
                needed += (ATTENTION + layer for _, layer in term.spec.layer_pairs(term.selection))
            if absent := [repr(name) for name in needed if name not in self.arrays]:
                missing.append(f"{term.name} reads {', '.join(absent)}")
        if impossible:
            raise UserError(
                f"{_SETTING} gives logits, embedding and attention maps of a teacher, but "
                f"{'; '.join(impossible)}: choose other methods, or a network as the teacher "
                "(config.teacher.checkpoint)"
            )
        if missing:
            raise UserError(
                f"{self.path} does not have what the losses need: {'; '.join(missing)}; it has "
                f"{', '.join(map(repr, self.arrays))}. "
                "Add the arrays (amdjax-teacher-outputs writes them if the teacher's function "
                "returns an embedding, and features by layer), choose the layers in "
                "config.losses.NAME.features, or choose other methods"
            )
        if mirrored and self.views == 1:
            raise UserError(
                f"{self.path} has outputs for one view of each image, but config.augment.flip=True "
                "needs those of the mirror image too, as arrays [N,2,...]; switch flips off, or "
                "write the file again with amdjax-teacher-outputs"
            )

    def describe(self, accuracy: float | None) -> str:
        """Returns a line about the file, with the accuracy on the training images if known."""
        views = "two views" if self.views > 1 else "one view"
        parts = [
            f"teacher {self.path}: {len(self):,} images, {views} each; "
            + ", ".join(f"{name} {list(a.shape[2:])}" for name, a in self.arrays.items())
        ]
        if accuracy is not None:
            parts.append(f"accuracy on the training images {accuracy:.2%}")
        if self.data is None:
            parts.append(
                "it does not say to which images its rows belong, so their order is taken on trust"
            )
        return "; ".join(parts)

    def check_classes(self, num_classes: int) -> None:
        """Raises UserError unless the logits have as many classes as the data set."""
        if self.num_classes != num_classes:
            raise UserError(
                f"the logits of {self.path} have {self.num_classes} classes, the data set has "
                f"{num_classes}: choose a teacher of these classes, in the order of the data set"
            )

    def check_rows(self, dataset: Dataset, data: ml_collections.ConfigDict) -> float | None:
        """Makes sure, as far as it can be known, that the rows belong to the training images.

        Args:
          dataset: whose training images are used.
          data: `config.data`.

        Returns:
          The accuracy of the logits on the training images; on about a thousand of them where the
          file does not have the labels, and the images are not in memory; None if they have none.

        Raises:
          UserError: if the number of rows, the data set or the labels differ.
        """
        count = len(dataset.train)
        if len(self) != count:
            raise UserError(
                f"{self.path} has {len(self):,} rows, but there are {count:,} training images in "
                f"{dataset.name}: it must have one for each, in the order that "
                "amdjax-teacher-outputs --list shows"
            )
        if self.data is not None:
            difference = _difference(self.data, dataset.fingerprint)
            if not difference and self.held_out != held_out_settings(data):
                difference = "another choice of validation images"
            if difference:
                raise UserError(
                    f"{self.path} was written for other images ({difference}); write it again "
                    "for these"
                )
        step, labels = self._check_labels(dataset)
        labeled = int(np.sum(labels != NO_LABEL))
        if not labeled:
            return None
        correct = 0
        for first, logits in _chunks(self.arrays["logits"][::step, 0]):
            correct += np.sum(np.argmax(logits, axis=-1) == labels[first : first + len(logits)])
        return float(correct / labeled)

    def _check_labels(self, dataset: Dataset) -> tuple[int, np.ndarray]:
        """Checks the labels in the file; returns n, and the labels of every n-th row."""
        source, count = dataset.train, len(dataset.train)
        if isinstance(source, InMemorySource):
            step, labels = 1, source.arrays()[1]
        else:
            step = max(1, count // _NUM_LABELS)
            labels = np.array([label for _, label in source.entries(np.arange(0, count, step))])
        if self.labels is None:
            return step, labels
        different = np.flatnonzero(self.labels[::step] != labels)
        if different.size:
            row = int(different[0]) * step
            raise UserError(
                f"the rows of {self.path} are not in the order of the training images: row {row} "
                f"belongs to an image of class {self.labels[row]}, but image {row} has class "
                f"{labels[different[0]]}; write it again for these"
            )
        return 1, np.asarray(self.labels)


def check_images_unchanged(config: ml_collections.ConfigDict, setting: str) -> None:
    """Makes sure that a file of a teacher's outputs is right for the training images.

    Args:
      config: of the experiment.
      setting: of the file, for the message.

    Raises:
      UserError: if an image is changed by more than a flip.
    """
    settings = flat_settings(config)
    if change := image_changing_setting(settings):
        raise UserError(
            f"{setting} has the teacher's outputs once for each image, but "
            f"config.{change}={settings[change]!r} changes the images; switch one of the two off"
        )


def open_outputs(path: str) -> StoredOutputs:
    """Opens a file of a teacher's outputs, and checks every value; a second call is free.

    Args:
      path: `config.teacher.outputs`, an .npz file or a folder of .npy files.

    Raises:
      UserError: if it is missing or damaged, or an array has a wrong shape or dtype, or a value
        that is not finite.
    """
    root = local_path(path, _SETTING)
    files = sorted(root.glob("*.npy")) if root.is_dir() else [root]
    if not root.exists():
        raise UserError(f"{_SETTING}: {path} does not exist")
    if not root.is_dir() and root.suffix != ".npz":
        raise UserError(f"{_SETTING}: {path} must be an .npz file or a folder of .npy files")
    stats = [file.stat() for file in files]
    stamps = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
    return _open(root, tuple(files), stamps)


@functools.lru_cache(maxsize=1)  # of the stamps too: a file that was replaced is read again
def _open(
    root: Path, files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]
) -> StoredOutputs:
    try:
        if root.is_dir():
            found = {file.stem: np.load(file, mmap_mode="r") for file in files}
        else:
            # `np.load` of a path would leave a damaged file open.
            with root.open("rb") as stream, np.load(stream) as archive:
                found = dict(archive)
        labels, metadata = found.pop(LABELS, None), found.pop(METADATA, None)
        data, held_out = None, {}
        if metadata is not None:
            values = json.loads(str(metadata))
            data = Fingerprint.from_dict(values["data"])
            held_out = held_out_settings(values["held_out"])
    except Exception as error:  # NumPy's readers raise many types on damaged files
        reason = one_line(error)
        if root.is_file() and not zipfile.is_zipfile(root):  # NumPy suggests to unpickle it
            reason = "it is not an .npz file, or is damaged"
        raise UserError(f"{_SETTING}: {root} cannot be read: {reason}") from error
    if "logits" not in found:
        if root.is_dir() and find_run(root) is not None:
            raise UserError(
                f"{_SETTING}: {root} is a run of amdjax; give it with config.teacher.checkpoint"
            )
        raise UserError(
            f"{_SETTING}: {root} has no array 'logits'; it has {', '.join(found) or 'no arrays'}"
        )
    arrays = _with_views(
        {
            name: array
            for name, array in found.items()
            if name in ("logits", "embedding") or name.startswith(ATTENTION)
        },
        root,
    )
    if labels is not None and labels.shape != (len(arrays["logits"]),):
        raise UserError(f"{root}: 'labels' must be one number for each row, not {labels.shape}")
    return StoredOutputs(root, arrays, labels, data, held_out, _check_values(arrays, root))


def _with_views(found: Mapping[str, np.ndarray], root: Path) -> dict[str, np.ndarray]:
    """Returns the arrays with an axis of views, after a check of their dtypes and shapes."""
    logits = found["logits"]
    has_views = logits.ndim == 3
    views = f"{logits.shape[1]}," if has_views else ""
    arrays = {}
    for name, array in found.items():
        axes = {"logits": "classes", "embedding": "D"}.get(name, "h,w")
        if array.dtype.name not in _DTYPES:
            raise UserError(f"{root}: {name!r} is {array.dtype}, but must be {', '.join(_DTYPES)}")
        wanted = 1 + has_views + 1 + (axes == "h,w")
        if array.ndim != wanted or array.shape[: 1 + has_views] != logits.shape[: 1 + has_views]:
            raise UserError(
                f"{root}: {name!r} is {list(array.shape)}, but must be "
                f"[{'N' if name == 'logits' else len(logits)},{views}{axes}], like the logits "
                f"{list(logits.shape)}"
            )
        if 0 in array.shape:
            raise UserError(f"{root}: {name!r} is empty: {list(array.shape)}")
        arrays[name] = array if has_views else array[:, None]
    if has_views and logits.shape[1] > 2:
        raise UserError(
            f"{root}: 'logits' is {list(logits.shape)}, but must be [N,classes] or, with the "
            "outputs of the mirror images, [N,2,classes]"
        )
    return arrays


def _check_values(arrays: Mapping[str, np.ndarray], root: Path) -> str:
    """Returns a digest of the arrays, after a check of their values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        for first, rows in _chunks(array):
            wrong = ~np.isfinite(rows)
            what = "NaN or Inf"
            if name.startswith(ATTENTION) and not wrong.any():
                wrong, what = rows < 0, "a negative value in an attention map"
            if wrong.any():
                row = first + int(np.nonzero(wrong)[0][0])
                raise UserError(f"{root}: {name!r} has {what} in row {row}")
            digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()[:16]


def _chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the rows of an array in pieces, each with the number of its first row."""
    count = max(1, _CHUNK_BYTES // (array.nbytes // len(array)))
    for first in range(0, len(array), count):
        yield first, array[first : first + count]


def _difference(saved: Fingerprint, current: Fingerprint) -> str:
    """Returns the first difference of two data sets; "" if their training images are the same."""
    if saved.name != current.name:
        return f"data set {saved.name!r}, now {current.name!r}"
    if saved.class_names != current.class_names:
        return "other class names"
    if saved.num_images["train"] != current.num_images["train"]:
        return f"{saved.num_images['train']:,} images, now {current.num_images['train']:,}"
    return "names or sizes of the image files differ" if saved.digest != current.digest else ""


def held_out_settings(data: Mapping[str, Any] | ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the settings that choose which images are held out of the training split."""
    seed = ("validation_seed",) if data["validation"] else ()
    return {key: data[key] for key in ("validation", *seed, "validation_split")}
