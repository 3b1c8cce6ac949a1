"""Work-arounds for slow code paths of XLA on CPU; see README.md in this folder."""

import contextlib
import os

import jax

from amdjax.cpu import malloc, ops

__all__ = [
    "ops",
    "tune_malloc",
    "tune_malloc_for",
    "workarounds_disabled",
    "workarounds_enabled",
]

_MUCH_MEMORY = 2 * 2**30  # bytes
# Part of the key of JAX's caches: what was traced outside `workarounds_disabled()` is traced again
# inside.
_disabled = jax.make_user_context(default_value=False)


def workarounds_enabled() -> bool:
    """Returns True if code that is traced now is to use the work-arounds.

    They are used where the default backend is the CPU, unless AMDJAX_CPU_KERNELS=0 is set or the
    call is inside `workarounds_disabled()`. Starts the backends, so it must not be called during an
    import.
    """
    return _allowed() and not _disabled.value and jax.default_backend() == "cpu"


def workarounds_disabled() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which everything is traced as plain JAX.

    For programs that are lowered or exported on a CPU host for another platform, and for
    forward-mode derivatives on CPU.
    """
    return _disabled(True)


def tune_malloc() -> None:
    """Tunes malloc for training on CPU; to be called before the backends start.

    That is before `distributed.initialize`. Does not start them itself: it assumes training on CPU
    if JAX_PLATFORMS names the CPU first, or names nothing and no plugin for an accelerator is
    installed.
    """
    if _allowed() and malloc.cpu_is_default():
        malloc.keep_freed_memory()


def tune_malloc_for(program: jax.stages.Compiled) -> None:
    """Tunes malloc for a program that is about to run many times, and for those after it.

    What `tune_malloc` keeps for the next step is returned to the system where the program's
    temporary arrays need more than 2 GiB on a device: this memory could be needed twice, which
    matters more than the time to clear it.
    """
    if _allowed() and jax.default_backend() == "cpu":
        memory = program.memory_analysis()
        if memory is not None and memory.temp_size_in_bytes > _MUCH_MEMORY:
            malloc.return_large_blocks()


def _allowed() -> bool:
    return os.environ.get("AMDJAX_CPU_KERNELS") != "0"
