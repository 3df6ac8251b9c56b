"""The native kernel: sums over outcomes and whole steps as C++ loops, built on request by torch's extension mechanism.

What the other kernels do in several sweeps over [S, A] is one loop here: scores, powers and logarithms of a block of
states stay in the cache, and every loop uses the threads that torch was given. It is never chosen by itself and never
required: the first use of kernel="native" on a machine compiles `cpp/` in a few seconds, with a C++ compiler and ninja,
into torch's folder of extensions, named after the source and the instructions of the processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["call", "library"]

SOURCES = Path(__file__).parent / "cpp"
FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fvisibility=default")
# By torch's own name for what the processor can do, so that a library is never run where its instructions are unknown.
INSTRUCTIONS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The loops, compiled if this machine has not done so before.

    Raises:
        RuntimeError: if they cannot be compiled, saying what is missing.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    sources = sorted(SOURCES.iterdir())
    parallel = ("-fopenmp",) if sys.platform == "linux" else ()  # Apple's clang has none
    flags = [*FLAGS, *INSTRUCTIONS.get(capability, ()), *parallel]
    text = b"".join(source.read_bytes() for source in sources) + " ".join(flags).encode()
    name = f"cai_native_{capability.lower().replace(' ', '_')}_{hashlib.sha256(text).hexdigest()[:12]}"
    try:
        from torch.utils import cpp_extension  # it imports setuptools

        folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()) / name
        folder.mkdir(parents=True, exist_ok=True)
        with _own_programs():
            cpp_extension.load(
                name,
                [str(SOURCES / "native.cpp")],
                extra_cflags=flags,
                extra_ldflags=[*parallel],
                build_directory=str(folder),
                is_python_module=False,
            )
        return ctypes.CDLL(str(folder / f"{name}{cpp_extension.LIB_EXT}"))
    except (ImportError, OSError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeError(
            f"kernel 'native' could not be built ({first}); it needs GCC or Clang and the packages ninja and "
            "setuptools (pip install 'control-as-inference[native]'), or use kernel='auto'"
        ) from error


@contextlib.contextmanager
def _own_programs() -> Iterator[None]:
    """Lets programs of the running environment be found, though it may not be active: ninja is one."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def call(name: str, dtype: torch.dtype, *arguments: Any) -> int:
    """Runs one of the loops on the CPU.

    Args:
        name: of the function in cpp/native.cpp, without its type.
        dtype: torch.float64 or torch.float32, that of all tables.
        *arguments: structures, tensors (contiguous; None for a null pointer), whole numbers and floats.
    """
    return _function(name, dtype)(*(_pointer(argument) for argument in arguments))


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Any:
    function = getattr(library(), f"{name}_{'f64' if dtype == torch.float64 else 'f32'}")
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
