"""Train steps that XLA compiles for accelerators which are not there, and what is in them.

    pip install libtpu
    python -m benchmarks.ahead_of_time --config=cifar10.py:a --topology=v5e:2x2
    pip install jax-cuda12-plugin
    python -m benchmarks.ahead_of_time --config=cifar10.py:a --topology=h100:4

For each student of the config (`--config.methods=...`) the step that `amdjax.main` would run there
is compiled, with the config's batch size. Printed are, for one chip and one step, the arithmetic,
the memory traffic, the program's memory, its collectives, convolutions and copies, the images/s
that the peak rates of all chips allow (the roofline), and how XLA's estimate of the cycles is
divided among the parts of the step; "-" is what XLA does not tell. The data set is described, not
prepared, and nothing is run.
"""

import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, config_flags

from amdjax import cpu, distributed
from amdjax.cli import run_command
from amdjax.config import validate
from amdjax.data import Dataset, InMemorySource, describe_dataset
from amdjax.errors import UserError
from amdjax.experiment import RunSpec, plan_runs
from amdjax.models import Model, init_variables
from amdjax.training.step_programs import ExampleRows
from amdjax.training.train_state import TrainState
from amdjax.training.trainer import Trainer, build_trainer
from benchmarks import chips, hlo

# Part of the step -> pattern of an operation's path in the traced step; the first that matches.
_PARTS = {
    "student backward": r"transpose\(jvp\(\w",
    "student forward": r"jvp\(\w",
    "losses": r"jvp\(\)",
    "teacher": r"/[A-Z]\w*/",
    "rest": "",
}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What XLA must know of a card to compile for it: the data sheet's values and the limits of CUDA.
_H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000 device_memory_size: 84978434048 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_block_limit: 65536 registers_per_core_limit: 65536
}
"""
_CYCLES = re.compile(r'op_name="(?P<path>[^"]*)".*"estimated_cycles":"(?P<cycles>\d+)"')


class StepProgram(NamedTuple):
    """Work of a compiled step on one chip.

    Attributes:
      flops: floating-point operations; None where XLA does not tell, as for NVIDIA cards.
      bytes_accessed: traffic with the chip's memory; None like `flops`.
      memory: bytes of arguments, results and temporary arrays.
      collectives: name -> (number, bytes of their results).
      convolutions: dtype of the result -> number.
      copies: (number, bytes) of copies and transposes; without those that fetch an array into the
        chip's vector memory while other instructions run ("copy-start").
      cycles: part of the step -> XLA's estimate of its cycles; empty where there is none.
    """

    flops: float | None
    bytes_accessed: float | None
    memory: int
    collectives: dict[str, tuple[int, int]]
    convolutions: dict[str, int]
    copies: tuple[int, int]
    cycles: dict[str, int]


def analyze(compiled: jax.stages.Compiled) -> StepProgram:
    """Returns what a compiled step does on one chip."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    text: Any = compiled.as_text()
    sizes: dict[str, list[int]] = {}
    convolutions: Counter[str] = Counter()
    for match in hlo.INSTRUCTION.finditer(text):
        opcode = match["opcode"]
        line = text[match.start() : text.find("\n", match.end())]
        if opcode == "convolution" or "__cudnn$conv" in line:
            convolutions[hlo.ARRAY.findall(match["shape"])[0][0]] += 1
        sizes.setdefault(opcode, []).append(hlo.num_bytes(match["shape"]))
    cycles: Counter[str] = Counter()
    for match in _CYCLES.finditer(text):
        part = next(part for part, pattern in _PARTS.items() if re.search(pattern, match["path"]))
        cycles[part] += int(match["cycles"])
    copies = [size for opcode in ("copy", "transpose") for size in sizes.get(opcode, [])]
    return StepProgram(
        cost["flops"] if cost else None,
        cost["bytes accessed"] if cost else None,
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        {
            name: (len(found), sum(found))
            for name in _COLLECTIVES
            # The shape of an asynchronous start has its operands too.
            if (found := sizes.get(name, []) + [n // 2 for n in sizes.get(f"{name}-start", [])])
        },
        dict(convolutions),
        (len(copies), sum(copies)),
        dict(cycles),
    )


def make_mesh(topology: str) -> Mesh:
    """Returns a mesh of chips that are not there.

    Args:
      topology: a TPU slice, such as "v5e:4x4", or a number of cards, "h100:8".

    Raises:
      UserError: if there is no such slice, or the library that compiles for it is not installed.
    """
    card, _, count = topology.partition(":")
    try:
        if card == "h100":
            chain = f"1x1x{int(count)}"  # slices, hosts, cards of a host
            described = topologies.get_topology_desc(
                platform="cuda", topology_name=chain, topology=chain, target_config=_H100
            )
        else:
            _find_libtpu()
            described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except NotImplementedError as error:
        raise UserError("compiling for NVIDIA cards needs pip install jax-cuda12-plugin") from error
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={topology}: {reason}; use v5e:2x2 or h100:4") from error
    return distributed.make_mesh(described.devices)


def _find_libtpu() -> None:
    try:
        import libtpu
    except ImportError as error:
        raise UserError("compiling for TPU needs pip install libtpu") from error
    os.environ.setdefault("TPU_LIBRARY_PATH", libtpu.get_library_path())
    # Without them libtpu asks the metadata server of a virtual machine for these facts.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def compile_step(
    config: ConfigDict, spec: RunSpec, dataset: Dataset, mesh: Mesh, on_device: bool = False
) -> jax.stages.Compiled:
    """Compiles the train step of a run for the devices of a mesh.

    Args:
      config: of the experiment.
      spec: of the run.
      dataset: of which only sizes matter.
      mesh: of devices that need not be there.
      on_device: the examples lie in each chip's memory, and the program is a loop over
        `config.log_every_steps` steps; the analysis counts one of them.
    """
    local = build_trainer(config, spec, dataset)
    trainer = dataclasses.replace(local, mesh=mesh)
    with cpu.workarounds_disabled():
        arguments = _abstract_arguments(trainer, local.init_state(seed=0), on_device)
        step: Any = trainer.compiled_step(on_device=on_device)
        return step.lower(*arguments).compile()


def _abstract_arguments(trainer: Trainer, state: TrainState, on_device: bool) -> tuple:
    mesh, config = trainer.mesh, trainer.config

    def place(tree: Any, *axes: str | None) -> Any:
        sharding = NamedSharding(mesh, P(*axes))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    teacher, shape = trainer.teacher, trainer.dataset.image_shape
    variables = None
    if isinstance(teacher, Model):
        variables = init_variables(teacher, jax.random.key(0), shape)
    seed = np.zeros((), np.uint32)
    if on_device:
        source: Any = trainer.dataset.train
        images, labels = source.arrays()
        values: Any = jax.ShapeDtypeStruct((len(images), math.prod(shape)), images.dtype)
        examples = {"image": ExampleRows(values, shape), "label": ExampleRows.create(labels)}
        if trainer.objective.needs_example_index:
            examples["index"] = examples["label"]
        indices = np.zeros((config.log_every_steps, config.batch_size), np.int32)
        return (
            *place((state, variables, examples)),
            place(indices, None, distributed.BATCH_AXIS),
            *place((seed, np.zeros((), np.int32))),
        )
    batch = {
        "image": np.empty((config.batch_size, *shape), np.uint8),
        "label": np.zeros(config.batch_size, np.int32),
    }
    if trainer.objective.needs_example_index:
        batch["index"] = batch["label"]
    return (
        *place((state, variables)),
        place(batch, distributed.BATCH_AXIS),
        place(seed),
    )


def dataset_of_sizes(config: ConfigDict, num_images: int) -> Dataset:
    """Returns a data set with the sizes of the config's, whose images take no memory.

    Args:
      config: of the experiment.
      num_images: in the training split.
    """
    spec = describe_dataset(config.data)
    images = np.broadcast_to(np.zeros((), np.uint8), (num_images, *spec.image_shape))
    source = InMemorySource(images, np.zeros(num_images, np.int32))
    names = tuple(map(str, range(spec.num_classes)))
    return Dataset(config.data.name, names, spec.image_shape, source, source)


def describe(program: StepProgram, batch: int, mesh: Mesh, dtype: str) -> list[str]:
    """Returns the cells of a program's row, see `_COLUMNS`.

    Args:
      program: of one chip.
      batch: images of a step, of all chips together.
      mesh: of the chips.
      dtype: of the networks' computation.
    """
    operations, traffic, rate = "-", "-", "-"
    if program.flops is not None and program.bytes_accessed is not None:
        operations = f"{program.flops / 1e9:,.1f}"
        traffic = f"{program.bytes_accessed / 1e9:,.3f}"
        if chip := chips.find_chip(mesh.devices.flat[0].device_kind):
            cost = {"flops": program.flops, "bytes accessed": program.bytes_accessed}
            rate = f"{batch / chips.floor_seconds(cost, chip, dtype):,.0f}"
    total = sum(program.cycles.values())
    return [
        operations,
        traffic,
        f"{program.memory / 2**20:,.0f}",
        ", ".join(
            f"{number} {name} ({size / 1e3:,.0f} kB)"
            for name, (number, size) in program.collectives.items()
        ),
        ", ".join(f"{number} {kind}" for kind, number in sorted(program.convolutions.items())),
        f"{program.copies[0]} ({program.copies[1] / 1e6:,.1f} MB)",
        rate,
        ", ".join(
            f"{part} {program.cycles[part] / total:.0%}"
            for part in _PARTS
            if part in program.cycles
        )
        or "-",
    ]


_COLUMNS = (
    "run",
    "GFLOP",
    "GB",
    "MiB",
    "collectives",
    "convolutions",
    "copies",
    "roofline, images/s of all chips",
    "parts of XLA's estimated cycles",
)


def _students(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Returns one spec of each student: its seeds have the same program."""
    return list({spec.label: spec for spec in specs if not spec.is_teacher}.values())


def main(_: list[str]) -> None:
    """Prints a Markdown table with a row for each student of the config."""
    given = flags.FLAGS
    config = given.config
    if config is None:
        raise UserError("--config=NAME.py is missing")
    config.lock()
    validate(config)
    mesh = make_mesh(given.topology)
    distributed.check_batch_size(config.batch_size, mesh)
    dataset = dataset_of_sizes(config, given.images)
    kind = mesh.devices.flat[0].device_kind
    print(
        f"{mesh.size} x {kind}, batch {config.batch_size}, {config.dtype}, examples "
        f"{'on the devices' if given.on_device else 'streamed'}; one chip, one step\n"
    )
    print(f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|", flush=True)
    for spec in _students(plan_runs(config)):
        program = analyze(compile_step(config, spec, dataset, mesh, given.on_device))
        cells = describe(program, config.batch_size, mesh, config.dtype)
        print(f"| {spec.label} | {' | '.join(cells)} |", flush=True)


def cli() -> None:
    """Runs the command."""
    config_flags.DEFINE_config_file("config", None, "Name of a recipe, such as cifar10.py:a.")
    flags.DEFINE_string("topology", "v5e:2x2", "TPU slice, or h100:COUNT.")
    flags.DEFINE_integer("images", 50_000, "In the training split.", lower_bound=1)
    flags.DEFINE_bool("on_device", False, "Keep the examples on the devices, as for small data.")
    jax.config.update("jax_platforms", "cpu")  # the plugins would look for chips otherwise
    run_command(main)


if __name__ == "__main__":
    cli()
