"""Other libraries on the same jobs, each as its documentation has it: quantecon, jax, scipy and imitation.

What they do differently is said in their notes and shown beside their times:

- quantecon knows the hard maximum only, and always stores the greedy policy as well.
- jax compiles one `lax.scan` over time, in float64; sums over successors are gathers.
- scipy is a CSR product (numpy's for dense tables) and a logsumexp written out in numpy.
- both, as written here, compute the sum-product with one shift a step, and do not guard against underflow.
- imitation (`mce_partition_fh`) takes dense tables and rewards of the state alone, and stores Q-values and the policy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.contenders import Contender, NotOffered
from benchmarks.workloads import Workload

__all__ = ["peer_contenders"]

DENSE_LIMIT = 8 * 2**30  # bytes of a table that is built for imitation


def peer_contenders(workload: Workload) -> list[Contender]:
    """Every other library that does one of a workload's jobs.

    Args:
        workload: what is asked.
    """
    if workload.name == "F":
        loop = "one line a step, no guard; the values of the first step alone"
        return [Contender("loop", "exact", plain_loop, lambda values: values[None], note=loop)]
    if workload.gradient:
        return [Contender("jax", "gradient", jax_gradient, lambda gradient: np.asarray(gradient).T)]
    soft = [
        Contender("jax", "fixed", lambda w: jax_values(w, exact=False), _rows),
        Contender("jax", "exact", lambda w: jax_values(w, exact=True), _rows, note="one shift a step, no guard"),
        Contender("scipy", "fixed", scipy_fixed, _rows),
        Contender("scipy", "exact", scipy_exact, _rows, note="one shift a step, no guard"),
    ]
    if workload.batch > 1:
        return soft
    hard = Contender("quantecon", "fixed", quantecon_values, _first, agrees=False, note="hard max; policy stored too")
    ziebart = Contender(
        "imitation", "fixed", imitation_values, _first, agrees=False, note="dense; r(s); Q and policy stored too"
    )
    return [hard, *soft, ziebart]


def _first(result: tuple[np.ndarray, ...]) -> np.ndarray:
    return result[0]


def _rows(values: Any) -> np.ndarray:
    """[T, S], or [N, T, S] from [T, S, N]."""
    array = np.asarray(values)
    return array if array.ndim == 2 else np.moveaxis(array, -1, 0)


# ---- quantecon ------------------------------------------------------------------------------------------------------


def quantecon_values(workload: Workload) -> Callable[[], Any]:
    """`backward_induction` of a `DiscreteDP`: dense [S, A, S], or sparse by pairs of a state and an action."""
    from quantecon.markov import DiscreteDP, backward_induction

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # infinite horizons are not for discount 1
        if workload.next_states is None:
            problem = DiscreteDP(workload.reward, workload.probabilities, 1.0)
        else:
            states = np.arange(workload.num_states).repeat(workload.num_actions)
            actions = np.tile(np.arange(workload.num_actions), workload.num_states)
            table = _sparse(workload.next_states, workload.probabilities, workload.num_states)
            problem = DiscreteDP(workload.reward.ravel(), table, 1.0, states, actions)
    return lambda: backward_induction(problem, workload.horizon)


# ---- jax ------------------------------------------------------------------------------------------------------------


def _jax() -> tuple[Any, Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    return jax, jax.numpy


def _jax_scan(workload: Workload, exact: bool) -> tuple[tuple[Any, ...], Any, Callable[..., Any]]:
    """(tables, reward [A, S] or [A, S, N], a function (tables, reward [A, S]) -> values [T, S]).

    Sums over outcomes are written out, one gather of [A, S] each: XLA makes several times as much of that as of one
    gather of [S, A, K] and a sum.
    """
    jax, jnp = _jax()
    prior = -math.log(workload.num_actions)
    axes = (1, 0) if workload.batch == 1 else (2, 1, 0)
    reward = jnp.asarray(np.ascontiguousarray(workload.reward.transpose(axes)))
    probabilities = np.ascontiguousarray(workload.probabilities.transpose(2, 1, 0))
    if workload.next_states is None:
        tables = (jnp.asarray(np.ascontiguousarray(workload.probabilities.swapaxes(0, 1))),)
    else:
        next_states = np.ascontiguousarray(workload.next_states.transpose(2, 1, 0)).astype(np.int32)
        tables = (jnp.asarray(next_states), jnp.asarray(probabilities))

    def expected(tables: Any, following: Any) -> Any:
        if len(tables) == 1:
            return tables[0] @ following
        return sum(weights * following[where] for where, weights in zip(*tables, strict=True))

    def values(tables: Any, reward: Any) -> Any:
        def backup(following: Any, _: Any) -> tuple[Any, Any]:
            if exact:
                shift = following.max()
                sums = expected(tables, jnp.exp(following - shift))
                present = jnp.log((jnp.exp(reward + prior) * sums).sum(0)) + shift
            else:
                present = jax.nn.logsumexp(reward + prior + expected(tables, following), axis=0)
            return present, present

        start = jnp.zeros(workload.num_states, dtype=reward.dtype)
        return jax.lax.scan(backup, start, None, length=workload.horizon, reverse=True)[1]

    return tables, reward, values


def jax_values(workload: Workload, exact: bool) -> Callable[[], Any]:
    """A jitted scan; a batch goes through `vmap`."""
    jax, _ = _jax()
    tables, reward, values = _jax_scan(workload, exact)
    if workload.batch > 1:
        values = jax.vmap(values, in_axes=(None, -1), out_axes=-1)
    compiled = jax.jit(values)
    return lambda: compiled(tables, reward).block_until_ready()


def jax_gradient(workload: Workload) -> Callable[[], Any]:
    """The derivative [A, S] of log evidence through the scan, jitted."""
    jax, jnp = _jax()
    tables, reward, values = _jax_scan(workload, exact=True)
    initial = jnp.asarray(workload.initial)

    def log_evidence(reward: Any, tables: Any) -> Any:
        return jax.nn.logsumexp(values(tables, reward)[0], b=initial)

    compiled = jax.jit(jax.grad(log_evidence))
    return lambda: compiled(reward, tables).block_until_ready()


# ---- scipy ----------------------------------------------------------------------------------------------------------


def _sparse(next_states: np.ndarray, probabilities: np.ndarray, num_states: int) -> Any:
    """CSR from lists [M, N, K]: row i N + j; outcomes with the same next state are added up."""
    from scipy.sparse import csr_matrix

    rows, num_outcomes = next_states[..., 0].size, next_states.shape[2]
    pointers = np.arange(rows + 1, dtype=np.int32) * num_outcomes
    columns = next_states.reshape(-1).astype(np.int32)
    matrix = csr_matrix((probabilities.reshape(-1).copy(), columns, pointers), shape=(rows, num_states))
    matrix.sum_duplicates()
    return matrix


def _action_major(workload: Workload) -> tuple[Any, np.ndarray]:
    """(P with rows a S + s, reward [A, S] or [A, S, N]): numpy reduces the first axis faster than a short last one."""
    table = np.ascontiguousarray(workload.probabilities.swapaxes(0, 1))
    if workload.next_states is None:
        product: Any = table.reshape(-1, workload.num_states)
    else:
        product = _sparse(workload.next_states.swapaxes(0, 1), table, workload.num_states)
    axes = (1, 0) if workload.batch == 1 else (2, 1, 0)
    return product, np.ascontiguousarray(workload.reward.transpose(axes))


def scipy_fixed(workload: Workload) -> Callable[[], Any]:
    """q = r + P v; v = max q + log mean exp(q - max q)."""
    matrix, reward = _action_major(workload)
    prior = -math.log(workload.num_actions)

    def call() -> np.ndarray:
        values = np.zeros((workload.horizon + 1, *reward.shape[1:]))
        for t in reversed(range(workload.horizon)):
            q_values = (matrix @ values[t + 1]).reshape(reward.shape)
            q_values += reward
            largest = q_values.max(0)
            q_values -= largest
            np.exp(q_values, out=q_values)
            np.log(q_values.sum(0), out=values[t])
            values[t] += largest + prior
        return values[:-1]

    return call


def scipy_exact(workload: Workload) -> Callable[[], Any]:
    """v = c + log sum_a prior e^r P e^(v - c) with one shift c a step."""
    matrix, reward = _action_major(workload)
    weights = np.exp(reward) / workload.num_actions

    def call() -> np.ndarray:
        values = np.zeros((workload.horizon + 1, *reward.shape[1:]))
        for t in reversed(range(workload.horizon)):
            shift = values[t + 1].max(0)
            sums = (matrix @ np.exp(values[t + 1] - shift)).reshape(reward.shape)
            sums *= weights
            np.log(sums.sum(0), out=values[t])
            values[t] += shift
        return values[:-1]

    return call


def plain_loop(workload: Workload) -> Callable[[], Any]:
    """What a lecturer writes on the board. The reward of an outcome multiplies its probability as a factor e^r."""
    from scipy.special import logsumexp

    weights = workload.probabilities
    if workload.outcome_reward is not None:
        weights = weights * np.exp(workload.outcome_reward)
    table = np.zeros((workload.num_states, workload.num_actions, workload.num_states))
    states, actions = np.indices(weights.shape[:2])
    np.add.at(table, (states[..., None], actions[..., None], workload.next_states), weights)
    prior = np.full(workload.num_actions, 1 / workload.num_actions)

    def call() -> np.ndarray:
        values = np.zeros(workload.num_states)
        for _ in range(workload.horizon):
            q_values = workload.reward + np.log(table @ np.exp(values))
            values = logsumexp(q_values, 1, b=prior)
        return values

    return call


# ---- imitation ------------------------------------------------------------------------------------------------------


def imitation_values(workload: Workload) -> Callable[[], Any]:
    """`mce_partition_fh`, Ziebart's recursion, with the reward of the first action for every action of a state."""
    size = 8 * workload.num_states**2 * workload.num_actions
    if size > DENSE_LIMIT:
        raise NotOffered(f"takes dense tables only: [S, A, S] would be {size / 2**30:,.0f} GiB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old dependencies
        from imitation.algorithms.mce_irl import mce_partition_fh
        from seals.base_envs import TabularModelMDP

    if workload.next_states is None:
        table = workload.probabilities
    else:
        lists = _sparse(workload.next_states, workload.probabilities, workload.num_states)
        table = lists.toarray().reshape(workload.num_states, workload.num_actions, workload.num_states)
    environment = TabularModelMDP(
        transition_matrix=table,
        reward_matrix=np.ascontiguousarray(workload.reward[:, 0]),
        horizon=workload.horizon,
        initial_state_dist=workload.initial,
    )
    return lambda: mce_partition_fh(environment)
