"""The native library: built where a compiler is, of these sources, for every processor, with torch's threads."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from native_kernel import needs_native

import cai
from cai.inference.kernels.native import library as native
from cai.models import bridge

LEVELS = ("baseline", "avx2", "avx512")


@pytest.fixture
def fresh():
    """Forgets what was loaded, before and after."""

    forget()
    yield
    forget()


def forget():
    for remembers in (native.available, native._loaded, native.instructions, native._function):
        remembers.cache_clear()


def test_the_library_is_built_where_a_compiler_is():
    """Otherwise every test of the native kernel would be skipped in silence."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler here")
    native.library()


@pytest.mark.parametrize("case", ["missing", "broken", "stale"])
def test_without_the_library_native_says_what_to_do_and_auto_answers(case, fresh, monkeypatch, tmp_path):
    expected = cai.infer(bridge(), "exact").values
    shutil.copytree(native.SOURCES, tmp_path / "cpp")
    (tmp_path / "cpp" / "later.h").write_text("// added by a pull\n")
    if case == "stale":
        monkeypatch.setattr(native, "SOURCES", tmp_path / "cpp")
        if not native.LIBRARY.exists():
            pytest.skip("no library")
    else:
        monkeypatch.setattr(native, "LIBRARY", tmp_path / "loops.so")
        if case == "broken":
            (tmp_path / "loops.so").write_text("no library")
    forget()
    assert not native.available()
    why = {"missing": "not part of this installation", "broken": "cannot be loaded", "stale": "other sources"}[case]
    with pytest.raises(RuntimeError, match=f"kernel 'native' .*{why}.*make native.*kernel='auto'"):
        cai.infer(bridge(), "exact", kernel="native")
    torch.testing.assert_close(cai.infer(bridge(), "exact").values, expected, rtol=1e-12, atol=1e-12)


@needs_native
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("backend", ["exact", "variational"])
def test_every_compilation_that_this_processor_can_run_gives_the_same(level, backend, fresh, monkeypatch):
    best = native.instructions()
    if LEVELS.index(level) > LEVELS.index(best):
        pytest.skip(f"this processor has no {level}")
    expected = cai.infer(bridge(horizon=40), backend, kernel="native").values
    monkeypatch.setattr(native, "instructions", lambda: level)
    found = cai.infer(bridge(horizon=40), backend, kernel="native").values
    # Sums of other lengths at a time, and products rounded once or twice.
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@needs_native
@pytest.mark.skipif(shutil.which("nm") is None or sys.platform != "linux", reason="nm lists the symbols")
def test_compilations_for_different_processors_share_no_function():
    """The linker keeps one of several functions of one name, perhaps with instructions that a processor lacks."""
    lines = subprocess.run(["nm", "-C", native.LIBRARY], capture_output=True, text=True, check=True).stdout.splitlines()
    held = [line[19:] for line in lines if line[17:18] in "TtWVu" and line[:1] != " "]
    mine = [name for name in held if "cai::" in name]
    assert mine
    assert all(any(f"cai::{level}::" in name for level in LEVELS) for name in mine)
    assert not [name for name in held if "std::" in name.split("(")[0]]
    exported = {name.rsplit("_", 1)[0] for name in held if name.rsplit("_", 1)[-1] in LEVELS and ":" not in name}
    assert exported
    assert {f"{name}_{level}" for name in exported for level in ("baseline",)} <= set(held)


@needs_native
def test_the_library_brings_no_openmp_runtime_of_its_own():
    """It takes torch's, which is loaded: two would each start their own threads, on the same cores."""
    with pytest.raises(AttributeError):
        native.library().GOMP_parallel  # noqa: B018, looked for in the library and in what it is linked to
