"""Tuning of glibc's malloc: which freed memory is kept for the next step on CPU."""

import ctypes
import importlib.metadata
import importlib.util
import mmap
import sys
from typing import Any

import jax

# Parameters of mallopt, see malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_LARGE = 32 * 2**20  # bytes; the greatest threshold that every version of glibc accepts
_MAX_MAPPED = 65536  # blocks; glibc's default
_HEAP_SIZE = 8 * 2**30  # bytes of address space, which take no memory
_HUGE_PAGE = 2 * 2**20  # bytes

_keeps_freed_memory = False  # whether `keep_freed_memory` has been called


def cpu_is_default() -> bool:
    """Returns True if JAX will compute on CPU, as far as that is known before the backends start.

    Where a plugin for an accelerator is installed but no accelerator is found, JAX computes on CPU
    and this returns False.
    """
    config: Any = jax.config  # its settings are unknown to type checkers
    if platforms := config.jax_platforms:  # JAX_PLATFORMS
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step; to be called before the backends start.

    XLA allocates and frees the memory of a program's arrays in every step. By default glibc returns
    blocks of that size to the system immediately, which then has to clear some 30,000 pages a step:
    5 to 20 % of a step's time on CPU. Huge pages, where the system grants them on request
    (madvise), save 2 to 5 % more. Has no effect on threads that exist already: large blocks of
    other arenas than the main one are always mapped and unmapped. Does nothing except on Linux with
    glibc.
    """
    global _keeps_freed_memory
    if (libc := _glibc()) is None:
        return
    _keeps_freed_memory = True
    libc.mallopt(_ARENA_MAX, 1)  # only the main arena can grow without bounds
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)

    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    heap = libc.malloc(_HEAP_SIZE)
    if heap is not None:
        first = -(-heap // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(first, heap + _HEAP_SIZE - first - _HUGE_PAGE, mmap.MADV_HUGEPAGE)
        libc.free(heap)


def return_large_blocks() -> None:
    """Makes glibc return freed blocks of more than 32 MiB to the system, as it does by default.

    For programs that need much memory. A small block that outlives a step can be placed in the
    large one that the step freed; then the next step needs a second large one. Smaller blocks are
    kept as before. Does nothing except after `keep_freed_memory` on Linux with glibc.
    """
    if _keeps_freed_memory and (libc := _glibc()) is not None:
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_MMAP_MAX, _MAX_MAPPED)
        libc.malloc_trim(ctypes.c_size_t(0))  # so that large blocks do not lie in the heap's end


def _glibc() -> ctypes.CDLL | None:
    """Returns the C library if this is Linux with glibc."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return None
    return libc
