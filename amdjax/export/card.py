"""The model card of an exported network: Markdown with the metadata block of Hugging Face's Hub."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amdjax.export.evaluate import Evaluation, format_evaluations
from amdjax.export.formats import FORMATS, metadata_file
from amdjax.export.student import Metadata
from amdjax.metrics import format_stat

_MARKUP = re.compile(r"[\\`*_<>\[\]|]")  # of Markdown, to be escaped in a name
_QUANTITIES = {
    "accuracy": ("Accuracy", 100, "%"),
    "nll": ("NLL", 1, "nats"),
    "ece": ("ECE", 100, "%"),
}


def model_card(
    name: str,
    metadata: Metadata,
    license_name: str,
    difference: float,
    evaluations: dict[str, Evaluation],
) -> str:
    """Returns the model card of an exported file.

    Args:
      name: of the file.
      metadata: of the export.
      license_name: of the weights, as the Hub names it: "apache-2.0", "unknown".
      difference: the largest difference of the probabilities from those of amdjax.
      evaluations: of the files, where a quantised one is among them; else {}.
    """
    data = metadata["data"]
    title = f"{metadata['model']} for {data['name']}, trained with {metadata['method']}"
    sections = {
        "What it is": _what(name, metadata, difference),
        "Data": _data(data),
        "Results": _results(metadata) + _quantised(evaluations),
        "Recipe": _recipe(name, metadata),
        "Limits": _limits(metadata),
        "Use": _use(name, metadata),
    }
    body = "\n\n".join(f"## {heading}\n\n{text.strip()}" for heading, text in sections.items())
    return f"{_hub_metadata(title, metadata, license_name)}\n# {title}\n\n{body}\n"


def _hub_metadata(title: str, metadata: Metadata, license_name: str) -> str:
    """Returns the block of YAML that the Hub reads; JSON strings are YAML strings."""
    data = metadata["data"]["name"]
    library = {"onnx": "onnx", "torch": "pytorch", "stablehlo": "jax"}
    lines = [
        "---",
        f"license: {json.dumps(license_name)}",
        f"library_name: {library.get(metadata['format'], 'flax')}",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("image-classification", "knowledge-distillation", "amdjax")),
        "datasets:",
        f"- {json.dumps(data)}",
        "metrics:",
        "- accuracy",
    ]
    if results := metadata["results"]:
        lines += [
            "model-index:",
            f"- name: {json.dumps(title)}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {json.dumps(data)}",
            f"      type: {json.dumps(data)}",
            "      split: test",
            "    metrics:",
            "    - type: accuracy",
            f"      value: {results['final']['accuracy']:.4f}",
        ]
    return "\n".join([*lines, "---", ""])


def _what(name: str, metadata: Metadata, difference: float) -> str:
    height, width, _ = metadata["image_shape"]
    temperature = metadata["temperature"]
    scaled = f" divided by the temperature {temperature:.4g}" if temperature != 1 else ""
    text = (
        f"An image classifier of {len(metadata['class_names'])} classes, exported by amdjax "
        f"{metadata['amdjax_version']}. `{name}` holds: {FORMATS[metadata['format']].summary}.\n\n"
        f"- Input: RGB images of {height}x{width} pixels, uint8 `[batch, {height}, {width}, 3]`, "
        f"cropped to the {metadata['crop']}. The normalisation, mean {metadata['mean']} and "
        f"standard deviation {metadata['std']} on the scale 0 to 1, "
    )
    text += "is part of the graph.\n" if FORMATS[metadata["format"]].has_graph else "comes first.\n"
    shape = f"float32 `[batch, {len(metadata['class_names'])}]`"
    if metadata["format"] == "torch":
        text += f"- Output: logits, {shape}. The probabilities are computed"
        checked = "the probabilities that amdjax computes with the weights of this file"
    else:
        text += f"- Output: probabilities, {shape}, computed"
        checked = "the probabilities"
    if rule := metadata["prediction_rule"]:
        text += (
            f" by the rule of the loss {' and '.join(rule)}, which replaces the softmax of the "
            f"logits; its scores are{scaled or ' not scaled'}.\n"
        )
    else:
        text += f" as the softmax of the logits{scaled}.\n"
    return text + (
        f"- Checked when it was exported: {checked} differ from the run's by at most "
        f"{difference:.1e}.\n"
    )


def _data(data: Mapping[str, Any]) -> str:
    counts = " and ".join(f"{count:,} {split}" for split, count in data["num_images"].items())
    shown = [_MARKUP.sub(r"\\\g<0>", name) for name in data["class_names"][:20]]
    names = ", ".join(shown) + (", ..." if len(data["class_names"]) > 20 else "")
    digest = f" Digest of the image files: `{data['digest']}`." if data["digest"] else ""
    return (
        f"`{data['name']}`: {counts} images in {len(data['class_names'])} classes ({names})."
        f"{digest} The images are under the licence of their authors, which this card does not "
        "change."
    )


def _results(metadata: Metadata) -> str:
    results = metadata["results"]
    if not results:
        return f"There are no results of this checkpoint (step {metadata['step']})."
    rows = ["| quantity | test split, last step |", "|---|---|"]
    for key, (label, factor, unit) in _QUANTITIES.items():
        value = factor * results["final"][key]
        rows.append(f"| {label} | {value:.{2 if factor > 1 else 4}f} {unit} |")
    text = "\n".join(rows)
    seeds = results["seeds"]
    if len(seeds) > 1:
        accuracies = [100 * seed["final"]["accuracy"] for seed in seeds.values()]
        text += (
            f"\n\nThe values are those of this network, seed {metadata['seed']}. Over {len(seeds)} "
            f"seeds ({', '.join(seeds)}) the accuracy is {format_stat(accuracies, 2)} % (mean ± "
            "standard deviation)."
        )
    else:
        text += f"\n\nOne training run, seed {metadata['seed']}."
    text += " NLL and ECE (15 bins) are those of temperature 1"
    if metadata["temperature"] != 1:
        text += (
            f". This file has the temperature {metadata['temperature']:.4g}, which minimises the "
            f"NLL of {_fitted_on(metadata)}"
        )
    return text + "."


def _fitted_on(metadata: Metadata) -> str:
    """Returns the images on which a temperature is fitted, in words."""
    has_validation = "validation" in metadata["data"]["num_images"]
    return "the validation split" if has_validation else "half of the test split"


def _quantised(evaluations: dict[str, Evaluation]) -> str:
    if not evaluations:
        return ""
    return (
        "\n\nQuantised after training by onnxruntime: int8 weights, uint8 activations with the "
        "ranges on training images. Measured in onnxruntime on the test split, the speed on one "
        f"machine's CPU:\n\n{format_evaluations(evaluations, 'github')}"
    )


def _recipe(name: str, metadata: Metadata) -> str:
    settings = metadata["settings"]
    losses = ", ".join(
        f"{loss} (weight {entry.get('weight', 1):g})" for loss, entry in settings["losses"].items()
    )
    lines = [
        f"- Network: {metadata['model']}; method: {metadata['method']}; losses: {losses}",
        f"- {_length(metadata)}, "
        f"{settings['optim']['name']} with a learning rate of {settings['optim']['learning_rate']}",
    ]
    if teacher := settings.get("teacher"):
        members = " + ".join(member["model"] for member in teacher.get("ensemble", ()))
        lines.append(f"- Teacher: {teacher.get('name') or members or 'a file of its outputs'}")
    lines.append(f"- All settings: `settings` in `{metadata_file(Path(name))}`")
    return "\n".join(lines)


def _length(metadata: Metadata) -> str:
    """Returns how long the network was trained; its checkpoint may precede the last epoch."""
    step, epochs = metadata["step"], metadata["settings"]["epochs"]
    batch_size = metadata["settings"]["batch_size"]
    steps_per_epoch = metadata["data"]["num_images"]["train"] // batch_size
    text = f"{step:,} steps in batches of {batch_size}"
    if step == epochs * steps_per_epoch:
        return f"{text} ({epochs} epochs)"
    return f"{text} ({step / steps_per_epoch:.4g} of the {epochs} epochs of its schedule)"


def _limits(metadata: Metadata) -> str:
    return (
        f"The network knows the classes of `{metadata['data']['name']}` and no others: it gives "
        "probabilities for every image, including images of other classes. Accuracy and "
        "calibration hold for images like those of the test split. Nothing was measured of its "
        "behaviour on other data, under corruption or attack, or for groups of people."
    )


def _use(name: str, metadata: Metadata) -> str:
    form = FORMATS[metadata["format"]]
    kind = "PyTorch tensor" if metadata["format"] == "torch" else "array"
    text = (
        f"`images` is a uint8 {kind} `[B, {', '.join(map(str, metadata['image_shape']))}]`.\n\n"
        f"```python\n{form.usage(name, metadata)}```\n"
    )
    if metadata["format"] == "torch":
        text += f"\n`network` is the published PyTorch definition of {metadata['model']}"
        if rule := metadata["prediction_rule"]:
            text += (
                f". The predictions are not the softmax of these logits: the loss "
                f"{' and '.join(rule)} defines them, and"
            )
        else:
            text += "; the probabilities are the softmax of its logits. Without the definition,"
        text += f' `amdjax.export.load_export("{name}")` computes the probabilities.\n'
    return text
