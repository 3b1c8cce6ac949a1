"""The JAX side: training with the trainer that `amdjax.main` uses, input pipeline included."""

import contextlib
import dataclasses
import functools
import resource
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from amdjax import cpu, distributed
from amdjax.configs import default
from amdjax.data import Dataset, InMemorySource
from amdjax.experiment import RunSpec
from amdjax.methods import TEACHER
from amdjax.models import Model, Outputs, count_parameters, init_variables
from amdjax.training.evaluation import compiled_eval_step
from amdjax.training.step_runner import RunSteps, StepRunner
from amdjax.training.teacher_cache import cache_teacher_outputs
from amdjax.training.train_state import TrainState
from amdjax.training.trainer import Trainer, build_trainer
from benchmarks import hlo, worker

_OPEN = contextlib.ExitStack()  # input pipelines, for as long as the process lives
_PARTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
    "/jax/core/compile/backend_compile_duration": "compilation",
}
# Of this process so far; the initialisation is compiled apart from the step.
_SECONDS = {"tracing": 0.0, "compilation of the initialisation": 0.0, "compilation": 0.0}


def _add_seconds(event: str, duration_secs: float, **facts: Any) -> None:
    if part := _PARTS.get(event):
        first_weights = part == "compilation" and facts.get("fun_name") == "jit(init)"
        _SECONDS[f"{part} of the initialisation" if first_weights else part] += duration_secs


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


def _one_batch(row: _Row) -> Any:
    """Returns a batch that lies on the devices."""
    batch = row.trainer.train_batches(seed=0)[0]
    if row.teacher_cache is not None:
        batch["teacher"] = jax.tree.map(lambda x: x[: len(batch["label"])], row.teacher_cache)
    return distributed.shard(batch, row.trainer.mesh)


def _cost(row: _Row) -> dict[str, float]:
    """Returns the cost of a single step; it is compiled only if it has not run yet."""
    step: Any = row.trainer.compiled_step()
    arguments = (row.state, row.teacher_variables, _one_batch(row), np.uint32(0))
    compiled = step.lower(*arguments).compile()
    if jax.default_backend() == "gpu":  # whose analysis leaves out the traffic of library calls
        moved: float = hlo.bytes_moved(compiled.as_text())
    else:
        moved = compiled.cost_analysis()["bytes accessed"]
    return {"flops": _flops(row, arguments), "bytes accessed": moved}


def _flops(row: _Row, arguments: tuple) -> float:
    """Returns the floating-point operations of a step, counted before it is compiled.

    The analysis of a compiled program leaves out those of library calls, and only the CPU's backend
    analyses others.
    """
    mesh = distributed.make_mesh(jax.devices("cpu")[:1])
    step: Any = dataclasses.replace(row.trainer, mesh=mesh).compiled_step()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with cpu.workarounds_disabled():
        return step.lower(*shapes).cost_analysis()["flops"]


def train_step_cost(
    method: str, size: int, batch: int, dtype: str
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state that a row trains, and "flops" and "bytes accessed" of its step."""
    row = _build(method, size, batch, dtype, "plain")
    return row.state, _cost(row)


def _open(row: _Row, data: str | None, seeds: int) -> tuple[RunSteps, int]:
    """Returns the function that runs steps on some of `worker.DATA`, and the most of one call.

    Without a name the data are where `amdjax.main` has them.
    """
    if data == "fixed":
        step, batch = row.trainer.compiled_step(), _one_batch(row)

        def run_steps(states: tuple[TrainState, ...], first: int, last: int) -> tuple:
            state, metrics = step(states[0], row.teacher_variables, batch, np.uint32(0))
            return (state,), (metrics,)

        return run_steps, 1
    on_device = {None: None, "streamed": False, "resident": True}[data]
    runner = StepRunner(
        row.trainer, range(seeds), row.teacher_variables, row.teacher_cache, on_device
    )
    return _OPEN.enter_context(runner.open(0, 10**6)), runner.max_chunk


def prepare(
    method: str,
    size: int,
    batch: int,
    dtype: str,
    variant: str,
    data: str | None = None,
    seeds: int = 1,
) -> worker.Prepared:
    """See `worker.serve`.

    Args:
      method: of `worker.METHODS`.
      size: of the images, pixels.
      batch: images of a step.
      dtype: "float32" or "bfloat16".
      variant: "plain" or "cached" (cached teacher outputs).
      data: of `worker.DATA`; None: where `amdjax.main` has them.
      seeds: number of students that are trained as one program.
    """
    row = _build(method, size, batch, dtype, variant)
    device = jax.devices()[0]
    facts = {
        "parameters": count_parameters(row.state.variables),
        "software": f"jax {jax.__version__}",
        "device": device.device_kind,
        "first_step_parts": _SECONDS,
    }
    states, done = (row.state, *map(row.trainer.init_state, range(1, seeds))), 0

    def train_on(data: str | None) -> Callable[[int], None]:
        opened = functools.cache(lambda: _open(row, data, seeds))

        def train(steps: int) -> None:
            nonlocal states, done
            run_steps, max_chunk = opened()
            for first in range(done, done + steps, max_chunk):
                last = min(first + max_chunk, done + steps)
                states, metrics = run_steps(states, first, last)
                distributed.block_on_cpu(metrics)
            jax.block_until_ready(states)
            done += steps

        return train

    eval_step = compiled_eval_step(row.trainer.predictor, row.trainer.mesh)
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

    tasks = {name: train_on(name) for name in worker.DATA}
    train = tasks[data] if data else train_on(None)
    return worker.Prepared(
        train, evaluate, peak_mib, facts, tasks, lambda: _cost(row._replace(state=states[0]))
    )


if __name__ == "__main__":
    jax.monitoring.register_event_duration_secs_listener(_add_seconds)
    cpu.tune_malloc()  # as the main command does
    worker.serve(prepare)
