"""What becomes of the memory that a step on CPU has freed."""

import ctypes
import mmap
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # names of malloc.h
_HEAP = 8 * 2**30  # bytes of addresses, no memory
_LARGE_PAGE = 2 * 2**20


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next step; to be called before the first.

    XLA takes the memory of a program's arrays anew in each step. glibc would give pieces of that
    size back to the system at once, which then clears some 30,000 pages a step: 5 to 20 % of a
    step's time on CPU. Large pages, where the system has them for who asks, give 2 to 5 % more.
    Elsewhere than on Linux with glibc nothing changes.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    libc.mallopt(_ARENA_MAX, 1)  # only the first arena can grow without bounds
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)

    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    heap = libc.malloc(_HEAP)
    if heap is not None:
        first = -(-heap // _LARGE_PAGE) * _LARGE_PAGE
        libc.madvise(first, heap + _HEAP - first - _LARGE_PAGE, mmap.MADV_HUGEPAGE)
        libc.free(heap)
