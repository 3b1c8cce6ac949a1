"""A made-up study: what a report is drawn from, without training anything."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amdjax.report.report_data import Network, ReportData

LAYERS = {"stage1": 16, "stage2": 8, "stage3": 4}  # layer -> side of its maps
STEPS, PER_LINE = 60, 10


def fake_report(
    methods: tuple[str, ...] = ("scratch", "kd", "amd_gl"),
    seeds: tuple[int, ...] = (0,),
    classes: int = 10,
    examples: int = 80,
    shown: int = 3,
    with_teacher: bool = True,
    swept: Sequence[str] = (),
) -> ReportData:
    """Returns a study whose networks get better in the order of the methods; the teacher's first.

    Its numbers are drawn at random and say nothing. `swept` are the settings of which methods may
    have values.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(examples, dtype=np.int32) % classes
    centres = rng.normal(size=[classes, 16])
    phases = [("teacher", 0)] if with_teacher else []
    phases += [(method, seed) for method in methods for seed in seeds]
    return ReportData(
        workdir=Path("runs/made-up"),
        data="made-up",
        class_names=tuple(f"class {label}" for label in range(classes)),
        labels=labels,
        shown=np.arange(shown),
        disputed=True,
        images=rng.integers(0, 256, [shown, 16, 16, 3], np.uint8),
        networks=tuple(
            _network(
                rng,
                method,
                seed,
                next((key for key in swept if f"-{key.split('.')[-1]}=" in method), ""),
                noise=1.2 - 0.5 * rank / len(phases),
                centres=centres,
                labels=labels,
                shown=shown,
                compared=with_teacher and method != "teacher",
            )
            for rank, (method, seed) in enumerate(phases)
        ),
        missing=() if with_teacher else ("there is no teacher",),
        config={"epochs": 3, "losses": {"am": {"margin": 1.35, "scale": 64.0}}},
    )


def empty_study() -> ReportData:
    """Returns the study of a workdir without any checkpoint."""
    return ReportData(
        workdir=Path("runs/empty"),
        data="made-up",
        class_names=(),
        labels=np.zeros([0], np.int32),
        shown=np.zeros([0], np.int64),
        disputed=False,
        images=np.zeros([0, 0, 0, 3], np.uint8),
        networks=(),
        missing=("no checkpoint of any network",),
        config={"epochs": 3},
    )


def _network(rng, method, seed, swept, noise, centres, labels, shown, compared) -> Network:
    teacher = method == "teacher"
    embedding = centres[labels] + noise * rng.normal(size=[len(labels), centres.shape[1]])
    maps = {layer: np.abs(rng.normal(size=[shown, side, side])) for layer, side in LAYERS.items()}
    return Network(
        name=method if seed == 0 else f"{method}-seed{seed}",
        method=method,
        seed=seed,
        model="wrn_10_2" if teacher else "wrn_10_1",
        swept=swept,
        step=STEPS,
        parameters=300_000 if teacher else 77_000,
        flops=4.1e7 if teacher else 1.1e7,
        images_per_s=900.0 if teacher else 2500.0,
        logits=(embedding @ centres.T / 3).astype(np.float32),
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
        curve=_curve(rng, method, noise),
    )


def _curve(rng, method, noise) -> list[dict]:
    lines = []
    for step in range(PER_LINE, STEPS + 1, PER_LINE):
        fall = noise / step + 0.001 * rng.uniform()
        parts = {"ce": fall}
        if method not in ("teacher", "scratch"):
            parts["kd"] = 3 * fall
        if method.startswith("amd"):
            parts["am"] = 1e-4 * fall
        train = {"accuracy": 1 - 5 * fall, "loss": sum(parts.values()), **parts}
        train |= {"grad_norm": 1.0, "param_norm": 9.0, "learning_rate": 0.1, "images_per_s": 900.0}
        lines.append({"split": "train", "step": step, "epoch": step / 20, **train})
        if step % 20 == 0:
            test = {"accuracy": 1 - 6 * fall, "top5": 1.0, "nll": fall, "ece": 0.02}
            lines.append({"split": "test", "step": step, "epoch": step / 20, **test})
    return lines
