"""The model card: metadata of the Hub, results over seeds, rules of prediction."""

from typing import Any

import pytest

from amdjax.export.card import model_card
from amdjax.export.evaluate import Evaluation
from amdjax.export.formats import FORMATS

SUFFIXES = [(name, suffix) for name, form in FORMATS.items() for suffix in form.suffixes]


def _results(finals: dict[int, dict[str, float]]) -> dict[str, Any]:
    """Returns what the card reads of the results of seed 1, one of these seeds."""
    seeds = {str(seed): {"final": final} for seed, final in finals.items()}
    return {"final": finals[1], "seeds": seeds}


def _metadata(**changes: Any) -> dict[str, Any]:
    metadata = {
        "format": "onnx",
        "amdjax_version": "1.2.3",
        "model": "wrn_10_1",
        "method": "kd",
        "seed": 1,
        "step": 250,
        "class_names": ["cat: tabby", "dog"],
        "image_shape": [32, 24, 3],
        "crop": "centre square",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "temperature": 1.0,
        "prediction_rule": [],
        "data": {
            "name": "folder",
            "class_names": ["cat: tabby", "dog"],
            "num_images": {"train": 1000, "test": 50},
            "digest": "abc",
        },
        "results": _results({1: {"accuracy": 0.75, "nll": 0.5, "ece": 0.125}}),
        "settings": {
            "epochs": 8,
            "batch_size": 32,
            "optim": {"name": "sgd", "learning_rate": 0.05},
            "losses": {"ce": {"weight": 0.1}, "kd": {"weight": 0.9}},
            "teacher": {"name": "wrn_10_2"},
        },
    }
    return metadata | changes


def test_card_begins_with_the_metadata_of_the_hub():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    card = model_card("s.onnx", _metadata(), 'strange: "licence"', 1e-7, {})
    _, block, _ = card.split("---\n", 2)
    hub = yaml.safe_load(block)
    assert hub["license"] == 'strange: "licence"'
    assert hub["library_name"] == "onnx"
    assert hub["datasets"] == ["folder"]
    (result,) = hub["model-index"][0]["results"]
    assert result["dataset"] == {"name": "folder", "type": "folder", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.75}]


def test_card_states_the_values_of_its_seed():
    """The mean over the seeds is not the accuracy of any file."""
    finals = [{"accuracy": 0.7, "nll": 0.5, "ece": 0.1}, {"accuracy": 0.8, "nll": 0.7, "ece": 0.2}]
    results = _results(dict(enumerate(finals)))
    card = model_card("s.onnx", _metadata(results=results), "mit", 1e-7, {})
    assert "      value: 0.8000\n" in card
    assert "| Accuracy | 80.00 % |" in card
    assert "| NLL | 0.7000 nats |" in card
    assert "| ECE | 20.00 % |" in card
    assert "this network, seed 1" in card
    assert "Over 2 seeds (0, 1) the accuracy is 75.00 ± 7.07 %" in card


def test_card_escapes_the_markup_in_names_of_classes():
    data = {**_metadata()["data"], "class_names": ["m<b>x", "a_b*c", "Ünï|`md`"]}
    card = model_card("s.onnx", _metadata(data=data), "other", 1e-7, {})
    assert r"(m\<b\>x, a\_b\*c, Ünï\|\`md\`)" in card


def test_card_of_a_single_seed_has_no_mean():
    card = model_card("s.onnx", _metadata(), "mit", 1e-7, {})
    assert "| ECE | 12.50 % |" in card
    assert "One training run, seed 1" in card
    assert "±" not in card


def test_card_without_results_names_the_checkpoint():
    card = model_card("s.onnx", _metadata(results={}), "mit", 1e-7, {})
    assert "no results of this checkpoint (step 250)" in card
    assert "model-index" not in card
    assert "| quantity |" not in card


@pytest.mark.parametrize(("name", "suffix"), SUFFIXES)
def test_card_names_the_packages_of_the_format(name, suffix):
    card = model_card(f"s{suffix}", _metadata(format=name), "mit", 1e-7, {})
    use = card.split("## Use")[1]
    for package in FORMATS[name].suffixes[suffix]:
        assert package in use, package


def test_card_describes_input_output_and_recipe():
    card = model_card("s.onnx", _metadata(temperature=2.5), "mit", 3e-7, {})
    for text in (
        "RGB images of 32x24 pixels, uint8 `[batch, 32, 24, 3]`",
        "the softmax of the logits divided by the temperature 2.5",
        "at most 3.0e-07",
        "1,000 train and 50 test images in 2 classes (cat: tabby, dog)",
        "ce (weight 0.1), kd (weight 0.9)",
        "Teacher: wrn_10_2",
        "probabilities for every image, including images of other classes",
        "`settings` in `s.onnx.json`",
    ):
        assert text in card, text
    card = model_card("s.onnx", _metadata(prediction_rule=["cosface"]), "mit", 3e-7, {})
    assert "by the rule of the loss cosface" in card
    card = model_card("s.safetensors", _metadata(format="torch"), "mit", 3e-7, {})
    assert "- Output: logits, float32 `[batch, 2]`. The probabilities are computed as the" in card
    assert "import safetensors.torch, torch\n" in card


@pytest.mark.parametrize(
    ("step", "length"),
    [(248, "8 epochs"), (62, "2 of the 8 epochs of its schedule"), (10, "0.3226 of the 8 epochs")],
)
def test_card_states_how_long_the_network_was_trained(step, length):
    card = model_card("s.onnx", _metadata(step=step), "mit", 1e-7, {})
    assert f"- {step} steps in batches of 32 ({length}" in card
    assert "), sgd with a learning rate of 0.05\n" in card


def test_card_shows_the_quantised_file():
    evaluations = {
        "s.onnx": Evaluation(0.75, 4_000_000, 1234.5),
        "s.int8.onnx": Evaluation(0.74, 1_000_000, 2345.6),
    }
    card = model_card("s.onnx", _metadata(), "mit", 3e-7, evaluations)
    rows = [line.split() for line in card.splitlines() if line.startswith("| s.")]
    assert rows[0] == ["|", "s.onnx", "|", "75.00", "|", "4.00", "|", "1,234", "|"]
    assert rows[1] == ["|", "s.int8.onnx", "|", "74.00", "|", "1.00", "|", "2,346", "|"]
