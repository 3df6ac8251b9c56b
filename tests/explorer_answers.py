"""The numbers of the panel, each asked for on its own, and how pictures are held against each other."""

import io

import matplotlib.image
import pytest

import cai

SHARED = {"temperature", "discount", "eta", "horizon", "infinite_horizon"}


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png))[..., :3]


def answers(model, eta):
    """The numbers of the table, each asked for on its own."""
    found = {}
    for name, options in (("exact", {}), ("variational", {}), ("risk", {"eta": eta})):
        posterior = cai.infer(model, name, **options)
        outcome = cai.evaluate(cai.extract_policy(posterior), model, num_rollouts=2)
        evidence = None if posterior.log_evidence is None else float(posterior.log_evidence)
        found[name] = {
            "log p(O)": evidence,
            "bound": float(posterior.elbo),
            "believed return": float(posterior.believed_return),
            "real return": outcome.expected_return,
            "luck": float(posterior.luck),
            "entropy": float(posterior.policy_entropy),
        }
    return found


def same(numbers, expected):
    for name, columns in expected.items():
        for column, value in columns.items():
            assert numbers[name][column] == (value if value is None else pytest.approx(value, abs=1e-9)), (name, column)
