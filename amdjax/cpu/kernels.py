"""C++ kernels for what XLA computes slowly on CPU, used where a C++ compiler is found.

XLA takes three to five times as long as oneDNN for the gradient of a convolution with respect to
its kernel, and writes products to memory before it sums them. `kernels.cc` is compiled for this
machine when it is first needed, which takes seconds, and kept in the user's cache folder.
"""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp

from amdjax.files import cache_folder

_SOURCE = Path(__file__).with_suffix(".cc")
_KERNEL_GRADIENT, _CHANNEL_SUMS = "amdjax_kernel_gradient", "amdjax_channel_sums"
_DIVISOR = 16  # of the number of channels: float32 values in the widest vector
_LARGEST_KERNEL = 2**20  # values; XLA is faster beyond, as it reads the sums less often


def supports_kernel_gradient(
    x: jax.Array, kernel: jax.Array, padding: tuple[tuple[int, int], ...]
) -> bool:
    """Returns True if `kernel_gradient` is available and can be used for these arrays."""
    return (
        x.dtype == kernel.dtype == jnp.float32
        and kernel.shape[3] % _DIVISOR == 0
        and kernel.size <= _LARGEST_KERNEL
        and min(min(sides) for sides in padding) >= 0
        and x.size > 0
        and available()
    )


def kernel_gradient(
    x: jax.Array,
    grad: jax.Array,
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], ...],
) -> jax.Array:
    """Returns the gradient of a convolution with respect to its kernel, on CPU.

        out[i, j, c, d] = sum_byz x[b, s y + i - top, t z + j - left, c] grad[b, y, z, d]

    Args:
      x: the convolution's input, float32 [B,H,W,C].
      grad: the gradient of its output, float32 [B,h,w,D] with D a multiple of 16.
      kernel_size: (kh, kw).
      strides: (s, t).
      padding: zeros ((top, bottom), (left, right)), not negative.

    Returns:
      float32 [kh,kw,C,D].
    """
    call = jax.ffi.ffi_call(
        _KERNEL_GRADIENT,
        jax.ShapeDtypeStruct((*kernel_size, x.shape[3], grad.shape[3]), x.dtype),
        vmap_method="sequential",
    )
    return call(
        x,
        grad,
        stride_y=strides[0],
        stride_x=strides[1],
        top=padding[0][0],
        left=padding[1][0],
    )


def supports_channel_sums(a: jax.Array, b: jax.Array) -> bool:
    """Returns True if `channel_sums` is available and can be used for these arrays."""
    return (
        a.dtype == b.dtype == jnp.float32
        and a.shape[-1] % _DIVISOR == 0
        and a.size > 0
        and available()
    )


def channel_sums(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of a and of a * b over all axes but the last, on CPU.

    Args:
      a: float32 [...,C] with C a multiple of 16.
      b: float32 [...,C].

    Returns:
      (float32 [C], float32 [C]).
    """
    out = jax.ShapeDtypeStruct((2, a.shape[-1]), a.dtype)
    sums = jax.ffi.ffi_call(_CHANNEL_SUMS, out, vmap_method="sequential")(a, b)
    return sums[0], sums[1]


@functools.cache
def available() -> bool:
    """Compiles the kernels if necessary and registers them with JAX.

    Returns:
      False if there is no C++ compiler, or with a warning if the compiler that `$CXX` names is not
      found, or the compiler fails.
    """
    name = os.environ.get("CXX")
    compiler = shutil.which(name or "c++")
    if compiler is None and not name:
        return False
    try:
        if compiler is None:
            raise FileNotFoundError(f"CXX={name} is not the path of a compiler")
        library = ctypes.cdll.LoadLibrary(str(_library(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        warnings.warn(
            f"{_SOURCE.name} cannot be compiled, training on CPU is slower: {reason.strip()}",
            stacklevel=2,
        )
        return False
    for name in (_KERNEL_GRADIENT, _CHANNEL_SUMS):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(library[name]), platform="cpu")
    return True


def _library(compiler: str) -> Path:
    """Returns the compiled library; its name depends on the source, machine, flags and JAX."""
    machine = platform.machine()
    native = "-mcpu=native" if machine in ("arm64", "aarch64") else "-march=native"
    flags = ["-std=c++17", "-O3", "-w", "-shared", "-fPIC", native, f"-I{jax.ffi.include_dir()}"]
    facts = (_SOURCE.read_bytes(), compiler, flags, machine, _processor(), jax.lib.__version__)
    name = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = _library_folder() / f"{_SOURCE.stem}-{name}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = [compiler, *flags, "-o", str(built), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            built.replace(path)  # atomically: other processes may load it
    return path


@functools.cache
def _library_folder() -> Path:
    """Returns `amdjax` in the user's cache folder, or a temporary folder if it is not writable."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
        temporary = tempfile.TemporaryDirectory(prefix="amdjax-")
        atexit.register(temporary.cleanup)
        return Path(temporary.name)


def _processor() -> str:
    """Returns the instruction sets of the processor, for which the library is compiled."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor()
    lines = file.read_text().splitlines()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
