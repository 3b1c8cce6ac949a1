import os

from amdjax.predict.images import find_images


def test_find_images_leaves_out_pipes(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("nothing")
    assert [file.name for file in find_images([str(tmp_path)])] == ["a.png", "c.png"]
