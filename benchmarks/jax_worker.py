"""The JAX side: training as `amdjax.training.run` does it, its input pipeline included."""

import contextlib
import resource
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from amdjax import distributed
from amdjax.cpu.malloc import keep_freed_memory
from amdjax.data import InMemorySource, TrainBatches
from amdjax.data.augment import create_augment
from amdjax.losses import build_objective
from amdjax.models import Outputs, create_model, init_variables
from amdjax.training.multi_step import StepRunner
from amdjax.training.optimizer import create_optimizer
from amdjax.training.teacher_cache import cache_teacher_outputs
from amdjax.training.train_state import TrainState
from amdjax.training.train_step import make_eval_step, make_train_step
from benchmarks import chips, worker
from configs import default

_OPEN = contextlib.ExitStack()  # what the row feeds on, for as long as the process lives


class _Row(NamedTuple):
    """What a row trains with; see `amdjax.training.run`."""

    config: ml_collections.ConfigDict
    split: InMemorySource
    batches: TrainBatches
    answers: Outputs | None
    mesh: Mesh
    student: nn.Module
    taught: dict | None
    step: Callable[..., Any]
    state: TrainState


def _build(method: str, size: int, batch: int, dtype: str, variant: str) -> _Row:
    config = default.get_config()
    config.batch_size = batch
    ce, kd, am, share = worker.METHODS[method]
    objective = build_objective(
        {
            "ce": {"weight": ce},
            "kd": {"weight": kd, "temperature": worker.TEMPERATURE},
            "am": {
                "weight": am,
                "margin": worker.MARGIN,
                "scale": worker.SCALE,
                "global_weight": share,
                "grid": worker.GRID,
            },
        }
    )
    mesh, shape = distributed.make_mesh(), (size, size, 3)
    rng = np.random.default_rng(0)
    split = InMemorySource(
        rng.integers(0, 256, (16 * batch, *shape), np.uint8),
        rng.integers(0, worker.NUM_CLASSES, 16 * batch).astype(np.int32),
    )
    kind = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[dtype]
    student = create_model("wrn_16_1", worker.NUM_CLASSES, kind, distributed.BATCH_AXIS)
    teacher, taught, answers = None, None, None
    if objective.needs_teacher:
        teacher = create_model("wrn_16_3", worker.NUM_CLASSES, kind)
        taught = distributed.replicate(init_variables(teacher, jax.random.key(1), shape), mesh)
        if variant == "cached":
            answers = cache_teacher_outputs(
                teacher, taught, split, objective.attention_features, config, mesh
            )
            taught = None
    optimizer = create_optimizer(config.optim, 16, 1000)
    variables = init_variables(student, jax.random.key(0), shape)
    augment = create_augment(config.augment)[0]
    step = make_train_step(student, teacher, objective, augment, optimizer)
    nothing = {"params": {}, "state": {}}
    state = distributed.replicate(TrainState.create(variables, nothing, optimizer), mesh)
    batches = TrainBatches(split, batch, seed=0)
    return _Row(config, split, batches, answers, mesh, student, taught, step, state)


def _cost(row: _Row) -> dict[str, float]:
    batch = row.batches[0]
    if row.answers is not None:
        batch["teacher"] = jax.tree.map(lambda x: x[: len(batch["label"])], row.answers)
    mapped = distributed.shard_step(row.step, row.mesh, batch_argument=2)
    program = mapped.lower(row.state, row.taught, distributed.shard(batch, row.mesh), np.uint32(0))
    # A compiled program does not tell the operations of what a library computes, and the other one
    # does not know what will be fused.
    return {
        "flops": program.cost_analysis()["flops"],
        "bytes accessed": program.compile().cost_analysis()["bytes accessed"],
    }


def train_step_cost(
    method: str, size: int, batch: int, dtype: str
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state that a row trains, and "flops" and "bytes accessed" of its step."""
    row = _build(method, size, batch, dtype, "plain")
    return row.state, _cost(row)


def prepare(method: str, size: int, batch: int, dtype: str, variant: str) -> worker.Prepared:
    """See `worker.serve`; the variant is "plain" or "cached" (the teacher is asked once)."""
    row = _build(method, size, batch, dtype, variant)
    feed = StepRunner(
        row.step, row.taught, (row.batches,), row.answers, row.mesh, np.zeros(1, np.uint32)
    )
    examples = feed.examples(row.split, row.config.data.device_gib)
    longest = 1 if examples is None else row.config.log_every_steps
    advance = _OPEN.enter_context(
        feed.streaming(0, 10**6) if examples is None else feed.resident(examples, longest)
    )
    normalize = create_augment(row.config.augment)[1]
    eval_step = distributed.shard_step(
        make_eval_step(row.student, normalize), row.mesh, batch_argument=1
    )
    sample = distributed.shard({**row.batches[0], "mask": np.ones(batch, bool)}, row.mesh)
    device = jax.devices()[0]
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(row.state.params)),
        "software": f"jax {jax.__version__}",
        "device": device.device_kind,
    }
    if chip := chips.find_chip(device.device_kind):
        facts["floor_seconds"] = chips.floor_seconds(_cost(row), chip, dtype)
    states, done = (row.state,), 0

    def train(steps: int) -> None:
        nonlocal states, done
        for first in range(done, done + steps, longest):
            last = min(first + longest, done + steps)
            states, metrics = advance(states, first, last)
            distributed.block_on_cpu(metrics)
        jax.block_until_ready(states)
        done += steps

    def evaluate(steps: int) -> None:
        for _ in range(steps):
            metrics = eval_step(states[0].variables, sample)
            distributed.block_on_cpu(metrics)
        jax.block_until_ready(metrics)

    def peak_mib() -> float:
        statistics = device.memory_stats()
        if statistics is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return statistics["peak_bytes_in_use"] / 2**20

    return worker.Prepared(train, evaluate, peak_mib, facts)


if __name__ == "__main__":
    keep_freed_memory()  # as every command does
    worker.serve(prepare)
