"""The soft Riccati recursion and what follows from it with ninety digits, by plain inverses, in mpmath."""

import mpmath
import numpy as np

mpmath.mp.dps = 90
precise = np.vectorize(lambda x: x if isinstance(x, mpmath.mpf) else mpmath.mpf(float(x)), otypes=[object])


def inverse(matrix):
    return np.array((mpmath.matrix(matrix.tolist()) ** -1).tolist(), dtype=object)


def log_det(matrix):
    return mpmath.log(mpmath.det(mpmath.matrix(matrix.tolist())))


def trace(matrix):
    return sum(np.diag(matrix))


def apart(found, expected):
    """The largest difference over the largest expected number."""
    expected = np.asarray(expected, dtype=object)
    size = max(abs(x) for x in np.ravel(expected)) or 1
    return float(max(abs(x) for x in np.ravel(precise(np.asarray(found, dtype=float)) - expected)) / size)


def many_digits(A, B, c, W, C, g, final, initial, T, alpha, prior, eta):
    """Policies (K, k, Sigma), P, V(start) / alpha, return, KL, luck, means, covariances, believed A; constant parts."""
    n, m = B.shape
    A, B, c, W, C, g, Qf, qf, m1, S1 = (precise(part) for part in (A, B, c, W, C, g, *final, *initial))
    alpha, theta, own = mpmath.mpf(alpha), mpmath.mpf(eta) / mpmath.mpf(alpha), precise(np.eye(n))
    cost, linear, constant = C, g, mpmath.mpf(0)
    if prior is not None:
        K0, k0, L = (precise(part) for part in prior)
        F0, precision = np.hstack([-K0, precise(np.eye(m))]), inverse(L)
        cost, linear = C + alpha * F0.T @ precision @ F0, g - alpha * F0.T @ precision @ k0
        constant = alpha * (k0 @ precision @ k0 + log_det(2 * mpmath.pi * L)) / 2

    def outcome(P, p, rho, noise):
        if theta == 0:
            return P, p, rho + trace(P @ noise) / 2
        shrunk = inverse(own + theta * P @ noise)
        rest = log_det(own + theta * noise @ P) / (2 * theta) - theta / 2 * (shrunk @ p) @ noise @ p
        return shrunk @ P, shrunk @ p, rho + rest

    F, messages, policies = np.hstack([A, B]), [(Qf, qf, mpmath.mpf(0))], []
    for _ in range(T):
        P, p, rho = outcome(*messages[0], W)
        H, h = cost + F.T @ P @ F, linear + F.T @ (P @ c + p)
        bent = inverse(H[n:, n:])
        K, k = -bent @ H[n:, :n], -bent @ h[n:]
        rest = (c @ P @ c + h[n:] @ k - alpha * (m * mpmath.log(2 * mpmath.pi * alpha) - log_det(H[n:, n:]))) / 2
        messages.insert(0, (H[:n, :n] + H[:n, n:] @ K, h[:n] + H[:n, n:] @ k, rho + constant + rest + p @ c))
        policies.insert(0, (K, k, alpha * bent))
    P, p, rho = outcome(*messages[0], S1)
    found = {"start": -((m1 @ P @ m1) / 2 + p @ m1 + rho) / alpha, "P": [part[0] for part in messages]}

    def followed(mean, spread, noise, P, p):
        shrunk, width = inverse(own + theta * noise @ P), len(mean)
        slope, weight = P @ mean + p, shrunk @ noise @ shrunk.T
        excess = log_det(own + theta * noise @ P) + trace(shrunk) - width
        luck = (excess + theta**2 * (slope @ weight @ slope + trace(weight @ P @ spread @ P))) / 2
        return shrunk @ (mean - theta * noise @ p), shrunk @ spread @ shrunk.T + shrunk @ noise, luck, shrunk

    mean, spread, luck, _ = followed(m1, precise(np.zeros((n, n))), S1, *messages[0][:2])
    earned, paid, means, spreads, moves = mpmath.mpf(0), mpmath.mpf(0), [mean], [spread], []
    for (K, k, width), (P, p, _) in zip(policies, messages[1:], strict=True):
        z, over = np.concatenate([mean, K @ mean + k]), np.vstack([own, K])
        joint = over @ spread @ over.T
        joint[n:, n:] += width
        earned -= (z @ C @ z + trace(C @ joint)) / 2 + g @ z
        if prior is None:
            paid -= (m * (1 + mpmath.log(2 * mpmath.pi)) + log_det(width)) / 2
        else:
            lean, miss = K - K0, (K - K0) @ mean + k - k0
            moved = miss @ precision @ miss + trace(precision @ (width + lean @ spread @ lean.T))
            paid += (moved - m - log_det(width) + log_det(L)) / 2
        mean, spread, more, shrunk = followed(F @ z + c, F @ joint @ F.T, W, P, p)
        luck += more
        means.append(mean)
        spreads.append(spread)
        moves.append(shrunk @ A)
    earned -= (mean @ Qf @ mean + trace(Qf @ spread)) / 2 + qf @ mean
    found |= {"policies": policies, "return": earned, "kl": paid, "luck": luck if eta else mpmath.mpf(0)}
    return found | {"means": means, "covariances": spreads, "moves": moves}
