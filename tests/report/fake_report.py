"""Report data with random results, for drawing reports without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amdjax.report.report_data import ModelResult, ReportData

LAYERS = {"stage1": 16, "stage2": 8, "stage3": 4}  # layer -> side of its maps
STEPS, LOG_EVERY = 60, 10


def fake_report(
    methods: Sequence[str | tuple[str, str, Any]] = ("scratch", "kd", "amd_gl"),
    seeds: Sequence[int] = (0,),
    classes: int = 10,
    examples: int = 80,
    samples: int = 3,
    with_teacher: bool = True,
) -> ReportData:
    """Returns a report of the teacher and the methods, each with higher accuracy than the last.

    A swept method is given as (method, key, value), "losses.am.weight" for instance.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(examples, dtype=np.int32) % classes
    centers = rng.normal(size=[classes, 16])
    runs: list[tuple[str, str, Any, int]] = [("teacher", "", None, 0)] if with_teacher else []
    for method in methods:
        swept = (method, "", None) if isinstance(method, str) else method
        runs += [(*swept, seed) for seed in seeds]
    return ReportData(
        workdir=Path("runs/fake"),
        data="fake",
        class_names=tuple(f"class {label}" for label in range(classes)),
        labels=labels,
        samples=np.arange(samples),
        by_disagreement=True,
        images=rng.integers(0, 256, [samples, 16, 16, 3], np.uint8),
        networks=tuple(
            _fake_result(
                rng,
                *run,
                noise=1.2 - 0.5 * rank / len(runs),
                centers=centers,
                labels=labels,
                samples=samples,
                with_teacher=with_teacher,
            )
            for rank, run in enumerate(runs)
        ),
        notes=() if with_teacher else ("there is no teacher",),
        config={"epochs": 3, "losses": {"am": {"margin": 1.35, "scale": 64.0}}},
    )


def empty_report() -> ReportData:
    """Returns the report of a workdir without checkpoints."""
    return ReportData(
        workdir=Path("runs/empty"),
        data="fake",
        class_names=(),
        labels=np.zeros([0], np.int32),
        samples=np.zeros([0], np.int64),
        by_disagreement=False,
        images=np.zeros([0, 0, 0, 3], np.uint8),
        networks=(),
        notes=("no network has a checkpoint",),
        config={"epochs": 3},
    )


def _fake_result(
    rng: np.random.Generator,
    method: str,
    sweep_key: str,
    sweep_value: Any,
    seed: int,
    *,
    noise: float,
    centers: np.ndarray,
    labels: np.ndarray,
    samples: int,
    with_teacher: bool,
) -> ModelResult:
    is_teacher = method == "teacher"
    compared = with_teacher and not is_teacher
    embedding = centers[labels] + noise * rng.normal(size=[len(labels), centers.shape[1]])
    maps = {layer: np.abs(rng.normal(size=[samples, side, side])) for layer, side in LAYERS.items()}
    return ModelResult(
        name=f"{method}-{sweep_value}-seed{seed}",
        method=method,
        seed=seed,
        model="wrn_10_2" if is_teacher else "wrn_10_1",
        sweep_key=sweep_key,
        sweep_value=sweep_value,
        step=STEPS,
        parameters=300_000 if is_teacher else 77_000,
        flops=4.1e7 if is_teacher else 1.1e7,
        images_per_s=900.0 if is_teacher else 2500.0,
        logits=(embedding @ centers.T / 3).astype(np.float32),
        embedding=embedding.astype(np.float32),
        angles={layer: rng.normal(60, 5, len(labels)).astype(np.float32) for layer in LAYERS},
        similarity={
            layer: rng.beta(20, 3, len(labels)).astype(np.float32) for layer in LAYERS if compared
        },
        am_distance={layer: float(noise * 1e-4) for layer in LAYERS if compared},
        maps={
            layer: (x / np.linalg.norm(x, axis=(1, 2), keepdims=True)).astype(np.float32)
            for layer, x in maps.items()
        },
        cams={layer: x.astype(np.float32) for layer, x in maps.items()},
        curve=_fake_curve(rng, method, noise),
    )


def _fake_curve(rng: np.random.Generator, method: str, noise: float) -> list[dict[str, Any]]:
    lines = []
    for step in range(LOG_EVERY, STEPS + 1, LOG_EVERY):
        decay = noise / step + 0.001 * rng.uniform()
        terms = {"ce": decay}
        if method not in ("teacher", "scratch"):
            terms["kd"] = 3 * decay
        if method.startswith("amd"):
            terms["am"] = 1e-4 * decay
        train = {"accuracy": 1 - 5 * decay, "loss": sum(terms.values()), **terms}
        lines.append({"split": "train", "step": step, "epoch": step / 20, **train})
        if step % 20 == 0:
            test = {"accuracy": 1 - 6 * decay, "top5": 1.0, "nll": decay, "ece": 0.02}
            lines.append({"split": "test", "step": step, "epoch": step / 20, **test})
    return lines
