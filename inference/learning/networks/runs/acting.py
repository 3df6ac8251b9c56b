"""Whether what the options `policy` and `network` were given fits, before a world is stepped."""

from __future__ import annotations

from typing import Any

from torch import nn

from cai.inference.learning.networks.answers.policy import LearnedPolicy
from cai.inference.learning.networks.experience.interface import Interface
from cai.inference.learning.networks.layers.box_networks import box_network, layers_of, numbered_network

__all__ = ["check_acts", "check_policy"]


def check_policy(policy: Any) -> None:
    """Refuses what stands for no policy.

    Raises:
        ValueError: saying what does.
    """
    if isinstance(policy, LearnedPolicy):
        policy.frozen()
    elif not isinstance(policy, nn.Module) and policy not in ("gaussian", "flow"):
        if policy == "stein":
            raise ValueError("policy 'stein' is what backend 'stein-soft-q-learning' learns; ask that")
        told = repr(policy) if isinstance(policy, str) else f"a {type(policy).__name__}"
        raise ValueError(
            f"policy is {told}; expected 'gaussian', 'flow', a torch module, or the policy of an answer with "
            "policy='flow' (answer.policy())"
        )


def check_acts(policy: Any, network: nn.Module | None, interface: Interface, world: str) -> None:
    """Refuses a policy or a network that does not fit what is seen and done in a world.

    Args:
        policy: of the option.
        network: of the option.
        interface: how the world is seen.
        world: its name, for messages.

    Raises:
        ValueError: saying what does not fit.
    """
    if network is not None:
        layers_of(interface, (), network)(0, 1)
    if isinstance(policy, nn.Module):
        if interface.num_actions:
            numbered_network(policy, interface, (), None)
        else:
            box_network(policy, interface, (), None, None)
    named = "flow" if isinstance(policy, LearnedPolicy) else policy
    if named != "flow":
        return
    if interface.num_actions:
        raise ValueError(
            f"policy is a flow, whose actions lie in a box, and those of {world} are numbered; leave policy out"
        )
    if interface.action_size < 2:
        raise ValueError(
            f"policy is a flow, and actions of {world} have one coordinate, of which couplings make a normal "
            "distribution again; use policy='gaussian'"
        )
    if isinstance(policy, LearnedPolicy):
        below = policy.interface
        if (below.size, below.action_size, below.image) != (interface.size, interface.action_size, interface.image):
            raise ValueError(
                f"the policy below sees {below.size} numbers and acts by {below.action_size}; {world} shows "
                f"{interface.size} and takes {interface.action_size}: a level above is for worlds of the same shape"
            )
        if below.low.tolist() != interface.low.tolist() or below.high.tolist() != interface.high.tolist():
            raise ValueError(
                f"the policy below acts in a box from {below.low.tolist()} to {below.high.tolist()}, and {world} has "
                f"one from {interface.low.tolist()} to {interface.high.tolist()}"
            )
