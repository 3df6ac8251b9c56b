"""The optimistic posterior: the structured guide with its dynamics and start freed as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cai.inference.backends.structured import StructuredBackend
from cai.inference.core.status import Target

__all__ = ["Optimistic"]


@dataclass(frozen=True)
class Optimistic(StructuredBackend):
    """The posterior as a plan: a policy, and the dynamics and start that it believes in.

    The guide is the program with every latent free (Levine 2018, section 2.4, equations 9 and 10: inference may bend
    the dynamics, and pays for it by KL). What it pays is `Posterior.luck`; where its bound reaches the log evidence,
    its policy is that of `SumProduct`.

    For a program with further latents the bound closes on the evidence if s_t screens off the past and every further
    latent of a step is drawn after its action. Else it stays below: the policy sees s_t alone, and a freed site only
    what was drawn since the last state. Every answer to a program is held against log p(O): where the bound stays
    below, `target` is "other", `details["gap"]` holds the difference in nats, and `details["unseen"]` says for each
    site what the posterior conditions it on and q does not.
    """

    name: ClassVar[str] = "optimistic"
    target: ClassVar[Target] = Target.EXACT
    free_dynamics: ClassVar[bool] = True
