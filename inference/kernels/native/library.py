"""Finds and loads the native loops: C++ for the CPU, built when `cai` is installed where a C++ compiler is there.

The library lies beside this file, in a wheel as in an editable installation, and nothing is compiled at run time. It
holds the loops once for each set of instructions (baseline, AVX2, AVX-512; by the names in setup.py), and the best that
the processor has is called. Its OpenMP symbols are those of the runtime that torch has loaded: a process has one pool
of threads. Where the library is missing, or was built from other sources than those beside it (`git pull` without
installing again: a call would hand over structures of another layout), kernel="auto" goes on without it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cai.models.common.threads import thread_count

__all__ = ["available", "call", "instructions", "library", "thread_count"]

LIBRARY = Path(__file__).parent / "loops.so"
SOURCES = Path(__file__).parent / "cpp"
ADVICE = "in a clone run 'make native', elsewhere install cai again where GCC or Clang is; or use kernel='auto'"


@functools.cache
def available() -> bool:
    """Whether the loops can be called."""
    return isinstance(_loaded(), ctypes.CDLL)


def library() -> ctypes.CDLL:
    """The loops.

    Raises:
        RuntimeError: if they are not part of this installation, or cannot be loaded; it says why, and what to do.
    """
    loaded = _loaded()
    if isinstance(loaded, str):
        raise RuntimeError(f"kernel 'native' {loaded}: {ADVICE}")
    return loaded


@functools.cache
def _loaded() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    if not LIBRARY.exists():
        return "is not part of this installation, which was made without a C++ compiler"
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"cannot be loaded ({error})"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))).hexdigest()
    for name in ("cai_sources", "cai_level"):
        getattr(loaded, name).restype = ctypes.c_char_p
    if loaded.cai_sources().decode() != digest:
        return "was built from other sources than those that are installed"
    return loaded


@functools.cache
def instructions() -> str:
    """Which of the compilations is called: "baseline", "avx2" or "avx512"."""
    return library().cai_level().decode()


def call(name: str, dtype: torch.dtype, *arguments: Any) -> int:
    """Runs one of the loops on the CPU.

    Args:
        name: of the function in cpp/native.cpp, without its type and its set of instructions.
        dtype: torch.float64 or torch.float32, that of all tables.
        *arguments: structures, tensors (contiguous; None for a null pointer), whole numbers and floats.
    """
    return _function(name, dtype, instructions())(*(_pointer(argument) for argument in arguments))


@functools.cache
def _function(name: str, dtype: torch.dtype, level: str) -> Any:
    function = getattr(library(), f"{name}_{'f64' if dtype == torch.float64 else 'f32'}_{level}")
    function.restype = ctypes.c_int64
    return function


def _pointer(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.c_double(argument) if isinstance(argument, float) else argument
