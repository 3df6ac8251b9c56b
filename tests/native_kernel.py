"""Skips what needs the native kernel where it cannot be built: without a C++ compiler."""

import pytest

from cai.inference.kernels.native import library as native

needs_native = pytest.mark.skipif(not native.available(), reason="the native loops are not built: see test_library.py")
