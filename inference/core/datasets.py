"""Tables with named axes among the details of an answer, as files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cai.models.common.storage import storable

__all__ = ["packed", "unpacked"]


@storable("dataset")
@dataclass(frozen=True, eq=False)
class _Packed:
    """An `xarray.Dataset` in parts, so that xarray is imported by nobody who has none.

    Attributes:
        variables: by name, (names of axes, array, attributes).
        coordinates: the same.
        attributes: of the whole.
    """

    variables: dict[str, Any]
    coordinates: dict[str, Any]
    attributes: dict[str, Any]


def packed(value: Any) -> Any:
    """A dataset in parts; anything else as it is."""
    if type(value).__module__.split(".")[0] != "xarray" or not hasattr(value, "data_vars"):
        return value
    return _Packed(_parts(value.data_vars), _parts(value.coords), dict(value.attrs))


def unpacked(value: Any) -> Any:
    """The reverse of `packed`."""
    if not isinstance(value, _Packed):
        return value
    import xarray

    return xarray.Dataset(value.variables, coords=value.coordinates, attrs=value.attributes)


def _parts(variables: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): (tuple(one.dims), np.array(one.values), dict(one.attrs)) for name, one in variables.items()}
