"""Evaluation of every network of a workdir on the test split."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.special
from tqdm import tqdm

from amdjax import distributed
from amdjax.analysis.gradcam import grad_cam
from amdjax.checkpoint_files import CHECKPOINTS_FOLDER
from amdjax.data import EvalBatches
from amdjax.data.unknown import check_unknown, open_unknown
from amdjax.errors import UserError
from amdjax.losses.functional import attention_map, l2_normalize
from amdjax.predictor import Predictor, count_prediction_parameters
from amdjax.report.cost import Cost, measure_cost
from amdjax.report.open_set import evaluate_open_set
from amdjax.report.outputs import LAYERS, TestOutputs, drop_not_finite, evaluate_networks
from amdjax.report.report_data import ModelResult, ReportData
from amdjax.report.selection import (
    comparison_teachers,
    drop_incomparable,
    drop_other_inputs,
    find_not_compared,
)
from amdjax.trained import TrainedModel, restore_all
from amdjax.training.metrics_file import METRICS_FILE, read_metrics
from amdjax.workdir import UNMOVED, DataPaths, load_data_again, read_config, run_data

_NUM_SAMPLES = 6
_MAX_BATCH = 128  # images of a forward pass


def evaluate_workdir(
    workdir: Path,
    paths: DataPaths = UNMOVED,
    indices: Sequence[int] | None = None,
    unknown: str | None = None,
) -> ReportData:
    """Evaluates all networks of a workdir on the test split.

    Args:
      workdir: of an experiment, finished or not.
      paths: where the data are now, if they were moved.
      indices: of the test images to take as samples; None: the six with the largest `disagreement`
        between the first seeds of the methods.
      unknown: data set or folder of images of unknown classes, see `open_unknown`; None: that of
        the config.

    Returns:
      The `ReportData`. Networks that cannot be read, have outputs that are not finite, or cannot be
      averaged with the other seeds of their method are left out, with a sentence in `notes`.
      Without any network all arrays and the class names are empty.

    Raises:
      UserError: if the workdir has no config, the data cannot be read, or a sample does not exist.
    """
    config = read_config(workdir)
    data_settings = run_data(config.data, {}, paths)
    setting = "config.data.unknown"
    if unknown is not None:
        data_settings.unknown, setting = unknown, "--unknown"
        check_unknown(data_settings, setting)
    if not (config.teacher.checkpoint or any(workdir.glob(f"*/{CHECKPOINTS_FOLDER}/[0-9]*"))):
        return _empty_report(workdir, config, ["no network has a checkpoint yet"])
    dataset = load_data_again(data_settings)
    if len(dataset.test) < 2:
        raise UserError("the test split has one image; a report needs at least two")
    _check_samples(indices, len(dataset.test))
    unknown_images = open_unknown(dataset, data_settings, setting)
    networks, notes = restore_all(workdir, config, dataset.fingerprint)
    networks, skipped = drop_other_inputs(networks, dataset, config.data.random_resized_crop)
    notes += skipped
    if not networks:
        return _empty_report(workdir, config, notes)
    # That of training belongs to all its devices, and this is one.
    batch_size = min(config.batch_size, _MAX_BATCH)
    margin, scale = config.losses.am.margin, config.losses.am.scale
    teachers = comparison_teachers(networks, workdir)
    outputs, labels = evaluate_networks(networks, teachers, dataset, batch_size, margin, scale)
    networks, skipped = drop_not_finite(networks, teachers, outputs)
    notes += skipped
    if not networks:
        return _empty_report(workdir, config, notes)
    different = find_not_compared(networks, workdir, config.max_steps)
    networks, left_out = drop_incomparable(networks, different)
    notes += left_out
    notes += _comparison_notes(networks, teachers, outputs)
    layers, missing = _common_layers(networks, outputs)
    notes += missing
    open_set: dict[str, dict[str, float]] = {}
    unknown_description = ""
    if unknown_images is not None:
        source = unknown_images.source
        open_set, skipped = evaluate_open_set(networks, outputs, dataset, source, batch_size)
        notes += skipped
        unknown_description = f"{len(source):,} images of {unknown_images.description}"
    if indices is not None:
        samples = np.asarray(indices, np.int64)
    else:
        samples = _most_disputed(networks, outputs)[:_NUM_SAMPLES]
    images, _ = dataset.test.read(samples)
    batch = EvalBatches(dataset.test, batch_size)[0]["image"]
    costs: dict[Predictor, Cost] = {}
    results = []
    for network in tqdm(networks, desc="Grad-CAM", unit=" networks", disable=None, leave=False):
        if network.predictor not in costs:
            costs[network.predictor] = measure_cost(network, batch)
        cost, scores = costs[network.predictor], open_set.get(network.name, {})
        results.append(
            _model_result(network, outputs[network.name], layers, images, cost, workdir, scores)
        )
    return ReportData(
        workdir=workdir,
        data=dataset.name,
        class_names=dataset.class_names,
        labels=labels,
        samples=samples,
        by_disagreement=indices is None,
        images=images,
        networks=tuple(results),
        notes=tuple(notes),
        config=config.to_dict(),
        unknown=unknown_description,
        not_compared={label: tuple(by_seed) for label, by_seed in different.items()},
    )


def disagreement(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the disagreement between the predictions of several networks, for each example.

    The mean over the networks of the total variation distance `1/2 sum_c |p_kc - mean_k p_kc|`
    between a network's probabilities and the mean probabilities of all networks: 0 for equal
    predictions, and largest for confident predictions of different classes.

    Args:
      logits: of each network, float [N,C].

    Returns:
      float64 [N], in [0, 1).
    """

    def probabilities() -> Iterator[np.ndarray]:  # one at a time: they may be large
        return (scipy.special.softmax(np.asarray(x, np.float64), axis=1) for x in logits)

    mean = sum(probabilities()) / len(logits)
    total = np.zeros(len(logits[0]))
    for p in probabilities():
        total += np.abs(p - mean).sum(axis=1)
    return total / (2 * len(logits))


def _most_disputed(networks: Sequence[TrainedModel], outputs: dict[str, TestOutputs]) -> np.ndarray:
    """Returns the test images in falling order of the first seeds' `disagreement`."""
    logits = {network.label: outputs[network.name]["logits"] for network in reversed(networks)}
    return np.argsort(-disagreement(list(logits.values())), kind="stable")


def _check_samples(indices: Sequence[int] | None, count: int) -> None:
    if indices is None:
        return
    if not indices or not all(0 <= index < count for index in indices):
        raise UserError(
            f"the indices of the test images are 0 to {count - 1}; {list(indices)} was requested"
        )
    if len(set(indices)) < len(indices):
        raise UserError(f"the indices of the test images have duplicates: {list(indices)}")


def _comparison_notes(
    networks: Sequence[TrainedModel], compared: dict[str, str], outputs: dict[str, TestOutputs]
) -> list[str]:
    """Returns a sentence for each student that is not compared with its teacher at all layers."""
    teachers = {network.name for network in networks if network.is_teacher}
    if not teachers:
        return ["there is no teacher, so the attention maps of the students are not compared"]
    notes = []
    for network in networks:
        if network.is_teacher:
            continue
        maps, compared_maps = (outputs[network.name][key] for key in ("angles", "similarity"))
        layers = [layer for layer in LAYERS if layer in maps and layer not in compared_maps]
        if network.name not in compared and network.teacher in teachers:
            notes.append(
                f"{network.name}: the attention maps are not compared with those of "
                f"{network.teacher}, since it learned from another teacher than that of the "
                "workdir's last command"
            )
        elif layers:
            notes.append(
                f"{network.name}: the attention maps of {', '.join(layers)} are not compared with "
                f"those of {network.teacher}, which is missing or has maps of another size"
            )
    return notes


def _common_layers(
    networks: Sequence[TrainedModel], outputs: dict[str, TestOutputs]
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the layers of `LAYERS` that all networks have, and a sentence for each that has not.

    The maps of a layer are shown of all networks or of none. Runs of the same network share a
    sentence.
    """
    found = {network.model: outputs[network.name]["angles"] for network in networks}
    notes = [
        f"{name}: there are no maps of {', '.join(missing)} in the report, since this network "
        "has no such layer"
        for name, angles in found.items()
        if (missing := [layer for layer in LAYERS if layer not in angles])
    ]
    common = (layer for layer in LAYERS if all(layer in angles for angles in found.values()))
    return tuple(common), notes


def _model_result(
    network: TrainedModel,
    outputs: TestOutputs,
    layers: tuple[str, ...],
    images: np.ndarray,
    cost: Cost,
    workdir: Path,
    open_set: dict[str, float],
) -> ModelResult:
    """Returns the result of a network, with maps and Grad-CAM of the sample images."""
    maps, cams = jax.device_get(
        _maps_and_cams(network.predictor, network.variables, images, layers)
    )
    return ModelResult(
        name=network.name,
        method=network.method,
        seed=network.seed,
        model=network.model,
        sweep_key=network.sweep_key,
        sweep_value=network.sweep_value,
        step=network.step,
        parameters=count_prediction_parameters(network.variables),
        **cost._asdict(),
        logits=outputs["logits"],
        embedding=outputs["embedding"],
        angles={layer: outputs["angles"][layer] for layer in layers},
        similarity=outputs["similarity"],
        am_distance={layer: float(values.mean()) for layer, values in outputs["am"].items()},
        maps=maps,
        cams=cams,
        curve=read_metrics(workdir / network.name / METRICS_FILE)[0] if network.length else [],
        open_set=open_set,
    )


@functools.partial(distributed.jit, static_argnums=(0, 3))
def _maps_and_cams(
    predictor: Predictor, variables: dict, images: jax.Array, layers: tuple[str, ...]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns attention maps of unit norm and Grad-CAM [K,h,w] of images [K,H,W,3], by layer."""
    outputs, inputs = predictor(variables, images), predictor.normalize(images)
    predicted, predict = jnp.argmax(outputs.logits, axis=-1), predictor.bind(variables)
    maps = {
        layer: l2_normalize(attention_map(outputs.features[layer]), axis=(1, 2)) for layer in layers
    }
    cams = {
        layer: grad_cam(predictor.network, variables, inputs, predicted, layer, predict)
        for layer in layers
    }
    return maps, cams


def _empty_report(
    workdir: Path, config: ml_collections.ConfigDict, notes: Sequence[str]
) -> ReportData:
    return ReportData(
        workdir=workdir,
        data=config.data.name,
        class_names=(),
        labels=np.zeros([0], np.int32),
        samples=np.zeros([0], np.int64),
        by_disagreement=False,
        images=np.zeros([0, 0, 0, 3], np.uint8),
        networks=(),
        notes=tuple(notes),
        config=config.to_dict(),
    )
