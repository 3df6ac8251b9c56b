"""Stationary values by other means: finite horizons by plain loops, and linear systems in 60 digits (mpmath).

Nothing here imports the library. A problem is lists: for each state None (an end), or for each offered action a pair
(prior, [(probability, next state, reward in nats)]).
"""

import itertools
import math

import mpmath
import numpy as np

mpmath.mp.dps = 60
INF = math.inf


def normalised(problem):
    """Rows whose largest entry is what the others leave of 1, in 60 digits, as a process with rare exits means it."""
    found = []
    for row in problem:
        if row is None:
            found.append(None)
            continue
        actions = []
        for prior, outcomes in row:
            chances = [mpmath.mpf(p) for p, _, _ in outcomes]
            largest = max(range(len(chances)), key=chances.__getitem__)
            chances[largest] = 1 - sum(c for k, c in enumerate(chances) if k != largest)
            actions.append([mpmath.mpf(prior), [(c, s, r) for c, (_, s, r) in zip(chances, outcomes, strict=True)]])
        largest = max(range(len(actions)), key=lambda a: actions[a][0])
        actions[largest][0] = 1 - sum(prior for a, (prior, _) in enumerate(actions) if a != largest)
        found.append(actions)
    return found


def finite(problem, discount, eta, hard, steps, history=2):
    """V_T in floats by the definition for T = `steps`, and the values of the last few horizons."""
    values = np.zeros(len(problem))
    last = []
    for _ in range(steps):
        values = np.array([backup(row, values, discount, eta, hard) for row in problem], dtype=float)
        last = [*last, values][-history:]
    return last


def certain(scores, eta):
    """(1 / eta) log sum p e^{eta x} of pairs (p, x)."""
    if eta == 0:
        return -INF if any(x == -INF for _, x in scores) else math.fsum(p * x for p, x in scores)
    if eta == INF:
        return max(x for _, x in scores)
    if eta == -INF:
        return min(x for _, x in scores)
    if eta < 0 and any(x == -INF for _, x in scores):
        return -INF
    largest = max(eta * x for _, x in scores)
    if largest == -INF:
        return -INF
    return (largest + math.log(math.fsum(p * math.exp(eta * x - largest) for p, x in scores))) / eta


def backup(row, values, discount, eta, hard):
    """One backup of one state."""
    if row is None:
        return 0.0
    q_values = []
    for prior, outcomes in row:
        scores = [(p * discount, r + values[s]) for p, s, r in outcomes]
        if discount < 1:
            scores += [(p * (1 - discount), r) for p, _, r in outcomes]
        q_values.append((prior, certain(scores, eta)))
    if hard:
        return max(q for _, q in q_values)
    return certain(q_values, 1.0)


def exact_values(problem, discount, states):
    """Log z [S] in 60 digits of some states that lead to each other alone, z = M z + b; None where rho(M) >= 1."""
    largest = max((abs(r) for row in problem if row for _, k in row for _, _, r in k if r != -INF), default=0)
    with mpmath.workdps(60 + int(3 * largest)):
        return _exact_values(problem, discount, states)


def _exact_values(problem, discount, states):
    problem, gamma = normalised(problem), mpmath.mpf(discount)
    number = len(problem)
    ends, grew = {s for s in range(number) if problem[s] is None}, True
    free = _free(problem)
    ends |= free
    reaches = set(ends) if discount == 1 else set(range(number))
    while grew and discount == 1:
        grew = False
        for s in range(number):
            if s not in reaches and any(r != -INF and t in reaches for _, k in problem[s] for _, t, r in k):
                reaches.add(s)
                grew = True
    unknown = sorted(s for s in reaches if s not in ends and s in states)
    place = {s: k for k, s in enumerate(unknown)}
    size = len(unknown)
    matrix, side = mpmath.matrix(size, size), mpmath.matrix(size, 1)
    for s in unknown:
        for prior, outcomes in problem[s]:
            for p, t, r in outcomes:
                if r == -INF:
                    continue
                weight = mpmath.mpf(prior) * p * mpmath.exp(mpmath.mpf(r))
                side[place[s]] += weight * (1 - gamma)
                if t in place:
                    matrix[place[s], place[t]] += gamma * weight
                elif t in ends:
                    side[place[s]] += gamma * weight
    values = [mpmath.mpf(0) if s in ends else -mpmath.inf for s in range(number)]
    if size:
        try:
            z = mpmath.lu_solve(mpmath.eye(size) - matrix, side)
            ones = mpmath.lu_solve(mpmath.eye(size) - matrix, mpmath.ones(size, 1))
        except ZeroDivisionError:
            return None
        if any(x <= 0 for x in ones):
            return None
        for s in unknown:
            x = z[place[s]]
            values[s] = mpmath.log(x) if x > 0 else -mpmath.inf
    return values


def _free(problem):
    """States from which nothing but 0 can ever be paid."""
    pays = {s for s, row in enumerate(problem) if row and any(r != 0 for _, k in row for _, _, r in k)}
    grew = True
    while grew:
        grew = False
        for s, row in enumerate(problem):
            if s not in pays and row and any(t in pays for _, k in row for _, t, _ in k):
                pays.add(s)
                grew = True
    return {s for s, row in enumerate(problem) if row is not None and s not in pays}


def policy_value(problem, discount, policy):
    """V [S] in 60 digits of a policy {state: action} that surely ends; None if it does not, or may meet -inf."""
    problem, gamma = normalised(problem), mpmath.mpf(discount)
    unknown = sorted(policy)
    place = {s: k for k, s in enumerate(unknown)}
    size = len(unknown)
    matrix, side = mpmath.eye(size), mpmath.matrix(size, 1)
    for s in unknown:
        for p, t, r in problem[s][policy[s]][1]:
            if r == -INF:
                return None
            side[place[s]] += p * mpmath.mpf(r)
            if t in place:
                matrix[place[s], place[t]] -= gamma * p
    if not _ends(problem, policy, discount):
        return None
    found = mpmath.lu_solve(matrix, side)
    return [found[place[s]] if s in place else mpmath.mpf(0) for s in range(len(problem))]


def _ends(problem, policy, discount):
    if discount < 1:
        return True
    out = {s for s in range(len(problem)) if s not in policy}
    grew = True
    while grew:
        grew = False
        for s in policy:
            if s not in out and any(t in out for _, t, _ in problem[s][policy[s]][1]):
                out.add(s)
                grew = True
    return len(out) == len(problem)


def best_policy_value(problem, discount):
    """The largest value of a deterministic policy that surely ends, each state's own; None if there is none."""
    choices = [range(len(row)) if row is not None else [None] for row in problem]
    best = None
    for chosen in itertools.product(*choices):
        policy = {s: a for s, a in enumerate(chosen) if a is not None}
        values = policy_value(problem, discount, policy)
        if values is not None:
            best = values if best is None else [max(a, b) for a, b in zip(best, values, strict=True)]
    return best


def soft_values(problem, discount, eta, guess, states):
    """The fixed point of the soft backup at a finite eta in 60 digits, by Newton's method from a guess near it.

    It is looked for at some states that lead to each other alone. None where they need not end: there are several.
    """
    free = _free(problem)
    problem, gamma = normalised(problem), mpmath.mpf(discount)
    unknown = [s for s in states if problem[s] is not None and math.isfinite(guess[s]) and s not in free]
    place = {s: k for k, s in enumerate(unknown)}
    values = [mpmath.mpf(float(g)) for g in guess]

    def outcomes(row):
        """(q, [(tilted chance, next state)]), or None for what optimality does not allow."""
        found = [(p * gamma, t, r + values[t]) for p, t, r in row]
        if discount < 1:
            found += [(p * (1 - gamma), None, mpmath.mpf(r)) for p, _, r in row]
        possible = [part for part in found if mpmath.isfinite(part[2])]
        if not possible or (eta <= 0 and len(possible) < len(found)):
            return None
        if eta == 0:
            return sum(p * x for p, _, x in possible), [(p, t) for p, t, _ in possible]
        top = max(eta * x for _, _, x in possible)
        weights = [p * mpmath.exp(eta * x - top) for p, _, x in possible]
        total = sum(weights)
        return (top + mpmath.log(total)) / eta, [(w / total, t) for w, (_, t, _) in zip(weights, possible, strict=True)]

    for _ in range(60):
        matrix, side = mpmath.eye(len(unknown)), mpmath.matrix(len(unknown), 1)
        for s in unknown:
            rows = [(prior, outcomes(k)) for prior, k in problem[s]]
            rows = [(prior, row) for prior, row in rows if row is not None]
            top = max(q for _, (q, _) in rows)
            weights = [mpmath.mpf(prior) * mpmath.exp(q - top) for prior, (q, _) in rows]
            side[place[s]] = top + mpmath.log(sum(weights)) - values[s]
            for weight, (_, (_, parts)) in zip(weights, rows, strict=True):
                for p, t in parts:
                    if t in place:
                        matrix[place[s], place[t]] -= weight / sum(weights) * p
        if not unknown:
            break
        try:
            step = mpmath.lu_solve(matrix, side)
        except ZeroDivisionError:
            return None
        for s in unknown:
            values[s] += step[place[s]]
        if max(abs(x) for x in step) < mpmath.mpf(10) ** -40 * (1 + max(abs(values[s]) for s in unknown)):
            break
    return values
