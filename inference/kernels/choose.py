"""The hot loop of every backup, weighted sums over outcomes, and the rule by which one of several ways is chosen.

    dense        a product with [S A, S]: where most next states are possible
    csr          a sparse product with [S A, S], rows of K entries: lists of outcomes, and dense tables with many zeros
    successors   K gathers of [S A] in turn: where there is no sparse product (no MKL on a CPU)
    collapsed    a sparse product with M = sum_a prior e^{r / alpha} P_a, [S, S]: see `SoftPass`
    native       loops in C++ that are built on request, on the CPU: see `cai.inference.kernels.native.library`

"auto" chooses among the first three by `choose_kernel`, and the fourth where `SoftPass` finds that it pays. All but
the last are plain torch, on any device. A dense table is used where it is; of lists the indices are copied as int32,
and `successors` copies weights, too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from cai.inference.kernels.native.sums import NativeSums
from cai.inference.kernels.outcome_sums import CsrSums, DenseSums, ListSums, OutcomeSums
from cai.models.processes.mdp import MDP

__all__ = ["KERNELS", "choose_kernel", "outcome_sums"]

KERNELS = ("auto", "dense", "csr", "successors", "collapsed", "native")
SPARSE_BELOW = 1 / 8  # share of entries of a dense table that are not zero, below which the sparse product is faster

# By the tables themselves, which processes that differ elsewhere may share.
_MADE: WeakIdKeyDictionary = WeakIdKeyDictionary()


def choose_kernel(mdp: MDP, kernel: str = "auto") -> str:
    """Which of dense, csr, successors and native serves a process.

    A dense table of which fewer than one entry in eight is not zero, and every list of outcomes, goes into a sparse
    product where the machine has one (MKL on a CPU, or a GPU); elsewhere outcomes are gathered. What is asked for by
    name is taken at its word: "csr" on a CPU without MKL is for torch to accept.

    Args:
        mdp: the process.
        kernel: "auto", or the one that is wanted.

    Raises:
        ValueError: if there is no such kernel, or it does not fit the process.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}; expected one of {', '.join(KERNELS)}")
    if kernel == "dense" and not mdp.is_dense:
        raise ValueError(
            "kernel 'dense' needs a process given as [S, A, S]; this one is lists of outcomes: use 'csr', or "
            "MDP(mdp.dense(), mdp.initial) if it fits the memory"
        )
    if kernel in ("dense", "csr", "successors", "native"):
        return kernel
    if mdp.is_dense:
        return "csr" if _is_sparse(mdp.probabilities) and _has_sparse_products(mdp) else "dense"
    return "csr" if _has_sparse_products(mdp) else "successors"


def _has_sparse_products(mdp: MDP) -> bool:
    return mdp.probabilities.is_cuda or torch.backends.mkl.is_available()


def _is_sparse(table: Tensor) -> bool:
    """Whether a dense table is full of zeros."""
    return int(torch.count_nonzero(table.detach())) < SPARSE_BELOW * table.numel()


def outcome_sums(mdp: MDP, kernel: str = "auto", weights: Tensor | None = None) -> OutcomeSums:
    """The sums of a process, made once for its own probabilities.

    Args:
        mdp: the process.
        kernel: see `choose_kernel`.
        weights: [S, A, K], in place of the probabilities.
    """
    if weights is not None:
        return _make(mdp, choose_kernel(mdp, kernel), weights)
    columns, made = _MADE.setdefault(mdp.probabilities, (mdp.next_states, {}))
    if columns is not mdp.next_states:
        made = {}
    if kernel not in made:
        name = choose_kernel(mdp, kernel)
        if name not in made:
            made[name] = _make(mdp, name, mdp.probabilities.detach())
        made[kernel] = made[name]
    return made[kernel]


def _make(mdp: MDP, kernel: str, weights: Tensor) -> OutcomeSums:
    num_states, num_actions, num_outcomes = weights.shape
    if kernel == "dense":
        return DenseSums(weights)
    if kernel == "native" and mdp.is_dense and not _is_sparse(weights):
        return NativeSums(weights, num_states)
    if mdp.next_states is None:
        matrix = weights.reshape(-1, num_states)
        rows, columns = matrix.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(matrix))
        if kernel == "successors":
            width = int(counts.max().clamp(min=1))
            pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            place = torch.arange(len(rows), device=rows.device) - pointers[rows]
            lists = columns.new_zeros(len(matrix), width)
            chances = weights.new_zeros(len(matrix), width)
            lists[rows, place], chances[rows, place] = columns, matrix[rows, columns]
            shape = (num_states, num_actions, width)
            return ListSums(lists.reshape(shape), chances.reshape(shape))
        pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        columns, chances = columns.to(torch.int32), matrix[rows, columns]
        if kernel == "native":
            return NativeSums(chances, num_states, columns, pointers.to(torch.int32))
        return CsrSums(pointers, columns, chances, num_states)
    if kernel == "successors":
        return ListSums(mdp.next_states, weights)
    columns = mdp.next_states.reshape(-1).to(torch.int32)
    if kernel == "native":
        return NativeSums(weights.reshape(-1), num_states, columns, num_outcomes)
    return CsrSums(num_outcomes, columns, weights.reshape(-1), num_states)
