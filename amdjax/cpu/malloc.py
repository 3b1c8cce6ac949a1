"""Tuning of glibc's malloc: keep freed memory for the next step on CPU."""

import ctypes
import importlib.metadata
import importlib.util
import mmap
import sys
from typing import Any

import jax

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt, see malloc.h
_HEAP_SIZE = 8 * 2**30  # bytes of address space, which take no memory
_HUGE_PAGE = 2 * 2**20  # bytes


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
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
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
