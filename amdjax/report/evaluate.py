"""From a workdir to a `ReportData`: every network is asked about every image of the test split."""

import functools
import json
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
from amdjax.checkpoint import FOLDER
from amdjax.config import read_config
from amdjax.data import Dataset, EvalBatches, load_dataset, prefetch
from amdjax.errors import UserError
from amdjax.losses import am_loss
from amdjax.losses.functional import attention_map, l2_normalize
from amdjax.report.report_data import LEVELS, Network, ReportData
from amdjax.training.metric_writer import METRICS_FILE
from amdjax.training.run import count
from amdjax.workdir import Predictor, TrainedModel, forward, restore_all

LAYERS = tuple(LEVELS)  # of 32, 16, 8 pixels for images of 32
_REPEATS = 5  # batches that are timed

# What a network says of some images: arrays whose first axis is theirs.
Answers = dict[str, Any]


def collect(
    workdir: Path,
    data_dir: str | None = None,
    num_shown: int = 6,
    indices: Sequence[int] | None = None,
) -> ReportData:
    """Asks all networks of a workdir about the test split.

    Args:
      workdir: of a run, finished or not.
      data_dir: where the prepared data lie, if not where the run had them.
      num_shown: how many images are shown, at least 1: those with the largest `disagreement` of
        each method's first seed.
      indices: shows these test images instead.

    Returns:
      A `ReportData`. Networks that cannot be read, or whose outputs are not finite, are left
      out, and named in `missing`. Without any network arrays and class names are empty.

    Raises:
      UserError: if the workdir holds no run, the data cannot be read, or there is no such image.
    """
    config = read_config(workdir)
    if data_dir is not None:
        config.data.data_dir = data_dir
    config.data.memory_gib = 0.0  # test images are read once, training images not at all
    if not (config.teacher.checkpoint or any(workdir.glob(f"*/{FOLDER}/[0-9]*"))):
        return _empty(workdir, config, ("no network has a checkpoint yet",))
    dataset = load_dataset(config.data)
    _check_shown(num_shown, indices, len(dataset.test))
    networks, missing = restore_all(workdir, config, dataset.num_classes, len(dataset.train))
    if not networks:
        return _empty(workdir, config, tuple(missing))
    margin, scale = config.losses.am.margin, config.losses.am.scale
    answers, labels = _ask(networks, dataset, config.batch_size, margin, scale)
    asked, left_out = _finite(networks, answers)
    missing += left_out
    if not asked:
        return _empty(workdir, config, tuple(missing))
    if any(network.is_teacher for network, _ in asked):
        missing += _not_compared(asked)
    else:
        missing.append("there is no teacher, so no student's maps are compared with a teacher's")
    if indices is not None:
        shown = np.asarray(indices, np.int64)
    else:
        first_seeds = {network.method: answer["logits"] for network, answer in reversed(asked)}
        disputed = np.argsort(-disagreement(list(first_seeds.values())), kind="stable")
        shown = disputed[:num_shown]
    images, _ = dataset.test.read(shown)
    batch = EvalBatches(dataset.test, config.batch_size)[0]["image"]
    costs: dict[Predictor, tuple[float, float]] = {}
    bar = tqdm(asked, desc="Grad-CAM", unit=" networks", disable=None, leave=False)
    finished = []
    for network, answer in bar:
        if network.kind not in costs:
            costs[network.kind] = _flops(network, images.shape[1:]), _images_per_s(network, batch)
        flops, images_per_s = costs[network.kind]
        maps, cams = jax.device_get(_look(network.kind, network.variables, images))
        finished.append(
            Network(
                name=network.name,
                method=network.method,
                seed=network.seed,
                model=network.model,
                swept=network.swept,
                step=network.step,
                parameters=count(network.variables),
                flops=flops,
                images_per_s=images_per_s,
                logits=answer["logits"],
                embedding=answer["embedding"],
                angles=answer["angles"],
                similarity=answer["similarity"],
                am_distance={layer: float(values.mean()) for layer, values in answer["am"].items()},
                maps=maps,
                cams=cams,
                curve=_curve(workdir / network.name / METRICS_FILE) if network.length else [],
            )
        )
    return ReportData(
        workdir=workdir,
        data=dataset.name,
        class_names=dataset.class_names,
        labels=labels,
        shown=shown,
        disputed=indices is None,
        images=images,
        networks=tuple(finished),
        missing=tuple(missing),
        config=config.to_dict(),
    )


def disagreement(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Returns for each example how far networks' predictions lie apart.

    The mean over the networks of the total variation distance `1/2 sum_c |p_kc - mean_k p_kc|`
    between a network's probabilities and those of all networks on average: 0 where all say the
    same, and the larger, the surer they are of different classes.

    Args:
      logits: of each network, float [N,C].

    Returns:
      float64 [N], from 0 to below 1.
    """

    def probabilities() -> Iterator[np.ndarray]:  # one at a time: they may be large
        return (scipy.special.softmax(np.asarray(x, np.float64), axis=1) for x in logits)

    mean = sum(probabilities()) / len(logits)
    return sum(np.abs(p - mean).sum(axis=1) for p in probabilities()) / (2 * len(logits))


def _check_shown(num_shown: int, indices: Sequence[int] | None, count: int) -> None:
    if num_shown < 1:
        raise UserError(f"the number of shown images must be at least 1, not {num_shown}")
    if indices is None:
        return
    if not indices or not all(0 <= index < count for index in indices):
        raise UserError(
            f"test images are numbered 0 to {count - 1}; {list(indices)} cannot be shown"
        )
    if len(set(indices)) < len(indices):
        raise UserError(f"{list(indices)} names a test image twice")


def _ask(
    networks: Sequence[TrainedModel], dataset: Dataset, batch_size: int, margin: float, scale: float
) -> tuple[list[Answers], np.ndarray]:
    """Passes once over the test split, the teachers being the first of the networks.

    Returns:
      The answers of each network, and the labels [N].
    """
    batches, count = EvalBatches(dataset.test, batch_size), len(dataset.test)
    answers: dict[str, Answers] = {}
    labels = np.empty(count, np.int32)
    first = 0
    bar = tqdm(total=count, desc="test split", unit=" images", disable=None)
    with bar:
        for batch in prefetch(batches, 0, len(batches)):
            mask = batch["mask"]
            rows = slice(first, first + mask.sum())
            teachers: dict[str, dict[str, jax.Array]] = {}
            for network in networks:
                answer, features = _describe(network.kind, network.variables, batch["image"])
                if network.is_teacher:
                    teachers[network.name] = features
                teacher = {} if network.is_teacher else teachers.get(network.teacher, {})
                answer |= compare_maps(features, teacher, margin, scale)
                answer = jax.device_get(answer)
                if network.name not in answers:
                    answers[network.name] = _room_for(answer, count)
                leaves = map(jax.tree.leaves, (answers[network.name], answer))
                for whole, part in zip(*leaves, strict=True):
                    whole[rows] = part[mask]
            labels[rows] = batch["label"][mask]
            bar.update(rows.stop - first)
            first = rows.stop
    return [answers[network.name] for network in networks], labels


def _room_for(answer: Answers, count: int) -> Answers:
    """Returns arrays, not filled, for as many examples as asked."""
    return jax.tree.map(lambda x: np.empty((count, *x.shape[1:]), x.dtype), answer)


def _finite(
    networks: Sequence[TrainedModel], answers: Sequence[Answers]
) -> tuple[list[tuple[TrainedModel, Answers]], list[str]]:
    """Returns the networks with their answers, and a sentence for each that is left out."""
    asked, left_out = [], []
    for network, answer in zip(networks, answers, strict=True):
        own = answer["logits"], answer["embedding"], answer["angles"]
        if all(np.isfinite(x).all() for x in jax.tree.leaves(own)):
            asked.append((network, answer))
        else:
            left_out.append(f"{network.name}: left out, for what it puts out is not finite")
    teachers = {network.name for network, _ in asked if network.is_teacher}
    for network, answer in asked:
        if network.teacher not in teachers:
            answer |= {"similarity": {}, "am": {}}
    return asked, left_out


@functools.partial(distributed.jit, static_argnames="kind")
def _describe(
    kind: Predictor, variables: dict, images: jax.Array
) -> tuple[Answers, dict[str, jax.Array]]:
    """Returns what a network says of images [B,H,W,3], and its features [B,h,w,c]."""
    outputs = kind(variables, images)
    features = {layer: outputs.features[layer] for layer in LAYERS}
    angles = {layer: map_angles(feature) for layer, feature in features.items()}
    answer = {"logits": outputs.logits, "embedding": outputs.embedding, "angles": angles}
    return answer, features


@distributed.jit
def compare_maps(
    student: dict[str, jax.Array], teacher: dict[str, jax.Array], margin: float, scale: float
) -> Answers:
    """Measures how far a student's attention maps are from a teacher's.

    Args:
      student: layer -> float [B,h,w,c].
      teacher: layer -> float [B,h',w',c'], of the same layers, or {}.
      margin: of the AM loss.
      scale: of the AM loss.

    Returns:
      {"similarity": layer -> `map_cosine`, "am": layer -> AM loss of the whole map}, float32 [B];
      a layer where one size is no whole multiple of the other is left out.
    """
    answer: Answers = {"similarity": {}, "am": {}}
    for layer in teacher:
        pair = student[layer], teacher[layer]
        try:
            answer["similarity"][layer] = map_cosine(*pair)
            answer["am"][layer] = am_loss(*pair, margin, scale)
        except UserError:
            continue
    return answer


def _not_compared(asked: Sequence[tuple[TrainedModel, Answers]]) -> list[str]:
    """Returns a sentence for each student whose maps could not all be compared."""
    sentences = []
    for network, answer in asked:
        left = [layer for layer in LAYERS if layer not in answer["similarity"]]
        if left and not network.is_teacher:
            sentences.append(
                f"{network.name}: its maps at {', '.join(left)} are not compared with those of "
                f"{network.teacher}, which is not there or has maps of another size"
            )
    return sentences


@functools.partial(distributed.jit, static_argnames="kind")
def _look(
    kind: Predictor, variables: dict, images: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns attention maps of unit norm and Grad-CAM [K,h,w] of images [K,H,W,3], by layer."""
    outputs, inputs = kind(variables, images), kind.normalize(images)
    predicted = jnp.argmax(outputs.logits, axis=-1)
    maps = {
        layer: l2_normalize(attention_map(outputs.features[layer]), axis=(1, 2)) for layer in LAYERS
    }
    cams = {
        layer: grad_cam(kind.module, variables, inputs, predicted, layer, kind.predict)
        for layer in LAYERS
    }
    return maps, cams


def _flops(network: TrainedModel, image_shape: tuple[int, ...]) -> float:
    """Returns the operations of one image's forward pass; 0 if there is no CPU to count them for.

    They are counted before any optimisation and always for the CPU: what XLA says of a compiled
    program differs between platforms, and on GPUs leaves out what a library computes.
    """
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may leave it out
        return 0.0
    variables = jax.eval_shape(lambda: network.variables)
    image = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    with jax.default_device(cpu):
        lowered = jax.jit(lambda *x: network.kind(*x).logits).lower(variables, image)
        analysis = lowered.cost_analysis()
    return max(0.0, (analysis or {}).get("flops", 0.0))


def _images_per_s(network: TrainedModel, images: np.ndarray) -> float:
    """Returns the median speed of the forward pass of a batch, the first one being left out."""
    variables, images = jax.device_put((network.variables, images))
    seconds = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(forward(network.kind, variables, images))
        seconds.append(time.perf_counter() - start)
    return len(images) / float(np.median(seconds[1:]))


def _curve(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log, but for what a killed run left unfinished."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and {"split", "step"} <= line.keys():
            lines.append(line)
    return lines


def _empty(
    workdir: Path, config: ml_collections.ConfigDict, missing: tuple[str, ...]
) -> ReportData:
    return ReportData(
        workdir=workdir,
        data=config.data.name,
        class_names=(),
        labels=np.zeros([0], np.int32),
        shown=np.zeros([0], np.int64),
        disputed=False,
        images=np.zeros([0, 0, 0, 3], np.uint8),
        networks=(),
        missing=missing,
        config=config.to_dict(),
    )
