"""Whether the native kernel can be built here, which needs a compiler that nothing else does."""

import functools

import pytest

from cai.inference.kernels.native import library as native


@functools.cache
def can_be_built():
    try:
        native.library()
    except RuntimeError:
        return False
    return True


needs_native = pytest.mark.skipif(not can_be_built(), reason="no C++ compiler here")
