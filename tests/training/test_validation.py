"""A validation split: the best network is chosen there, and the test split is used at the end."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from amdjax import load_run
from amdjax.data import load_dataset
from amdjax.training import results
from amdjax.training.run import _test_evaluations, run
from tests.tiny_run import tiny_config


@pytest.mark.slow
def test_run_with_a_validation_split_tests_at_the_end(images, tmp_path, capsys):
    config = tiny_config(images, ("scratch",))
    config.data.validation = 0.25
    run(config, tmp_path)
    out = capsys.readouterr().out
    assert (
        "48 training, 16 validation and 32 test images of 16x16 in 4 classes; 2 epochs of 6 steps"
        in out
    )
    assert "best: test split, the step that is most accurate on the validation split" in out
    assert "test accuracy" not in out
    lines = map(json.loads, (tmp_path / "scratch/metrics.jsonl").read_text().splitlines())
    evaluations = {line["step"]: line for line in lines if line["split"] != "train"}
    assert {line["split"] for line in evaluations.values()} == {"validation"}

    row = json.loads((tmp_path / "results.json").read_text())["methods"]["scratch"]
    assert row["selection_split"] == "validation"
    assert row["final"]["validation_accuracy"] == evaluations[12]["accuracy"]
    best = max(evaluations, key=lambda step: (evaluations[step]["accuracy"], step))
    assert row["best"]["step"] == best
    assert row["best"]["validation_accuracy"] == evaluations[best]["accuracy"]
    dataset = load_dataset(config.data)
    pixels, labels = dataset.test.arrays()
    predicted = np.asarray(load_run(tmp_path / "scratch").logits(pixels)).argmax(-1)
    assert row["final"]["accuracy"] == np.mean(predicted == labels)

    run(config, tmp_path)  # finished: the same results again
    again = json.loads((tmp_path / "results.json").read_text())["methods"]["scratch"]
    assert again == row


def test_test_evaluations_have_a_last_step_that_was_not_evaluated():
    run_state = SimpleNamespace(
        state="last", checkpoints=SimpleNamespace(evaluations=dict, latest_step=lambda: 5)
    )
    trainer = SimpleNamespace(
        dataset=SimpleNamespace(validation=None, selection="test images"),
        evaluate=lambda state, source: {"accuracy": 0.7, "source": source},
    )
    evaluations = _test_evaluations(trainer, run_state)
    assert evaluations == {5: {"accuracy": 0.7, "source": "test images"}}


def test_test_evaluations_are_of_the_last_and_of_the_best_network():
    validation = {3: {"accuracy": 0.9}, 6: {"accuracy": 0.8}}
    run_state = SimpleNamespace(
        state="last",
        checkpoints=SimpleNamespace(
            evaluations=lambda: validation,
            latest_step=lambda: 6,
            restore=lambda step, state: f"of step {step}",
        ),
    )
    accuracies = {"last": 0.7, "of step 3": 0.6}
    trainer = SimpleNamespace(
        dataset=SimpleNamespace(validation=object(), test="test images"),
        evaluate=lambda state, source: {"accuracy": accuracies[state], "source": source},
    )
    evaluations = _test_evaluations(trainer, run_state)
    assert evaluations == {
        3: {"accuracy": 0.6, "source": "test images", "validation_accuracy": 0.9},
        6: {"accuracy": 0.7, "source": "test images", "validation_accuracy": 0.8},
    }
    result = results.RunResult("resnet8", 1, evaluations)
    assert result.selection_split == "validation"
    assert (result.best()["accuracy"], result.final()["accuracy"]) == (0.6, 0.7)
