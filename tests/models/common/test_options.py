"""Names with options behind them: commas in names, lists, quotes, and several names in one word."""

import pytest

from cai.models import bridge, build_model, build_reward
from cai.models.common.names import did_you_mean
from cai.models.common.options import split_names, split_options

WRITTEN = {
    "risk:eta=-2": ("risk", {"eta": -2}),
    "goal:states=bridge(2,3),value=2": ("goal", {"states": "bridge(2,3)", "value": 2}),
    "goal:states='bridge(2,3)',value=2": ("goal", {"states": "bridge(2,3)", "value": 2}),
    'goal:states="(0,1)"': ("goal", {"states": "(0,1)"}),
    "goal:states='3'": ("goal", {"states": "3"}),
    "goal:states=[bridge(2,3),goal(2,6)], value = 1e3": (
        "goal",
        {"states": ["bridge(2,3)", "goal(2,6)"], "value": 1e3},
    ),
    "goal:states=[0, 4]": ("goal", {"states": [0, 4]}),
    "goal:states=rock'n'roll,value=1": ("goal", {"states": "rock'n'roll", "value": 1}),
    "x:a=true,b=none,c=inf,d=word": ("x", {"a": True, "b": None, "c": float("inf"), "d": "word"}),
    "exact": ("exact", {}),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_written(text):
    assert split_options(text, "name") == WRITTEN[text]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("exact,optimistic", ["exact", "optimistic"]),
        ("exact, risk:eta=-2,tolerance=1e-3, smc:num_particles=9", None),
        ("goal:states=bridge(2,3),value=2,step-cost:cost=1", ["goal:states=bridge(2,3),value=2", "step-cost:cost=1"]),
        ("exact", ["exact"]),
        ("exact,", ["exact"]),
    ],
)
def test_several_names_in_one_word(text, names):
    assert split_names(text) == (names or ["exact", "risk:eta=-2,tolerance=1e-3", "smc:num_particles=9"])


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("goal:states=bridge(2,3", r"'goal:states=bridge\(2,3' has no closing \)"),
        ("goal:states='bridge", r"has no closing '"),
        ("goal:states=[1,2", r"has no closing \]"),
        ("goal:exit", r"'exit' in reward 'goal:exit' is no option; write NAME:option=value"),
    ],
)
def test_refused(text, pattern):
    with pytest.raises(ValueError, match=pattern):
        split_options(text, "reward")


def test_a_grid_cell_is_rewarded_by_its_name():
    model = bridge(horizon=5)
    for text in ("goal:states=bridge(2,3),value=2", "goal:states=['bridge(2,3)', '(0,1)'],value=2"):
        table = model.replace(reward=build_reward(text)).reward_table(0)
        assert float(table.max()) == 2.0


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: build_model("brigde"), "'bridge'"),
        (lambda: build_model("River Swin"), "'river-swim'"),
        (lambda: build_model("bridge", gamma=0.9), "'discount'"),
        (lambda: build_model("bridge", goal_rewad=1), "'goal_reward'"),
        (lambda: build_reward("gaol"), "'goal'"),
        (lambda: build_reward("goal:state=0"), "'states'"),
        (lambda: bridge().mdp.state_index("gaol(2,6)"), "'goal(2,6)'"),
        (lambda: bridge().mdp.action_index("Left "), "'left'"),
        (lambda: bridge().mdp.states("brigde"), "'bridge'"),
    ],
)
def test_the_name_that_was_meant_is_said(call, meant):
    with pytest.raises(ValueError, match=f"did you mean {meant.replace('(', '.').replace(')', '.')}"):
        call()


def test_nothing_is_suggested_where_nothing_is_near():
    assert did_you_mean("xyz", ["exact", "risk"]) == ""
    assert did_you_mean("x", []) == ""
