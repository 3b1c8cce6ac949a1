"""The parts of `benchmarks.accelerator`, each in a process that it starts.

    python -m benchmarks.accelerator_parts PART OPTIONS

The options are those of `Options` as JSON. A part appends to the records what it measures, stops by
itself when its seconds are over, and then ends with the code 75. The parts that start further
processes do not open the accelerator themselves.
"""

import contextlib
import functools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import chips
from benchmarks.accelerator import OUT_OF_TIME, fits
from benchmarks.records import Record, append, read
from benchmarks.throughput import Side, SideError
from benchmarks.worker import DATA

_ROOT = Path(__file__).parents[1]
_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # several processes use one card
_SIDE_SECONDS = 180.0  # in which a side must give its next result
_RESERVED_SECONDS = 20.0  # of a part, to measure the sides that have started
_ROUNDS, _ROUND_SECONDS = 5, 0.25

# Name of a side of PyTorch -> its variant and layout.
_RIVALS = {
    "PyTorch, eager": ("eager", "channels_last"),
    "PyTorch, compiled": ("compiled", "channels_last"),
    "PyTorch, CUDA graphs": ("graphs", "channels_last"),
    "PyTorch, eager, NCHW": ("eager", "contiguous"),
}
_FASTEST_RIVAL = "PyTorch, CUDA graphs"

# The default; convolutions in CUDA graphs; no CUDA graphs; convolutions that are not tried out.
_XLA_FLAGS = (
    "",
    "--xla_gpu_enable_command_buffer=+CONVOLUTION",
    "--xla_gpu_enable_command_buffer=",
    "--xla_gpu_autotune_level=0",
)

# Layer of WRN-16-1 at 32x32 -> input's side, channels, channels of the result, kernel, stride.
_LAYERS = {
    "stage 1": (32, 16, 16, 3, 1),
    "stage 3": (8, 64, 64, 3, 1),
    "stage 2": (16, 32, 32, 3, 1),
    "first": (32, 3, 16, 3, 1),
    "stage 2, first": (32, 16, 32, 3, 2),
    "stage 3, first": (16, 32, 64, 3, 2),
    "stage 2, shortcut": (32, 16, 32, 1, 2),
    "stage 3, shortcut": (16, 32, 64, 1, 2),
}


class Options(NamedTuple):
    """Values of the command line of `benchmarks.accelerator`.

    Attributes:
      seconds: that the part may take.
      records: file of the records.
      pytorch_python: a Python with PyTorch.
      data_dir: of the prepared CIFAR-10; empty: generated images.
      tiny: whether to take the smallest sizes.
      end: when the seconds are over, on the clock of `time.monotonic`.
    """

    seconds: float
    records: str
    pytorch_python: str
    data_dir: str
    tiny: bool
    end: float

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.end - time.monotonic()

    def add(self, record: Record) -> None:
        """Appends a record."""
        append(Path(self.records), record)


def _torch_version(python: str) -> str:
    """Returns PyTorch's version; an empty string where the interpreter has none."""
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    with contextlib.suppress(OSError):
        found = subprocess.run([python, "-c", code], capture_output=True, text=True)
        print(found.stderr)
        if found.returncode == 0:
            version, cuda = found.stdout.split()
            return version if cuda == "True" else f"{version} without CUDA"
    return ""


def machine(options: Options) -> bool:
    """Adds the device and the versions of the software."""
    torch = _torch_version(options.pytorch_python)
    device = jax.devices()[0]
    print(jax.devices(), device.client.platform_version, device.memory_stats())
    with contextlib.suppress(OSError):
        subprocess.run(["nvidia-smi"])
    software = [f"Python {sys.version.split()[0]}", f"jax {jax.__version__}"]
    software.append(f"torch {torch}" if torch else "no PyTorch")
    options.add(
        {
            "part": "machine",
            "device": device.device_kind,
            "platform": f"{device.platform}, {os.cpu_count()} CPU cores",
            "software": ", ".join(software),
            "cuda": "cuda" in device.client.platform_version,
            "usable": options.tiny or device.platform != "cpu",
            "tiny": options.tiny,
        }
    )
    return True


def correctness(options: Options) -> bool:
    """Adds the outcomes of the tests that are marked `accelerator`."""
    tests = sorted(  # training first, then networks, then losses
        (
            str(path.relative_to(_ROOT))
            for path in (_ROOT / "tests").rglob("test_*.py")
            if "pytest.mark.accelerator" in path.read_text()
        ),
        reverse=True,
    )
    # Warnings are errors in the project's environment; here the versions may be other ones.
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-o", "filterwarnings=default", "-m", "accelerator", *tests]
    environment = dict(os.environ)
    if any(x.get("cuda") for x in read(Path(options.records))):
        environment.setdefault("JAX_PLATFORMS", "cuda,cpu")  # tests on CPU have other XLA_FLAGS
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = _kill_after(process, options.left)
    outcomes: dict[str, list[str]] = {"PASSED": [], "SKIPPED": [], "FAILED": [], "ERROR": []}
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := re.match(r"(tests/\S+.*?) (PASSED|SKIPPED|FAILED|ERROR)\b", line):
            outcomes[found[2]].append(found[1])
    code = process.wait()
    ended = timer.is_alive()
    timer.cancel()
    failed = sorted({*outcomes["FAILED"], *outcomes["ERROR"]})
    if ended and (code not in (0, 1) or not outcomes["PASSED"]):
        failed.append(f"pytest ended with code {code}")
    options.add(
        {
            "part": "correctness",
            "passed": len(outcomes["PASSED"]),
            "skipped": len(outcomes["SKIPPED"]),
            "failed": failed,
            "complete": ended,
        }
    )
    return ended


def _kill_after(process: subprocess.Popen, seconds: float) -> threading.Timer:
    timer = threading.Timer(max(0.0, seconds), process.kill)
    timer.daemon = True
    timer.start()
    return timer


class _Plan(NamedTuple):
    """A side that is to be measured.

    Attributes:
      key: what its records begin with: "side", "method", "dtype", "batch" and further ones.
      tasks: of `DATA`, the first of them for its first step.
      settings: of `Side`.
    """

    key: Record
    tasks: tuple[str, ...]
    settings: Record


class _Running:
    """A side and what was measured of it. A task that fails is left out, and its error recorded."""

    def __init__(self, options: Options, plan: _Plan):
        """Starts the side and warms its tasks up.

        Raises:
          SideError: if it does not come to the end of its first step.
        """
        seconds = options.left - _RESERVED_SECONDS
        if seconds < _RESERVED_SECONDS:
            raise SideError("no time left")
        self._options, self.key = options, plan.key
        row = {name: plan.key[name] for name in ("method", "dtype", "batch")}
        self._side = Side(
            plan.key["side"],
            limit=min(_SIDE_SECONDS, seconds),
            size=8 if options.tiny else 32,
            data=plan.tasks[0],
            warm_up=[],
            **row,
            **plan.settings,
        )
        self._first = {plan.tasks[0]: self._side.facts["first_step"]}
        self._steps: dict[str, int] = {}
        self._rates: dict[str, list[float]] = {}
        for task in plan.tasks:
            with self._recorded(task):
                self._first.setdefault(task, self._side.seconds(task, 1))
                self._steps[task] = self._count(task)
                self._rates[task] = []

    @contextlib.contextmanager
    def _recorded(self, task: str) -> Iterator[None]:
        try:
            yield
        except SideError as error:
            self._options.add({**self.key, "data": task, "error": str(error)})
            self._steps.pop(task, None)

    def _count(self, task: str) -> int:
        """Returns the steps of a round, from 50 on in whole chunks of the loop on the device."""
        if self._options.tiny:
            return 2
        self._side.seconds(task, 10)
        steps = round(10 * _ROUND_SECONDS / self._side.seconds(task, 10))
        return max(5, steps if steps < 50 else steps // 50 * 50)

    def measure(self, task: str) -> None:
        """Adds a round of a task, if the side has it."""
        if task in self._steps:
            with self._recorded(task):
                images = self._steps[task] * self.key["batch"] * self.key.get("seeds", 1)
                rate = images / self._side.seconds(task, self._steps[task])
                self._rates[task].append(round(rate, 1))

    def add_records(self) -> None:
        """Adds a record of each task, with the cost of a step of amdjax."""
        cost: dict[str, float] = {}
        if self.key["part"] == "throughput" and self.key["side"] == "amdjax":
            with contextlib.suppress(SideError):
                cost = self._side.cost()
        facts = {name: self._side.facts[name] for name in ("software", "device")}
        for task, rates in self._rates.items():
            measured = {"first_step": round(self._first[task], 1), "rates": rates, "cost": cost}
            measured["peak_mib"] = self._side.facts["peak_mib"]
            self._options.add({**self.key, "data": task, **facts, **measured})

    def close(self) -> None:
        """Ends the side."""
        self._side.close()


def _measure(options: Options, plans: list[_Plan]) -> None:
    """Starts sides one after the other, measures them in turns, and adds their records."""
    running: list[_Running] = []
    try:
        for plan in plans:
            try:
                running.append(_Running(options, plan))
            except SideError as error:
                options.add({**plan.key, "error": str(error)})
        for _ in range(1 if options.tiny else _ROUNDS):
            for task in DATA:
                for side in running:
                    side.measure(task)
        for side in running:
            side.add_records()
    finally:
        for side in running:
            side.close()


def _of_jax(variant: str = "plain", **settings: Any) -> Record:
    environment = {**_SHARED, **settings.pop("environment", {})}
    fixed = {"python": sys.executable, "module": "jax_worker", "environment": environment}
    return {**fixed, "variant": variant, **settings}


def cells(tiny: bool) -> list[tuple[str, str, int]]:
    """Returns (method, dtype, batch) of the throughput, the most important ones first."""
    if tiny:
        return [("student", "float32", 4)]
    by_batch = {128: 0, 1024: 1, 4096: 2, 512: 3}
    ranked = [
        (rank + (method == "student") + (dtype == "float32"), method, dtype, batch)
        for method in ("amd_gl", "student")
        for dtype in ("bfloat16", "float32")
        for batch, rank in by_batch.items()
    ]
    return [row[1:] for row in sorted(ranked, key=lambda row: row[0])]


def throughput(options: Options) -> bool:
    """Adds the images/s of amdjax and of PyTorch, and the costs of amdjax's steps."""
    done = {
        (x["method"], x["dtype"], x["batch"])
        for x in read(Path(options.records))
        if x["part"] == "throughput" and "rates" in x
    }
    python, version = options.pytorch_python, _torch_version(options.pytorch_python)
    if not version or ("without CUDA" in version and not options.tiny):
        reason = f"{python} has {f'torch {version}' if version else 'no PyTorch'}"
        options.add({"part": "throughput", "side": "PyTorch", "left_out": reason})
        python = ""
    complete = True
    durations: list[float] = []
    for method, dtype, batch in cells(options.tiny):
        key: Record = {"part": "throughput", "method": method, "dtype": dtype, "batch": batch}
        if (method, dtype, batch) in done:
            continue
        first = (method, dtype, batch) == cells(options.tiny)[0]
        sides = sides_of(first, python)
        if not fits(options.left / len(sides), durations, first_guess=20.0):
            options.add({**key, "left_out": "no time left"})
            complete = False
            continue
        begin = time.monotonic()
        _measure(options, [_Plan({**key, "side": name}, *plan) for name, plan in sides.items()])
        durations.append((time.monotonic() - begin) / len(sides))
    return complete


def sides_of(first: bool, pytorch_python: str) -> dict[str, tuple[tuple[str, ...], Record]]:
    """Returns name -> (tasks, settings) of the sides of a row, which are measured in turns.

    Args:
      first: whether it is the first row. Only there are the teacher cache and the slower ways of
        PyTorch measured, which take minutes to compile.
      pytorch_python: a Python with PyTorch; empty: there is none.
    """
    tasks = ("resident", "streamed", "fixed")
    sides: dict[str, tuple[tuple[str, ...], Record]] = {"amdjax": (tasks, _of_jax())}
    if first:
        sides["amdjax, cached teacher"] = (("resident",), _of_jax("cached"))
    for name, (variant, layout) in _RIVALS.items() if pytorch_python else ():
        if first or name == _FASTEST_RIVAL:
            settings = {"variant": variant, "layout": layout}
            where = {"python": pytorch_python, "module": "torch_worker"}
            sides[name] = (tasks, {**where, **settings})
    return sides


def _one_by_one(options: Options, plans: list[_Plan]) -> bool:
    """Measures sides one after the other; returns whether there was time for all of them."""
    durations: list[float] = []
    for plan in plans:
        if not fits(options.left, durations, first_guess=30.0):
            options.add({**plan.key, "left_out": "no time left"})
            continue
        begin = time.monotonic()
        _measure(options, [plan])
        durations.append(time.monotonic() - begin)
    return len(durations) == len(plans)


def _key(part: str, tiny: bool, batch: int, **more: Any) -> Record:
    method, dtype, batch = ("student", "float32", 4) if tiny else ("amd_gl", "bfloat16", batch)
    return {"part": part, "method": method, "dtype": dtype, "batch": batch, **more}


def seeds(options: Options) -> bool:
    """Adds the images/s of several students that are trained as one program."""
    plans = [
        _Plan(
            _key("seeds", options.tiny, 128, side="amdjax", seeds=count),
            ("resident",),
            _of_jax(seeds=count),
        )
        for count in ((1, 2) if options.tiny else (1, 2, 4, 8))
    ]
    return _one_by_one(options, plans)


def xla_flags(options: Options) -> bool:
    """Adds the images/s and the first step with some of XLA's flags."""
    flags = os.environ.get("XLA_FLAGS", "")
    plans = []
    for more in _XLA_FLAGS[:1] if options.tiny else _XLA_FLAGS:
        key = _key("xla_flags", options.tiny, 128, side="amdjax", flags=more)
        environment = {"XLA_FLAGS": f"{flags} {more}".strip()}
        plans.append(_Plan(key, ("resident",), _of_jax(environment=environment)))
    return _one_by_one(options, plans)


def _seconds_of(call: Callable[[], Any], tiny: bool) -> float:
    """Returns the median seconds of a call that leaves work to the device."""
    jax.block_until_ready(call())  # compiled
    begin = time.perf_counter()
    jax.block_until_ready([call() for _ in range(3)])
    calls = 1 if tiny else max(3, math.ceil(0.15 / (time.perf_counter() - begin)))
    rounds = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)  # the device works in order
        rounds.append((time.perf_counter() - begin) / calls)
    return statistics.median(rounds)


def roofline(options: Options) -> bool:
    """Adds the rates of matrix products and of copies on this device."""
    side, length = (256, 2**16) if options.tiny else (8192, 2**28)
    product = jax.jit(jnp.matmul)
    for dtype in ("bfloat16", "float32"):
        a, b = (jax.random.normal(jax.random.key(i), (side, side), dtype) for i in range(2))
        seconds = _seconds_of(functools.partial(product, a, b), options.tiny)
        what = f"product of {side}x{side} matrices, {dtype}" + " (TF32)" * (dtype == "float32")
        options.add({"part": "roofline", "what": what, "rate": 2 * side**3 / seconds})
    x = jax.random.normal(jax.random.key(0), (length,))
    seconds = _seconds_of(functools.partial(jax.jit(lambda x: x + 1), x), options.tiny)
    what = f"reading and writing {x.nbytes / 2**20:,.0f} MiB"
    options.add({"part": "roofline", "what": what, "rate": 2 * x.nbytes / seconds})
    return True


def convolutions(options: Options) -> bool:
    """Adds the seconds of the layers of WRN-16-1: forward and the two gradients, apart.

    Each program has several convolutions of different images, so that the time of its start does
    not count.
    """
    batch, copies = (4, 2) if options.tiny else (1024, 8)
    chip = chips.find_chip(jax.devices()[0].device_kind)
    names = list(_LAYERS)[:1] if options.tiny else list(_LAYERS)
    durations: list[float] = []
    for dtype in ("bfloat16", "float32")[options.tiny :]:
        for name in names:
            begin = time.monotonic()
            if not fits(options.left, durations, first_guess=20.0):
                options.add({"part": "convolutions", "dtype": dtype, "left_out": "no time left"})
                return False
            size, inputs, width, kernel, stride = _LAYERS[name]
            for operation, call, cost in _operations(
                (batch, size, size, inputs), (kernel, kernel, inputs, width), stride, dtype, copies
            ):
                floor = chips.floor_seconds(cost, chip, dtype) if chip else None
                seconds = _seconds_of(call, options.tiny) / copies
                layer = f"{name}: {kernel}x{kernel}, {inputs} to {width}, {size}x{size}"
                options.add(
                    {
                        "part": "convolutions",
                        "layer": layer,
                        "dtype": dtype,
                        "batch": batch,
                        "operation": operation,
                        "seconds": seconds,
                        "floor": floor,
                    }
                )
            durations.append(time.monotonic() - begin)
    return True


def _operations(
    image_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    stride: int,
    dtype: str,
    copies: int,
) -> Iterator[tuple[str, Callable[[], Any], dict[str, float]]]:
    """Yields name, function and cost of one convolution, of each of the three operations."""

    def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
        pad = kernel_shape[0] // 2
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (stride, stride),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    keys = jax.random.split(jax.random.key(0), 2 * copies + 1)
    images = [jax.random.normal(key, image_shape, dtype) for key in keys[:copies]]
    kernel = jax.random.normal(keys[-1], kernel_shape, dtype)
    results = [
        jax.random.normal(key, jax.eval_shape(convolve, images[0], kernel).shape, dtype)
        for key in keys[copies:-1]
    ]

    def forward(images: list, results: list) -> list:
        return [convolve(image, kernel) for image in images]

    def input_gradient(images: list, results: list) -> list:
        return [
            jax.vjp(lambda x: convolve(x, kernel), image)[1](result)[0]
            for image, result in zip(images, results, strict=True)
        ]

    def kernel_gradient(images: list, results: list) -> list:
        return [
            jax.vjp(lambda x, image=image: convolve(image, x), kernel)[1](result)[0]
            for image, result in zip(images, results, strict=True)
        ]

    cost = {
        "flops": 2.0 * results[0].size * math.prod(kernel_shape[:3]),
        "bytes accessed": float(images[0].nbytes + kernel.nbytes + results[0].nbytes),
    }
    for name, function in (
        ("forward", forward),
        ("gradient of the input", input_gradient),
        ("gradient of the kernel", kernel_gradient),
    ):
        yield name, functools.partial(jax.jit(function), images, results), cost


class _TrainingRun(NamedTuple):
    """A run of `amdjax.main`.

    Attributes:
      name: for people.
      flags: of the command.
      epochs: of each network.
      eval_every: epochs between two evaluations.
      teacher: whether it trains a teacher, too.
    """

    name: str
    flags: tuple[str, ...]
    epochs: int
    eval_every: int
    teacher: bool = False


def training(options: Options) -> bool:
    """Adds seconds per epoch of AMD(g+l), and what 200 epochs would take.

    First a short run with a teacher and the default settings; then students of that teacher,
    evaluated less often; then, as long as the time allows, a full run of up to 200 epochs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data = ["--config.data.name=cifar10", f"--config.data.data_dir={options.data_dir}"]
        if not options.data_dir:
            name = "generated_tiny" if options.tiny else "generated"
            data = [f"--config.data.name={name}", "--config.imports=benchmarks.generated_images"]
        train = functools.partial(_train, options, Path(scratch), data)
        seldom = 1 if options.tiny else 10
        short = 2 if options.tiny else 20
        fast = ("--config.dtype=bfloat16",)
        taught = (f"--config.teacher.checkpoint={scratch}/short/teacher",)
        rarely = ("--config.log_every_steps=390",)  # an epoch is one program
        first = _TrainingRun("short", fast, 2 if options.tiny else 4, 1, teacher=True)
        seconds = train(first)
        if len(seconds) < 2:
            return False
        for name, flags in {
            "bfloat16": (*fast, *rarely),
            "bfloat16, no teacher cache": (*fast, *rarely, "--config.teacher.cached=False"),
            "float32": rarely,
        }.items():
            found = train(_TrainingRun(name, (*flags, *taught), short, seldom))
            seconds |= {"amd_gl": found["amd_gl"]} if name == "bfloat16" and found else {}
        epochs = min(200, int(0.8 * (options.left - 60) / sum(seconds.values())))
        if options.tiny or epochs < 20:
            return options.tiny
        full = (*fast, *rarely)
        train(_TrainingRun(f"bfloat16, {epochs} epochs", full, epochs, 10, teacher=True))
        return epochs == 200 and options.left > 0


def _train(options: Options, scratch: Path, data: list[str], run: _TrainingRun) -> dict[str, float]:
    """Runs a training, and adds its seconds per epoch.

    Returns:
      Network -> seconds per epoch, evaluation and checkpoints included; without those that were not
      trained for two evaluations.
    """
    workdir = scratch / re.sub(r"\W+", "-", run.name)
    boundaries = tuple(max(1, run.epochs * k // 5) for k in range(1, 5))
    command = [sys.executable, "-m", "amdjax.main", "--config=cifar10.py:a", f"--workdir={workdir}"]
    command += ["--config.methods=amd_gl", f"--config.epochs={run.epochs}", *data, *run.flags]
    command += [f"--config.eval_every_epochs={run.eval_every}"]
    command += [f"--config.optim.boundaries={tuple(sorted(set(boundaries)))}"]
    if options.tiny:
        command += ["--config.batch_size=32", "--config.student.name=wrn_10_1"]
        command += ["--config.teacher.name=wrn_10_1"]
    networks = ("teacher", "amd_gl") if run.teacher else ("amd_gl",)
    begin = time.monotonic()
    environment = dict(os.environ)
    if not options.tiny:  # programs for CPU cannot be kept
        environment["JAX_COMPILATION_CACHE_DIR"] = str(scratch / "cache")
    process = subprocess.Popen(command, cwd=_ROOT, env=environment)
    stop = begin + max(1.0, options.left)
    # When each evaluation was written: (epoch, seconds, accuracy).
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in networks}
    while process.poll() is None:
        time.sleep(0.02)
        for name, found in seen.items():
            lines = _evaluations(workdir / name / "metrics.jsonl")
            now = time.monotonic() - begin
            found += [(x["epoch"], now, x["accuracy"]) for x in lines[len(found) :]]
        if time.monotonic() > stop:
            process.send_signal(signal.SIGTERM)  # it saves and ends
            stop = math.inf
    taken = time.monotonic() - begin
    if process.returncode not in (0, -signal.SIGTERM):
        reason = f"ended with code {process.returncode}; see the log"
        options.add({"part": "training", "run": run.name, "error": reason})
    elif stop == math.inf:
        options.add({"part": "training", "run": run.name, "left_out": "stopped: no time left"})
    results, start = {}, 0.0
    for name, found in seen.items():
        if len(found) < 2:
            continue
        epochs, times, accuracies = zip(*found, strict=True)
        gaps = [
            (times[i] - times[i - 1]) / (epochs[i] - epochs[i - 1]) for i in range(1, len(found))
        ]
        results[name] = statistics.median(gaps)
        begun = max(0.0, times[0] - start - epochs[0] * results[name])
        start = times[-1]
        options.add(
            {
                "part": "training",
                "run": run.name,
                "network": name,
                "data": "CIFAR-10" if options.data_dir else "generated images",
                "epochs": epochs[-1],
                "eval_every": run.eval_every,
                "epoch_seconds": results[name],
                "projected_seconds": begun + 200 * results[name],
                "accuracy": accuracies[-1],
                "seconds": taken,
            }
        )
    return results


def _evaluations(path: Path) -> list[Record]:
    return [x for x in read(path) if x.get("split") in ("test", "validation")]


_PARTS = {
    part.__name__: part
    for part in (
        machine,
        correctness,
        throughput,
        seeds,
        roofline,
        xla_flags,
        convolutions,
        training,
    )
}


def main() -> None:
    """Runs the part that the command line names."""
    given = json.loads(sys.argv[2])
    options = Options(**given, end=time.monotonic() + given["seconds"])
    if not _PARTS[sys.argv[1]](options):
        sys.exit(OUT_OF_TIME)


if __name__ == "__main__":
    main()
