"""Builds the native loops of `cai.inference.kernels.native` where a C++ compiler is there; setup.cfg says all the rest.

The loops are C++ behind a C interface that ctypes calls: they need neither torch nor Python's headers, and one library
serves every Python. `native.cpp` is compiled once for each set of instructions, each in a namespace of its own, and
`dispatch.cpp` says at run time which one the processor has.
"""

import hashlib
import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CPP = Path("inference/kernels/native/cpp")
LOOPS, DISPATCH = str(CPP / "native.cpp"), str(CPP / "dispatch.cpp")
FLAGS = ["-g0", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
FLAGS += os.environ.get("CXXFLAGS", "-O3").split()
# Apple's compiler has no OpenMP. Nothing is linked: the symbols are those of the runtime that torch has loaded.
FLAGS += ["-fopenmp"] if sys.platform == "linux" else ["-fopenmp-simd"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
LEVELS = {"baseline": []}
if sys.platform == "linux" and platform.machine() == "x86_64":
    LEVELS |= {"avx2": AVX2, "avx512": AVX512}


class Build(build):
    """Begins with an empty folder: modules that an earlier build left there would end up in the wheel."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildLoops(build_ext):
    """One library of several compilations of the same source."""

    def run(self):
        super().run()
        if not Path(self.build_lib, self.get_ext_filename(self.extensions[0].name)).exists():
            self.warn("the native loops were not built: this installation of cai computes with torch alone")
            self.distribution.ext_modules = None  # so that the wheel is one for any platform
            self.get_finalized_command("bdist_wheel").root_is_pure = True

    def build_extension(self, ext):
        if self.compiler.compiler_type != "unix":
            raise CompileError("the native loops need GCC or Clang")
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(CPP.iterdir()))).hexdigest()

        def compile_level(level):
            folder, macros = os.path.join(self.build_temp, level), [("LEVEL", level)]
            return self.compiler.compile([LOOPS], folder, macros, extra_postargs=[*FLAGS, *LEVELS[level]])

        with ThreadPoolExecutor() as pool:
            objects = [name for names in pool.map(compile_level, LEVELS) for name in names]
        macros = [("SOURCES", f'"{digest}"')]
        objects += self.compiler.compile([DISPATCH], self.build_temp, macros, extra_postargs=FLAGS)
        self.compiler.link_shared_object(objects, self.get_ext_fullpath(ext.name), target_lang="c++")

    def get_ext_filename(self, fullname):
        """Without the suffix that names a version of Python."""
        return os.path.join(*fullname.split(".")) + ".so"


class Wheel(bdist_wheel):
    """py3-none-PLATFORM where the library was built, py3-none-any where it was not."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("cai.inference.kernels.native.loops", [LOOPS, DISPATCH], optional=True)],
    cmdclass={"build": Build, "build_ext": BuildLoops, "bdist_wheel": Wheel},
)
