"""Evaluation of every network of a workdir on the test split."""

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.special
from tqdm import tqdm

from amdjax import distributed
from amdjax.analysis.angles import map_angles, map_cosine
from amdjax.analysis.gradcam import grad_cam
from amdjax.checkpoint_files import FOLDER
from amdjax.data import Dataset, EvalBatches
from amdjax.data.unknown import check_unknown, open_unknown
from amdjax.errors import UserError
from amdjax.losses import am_loss
from amdjax.losses.functional import attention_map, l2_normalize
from amdjax.predictor import Predictor, count_prediction_parameters, forward
from amdjax.report.open_set import evaluate_open_set
from amdjax.report.report_data import LEVELS, ModelResult, ReportData
from amdjax.report.selection import (
    comparison_teachers,
    drop_incomparable,
    drop_other_inputs,
    find_incomparable,
)
from amdjax.trained import TrainedModel, restore_all
from amdjax.training.metrics_file import METRICS_FILE, read_metrics
from amdjax.workdir import UNMOVED, DataPaths, load_data_again, read_config, run_data

LAYERS = tuple(LEVELS)  # of 32, 16 and 8 pixels for images of 32
_TIMED_BATCHES = 5

# Outputs of one network: a tree of arrays whose first axis is that of the images.
TestOutputs = dict[str, Any]


def evaluate_workdir(
    workdir: Path,
    paths: DataPaths = UNMOVED,
    num_samples: int = 6,
    indices: Sequence[int] | None = None,
    unknown: str | None = None,
) -> ReportData:
    """Evaluates all networks of a workdir on the test split.

    Args:
      workdir: of an experiment, finished or not.
      paths: where the data are now, if they were moved.
      num_samples: number of sample images, at least 1: those with the largest `disagreement`
        between the first seeds of the methods.
      indices: of the test images to take as samples instead.
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
    if not (config.teacher.checkpoint or any(workdir.glob(f"*/{FOLDER}/[0-9]*"))):
        return _empty_report(workdir, config, ["no network has a checkpoint yet"])
    dataset = load_data_again(data_settings)
    _check_samples(num_samples, indices, len(dataset.test))
    unknown_images = open_unknown(dataset, data_settings, setting)
    networks, notes = restore_all(workdir, config, dataset.fingerprint)
    networks, skipped = drop_other_inputs(networks, dataset, config.data.random_resized_crop)
    notes += skipped
    if not networks:
        return _empty_report(workdir, config, notes)
    margin, scale = config.losses.am.margin, config.losses.am.scale
    teachers = comparison_teachers(networks, workdir)
    outputs, labels = _evaluate(networks, teachers, dataset, config.batch_size, margin, scale)
    networks, skipped = _finite(networks, teachers, outputs)
    notes += skipped
    if not networks:
        return _empty_report(workdir, config, notes)
    different = find_incomparable(networks, workdir, config.max_steps)
    networks, left_out = drop_incomparable(networks, different)
    notes += left_out
    notes += _comparison_notes(networks, teachers, outputs)
    layers, missing = _common_layers(networks, outputs)
    notes += missing
    open_set: dict[str, dict[str, float]] = {}
    unknown_description = ""
    if unknown_images is not None:
        source = unknown_images.source
        open_set, skipped = evaluate_open_set(networks, outputs, dataset, source, config.batch_size)
        notes += skipped
        unknown_description = f"{len(source):,} images of {unknown_images.description}"
    if indices is not None:
        samples = np.asarray(indices, np.int64)
    else:
        logits = {one.label: outputs[one.name]["logits"] for one in reversed(networks)}
        order = np.argsort(-disagreement(list(logits.values())), kind="stable")
        samples = order[:num_samples]
    images, _ = dataset.test.read(samples)
    batch = EvalBatches(dataset.test, config.batch_size)[0]["image"]
    costs: dict[Predictor, dict[str, float]] = {}
    results = []
    for network in tqdm(networks, desc="Grad-CAM", unit=" networks", disable=None, leave=False):
        if network.predictor not in costs:
            costs[network.predictor] = {
                "flops": _flops(network, images.shape[1:]),
                "images_per_s": _images_per_s(network, batch),
            }
        cost = costs[network.predictor]
        scores = open_set.get(network.name, {})
        result = _model_result(
            network, outputs[network.name], layers, images, cost, workdir, scores
        )
        results.append(result)
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


def _check_samples(num_samples: int, indices: Sequence[int] | None, count: int) -> None:
    if num_samples < 1:
        raise UserError(f"the number of sample images must be at least 1, not {num_samples}")
    if indices is None:
        return
    if not indices or not all(0 <= index < count for index in indices):
        raise UserError(
            f"the indices of the test images are 0 to {count - 1}; {list(indices)} was requested"
        )
    if len(set(indices)) < len(indices):
        raise UserError(f"the indices of the test images have duplicates: {list(indices)}")


def _evaluate(
    networks: Sequence[TrainedModel],
    compared: dict[str, str],
    dataset: Dataset,
    batch_size: int,
    margin: float,
    scale: float,
) -> tuple[dict[str, TestOutputs], np.ndarray]:
    """Makes one pass over the test split, with the teachers before the students.

    Args:
      networks: the teachers first.
      compared: from `comparison_teachers`.
      dataset: of the test split.
      batch_size: of the forward passes.
      margin: of the AM loss.
      scale: of the AM loss.

    Returns:
      The outputs by the network's name, and the labels [N].
    """
    count = len(dataset.test)
    outputs: dict[str, TestOutputs] = {}
    labels = np.empty(count, np.int32)
    first = 0
    with tqdm(total=count, desc="test split", unit=" images", disable=None) as bar:
        for batch in EvalBatches(dataset.test, batch_size):
            mask = batch["mask"]
            rows = slice(first, first + mask.sum())
            teachers: dict[str, dict[str, jax.Array]] = {}
            for network in networks:
                part, features = _forward(network.predictor, network.variables, batch["image"])
                if network.is_teacher:
                    teachers[network.name] = features
                teacher = teachers.get(compared.get(network.name, ""), {})
                part = jax.device_get(part | compare_maps(features, teacher, margin, scale))
                if network.name not in outputs:
                    outputs[network.name] = _allocate(part, count)
                leaves = map(jax.tree.leaves, (outputs[network.name], part))
                for whole, values in zip(*leaves, strict=True):
                    whole[rows] = values[mask]
            labels[rows] = batch["label"][mask]
            bar.update(rows.stop - first)
            first = rows.stop
    return outputs, labels


def _allocate(outputs: TestOutputs, count: int) -> TestOutputs:
    """Returns uninitialised arrays like the outputs, but for `count` examples."""
    return jax.tree.map(lambda x: np.empty((count, *x.shape[1:]), x.dtype), outputs)


def _finite(
    networks: Sequence[TrainedModel], compared: dict[str, str], outputs: dict[str, TestOutputs]
) -> tuple[list[TrainedModel], list[str]]:
    """Returns the networks with finite outputs, and a sentence for each of the others.

    The comparisons with a teacher whose outputs are not finite are removed.
    """
    finite, skipped = [], []
    for network in networks:
        predicted = [outputs[network.name][key] for key in ("logits", "embedding", "angles")]
        if all(np.isfinite(x).all() for x in jax.tree.leaves(predicted)):
            finite.append(network)
        else:
            skipped.append(f"{network.name}: skipped: its outputs contain NaN or Inf")
    names = {network.name for network in finite}
    for network in finite:
        if compared.get(network.name) not in names:
            outputs[network.name] |= {"similarity": {}, "am": {}}
    return finite, skipped


@functools.partial(distributed.jit, static_argnames="predictor")
def _forward(
    predictor: Predictor, variables: dict, images: jax.Array
) -> tuple[TestOutputs, dict[str, jax.Array]]:
    """Returns the outputs for images uint8 [B,H,W,3], and the features [B,h,w,c]."""
    outputs = predictor(variables, images)
    features = {layer: outputs.features[layer] for layer in LAYERS if layer in outputs.features}
    angles = {layer: map_angles(feature) for layer, feature in features.items()}
    return {"logits": outputs.logits, "embedding": outputs.embedding, "angles": angles}, features


@distributed.jit
def compare_maps(
    student: dict[str, jax.Array], teacher: dict[str, jax.Array], margin: float, scale: float
) -> TestOutputs:
    """Measures the distance of a student's attention maps to a teacher's.

    Args:
      student: layer -> float [B,h,w,c].
      teacher: layer -> float [B,h',w',c'], of the same layers, or {}.
      margin: of the AM loss.
      scale: of the AM loss.

    Returns:
      {"similarity": layer -> `map_cosine`, "am": layer -> AM loss of the whole map}, float32 [B];
      layers that the student does not have, or where the size of one map is not a multiple of the
      other, are left out.
    """
    comparison: TestOutputs = {"similarity": {}, "am": {}}
    for layer in [layer for layer in teacher if layer in student]:
        pair = student[layer], teacher[layer]
        try:
            comparison["similarity"][layer] = map_cosine(*pair)
            comparison["am"][layer] = am_loss(*pair, margin, scale)
        except UserError:
            continue
    return comparison


def _comparison_notes(
    networks: Sequence[TrainedModel], compared: dict[str, str], outputs: dict[str, TestOutputs]
) -> list[str]:
    """Returns a sentence for each student that is not compared with its teacher at all layers."""
    teachers = {network.name for network in networks if network.is_teacher}
    if not teachers:
        return ["there is no teacher, so the attention maps of the students are not compared"]
    notes = []
    for network in networks:
        layers = [layer for layer in LAYERS if layer not in outputs[network.name]["similarity"]]
        if network.is_teacher:
            continue
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

    The maps of a layer are shown of all networks or of none.
    """
    found = {network.name: outputs[network.name]["angles"] for network in networks}
    notes = [
        f"{name}: there are no maps of {', '.join(missing)} in the report, since this network "
        "has no such layer"
        for name, angles in found.items()
        if (missing := [layer for layer in LAYERS if layer not in angles])
    ]
    return tuple(layer for layer in LAYERS if all(layer in one for one in found.values())), notes


def _model_result(
    network: TrainedModel,
    outputs: TestOutputs,
    layers: tuple[str, ...],
    images: np.ndarray,
    cost: dict[str, float],
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
        **cost,
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
        layer: grad_cam(predictor.module, variables, inputs, predicted, layer, predict)
        for layer in layers
    }
    return maps, cams


def _flops(network: TrainedModel, image_shape: tuple[int, ...]) -> float:
    """Returns the operations of one image's forward pass; 0 if no CPU backend is available.

    They are counted before any optimisation and always for the CPU: the counts of compiled programs
    differ between platforms, and on GPUs leave out the operations of libraries.
    """
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may leave it out
        return 0.0
    variables = jax.eval_shape(lambda: network.variables)
    image = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    with jax.default_device(cpu):
        lowered = jax.jit(lambda *x: network.predictor(*x).logits).lower(variables, image)
        analysis = lowered.cost_analysis()
    return max(0.0, (analysis or {}).get("flops", 0.0))


def _images_per_s(network: TrainedModel, images: np.ndarray) -> float:
    """Returns the median speed of a batch's forward pass, after one warm-up batch."""
    variables, images = jax.device_put((network.variables, images))
    seconds = []
    for _ in range(1 + _TIMED_BATCHES):
        start = time.perf_counter()
        jax.block_until_ready(forward(network.predictor, variables, images))
        seconds.append(time.perf_counter() - start)
    return len(images) / float(np.median(seconds[1:]))


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
