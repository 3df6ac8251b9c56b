"""Which of the two implementations of the soft recursions computes a pass.

    torch     plain torch, on any device: see `cai.inference.kernels.plain`
    native    C++ loops over the whole horizon, on the CPU: see `cai.inference.kernels.native`

"auto" takes the native loops on a CPU whenever they are part of the installation. Where returns are tiny beside the
temperature, plain torch takes sums that lose none of their digits, whatever was asked for: see
`cai.inference.kernels.small`. The answer's `details["kernel"]` says which ran; the last digits of numbers may differ
between them.
"""

from __future__ import annotations

from torch import Tensor

from cai.inference.kernels.native import library
from cai.inference.kernels.native.passes import NativePass
from cai.inference.kernels.plain import SoftPass
from cai.inference.kernels.problem import SoftProblem
from cai.inference.kernels.small import SmallPass
from cai.models.processes.mdp import MDP

__all__ = ["KERNELS", "check_kernel", "choose_kernel", "make_pass"]

KERNELS = ("auto", "native", "torch")
GONE = ("dense", "csr", "successors", "collapsed", "compiled")


def check_kernel(kernel: str) -> None:
    """Raises ValueError if there is no such kernel."""
    if kernel in GONE:
        raise ValueError(
            f"kernel={kernel!r} is gone: how outcomes and actions are summed over follows from the process and the "
            "horizon; leave it out, or say kernel='torch' or kernel='native'"
        )
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}; expected one of {', '.join(KERNELS)}")


def choose_kernel(mdp: MDP, kernel: str = "auto") -> str:
    """The kernel that is taken, "native" or "torch".

    Args:
        mdp: the process.
        kernel: one of KERNELS.

    Raises:
        ValueError: if there is no such kernel, or the process is not on the CPU and "native" is asked for.
        RuntimeError: if "native" is asked for and is not part of this installation.
    """
    check_kernel(kernel)
    on_cpu = mdp.probabilities.device.type == "cpu" and type(mdp.probabilities.detach()) is Tensor
    if kernel == "native":
        if not on_cpu:
            raise ValueError(f"kernel 'native' runs on the CPU; this process is on {mdp.device}: use kernel='auto'")
        library.library()
    if kernel == "auto":
        return "native" if on_cpu and library.available() else "torch"
    return kernel


def make_pass(problem: SoftProblem, kernel: str = "auto") -> SoftPass:
    """The passes of a problem by the kernel that is asked for; see `choose_kernel`, also for what is raised."""
    native = choose_kernel(problem.model.mdp, kernel) == "native"
    if problem.is_small:
        return SmallPass(problem)
    return NativePass(problem) if native else SoftPass(problem)
