import json

from amdjax.training.metrics_file import training_seconds


def test_training_seconds_are_those_of_the_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert training_seconds(path, 8) is None
    lines = [
        {"split": "train", "step": 4, "images_per_s": 16.0},
        {"split": "test", "step": 4},
        {"split": "train", "step": 6, "images_per_s": 4.0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_seconds(path, 8) == 4 * 8 / 16 + 2 * 8 / 4
    path.write_text(path.read_text() + "\n")  # a damaged line
    assert training_seconds(path, 8) is None
