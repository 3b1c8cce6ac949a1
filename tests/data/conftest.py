"""Folders that the tests of data share."""

import pytest

from tests.make_data import encode, random_images


@pytest.fixture
def folder(tmp_path):
    """A folder of five images, and of files that are not images."""
    for row, name in enumerate(("b.png", "more/a.JPG", "more/c.png", "z.png", "Z.png")):
        path = tmp_path / "unlabeled" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = random_images(16, 16, 3, seed=row)
        path.write_bytes(encode(image, "JPEG" if name.endswith("JPG") else "PNG"))
    (tmp_path / "unlabeled/notes.txt").write_text("not an image")
    (tmp_path / "unlabeled/.hidden.png").write_bytes(b"")
    return tmp_path / "unlabeled"
