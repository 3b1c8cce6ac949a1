"""Devices and processes: the only module that knows how many there are.

A step is written for one device's shard of the batch with a named axis, `BATCH_AXIS`; `shard_step`
maps it over all devices of all processes.
"""

import contextlib
import faulthandler
import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from amdjax.errors import UserError, note
from amdjax.files import cache_folder

_Value = TypeVar("_Value", int, bool)

BATCH_AXIS = "batch"
# On CPU: convolutions of oneDNN (JAX 0.10 has none), and none of YNNPACK, whose gradients of
# kernels take 2 to 5 times as long as Eigen's. LLVM's level 2 compiles twice as fast as 3, and the
# programs are not slower.
_CPU_OPTIONS = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_backend_optimization_level": 2,
}
_PROCESS_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HEARTBEAT_SECONDS = 30  # without a heartbeat, after which a process counts as dead
_EXIT_DELAY_SECONDS = 5
# What Gloo, NCCL and JAX's coordination service write when another process has ended.
_PEER_FAILURES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Gloo", "NCCL", "coordination service")


def initialize() -> None:
    """Connects to the other processes, where the environment says that there are any.

    It does so once, and must be called before the first computation with JAX.

    It reads JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else the
    variables of Slurm, Open MPI or a TPU slice on Kubernetes. Without them there is one process.
    Under Slurm and Open MPI each process uses one GPU, that of its local task, unless
    JAX_LOCAL_DEVICE_IDS says otherwise.

    Raises:
      UserError: if variables are missing or have wrong values, there is no device, or JAX has
        computed something without the other processes.
    """
    if jax.distributed.is_initialized():
        return
    try:
        _initialize()
    except RuntimeError as error:
        if "before any JAX calls" not in str(error):
            raise
        raise UserError(
            "the environment says that this is one of several processes, but JAX has computed "
            "something before it could connect to the others: call jax.distributed.initialize() "
            "first"
        ) from error
    check_devices()
    if process_count() > 1:
        _warm_up_collectives()
        # Where the coordinator dies, a thread of JAX's reports it and aborts; tracebacks of all
        # Python threads would bury the report.
        faulthandler.disable()


def _initialize() -> None:
    """Calls JAX's function with what the environment says, if there are several processes."""
    environment = os.environ
    # The address alone may come with Slurm's variables.
    if "JAX_NUM_PROCESSES" in environment or "JAX_PROCESS_ID" in environment:
        if missing := [name for name in _PROCESS_VARIABLES if name not in environment]:
            raise UserError(
                f"the environment variable {missing[0]} is not set; it is needed with "
                f"{' and '.join(name for name in _PROCESS_VARIABLES if name in environment)}"
            )
        count, index = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
        if index >= count:
            raise UserError(
                f"JAX_PROCESS_ID={index} must be below JAX_NUM_PROCESSES={count}: the first is 0"
            )
        jax.distributed.initialize(
            num_processes=count,
            process_id=index,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    # Tasks of the step, not of the job: an interactive shell in a job is a step of one task.
    elif (tasks := _number("SLURM_STEP_NUM_TASKS", default="1")) > 1:
        jax.distributed.initialize(
            num_processes=tasks, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
        )
    elif _number("OMPI_COMM_WORLD_SIZE", default="1") > 1 or "," in environment.get(
        "TPU_WORKER_HOSTNAMES", ""
    ):
        jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)


def check_devices() -> None:
    """Makes sure that JAX has the devices that JAX_PLATFORMS asks for.

    Raises:
      UserError: if not.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a plugin is not installed
        config: Any = jax.config
        reason = str(error).partition(" (set JAX_PLATFORMS=")[0].split("\n")[0]
        raise UserError(
            f"JAX has no device for JAX_PLATFORMS={config.jax_platforms or ''}: "
            f"{reason or 'its plugin is not installed or finds none'}; install JAX for this "
            'accelerator, such as pip install "jax[cuda13]", check its driver, or unset '
            "JAX_PLATFORMS"
        ) from error


def _number(name: str, default: str = "") -> int:
    value = os.environ.get(name, default)
    if not value.isdigit():
        raise UserError(f"the environment variable {name}={value!r} must be a number")
    return int(value)


def _warm_up_collectives() -> None:
    """Runs a first collective of every group of devices, while all processes are at this point.

    Gloo connects a group of CPU devices at its first collective and gives the last process 30
    seconds to arrive, which is too short once the processes prepare data at different speeds.
    """
    multihost_utils.sync_global_devices("start")  # the group of the processes' first devices
    ones = shard(np.ones(jax.local_device_count()), make_mesh())
    jax.block_until_ready(jax.jit(jnp.sum)(ones))  # the group of all devices


def is_preempted(call: int) -> bool:
    """Returns whether JAX's preemption service says that all processes stop at this call.

    Args:
      call: its number, from 1 without gaps; all processes must make the same calls.
    """
    return multihost_utils.reached_preemption_sync_point(call)


def wait_for_all(name: str) -> None:
    """Waits until all processes have come to the point of this name."""
    if process_count() > 1:
        multihost_utils.sync_global_devices(name)


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, on accelerators, in $JAX_COMPILATION_CACHE_DIR or ~/.cache.

    On CPU they are not kept: programs with oneDNN's custom calls cannot be serialised.
    """
    config: Any = jax.config  # its settings are unknown to type checkers
    if on_accelerator() and not config.jax_compilation_cache_dir:
        with contextlib.suppress(RuntimeError):  # the user has no home folder
            config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of all devices (or those given) along one axis, `BATCH_AXIS`.

    Its order is that of the processes, since process p reads the p-th part of each batch, and
    `shard` puts that on the devices of p. `jax.make_mesh` would order the chips of a TPU slice by
    their place in it, and refuses GPUs of several machines.
    """
    devices = jax.devices() if devices is None else devices
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises UserError unless devices and parts divide the global batch into equal pieces."""
    pieces = mesh.size * parts
    if batch_size < 1 or batch_size % pieces:
        each = "" if parts == 1 else f" in {parts} parts (config.accumulate) each"
        raise UserError(
            f"batch_size={batch_size} cannot be divided among {mesh.size} devices{each}: "
            f"use a positive multiple of {pieces}, or, to resume a run, fewer devices"
        )


def shard_step(
    step: Callable[..., Any],
    mesh: Mesh,
    batch_argument: int,
    donate: tuple[int, ...] = (),
    batch_axis: int = 0,
) -> Callable[..., Any]:
    """Maps a step over the devices and compiles it.

    Args:
      step: a function of one device's shard; it makes its results equal on all devices with
        collectives over `BATCH_AXIS`.
      mesh: from `make_mesh`.
      batch_argument: position of the argument that is split; all others are replicated.
      donate: positions of arguments whose memory may be reused.
      batch_axis: along which that argument's arrays are split.

    Returns:
      The jit-compiled function of global arrays; its results are replicated.
    """

    def global_step(*arguments: Any) -> Any:
        split = _split_along(batch_axis)
        specs = tuple(split if i == batch_argument else P() for i in range(len(arguments)))
        # With check_vma=True a gradient with respect to replicated parameters comes back already
        # summed over the axis, and pmean would leave it too large by the number of devices.
        mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
        return mapped(*arguments)

    platform = mesh.devices.flat[0].platform  # a program can be compiled for another host's devices
    options = _compiler_options(platform)
    return jax.jit(global_step, donate_argnums=donate, compiler_options=options)


def jit(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """Compiles a function for one device, as `shard_step` does for all.

    Without its options a network in bfloat16 is NaN on CPU (JAX 0.12). They are chosen at the first
    call, so that a module can use it as a decorator before the processes have met.

    Args:
      function: of arrays.
      settings: see `jax.jit`.
    """

    @functools.cache
    def compiled() -> Callable[..., Any]:
        options = _compiler_options(jax.default_backend())
        return jax.jit(function, compiler_options=options, **settings)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return compiled()(*arguments, **named)

    return call


def _compiler_options(platform: str) -> dict[str, Any] | None:
    if platform != "cpu":
        return None
    flags = os.environ.get("XLA_FLAGS", "")  # what the user sets there is kept
    return {name: value for name, value in _CPU_OPTIONS.items() if name not in flags}


def all_gather(x: jax.Array) -> jax.Array:
    """Joins the shards [b,...] of all devices to the batch [B,...], inside a mapped step."""
    return jax.lax.all_gather(x, BATCH_AXIS, tiled=True)


def reverse_batch(x: jax.Array) -> jax.Array:
    """Returns this shard's rows of the global batch [B,...] in reverse order, in a mapped step.

    Example i is paired with example B - 1 - i, however many devices share the batch.
    """
    devices = jax.lax.axis_size(BATCH_AXIS)
    pairs = [(device, devices - 1 - device) for device in range(devices)]
    return jax.lax.ppermute(x, BATCH_AXIS, pairs)[::-1]


def example_keys(key: jax.Array, count: int) -> jax.Array:
    """Returns a random key for each example of this shard, inside a mapped step.

    Example i of the global batch gets `fold_in(key, i)` however many devices share the batch.

    Args:
      key: the step's random key.
      count: examples in this shard, b.

    Returns:
      keys [b].
    """
    rows = jax.lax.axis_index(BATCH_AXIS) * count + jnp.arange(count)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def shard_key(key: jax.Array) -> jax.Array:
    """Returns a random key that differs between devices, inside a mapped step."""
    return jax.random.fold_in(key, jax.lax.axis_index(BATCH_AXIS))


def shard(batch: Any, mesh: Mesh, batch_axis: int = 0) -> Any:
    """Puts this process's rows of a batch on its devices; the result is the global batch.

    Args:
      batch: arrays, each with this process's rows along `batch_axis`.
      mesh: from `make_mesh`.
      batch_axis: 0, or 1 where batches are stacked along axis 0.

    Returns:
      The global arrays.
    """
    sharding = NamedSharding(mesh, _split_along(batch_axis))
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def _split_along(axis: int) -> P:
    return P(*[None] * axis, BATCH_AXIS)


def replicate(tree: Any, mesh: Mesh, compare: bool = True) -> Any:
    """Puts a copy of every array on every device.

    Args:
      tree: arrays, equal in all processes.
      mesh: from `make_mesh`.
      compare: whether several processes compare the arrays, of which each gets all copies: good for
        weights, too slow for a training set. Without it all must be NumPy arrays.
    """
    sharding = NamedSharding(mesh, P())
    if compare:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def replicated_shapes(tree: Any, mesh: Mesh) -> Any:
    """Returns what `replicate` gives, as `jax.ShapeDtypeStruct` of each array."""
    sharding = NamedSharding(mesh, P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def block_on_cpu(tree: Any) -> None:
    """Waits for the results of a step on CPU.

    Steps with collectives that are dispatched without waiting can dead-lock on more virtual CPU
    devices than cores; on other platforms the next step is dispatched immediately.
    """
    if not on_accelerator():
        jax.block_until_ready(tree)


def is_peer_failure(error: BaseException) -> bool:
    """Returns whether an error means that another process ended or cannot be reached."""
    return (
        isinstance(error, jax.errors.JaxRuntimeError)
        and jax.distributed.is_initialized()
        and any(word in str(error) for word in _PEER_FAILURES)
    )


def exit_process(code: int) -> NoReturn:
    """Ends this process after an error, without waiting for the others.

    They get an error from their next collective. The first process is JAX's coordinator, whose end
    aborts the others, so it first gives them time to print their errors.
    """
    if not jax.distributed.is_initialized():
        sys.exit(code)
    if is_primary():
        time.sleep(_EXIT_DELAY_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # sys.exit would wait minutes for the others in JAX's own clean-up


def on_accelerator() -> bool:
    """Returns whether the devices are not CPUs."""
    return jax.default_backend() != "cpu"


def device_kind() -> str:
    """Returns what the devices are called, such as "NVIDIA H100"."""
    return jax.devices()[0].device_kind


def device_count() -> int:
    """Returns the number of devices of all processes."""
    return jax.device_count()


def process_index() -> int:
    """Returns the number of this process."""
    return jax.process_index()


def is_primary() -> bool:
    """Returns whether this process is the one that writes logs and results and prints."""
    return jax.process_index() == 0


def print_note(sentence: str) -> None:
    """Prints a note on stderr, in the first process."""
    if is_primary():
        note(sentence)


def process_count() -> int:
    """Returns the number of processes."""
    return jax.process_count()


def broadcast_from_primary(value: _Value) -> _Value:
    """Returns the first process's number or bool; all processes call it at the same step."""
    if process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def differing_processes(value: str) -> list[int]:
    """Returns the processes whose value differs from the first one's; all processes call it."""
    if process_count() == 1:
        return []
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint32)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    return [index for index, other in enumerate(digests) if (other != digests[0]).any()]
