"""Freed memory is kept for the next step where training runs on CPU, and only there."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from amdjax.cpu import malloc

_COUNT = """
import math
import resource
import sys

import jax
import jax.numpy as jnp

from amdjax import cpu

cpu.tune_malloc()
jax.config.update("jax_num_cpu_devices", 2)  # an error once the backends have started

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if gib := float(sys.argv[1]):  # of the product below, which is not computed
    x = jax.ShapeDtypeStruct((math.isqrt(int(gib * 2**30 / 4)), 8), jnp.float32)
    cpu.tune_malloc_for(jax.jit(lambda x: jnp.sort(x @ x.T)[0]).lower(x).compile())

large = b"x" * 2**26
del large
before = faults()
large = b"x" * 2**26
print(faults() - before)
"""


def _page_faults(gib: float = 0.0, **environment: str) -> int:
    """Returns the page faults of an allocation of 64 MiB after one of the same size was freed.

    Args:
      gib: memory of the program for which malloc is tuned; 0: for none.
      environment: variables of the process.
    """
    result = subprocess.run(
        [sys.executable, "-c", _COUNT, str(gib)],
        env={**os.environ, "XLA_FLAGS": "", **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is tuned")
def test_tune_malloc_keeps_freed_pages_on_cpu_only():
    if _page_faults(JAX_PLATFORMS="cpu", AMDJAX_CPU_KERNELS="0") < 1000:
        pytest.skip("this C library keeps freed memory by default")
    assert _page_faults(JAX_PLATFORMS="cpu") < 100
    assert _page_faults(JAX_PLATFORMS="cuda,cpu") > 1000


def test_tune_malloc_for_returns_the_memory_of_large_programs_only():
    if _page_faults(JAX_PLATFORMS="cpu") > 100:
        pytest.skip("this C library is not tuned")
    assert _page_faults(1, JAX_PLATFORMS="cpu") < 100
    assert _page_faults(4, JAX_PLATFORMS="cpu") > 1000


@pytest.mark.parametrize(
    ("platforms", "plugins", "expected"),
    [
        ("cpu", ["xla_cuda12"], True),
        ("cpu,cuda", ["xla_cuda12"], True),
        ("cuda,cpu", ["xla_cuda12"], False),
        ("tpu", [], False),
        ("", [], True),
        (None, [], True),
        (None, ["xla_cuda12"], False),
    ],
)
def test_cpu_is_default_reads_jax_platforms_and_then_the_plugins(
    platforms: str | None, plugins: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
):
    previous = jax.config.jax_platforms
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    try:
        jax.config.update("jax_platforms", platforms)
        assert malloc.cpu_is_default() == expected
    finally:
        jax.config.update("jax_platforms", previous)
