"""Typical wrong answers to the labs: which cell they stand in, which points they cost, and what the student is told.

A student may make several at once: every part is graded on its own, and grading a notebook takes a while.
"""

from dataclasses import dataclass
from textwrap import dedent

MESSAGES, OPTIMISM = "lab1_backward_messages", "lab2_optimism"
REWARD, GUIDE = "lab3_reward_factor", "lab4_structured_guide"


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
        "still counts on",
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
}

STUDENTS = {
    "drops-the-log": ["log-dropped"],
    "forgets-the-prior": ["prior-forgotten"],
    "averages-too-early": ["expectation-in-the-wrong-place"],
    "slips-elsewhere": ["prior-forgotten-in-the-policy", "expectation-of-the-start-in-the-wrong-place"],
    "optimist": ["plan-asked-about-itself", "divergence-the-wrong-way-round", "colder-instead-of-honest"],
    "beginner": ["branches-on-a-tensor", "shaping-forgets-the-end", "gradient-cut-off-and-nothing-checked"],
    "dreamer": ["dynamics-freed", "loss-for-bound", "luck-for-the-gap"],
}
