"""The JAX side: training as `amdjax.train` does it, its input pipeline included."""

import contextlib
import resource
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from amdjax import parallel
from amdjax.advance import Feed
from amdjax.answers import ask_teacher
from amdjax.data import MemorySplit, TrainBatches
from amdjax.data.augment import create_augment
from amdjax.losses import objective
from amdjax.models import create_model, init_variables
from amdjax.optim import create_optimizer
from amdjax.state import TrainState
from amdjax.step import make_eval_step, make_train_step
from benchmarks import chips, worker
from configs import default

_OPEN = contextlib.ExitStack()  # what the row feeds on, for as long as the process lives


def prepare(method: str, size: int, batch: int, dtype: str, variant: str) -> worker.Prepared:
    """See `worker.serve`; the variant is "plain" or "cached" (the teacher is asked once)."""
    config = default.get_config()
    config.batch_size = batch
    ce, kd, am, share = worker.METHODS[method]
    goal = objective(
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
    mesh, shape = parallel.make_mesh(), (size, size, 3)
    rng = np.random.default_rng(0)
    split = MemorySplit(
        rng.integers(0, 256, (16 * batch, *shape), np.uint8),
        rng.integers(0, worker.NUM_CLASSES, 16 * batch).astype(np.int32),
    )
    kind = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[dtype]
    student = create_model("wrn_16_1", worker.NUM_CLASSES, kind, parallel.BATCH_AXIS)
    teacher, taught, answers = None, None, None
    if goal.needs_teacher:
        teacher = create_model("wrn_16_3", worker.NUM_CLASSES, kind)
        taught = parallel.replicate(init_variables(teacher, jax.random.key(1), shape), mesh)
        if variant == "cached":
            answers = ask_teacher(teacher, taught, split, goal.map_places, config, mesh)
            taught = None
    augment, normalize = create_augment(config.augment)
    optimizer = create_optimizer(config.optim, 16, 1000)
    variables = init_variables(student, jax.random.key(0), shape)
    step = make_train_step(student, teacher, goal, augment, optimizer)
    nothing = {"params": {}, "state": {}}
    state = parallel.replicate(TrainState.create(variables, nothing, optimizer), mesh)
    batches = TrainBatches(split, batch, seed=0)
    feed = Feed(step, taught, batches, answers, mesh, np.uint32(0))
    examples = feed.examples(split, config.data.device_gib)
    longest = 1 if examples is None else config.log_every_steps
    advance = _OPEN.enter_context(
        feed.streaming(0, 10**6) if examples is None else feed.resident(examples, longest)
    )
    eval_step = parallel.map_step(make_eval_step(student, normalize), mesh, batch_argument=1)
    sample = parallel.shard({**batches[0], "mask": np.ones(batch, bool)}, mesh)
    done = 0

    def train(steps: int) -> None:
        nonlocal state, done
        for first in range(done, done + steps, longest):
            last = min(first + longest, done + steps)
            state, metrics = advance(state, first, last)
            parallel.settle(metrics)
        jax.block_until_ready(state)
        done += steps

    def evaluate(steps: int) -> None:
        for _ in range(steps):
            metrics = eval_step(state.variables, sample)
            parallel.settle(metrics)
        jax.block_until_ready(metrics)

    def peak_mib() -> float:
        statistics = jax.devices()[0].memory_stats()
        if statistics is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return statistics["peak_bytes_in_use"] / 2**20

    def floor_seconds() -> float | None:
        chip = chips.find_chip(jax.devices()[0].device_kind)
        if chip is None:
            return None
        first = batches[0]
        if answers is not None:
            first["teacher"] = jax.tree.map(lambda x: x[:batch], answers)
        one = parallel.map_step(step, mesh, batch_argument=2)
        program = one.lower(state, taught, parallel.shard(first, mesh), np.uint32(0)).compile()
        return chips.floor_seconds(program.cost_analysis(), chip, dtype)

    facts: dict[str, Any] = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "software": f"jax {jax.__version__}",
        "device": jax.devices()[0].device_kind,
        "floor_seconds": floor_seconds(),
    }
    return worker.Prepared(train, evaluate, peak_mib, facts)


if __name__ == "__main__":
    worker.serve(prepare)
