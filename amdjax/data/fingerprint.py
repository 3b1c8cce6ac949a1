"""The fingerprint of a data set: what tells whether a network was trained on the same images."""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from amdjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Properties by which data sets are compared; the folder of the files is not one of them.

    Attributes:
      name: of the data set.
      class_names: in the order of the labels.
      image_shape: (H, W, 3) of every image.
      num_images: split -> number of images.
      digest: of the names and sizes of the image files, or of registered arrays; "" for data sets
        of a fixed content.
      labeled_digest: the digest without the images of `config.data.unlabeled`; None where there
        are none.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    num_images: Mapping[str, int]
    digest: str = ""
    labeled_digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fingerprint as JSON values."""
        return {
            "name": self.name,
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "num_images": dict(self.num_images),
            "digest": self.digest,
            "labeled_digest": self.labeled_digest,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Fingerprint":
        """Returns the fingerprint of JSON values.

        Raises:
          KeyError, TypeError, ValueError: if the values are not those of a fingerprint.
        """
        return cls(
            str(values["name"]),
            tuple(normal_form(str(name)) for name in values["class_names"]),
            tuple(map(int, values["image_shape"])),
            {str(split): int(count) for split, count in values["num_images"].items()},
            str(values["digest"]),
            values.get("labeled_digest"),
        )

    @property
    def of_labeled(self) -> str:
        """The digest of the images that have labels, all test images among them."""
        return self.digest if self.labeled_digest is None else self.labeled_digest


def normal_form(name: str) -> str:
    """Returns a file's or class's name in Unicode's normal form C.

    File systems and archives differ in the form that they keep, and a copy of the same data must
    have the same names.
    """
    return unicodedata.normalize("NFC", name)


def digest_files(files: Iterable[tuple[str, int]]) -> str:
    """Returns a digest of (path relative to the data set, size in bytes) in any order."""
    return hashlib.sha256(repr(sorted(files)).encode(errors="surrogateescape")).hexdigest()[:16]


def compare_classes(saved: Fingerprint, current: Fingerprint) -> str:
    """Returns how the classes of two fingerprints differ, in words; "" if they are the same.

    Args:
      saved: of the data that a network was trained on.
      current: of the data that it is used with.
    """
    if saved.class_names == current.class_names:
        return ""
    gone = [name for name in saved.class_names if name not in current.class_names]
    new = [name for name in current.class_names if name not in saved.class_names]
    differences = [
        f"{word}: {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
        for word, names in (("missing", gone), ("new", new))
        if names
    ]
    return "; ".join(differences) or "their order differs"


def check_classes(saved: Fingerprint, current: Fingerprint, subject: str) -> None:
    """Makes sure that labels mean the same classes.

    Args:
      saved: of the data that a network was trained on.
      current: of the data that it is used with.
      subject: what was trained, for the message.

    Raises:
      UserError: naming the classes that differ.
    """
    if difference := compare_classes(saved, current):
        raise UserError(
            f"{subject} was trained on different classes from those of the data now "
            f"({difference}), so its outputs would be read as the wrong classes: restore the data, "
            "or train again in another --workdir"
        )


def compare_test_images(saved: Fingerprint, current: Fingerprint) -> str:
    """Returns how the test images of two fingerprints differ, in words; "" if they may be the same.

    The digests are also those of the training images: where their numbers differ, they say nothing
    about the test images.

    Args:
      saved: of the data that a network was trained on.
      current: of the data that it is evaluated on, of the same classes.
    """
    before, now = saved.num_images, current.num_images
    if before.get("test") != now.get("test"):
        return f"test {before.get('test', 0):,} -> {now.get('test', 0):,} images"
    if before.get("train") == now.get("train") and saved.of_labeled != current.of_labeled:
        return "the names or sizes of the files differ"
    return ""


def check_images(
    saved: Fingerprint, current: Fingerprint, subject: str, accept_changes: bool
) -> str | None:
    """Compares the images of two fingerprints of the same classes.

    Args:
      saved: of the data that a network was trained on.
      current: of the data that it is used with.
      subject: what was trained, for the message.
      accept_changes: whether other images are accepted.

    Returns:
      A sentence about the accepted changes; None if there are none.

    Raises:
      UserError: if the images differ, unless that is accepted.
    """
    if (saved.num_images, saved.digest) == (current.num_images, current.digest):
        return None
    if saved.num_images == current.num_images:
        difference = "as many, but others"
    else:
        counts = (
            f"{split} {saved.num_images.get(split, 0):,} -> {count:,}"
            for split, count in current.num_images.items()
        )
        difference = f"{', '.join(counts)} images"
    change = f"the images have changed since {subject} was started ({difference})"
    if accept_changes:
        return change
    raise UserError(
        f"{change}; set --config.data.accept_changes=True to continue with them, or choose another "
        "--workdir"
    )
