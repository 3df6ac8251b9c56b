"""Typical wrong answers to the labs: which cell they stand in, which points they cost, and what the student is told."""

from dataclasses import dataclass

BACKWARD = "lab1_backward_messages"


@dataclass(frozen=True)
class Mistake:
    """One wrong answer, everything else being right.

    Attributes:
        lab: the lab.
        cell: the answer cell that it stands in.
        answer: what stands there.
        loses: the graded cells whose points it costs, all of them and no others.
        told_in: the graded cell whose message names the mistake.
        hint: a part of that message.
    """

    lab: str
    cell: str
    answer: str
    loses: frozenset[str]
    told_in: str
    hint: str


MISTAKES = {
    "log-dropped": Mistake(
        BACKWARD,
        "answer_v",
        "def backup_v(q_values, prior, alpha):\n    return alpha * (prior * torch.exp(q_values / alpha)).sum(-1)",
        frozenset({"test_v", "test_whole"}),
        "test_v",
        "the logarithm is missing",
    ),
    "prior-forgotten": Mistake(
        BACKWARD,
        "answer_v",
        "def backup_v(q_values, prior, alpha):\n    return alpha * torch.logsumexp(q_values / alpha, dim=-1)",
        frozenset({"test_v", "test_whole"}),
        "test_v",
        "the action prior is missing",
    ),
    "prior-forgotten-in-the-policy": Mistake(
        BACKWARD,
        "answer_policy",
        "def soft_policy(q_values, values, prior, alpha):\n    return torch.softmax(q_values / alpha, dim=-1)",
        frozenset({"test_policy", "test_whole"}),
        "test_policy",
        "the action prior is missing",
    ),
    "expectation-in-the-wrong-place": Mistake(
        BACKWARD,
        "answer_q",
        "def backup_q(reward, transitions, next_values, alpha):\n"
        "    return (transitions * (reward + next_values)).sum(-1)",
        frozenset({"test_q", "test_whole"}),
        "test_q",
        "the expectation is in the wrong place",
    ),
    "expectation-of-the-start-in-the-wrong-place": Mistake(
        BACKWARD,
        "answer_evidence",
        "def log_evidence(initial, first_values, alpha):\n    return (initial * first_values).sum() / alpha",
        frozenset({"test_evidence", "test_whole"}),
        "test_evidence",
        "the expectation is in the wrong place",
    ),
}
