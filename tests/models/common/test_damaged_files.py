"""A file that says something which no object of its kind could have said is refused, with the path and the field."""

import re

import damage
import pytest
import torch

import cai
from cai.models import bridge, double_integrator, gridworld, pendulum, small_roads
from cai.models.common.storage import StorageError

NAN = float("nan")
COMPUTED = re.compile("posterior|^messages$")  # kinds of which some parts are computed where they are not given
KINDS = {
    "model": lambda: bridge(horizon=3),
    "process": lambda: bridge(horizon=3).mdp,
    "exact": lambda: cai.infer(bridge(horizon=3)),
    "stationary": lambda: cai.infer(gridworld(horizon=float("inf"), discount=0.9), "variational"),
    "enumeration": lambda: cai.infer(bridge(horizon=2), "enumeration"),
    "risk": lambda: cai.infer(bridge(horizon=3), "risk", eta=-1.0),
    "smc": lambda: cai.infer(bridge(horizon=3), "smc", num_particles=20, throw=False),
    "continuous smc": lambda: cai.infer(double_integrator(horizon=2), "smc", num_particles=20, throw=False),
    "gaussian": lambda: cai.infer(double_integrator(horizon=3)),
    "gaussian policy": lambda: cai.extract_policy(cai.infer(double_integrator(horizon=3))),
    "plan": lambda: cai.infer(pendulum(horizon=3), "mppi", num_samples=10, lookahead=2),
    "outcome": lambda: cai.evaluate(
        cai.extract_policy(cai.infer(bridge(horizon=3))), bridge(horizon=3), num_rollouts=9
    ),
    "sweep": lambda: cai.sweep(bridge(horizon=2), "risk", eta=[-1.0, 0.0], num_rollouts=9),
    "estimate": lambda: fitted(),
    "batch": lambda: cai.infer(bridge(horizon=3).batch(temperature=[1.0, 2.0])),
}


def fitted():
    model = small_roads(horizon=20)
    shown = cai.inverse.Demonstrations.from_policy(cai.infer(model, "variational").policy(), model, 20, seed=0)
    return cai.inverse.fit(model, shown, penalty=cai.inverse.L2(1.0), throw=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("saved"), {}

    def path(name):
        if name not in made:
            made[name] = KINDS[name]().save(folder / name)
        return made[name]

    return path


def refused(path, words):
    with pytest.raises(StorageError) as caught:
        cai.load(path)
    message = str(caught.value)
    assert f"{str(path)!r} is damaged" in message
    for word in words:
        assert word in message
    assert len(message) < 600


def of_kind(document, kind):
    return next(entry for entry in document["objects"] if entry["kind"] == kind)["parts"]


HEADERS = [
    ("model", "trajectory-model", "criterion", None, "criterion is missing"),
    ("model", "trajectory-model", "temperature", None, "temperature is missing"),
    ("model", "mdp", "state_names", lambda names: names | {"is": [7, *names["is"][1:]]}, "state_names"),
    ("model", "mdp", "terminal", lambda _: 7, "terminal"),
    ("model", "mdp", "regions", lambda regions: dict.fromkeys(regions, 7), "regions"),
    ("process", "mdp", "dtype", lambda _: None, "dtype"),
    ("exact", "recursion-posterior", "status", None, "status is missing"),
    ("exact", "recursion-posterior", "model", lambda _: None, "model is None"),
    ("exact", "recursion-posterior", "horizon", lambda _: {"$": "float", "is": "nan"}, "NaN"),
    ("exact", "messages", "start", None, "start is missing"),
    ("risk", "tilted-dynamics", "model", lambda _: -1, "model is -1"),
    ("risk", "tilted-dynamics", "eta", lambda _: {"$": "float", "is": "nan"}, "eta holds NaN"),
    ("enumeration", "program-posterior", "world", lambda _: 0.5, "world"),
    ("enumeration", "program-info", "latents", lambda part: part | {"is": part["is"][:-1]}, ""),
    ("enumeration", "site-tables", "logs", lambda logs: dict(list(logs.items())[:-1]), "logs."),
    ("continuous smc", "particles", "values", lambda values: dict(list(values.items())[1:]), "lacks the site 's_1'"),
    ("outcome", "outcome", "visits", lambda visits: dict.fromkeys(visits, 7), "visits.bridge holds 7"),
    ("outcome", "outcome", "std", lambda _: -1.0, "std holds -1"),
    ("outcome", "outcome", "entropy", lambda _: {"$": "float", "is": "nan"}, "entropy holds NaN"),
    ("estimate", "inverse-data", "world", lambda _: 0.5, "world is 0.5"),
    ("estimate", "inverse-data", "features", lambda part: dict.fromkeys(part, 7), "features is"),
    ("estimate", "inverse-estimate", "steps", lambda _: -1, "steps holds -1"),
    ("estimate", "inverse-estimate", "covariance", lambda _: None, "covariance is None"),
    ("sweep", "sweep", "values", lambda values: {"$": "tuple", "is": values["is"][:1]}, "has 2 rows"),
]


@pytest.mark.parametrize(("name", "kind", "part", "change", "word"), HEADERS)
def test_a_header_that_no_object_has(saved, tmp_path, name, kind, part, change, word):
    def changed(document):
        parts = of_kind(document, kind)
        if change is None:
            del parts[part]
        else:
            parts[part] = change(parts[part])
        return document

    refused(damage.rewrite(saved(name), tmp_path / "changed", changed), [word])


NEW = [("NaN", lambda table: torch.full_like(table, NAN)), ("a further axis", lambda table: table[None])]
NEW += [("whole numbers", lambda table: table.round().long()), ("less", lambda table: table[:-1])]
TABLES = [
    ("exact", "recursion-posterior.messages.values"),
    ("exact", "recursion-posterior.messages.first_values"),
    ("stationary", "recursion-posterior.messages.values"),
    ("stationary", "recursion-posterior.messages.policy"),
    ("enumeration", "program-posterior.action_probs"),
    ("enumeration", "program-posterior.state_marginals"),
    ("smc", "model-posterior.action_probs"),
    ("smc", "model-posterior.world.particles.log_weights"),
    ("gaussian", "gaussian-posterior.messages.gain"),
    ("gaussian", "gaussian-posterior.messages.cost_to_go.P"),
    ("gaussian policy", "gaussian-policy-that-runs.gain"),
    ("plan", "plan-posterior.plan.states"),
    ("outcome", "outcome.occupancy"),
]


@pytest.mark.parametrize(("name", "table"), TABLES)
@pytest.mark.parametrize(("what", "change"), NEW, ids=[name for name, _ in NEW])
def test_a_table_of_another_kind(saved, tmp_path, name, table, what, change):
    leads = name.startswith("gaussian") and what == "a further axis"  # that of a batch
    if leads or (table in ("outcome.occupancy", "gaussian-posterior.messages.cost_to_go.P") and what == "less"):
        pytest.skip("another answer of the kind has such a table")
    path = damage.rewrite(saved(name), tmp_path / "changed", tables={table: change})
    refused(path, [{"NaN": "holds NaN", "whole numbers": "torch.int64"}.get(what, "shape")])


NEGATIVE = (
    ("enumeration", "program-posterior.action_probs"),
    ("smc", "model-posterior.initial"),
    ("outcome", "outcome.occupancy"),
)


@pytest.mark.parametrize(("name", "table"), NEGATIVE)
def test_probabilities_of_less_than_none(saved, tmp_path, name, table):
    path = damage.rewrite(saved(name), tmp_path / "changed", tables={table: lambda found: found - 1})
    refused(path, [table.rsplit(".", 1)[1], "holds -"])


@pytest.mark.parametrize("name", KINDS)
def test_a_part_too_few_and_one_too_many(saved, tmp_path, name):
    """Of any object of any kind, whatever the part."""
    path, names = saved(name), []
    damage.rewrite(path, tmp_path / "whole", lambda document: names.extend(document["objects"]) or document)
    for number, entry in enumerate(names):
        if entry["kind"] in ("status", "target"):
            continue

        def more(document, number=number):
            document["objects"][number]["parts"]["surplus"] = 1
            return document

        if not entry["kind"].endswith("-dynamics"):  # whose attributes are free
            refused(damage.rewrite(path, tmp_path / "changed", more), ["surplus"])
        for part in entry["parts"] if not COMPUTED.search(entry["kind"]) else ():

            def fewer(document, number=number, part=part):
                del document["objects"][number]["parts"][part]
                return document

            refused(damage.rewrite(path, tmp_path / "changed", fewer), [part])
