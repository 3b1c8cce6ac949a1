"""What XLA computes slowly on CPU, in C++: there where a compiler is found.

XLA takes three to five times as long as oneDNN for the gradient of a convolution with respect to
its kernel, and must write products down before it sums them. `kernels.cc` is compiled for this
machine when it is first needed, in seconds, and kept in `__pycache__`.
"""

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

from amdjax import distributed

_SOURCE = Path(__file__).with_suffix(".cc")
_KERNEL_GRADIENT, _CHANNEL_SUMS = "amdjax_kernel_gradient", "amdjax_channel_sums"
_DIVISOR = 16  # of the channels: the values of the widest vector
_LARGEST_KERNEL = 2**20  # beyond which XLA is faster, as it reads a kernel's sums less often


def has_kernel_gradient(
    x: jax.Array, kernel: jax.Array, padding: tuple[tuple[int, int], ...]
) -> bool:
    """Returns whether `kernel_gradient` is there, and made for these arrays."""
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
      x: what was convolved, float32 [B,H,W,C].
      grad: the gradient of the result, float32 [B,h,w,D] with D a multiple of 16.
      kernel_size: (kh, kw).
      strides: (s, t).
      padding: zeros ((top, bottom), (left, right)), none of them negative.

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


def has_channel_sums(a: jax.Array, b: jax.Array) -> bool:
    """Returns whether `channel_sums` is there, and made for these arrays."""
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
      b: float32, of the same shape.

    Returns:
      (float32 [C], float32 [C]).
    """
    out = jax.ShapeDtypeStruct((2, a.shape[-1]), a.dtype)
    sums = jax.ffi.ffi_call(_CHANNEL_SUMS, out, vmap_method="sequential")(a, b)
    return sums[0], sums[1]


@functools.cache
def available() -> bool:
    """Compiles the functions where that was not done before, and tells JAX of them."""
    # Where there is an accelerator the forms for CPU are traced, too, but are not run.
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if distributed.on_accelerator() or compiler is None:
        return False
    try:
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
    """Returns the compiled library; other sources, machines and versions have others."""
    machine = platform.machine()
    native = "-mcpu=native" if machine in ("arm64", "aarch64") else "-march=native"
    flags = ["-std=c++17", "-O3", "-w", "-shared", "-fPIC", native, f"-I{jax.ffi.include_dir()}"]
    facts = (_SOURCE.read_bytes(), compiler, flags, machine, _processor(), jax.lib.__version__)
    name = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = _SOURCE.parent / "__pycache__" / f"{_SOURCE.stem}-{name}.so"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = [compiler, *flags, "-o", str(built), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            built.replace(path)  # whole or not at all: other processes may look for it
    return path


def _processor() -> str:
    """Returns what tells processors apart that have other instructions."""
    about = Path("/proc/cpuinfo")
    if not about.exists():
        return platform.processor()
    lines = about.read_text().splitlines()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
