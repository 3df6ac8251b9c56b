"""Typical wrong answers to the labs: which cell they stand in, which points they cost, and what the student is told.

A student may make several at once: every part is graded on its own, and grading a notebook takes a while.
"""

from dataclasses import dataclass
from textwrap import dedent

MESSAGES, OPTIMISM = "lab1_backward_messages", "lab2_optimism"
REWARD, GUIDE, RICCATI = "lab3_reward_factor", "lab4_structured_guide", "lab5_riccati"
ENTROPY, INVERSE = "lab6_missing_entropy", "lab7_inverse"


@dataclass(frozen=True)
class Mistake:
    """One wrong answer, everything else being right.

    Attributes:
        lab: the lab.
        cell: the answer cell that it stands in.
        loses: the graded cells whose points it costs, all of them and no others; the first names the mistake.
        hint: a part of what the first says.
        answer: what stands in the answer cell.
    """

    lab: str
    cell: str
    loses: tuple[str, ...]
    hint: str
    answer: str

    @property
    def code(self):
        return dedent(self.answer).strip()


MISTAKES = {
    "log-dropped": Mistake(
        MESSAGES,
        "answer_v",
        ("test_v", "test_whole"),
        "the logarithm is missing",
        """
        def backup_v(q_values, prior, alpha):
            return alpha * (prior * torch.exp(q_values / alpha)).sum(-1)
        """,
    ),
    "prior-forgotten": Mistake(
        MESSAGES,
        "answer_v",
        ("test_v", "test_whole"),
        "the action prior is missing",
        """
        def backup_v(q_values, prior, alpha):
            return alpha * torch.logsumexp(q_values / alpha, dim=-1)
        """,
    ),
    "prior-forgotten-in-the-policy": Mistake(
        MESSAGES,
        "answer_policy",
        ("test_policy", "test_whole"),
        "the action prior is missing",
        """
        def soft_policy(q_values, values, prior, alpha):
            return torch.softmax(q_values / alpha, dim=-1)
        """,
    ),
    "expectation-in-the-wrong-place": Mistake(
        MESSAGES,
        "answer_q",
        ("test_q", "test_whole"),
        "the expectation is in the wrong place",
        """
        def backup_q(reward, transitions, next_values, alpha):
            return (transitions * (reward + next_values)).sum(-1)
        """,
    ),
    "expectation-of-the-start-in-the-wrong-place": Mistake(
        MESSAGES,
        "answer_evidence",
        ("test_evidence", "test_whole"),
        "the expectation is in the wrong place",
        """
        def log_evidence(initial, first_values, alpha):
            return (initial * first_values).sum() / alpha
        """,
    ),
    "leaves-log-space": Mistake(
        MESSAGES,
        "answer_q",
        ("test_q",),
        "you left log space",
        """
        def backup_q(reward, transitions, next_values, alpha):
            return alpha * torch.log((transitions * torch.exp((reward + next_values) / alpha)).sum(-1))
        """,
    ),
    "no-new-axis": Mistake(
        MESSAGES,
        "answer_policy",
        ("test_policy", "test_whole"),
        "put a new axis where one is missing",
        """
        def soft_policy(q_values, values, prior, alpha):
            return prior * torch.exp((q_values - values) / alpha)
        """,
    ),
    "reward-left-out": Mistake(
        MESSAGES,
        "answer_fixed",
        ("test_fixed",),
        "r is left out",
        """
        def backup_fixed(reward, transitions, next_values, alpha):
            return transitions @ next_values
        """,
    ),
    "loop-not-used": Mistake(
        GUIDE,
        "answer_program",
        ("test_program",),
        "do not run under the loop that is given",
        """
        def make_program(horizon, loop):
            def program():
                s = pyro.sample("s_1", categorical(initial))
                for t in range(1, horizon + 1):
                    a = pyro.sample(f"a_{t}", categorical(prior[s]))
                    following = pyro.sample(f"s_{t + 1}", categorical(transitions[s, a]))
                    pyro.factor(f"O_{t}", reward[s, a, following] / alpha)
                    s = following

            return program
        """,
    ),
    "program-enumerated-not-the-guide": Mistake(
        GUIDE,
        "answer_bound",
        ("test_bound",),
        "it is sampled",
        """
        def enumerated_bound(program, guide):
            return -TraceEnum_ELBO(max_plate_nesting=0).loss(config_enumerate(program), guide)
        """,
    ),
    "zero-grad-forgotten": Mistake(
        GUIDE,
        "answer_fit",
        ("test_fit",),
        "call zero_grad() in each turn",
        """
        def fit(bound, shape):
            logits = torch.zeros(shape, requires_grad=True)
            optimizer = torch.optim.Adam([logits], lr=0.1)
            for _ in range(300):
                (-bound(logits)).backward()
                optimizer.step()
            return logits.detach()
        """,
    ),
    "account-in-reward-units": Mistake(
        OPTIMISM,
        "answer_account",
        ("test_account",),
        "the account is in reward units",
        """
        def evidence_by_account(posterior):
            return posterior.believed_return - posterior.temperature * (posterior.policy_divergence + posterior.luck)
        """,
    ),
    "one-climb-too-few": Mistake(
        OPTIMISM,
        "answer_chance",
        ("test_chance",),
        "one climb too few",
        """
        def chance_of_the_top(slip, rungs):
            chance = 1.0
            for _ in range(1, rungs):
                chance *= 1 - slip
            return chance
        """,
    ),
    "slips-exchanged": Mistake(
        OPTIMISM,
        "answer_even",
        ("test_even",),
        "the two are exchanged",
        """
        def break_even():
            return 1 - math.exp(-3), 3 / 25
        """,
    ),
    "price-as-a-plain-number": Mistake(
        REWARD,
        "answer_slope",
        ("test_slope",),
        "make_reward is given a plain number",
        """
        def evidence_slope(make_reward, price, alpha):
            weight = torch.tensor(price, requires_grad=True)
            model = TrajectoryModel(mdp, make_reward(price), horizon, temperature=alpha)
            (slope,) = torch.autograd.grad(cai.infer(model, "exact").log_evidence, weight)
            return slope
        """,
    ),
    "where-the-step-leads-to": Mistake(
        REWARD,
        "answer_count",
        ("test_count",),
        "the marginals of row t + 1 are taken",
        """
        def expected_climb(posterior, height):
            climb, total = (height[None, :] - height[:, None]).clamp(min=0), 0.0
            for t in range(posterior.horizon):
                moves = (posterior.action_probs[t][..., None] * posterior.dynamics(t)).sum(1)
                total = total + (posterior.state_marginals[t + 1][:, None] * moves * climb).sum()
            return total
        """,
    ),
    "limit-forgotten": Mistake(
        RICCATI,
        "answer_constant",
        ("test_constant",),
        "it takes 0 / 0 there",
        """
        def outcome_cost(P, W, theta):
            return torch.logdet(torch.eye(len(P)) + theta * W @ P) / (2 * theta)
        """,
    ),
    "inverse-entry-by-entry": Mistake(
        RICCATI,
        "answer_policy",
        ("test_policy",),
        "entry by entry",
        """
        def policy_covariance(Haa, alpha):
            return alpha / Haa
        """,
    ),
    "vector-left-behind": Mistake(
        RICCATI,
        "answer_filter",
        ("test_filter",),
        "the vector does not move with the step",
        """
        def filtered_means(y, A, W, C, V, mean, covariance):
            information, inverse, means = torch.linalg.inv(covariance), torch.linalg.inv(A), []
            vector = information @ mean
            for seen in y:
                information = information + C.T @ torch.linalg.solve(V, C)
                vector = vector + C.T @ torch.linalg.solve(V, seen)
                means.append(torch.linalg.solve(information, vector))
                information = tilt(inverse.T @ information @ inverse, W, 1.0)
            return torch.stack(means)
        """,
    ),
    "plan-asked-about-itself": Mistake(
        OPTIMISM,
        "answer_measure",
        ("test_measure",),
        "the plan was asked about itself",
        """
        def measure_plan(model, backend):
            posterior = cai.infer(model, backend)
            believed = float(posterior.believed_return)
            return {"believed": believed, "real": believed, "luck": float(posterior.luck)}
        """,
    ),
    "divergence-the-wrong-way-round": Mistake(
        OPTIMISM,
        "answer_luck",
        ("test_luck",),
        "the wrong way round",
        """
        def luck_parts(posterior):
            def divergence(q, p):
                return torch.nan_to_num(torch.special.xlogy(p, p / q)).sum(-1)

            true, by_state = posterior.mdp.dense(), 0
            for t in range(posterior.horizon):
                of_action = divergence(posterior.dynamics(t), true)
                by_state += posterior.state_marginals[t] * (posterior.action_probs[t] * of_action).sum(-1)
            return by_state, divergence(posterior.initial, posterior.mdp.initial)
        """,
    ),
    "colder-instead-of-honest": Mistake(
        OPTIMISM,
        "answer_fix",
        ("test_fix",),
        "the temperature was changed",
        """
        def honest_answer(model):
            return cai.infer(model.replace(temperature=0.1), "exact")
        """,
    ),
    "branches-on-a-tensor": Mistake(
        REWARD,
        "answer_function",
        ("test_function",),
        "branches on a tensor",
        """
        def toll(state, action, next_state, t):
            if garden[next_state] and not garden[state]:
                return -3.0 if t < 6 else -1.0
            return 0.0
        """,
    ),
    "shaping-forgets-the-end": Mistake(
        REWARD,
        "answer_shaping",
        ("test_shaping",),
        "nothing comes after it",
        """
        def shaping(potential, horizon):
            return lambda state, action, next_state, t: potential[next_state] - potential[state]
        """,
    ),
    "gradient-cut-off-and-nothing-checked": Mistake(
        REWARD,
        "answer_class",
        ("test_class", "test_check"),
        "the gradient is lost",
        """
        @dataclass(frozen=True, eq=False)
        class ClimbCost(RewardFactor):
            height: Any
            price: Any = 1.0
            reads_time = False

            def evaluate(self, mdp, step):
                return -float(self.price) * (self.height[step.next_state] - self.height[step.state]).clamp(min=0)
        """,
    ),
    "dynamics-freed": Mistake(
        GUIDE,
        "answer_guide",
        ("test_guide",),
        "are held fixed in this guide",
        """
        def make_guide(logits, loop):
            horizon = len(logits)

            def guide():
                s = pyro.sample("s_1", categorical(initial))
                for t in loop(range(1, horizon + 1)):
                    a = pyro.sample(f"a_{t}", Categorical(logits=logits[t - 1][s], validate_args=False))
                    tilted = torch.log(transitions[s, a]) + reward[s, a] / alpha
                    s = pyro.sample(f"s_{t + 1}", Categorical(logits=tilted, validate_args=False))

            return guide
        """,
    ),
    "loss-for-bound": Mistake(
        GUIDE,
        "answer_bound",
        ("test_bound",),
        "the sign is wrong",
        """
        def enumerated_bound(program, guide):
            return TraceEnum_ELBO(max_plate_nesting=0).loss(program, config_enumerate(guide))
        """,
    ),
    "luck-for-the-gap": Mistake(
        GUIDE,
        "answer_gap",
        ("test_gap",),
        "this is the luck of the exact plan",
        """
        def nats_below_the_evidence(model):
            return cai.infer(model, "exact").luck
        """,
    ),
    "eta-of-the-wrong-sign": Mistake(
        RICCATI,
        "answer_outcome",
        ("test_outcome", "test_whole"),
        "the sign of the eta term is wrong",
        """
        def outcome_step(P, W, theta):
            return P @ torch.linalg.inv(torch.eye(len(P)) - theta * W @ P)
        """,
    ),
    "theta-dropped": Mistake(
        RICCATI,
        "answer_outcome",
        ("test_outcome", "test_whole"),
        "theta is missing in I + theta W P",
        """
        def outcome_step(P, W, theta):
            return P @ torch.linalg.inv(torch.eye(len(P)) + W @ P)
        """,
    ),
    "log-determinant-missing": Mistake(
        RICCATI,
        "answer_constant",
        ("test_constant",),
        "the log-determinant is missing",
        """
        def outcome_cost(P, W, theta):
            return torch.trace(P @ W) / 2
        """,
    ),
    "alpha-forgotten-in-the-prior": Mistake(
        RICCATI,
        "answer_fold",
        ("test_fold", "test_whole"),
        "alpha is forgotten: log p(a) is in nats",
        """
        def fold_prior(R, L, alpha):
            return R + torch.linalg.inv(L)
        """,
    ),
    "prior-not-folded-in": Mistake(
        RICCATI,
        "answer_fold",
        ("test_fold", "test_whole"),
        "the prior is not folded in",
        """
        def fold_prior(R, L, alpha):
            return R
        """,
    ),
    "covariance-for-precision": Mistake(
        RICCATI,
        "answer_fold",
        ("test_fold", "test_whole"),
        "the precision of the prior is wanted",
        """
        def fold_prior(R, L, alpha):
            return R + alpha * L
        """,
    ),
    "gain-transposed": Mistake(
        RICCATI,
        "answer_action",
        ("test_action", "test_whole"),
        "the gain is transposed",
        """
        def action_step(A, B, Q, R, P_ahead):
            Haa, Has = R + B.T @ P_ahead @ B, B.T @ P_ahead @ A
            K = -torch.linalg.solve(Haa, Has)
            return K.T, Haa, Q + A.T @ P_ahead @ A + Has.T @ K
        """,
    ),
    "gain-of-the-wrong-sign": Mistake(
        RICCATI,
        "answer_action",
        ("test_action", "test_whole"),
        "the sign of the gain is wrong",
        """
        def action_step(A, B, Q, R, P_ahead):
            Haa, Has = R + B.T @ P_ahead @ B, B.T @ P_ahead @ A
            K = torch.linalg.solve(Haa, Has)
            return K, Haa, Q + A.T @ P_ahead @ A - Has.T @ K
        """,
    ),
    "action-not-eliminated": Mistake(
        RICCATI,
        "answer_action",
        ("test_action", "test_whole"),
        "the action is not eliminated",
        """
        def action_step(A, B, Q, R, P_ahead):
            Haa, Has = R + B.T @ P_ahead @ B, B.T @ P_ahead @ A
            return -torch.linalg.solve(Haa, Has), Haa, Q + A.T @ P_ahead @ A
        """,
    ),
    "alpha-forgotten-in-the-policy": Mistake(
        RICCATI,
        "answer_policy",
        ("test_policy", "test_whole"),
        "alpha is forgotten: the hotter, the noisier",
        """
        def policy_covariance(Haa, alpha):
            return torch.linalg.inv(Haa)
        """,
    ),
    "predicted-before-the-first-measurement": Mistake(
        RICCATI,
        "answer_filter",
        ("test_filter",),
        "measure first, then predict",
        """
        def filtered_means(y, A, W, C, V, mean, covariance):
            means = []
            for seen in y:
                mean, covariance = A @ mean, A @ covariance @ A.T + W
                gain = covariance @ C.T @ torch.linalg.inv(C @ covariance @ C.T + V)
                mean, covariance = mean + gain @ (seen - C @ mean), covariance - gain @ C @ covariance
                means.append(mean)
            return torch.stack(means)
        """,
    ),
    "variance-for-precision-of-the-sensor": Mistake(
        RICCATI,
        "answer_filter",
        ("test_filter",),
        "the variance of the sensor stands where its precision belongs",
        """
        def filtered_means(y, A, W, C, V, mean, covariance):
            information, inverse, means = torch.linalg.inv(covariance), torch.linalg.inv(A), []
            vector = information @ mean
            for seen in y:
                information, vector = information + C.T @ V @ C, vector + C.T @ V @ seen
                mean = torch.linalg.solve(information, vector)
                means.append(mean)
                information = tilt(inverse.T @ information @ inverse, W, 1.0)
                vector = information @ A @ mean
            return torch.stack(means)
        """,
    ),
    "asked-about-the-other-form": Mistake(
        ENTROPY,
        "answer_worst",
        ("test_worst",),
        "the entropy form of the corridor",
        """
        def worst_state(values):
            errors = (values - exact.soft_actor_critic(corridor)[0])[:live].abs()
            return int(errors.argmax()), float(errors.max())
        """,
    ),
    "measures-the-exit-too": Mistake(
        ENTROPY,
        "answer_worst",
        ("test_worst",),
        "that is the exit",
        """
        def worst_state(values):
            errors = (values - exact.soft_actor_critic(corridor.entropy_form())[0]).abs()
            return int(errors.argmax()), float(errors.max())
        """,
    ),
    "goes-on-after-the-end": Mistake(
        ENTROPY,
        "answer_targets",
        ("test_targets", "test_whole"),
        "bootstraps through the end",
        """
        def targets(rewards, next_values, terminated, truncated, gamma):
            return rewards + gamma * next_values
        """,
    ),
    "stops-at-a-cut": Mistake(
        ENTROPY,
        "answer_targets",
        ("test_targets", "test_whole"),
        "a cut is no end",
        """
        def targets(rewards, next_values, terminated, truncated, gamma):
            return rewards + gamma * ~(terminated | truncated) * next_values
        """,
    ),
    "loses-the-last-reward": Mistake(
        ENTROPY,
        "answer_targets",
        ("test_targets", "test_whole"),
        "the reward of the last step is lost",
        """
        def targets(rewards, next_values, terminated, truncated, gamma):
            return ~terminated * (rewards + gamma * next_values)
        """,
    ),
    "mean-for-an-integral": Mistake(
        ENTROPY,
        "answer_mass",
        ("test_mass",),
        "a mean of the density is no integral",
        """
        def total_mass(density, scale, n=20_000):
            width = 2 * scale / n
            return float(density(-scale + width * (torch.arange(n) + 0.5)).mean())
        """,
    ),
    "asks-at-the-walls": Mistake(
        ENTROPY,
        "answer_mass",
        ("test_mass",),
        "the walls are asked",
        """
        def total_mass(density, scale, n=20_000):
            places = torch.linspace(-scale, scale, n)
            return float(torch.trapezoid(density(places), places))
        """,
    ),
    "tanh-term-missing": Mistake(
        ENTROPY,
        "answer_density",
        ("test_density", "test_whole"),
        "the tanh term is missing",
        """
        def log_density(u, mean, std, scale):
            return Normal(mean, std).log_prob(u)
        """,
    ),
    "tanh-term-of-the-wrong-sign": Mistake(
        ENTROPY,
        "answer_density",
        ("test_density", "test_whole"),
        "the sign is wrong",
        """
        def log_density(u, mean, std, scale):
            slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u)) + math.log(scale)
            return Normal(mean, std).log_prob(u) + slope
        """,
    ),
    "scale-of-the-box-missing": Mistake(
        ENTROPY,
        "answer_density",
        ("test_density", "test_whole"),
        "the scale is missing",
        """
        def log_density(u, mean, std, scale):
            slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
            return Normal(mean, std).log_prob(u) - slope
        """,
    ),
    "small-number-in-the-logarithm": Mistake(
        ENTROPY,
        "answer_density",
        ("test_density", "test_whole"),
        "a small number left in the logarithm",
        """
        def log_density(u, mean, std, scale):
            return Normal(mean, std).log_prob(u) - torch.log(scale * (1 - torch.tanh(u) ** 2) + 1e-6)
        """,
    ),
    "infinite-at-the-walls": Mistake(
        ENTROPY,
        "answer_density",
        ("test_density",),
        "at u = 20 it is not finite",
        """
        def log_density(u, mean, std, scale):
            return Normal(mean, std).log_prob(u) - torch.log(scale * (1 - torch.tanh(u) ** 2))
        """,
    ),
    "distance-for-a-relative-one": Mistake(
        ENTROPY,
        "answer_gap",
        ("test_gap",),
        "divide by the norm of the gradient of J",
        """
        def gradient_gap(model, logits, proposed):
            return float((proposed - exact.policy_gradient(model, logits)).norm())
        """,
    ),
    "entropy-in-the-bonus-alone": Mistake(
        ENTROPY,
        "answer_surrogate",
        ("test_surrogate",),
        "still in the bonus alone",
        """
        def surrogate(log_pi, log_prior, kl, rewards, gamma, alpha):
            discounts = gamma ** torch.arange(rewards.shape[1])
            returns = (discounts * rewards).flip(-1).cumsum(-1).flip(-1)
            return (log_pi * returns - alpha * discounts * kl).sum(-1)
        """,
    ),
    "entropy-counted-twice": Mistake(
        ENTROPY,
        "answer_surrogate",
        ("test_surrogate",),
        "counted twice",
        """
        def surrogate(log_pi, log_prior, kl, rewards, gamma, alpha):
            discounts = gamma ** torch.arange(rewards.shape[1])
            soft_rewards = rewards - alpha * (log_pi - log_prior).detach()
            returns = (discounts * soft_rewards).flip(-1).cumsum(-1).flip(-1)
            return (log_pi * returns - alpha * discounts * kl).sum(-1)
        """,
    ),
    "gradient-through-the-returns": Mistake(
        ENTROPY,
        "answer_surrogate",
        ("test_surrogate",),
        "a gradient passes through the returns",
        """
        def surrogate(log_pi, log_prior, kl, rewards, gamma, alpha):
            discounts = gamma ** torch.arange(rewards.shape[1])
            soft_rewards = rewards - alpha * (log_pi - log_prior)
            returns = (discounts * soft_rewards).flip(-1).cumsum(-1).flip(-1)
            return (log_pi * returns).sum(-1)
        """,
    ),
    "prior-forgotten-in-the-returns": Mistake(
        ENTROPY,
        "answer_surrogate",
        ("test_surrogate",),
        "the prior is forgotten",
        """
        def surrogate(log_pi, log_prior, kl, rewards, gamma, alpha):
            discounts = gamma ** torch.arange(rewards.shape[1])
            soft_rewards = rewards - alpha * log_pi.detach()
            returns = (discounts * soft_rewards).flip(-1).cumsum(-1).flip(-1)
            return (log_pi * returns).sum(-1)
        """,
    ),
    "critic-without-entropy": Mistake(
        ENTROPY,
        "answer_whole",
        ("test_whole",),
        "the critic knows of no entropy",
        """
        def critic_targets(rewards, terminated, truncated, u, weights, q_next, mean, std, scale, gamma, alpha):
            return targets(rewards, (weights * q_next).sum(-1), terminated, truncated, gamma)
        """,
    ),
    "entropy-after-the-end": Mistake(
        ENTROPY,
        "answer_whole",
        ("test_whole",),
        "entropy is earned after the end",
        """
        def critic_targets(rewards, terminated, truncated, u, weights, q_next, mean, std, scale, gamma, alpha):
            entropy = -(weights * log_density(u, mean[:, None], std[:, None], scale)).sum(-1)
            following = targets(rewards, (weights * q_next).sum(-1), terminated, truncated, gamma)
            return following + gamma * alpha * entropy
        """,
    ),
    "entropy-outside-the-discount": Mistake(
        ENTROPY,
        "answer_whole",
        ("test_whole",),
        "outside of the discount",
        """
        def critic_targets(rewards, terminated, truncated, u, weights, q_next, mean, std, scale, gamma, alpha):
            entropy = -(weights * log_density(u, mean[:, None], std[:, None], scale)).sum(-1)
            following = targets(rewards, (weights * q_next).sum(-1), terminated, truncated, gamma)
            return following + alpha * ~terminated * entropy
        """,
    ),
    "discount-missing-in-what-was-seen": Mistake(
        INVERSE,
        "answer_observed",
        ("test_observed", "test_gradient"),
        "the discount is missing",
        """
        def observed_counts(states, taken, features, gamma):
            return features[states[:, :-1], taken].sum((0, 1))
        """,
    ),
    "paid-where-it-arrives": Mistake(
        INVERSE,
        "answer_observed",
        ("test_observed", "test_gradient"),
        "not where it arrives",
        """
        def observed_counts(states, taken, features, gamma):
            weights = gamma ** torch.arange(taken.shape[1], dtype=torch.float64)
            return (weights[:, None] * features[states[:, 1:], taken]).sum((0, 1))
        """,
    ),
    "masses-that-stay": Mistake(
        INVERSE,
        "answer_expected",
        ("test_expected", "test_gradient"),
        "the masses do not move",
        """
        def expected_counts(policy, transitions, starts, features, gamma):
            weights = gamma ** torch.arange(len(policy), dtype=torch.float64)
            return torch.einsum("t,s,tsa,saf->f", weights, starts, policy, features)
        """,
    ),
    "alpha-forgotten-in-the-gradient": Mistake(
        INVERSE,
        "answer_gradient",
        ("test_gradient",),
        "alpha is forgotten",
        """
        def moments_gradient(w, states, taken, features, transitions, gamma, alpha):
            _, policy = soft_answer(features @ w, transitions, taken.shape[1], gamma, alpha)
            starts = torch.bincount(states[:, 0], minlength=len(features)).double()
            expected = expected_counts(policy, transitions, starts, features, gamma)
            return observed_counts(states, taken, features, gamma) - expected
        """,
    ),
    "begins-at-the-start-distribution": Mistake(
        INVERSE,
        "answer_gradient",
        ("test_gradient",),
        "conditioned on their own first states",
        """
        def moments_gradient(w, states, taken, features, transitions, gamma, alpha):
            _, policy = soft_answer(features @ w, transitions, taken.shape[1], gamma, alpha)
            expected = len(states) * expected_counts(policy, transitions, start, features, gamma)
            return (observed_counts(states, taken, features, gamma) - expected) / alpha
        """,
    ),
    "stops-and-says-nothing": Mistake(
        INVERSE,
        "answer_ascent",
        ("test_ascent",),
        "must say so",
        """
        def ascend(gradient, w, step, tolerance=1e-6, most=5000):
            for _ in range(most):
                slope = gradient(w)
                if float(slope.abs().max()) <= tolerance:
                    break
                w = w + step * slope
            return w
        """,
    ),
    "signs-instead-of-the-radius": Mistake(
        INVERSE,
        "answer_sums",
        ("test_sums",),
        "is not the test",
        """
        def has_sums(M):
            return bool(torch.det(torch.eye(len(M)) - M) > 0)
        """,
    ),
    "takes-every-step": Mistake(
        INVERSE,
        "answer_mend",
        ("test_mend",),
        "a start without sums must be refused",
        """
        def climb(value, step, w, tolerance=1e-10, most=200):
            for _ in range(most):
                move = step(w)
                w = w + move
                if abs(move) <= tolerance:
                    break
            return w
        """,
    ),
    "halves-only-what-is-infeasible": Mistake(
        INVERSE,
        "answer_mend",
        ("test_mend",),
        "until there is a value AND it is higher",
        """
        def climb(value, step, w, tolerance=1e-10, most=200):
            if value(w) is None:
                raise ValueError("infeasible")
            for _ in range(most):
                move = step(w)
                while value(w + move) is None:
                    move = move / 2
                w = w + move
                if abs(move) <= tolerance:
                    break
            return w
        """,
    ),
}

STUDENTS = {
    "drops-the-log": ["log-dropped"],
    "forgets-the-prior": ["prior-forgotten"],
    "averages-too-early": ["expectation-in-the-wrong-place"],
    "slips-elsewhere": ["prior-forgotten-in-the-policy", "expectation-of-the-start-in-the-wrong-place"],
    "hurried": ["leaves-log-space", "no-new-axis", "reward-left-out"],
    "forgetful": ["loop-not-used", "program-enumerated-not-the-guide", "zero-grad-forgotten"],
    "optimist": [
        "plan-asked-about-itself",
        "divergence-the-wrong-way-round",
        "colder-instead-of-honest",
        "account-in-reward-units",
        "one-climb-too-few",
        "slips-exchanged",
    ],
    "beginner": [
        "branches-on-a-tensor",
        "shaping-forgets-the-end",
        "gradient-cut-off-and-nothing-checked",
        "price-as-a-plain-number",
        "where-the-step-leads-to",
    ],
    "dreamer": ["dynamics-freed", "loss-for-bound", "luck-for-the-gap"],
    "pessimist": ["eta-of-the-wrong-sign", "prior-not-folded-in", "gain-transposed", "log-determinant-missing"],
    "cold": ["alpha-forgotten-in-the-prior", "alpha-forgotten-in-the-policy", "predicted-before-the-first-measurement"],
    "careless": [
        "theta-dropped",
        "covariance-for-precision",
        "gain-of-the-wrong-sign",
        "variance-for-precision-of-the-sensor",
    ],
    "unfinished": ["action-not-eliminated", "limit-forgotten", "inverse-entry-by-entry", "vector-left-behind"],
    "mender-of-nothing": [
        "asked-about-the-other-form",
        "goes-on-after-the-end",
        "mean-for-an-integral",
        "tanh-term-missing",
        "distance-for-a-relative-one",
        "entropy-in-the-bonus-alone",
    ],
    "over-mender": [
        "measures-the-exit-too",
        "stops-at-a-cut",
        "asks-at-the-walls",
        "tanh-term-of-the-wrong-sign",
        "entropy-counted-twice",
    ],
    "half-mender": ["loses-the-last-reward", "scale-of-the-box-missing", "gradient-through-the-returns"],
    "approximate": ["small-number-in-the-logarithm", "prior-forgotten-in-the-returns"],
    "far-out": ["infinite-at-the-walls", "critic-without-entropy"],
    "immortal": ["entropy-after-the-end"],
    "impatient": ["entropy-outside-the-discount"],
    "patient": ["discount-missing-in-what-was-seen", "signs-instead-of-the-radius", "takes-every-step"],
    "stationary": ["masses-that-stay", "halves-only-what-is-infeasible"],
    "late": ["paid-where-it-arrives"],
    "warm": ["alpha-forgotten-in-the-gradient"],
    "unconditional": ["begins-at-the-start-distribution"],
    "silent": ["stops-and-says-nothing"],
}
