"""The JAX side: training with the trainer that `amdjax.main` uses, input pipeline included."""

import contextlib
import resource
from typing import Any, NamedTuple

import jax
import numpy as np

from amdjax import cpu, distributed
from amdjax.configs import default
from amdjax.data import Dataset, InMemorySource
from amdjax.experiment import TEACHER, RunSpec
from amdjax.models import Model, Outputs, count_parameters, init_variables
from amdjax.training.multi_step import StepRunner
from amdjax.training.teacher_cache import cache_teacher_outputs
from amdjax.training.train_state import TrainState
from amdjax.training.trainer import Trainer, build_trainer
from benchmarks import chips, worker

_OPEN = contextlib.ExitStack()  # input pipelines, for as long as the process lives


class _Row(NamedTuple):
    """A row of the benchmark, ready to train."""

    trainer: Trainer
    teacher_variables: dict | None
    teacher_cache: Outputs | None
    state: TrainState


def _build(method: str, size: int, batch: int, dtype: str, variant: str) -> _Row:
    config = default.get_config()
    config.batch_size, config.dtype = batch, dtype
    config.epochs = 1000  # never reached
    ce, kd, am, global_weight = worker.METHODS[method]
    losses = {
        "ce": {"weight": ce},
        "kd": {"weight": kd, "temperature": worker.TEMPERATURE},
        "am": {
            "weight": am,
            "margin": worker.MARGIN,
            "scale": worker.SCALE,
            "global_weight": global_weight,
            "grid": worker.GRID,
        },
    }
    teacher = TEACHER if kd else None
    spec = RunSpec(
        name=method, method=method, model="wrn_16_1", losses=losses, seed=0, teacher=teacher
    )
    shape, rng = (size, size, 3), np.random.default_rng(0)
    source = InMemorySource(
        rng.integers(0, 256, (16 * batch, *shape), np.uint8),
        rng.integers(0, worker.NUM_CLASSES, 16 * batch).astype(np.int32),
    )
    names = tuple(map(str, range(worker.NUM_CLASSES)))
    trainer = build_trainer(config, spec, Dataset("random", names, shape, source, source))
    variables, cache = None, None
    if isinstance(trainer.teacher, Model):
        variables = init_variables(trainer.teacher, jax.random.key(1), shape)
        variables = distributed.replicate(variables, trainer.mesh)
        if variant == "cached":
            cache, variables = cache_teacher_outputs(trainer, variables), None
    return _Row(trainer, variables, cache, trainer.init_state(seed=0))


def _cost(row: _Row) -> dict[str, float]:
    batch = row.trainer.train_batches(seed=0)[0]
    if row.teacher_cache is not None:
        batch["teacher"] = jax.tree.map(lambda x: x[: len(batch["label"])], row.teacher_cache)
    step: Any = row.trainer.compiled_step()
    batch = distributed.shard(batch, row.trainer.mesh)
    program = step.lower(row.state, row.teacher_variables, batch, np.uint32(0))
    # The analysis of a compiled program leaves out the operations of library calls, and the other
    # one does not know what will be fused.
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
    """See `worker.serve`; the variant is "plain" or "cached" (cached teacher outputs)."""
    row = _build(method, size, batch, dtype, variant)
    runner = StepRunner(row.trainer, [0], row.teacher_variables, row.teacher_cache)
    run_steps = _OPEN.enter_context(runner.open(0, 10**6))
    device = jax.devices()[0]
    facts = {
        "parameters": count_parameters(row.state.variables),
        "software": f"jax {jax.__version__}",
        "device": device.device_kind,
    }
    if chip := chips.find_chip(device.device_kind):
        facts["floor_seconds"] = chips.floor_seconds(_cost(row), chip, dtype)
    states, done = (row.state,), 0

    def train(steps: int) -> None:
        nonlocal states, done
        for first in range(done, done + steps, runner.max_chunk):
            last = min(first + runner.max_chunk, done + steps)
            states, metrics = run_steps(states, first, last)
            distributed.block_on_cpu(metrics)
        jax.block_until_ready(states)
        done += steps

    eval_step = row.trainer.compiled_eval_step()
    sample = distributed.shard(
        {**row.trainer.train_batches(seed=0)[0], "mask": np.ones(batch, bool)}, row.trainer.mesh
    )

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
    cpu.tune_malloc()  # as the main command does
    worker.serve(prepare)
