"""Which class of policies is meant: an instance, a module, or a name as it is written on the command line."""

from __future__ import annotations

import dataclasses
from typing import Any

from cai.inference.restricted.classes import PolicyClass, StationaryPolicy, TabularPolicy, as_policy_class
from cai.inference.restricted.continuous.classes import (
    FlowPolicy,
    LinearGaussianPolicy,
    MixturePolicy,
    TanhGaussianPolicy,
)
from cai.models.common.names import did_you_mean
from cai.models.common.options import named_options, split_names

__all__ = ["read_policy"]

NAMES: dict[str, Any] = {
    "stationary": StationaryPolicy,
    "tabular": TabularPolicy,
    "linear-gaussian": LinearGaussianPolicy,
    "tanh-gaussian": TanhGaussianPolicy,
    "mixture": MixturePolicy,
    "flow": FlowPolicy,
}


def read_policy(policy: Any) -> PolicyClass | None:
    """A policy class; None stands for the one that fits the model.

    Args:
        policy: an instance, a torch module, None, or a name with options in brackets if wanted, such as
            "linear-gaussian(stationary=true)".

    Raises:
        ValueError: if no class has this name, or it does not take an option.
        TypeError: if it is something else.
    """
    if policy is None:
        return None
    if not isinstance(policy, str):
        return as_policy_class(policy)
    name, _, rest = policy.strip().partition("(")
    known = NAMES | {cls.__name__: cls for cls in NAMES.values()}
    if name not in known:
        raise ValueError(f"no class of policies is called {name!r}{did_you_mean(name, NAMES)}; known are {_listed()}")
    options = named_options(split_names(rest.removesuffix(")")), f"policy {policy!r}", "NAME(option=value)")
    try:
        made: PolicyClass = known[name](**options)
    except TypeError as error:
        fields = [field.name for field in dataclasses.fields(known[name])]
        raise ValueError(f"policy {policy!r}: {error}; its options are: {', '.join(fields) or 'none'}") from None
    return made


def _listed() -> str:
    return ", ".join(NAMES)
