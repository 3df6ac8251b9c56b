"""Names and options on the command line: several at once, names with commas, options of the model, completion."""

import sys

import pytest
from test_cli import cai, table  # noqa: F401

from cai.cli import main


def test_backends_with_commas_and_repeated(table):  # noqa: F811
    found = table("lottery", "--backend", "exact,risk:eta=-2,max_iterations=50", "--backend", "max-product")
    assert [row["backend"] for row in found["rows"]] == ["exact", "risk(eta=-2, max_iterations=50)", "max-product"]


def test_rewards_of_cells_whose_names_hold_commas(table):  # noqa: F811
    plain, more = (
        table("bridge", "--backend", "exact", *extra)["rows"][0]["log_evidence"]
        for extra in ((), ("--reward", "goal:states=bridge(2,3),value=2"))
    )
    assert more > plain


def test_every_option_of_a_model(table):  # noqa: F811
    evidence = [
        table("lottery", "--option", f"win_probability={chance}")["rows"][0]["log_evidence"] for chance in (0.1, 0.9)
    ]
    assert evidence[0] < evidence[1]
    assert table("FrozenLake-v1", "--option", "is_slippery=false", "--option", "horizon=7")["horizon"] == 7
    assert table("bridge", "--horizon", "20.0")["horizon"] == table("bridge", "--horizon", "2e1")["horizon"] == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare", "lottery", "--backend", "exact,optimistc"), "did you mean 'optimistic'?"),
        (("compare", "lottery", "--option", "win_probabilty=0.3"), "did you mean 'win_probability'?"),
        (("compare", "lottery", "--option", "gamma=0.3"), "did you mean 'discount'?"),
        (("compare", "lottery", "--option", "win_probability"), "write --option NAME=VALUE"),
        (("compare", "lottery", "--option", "horizon=3", "--horizon", "4"), "horizon is given twice"),
        (
            ("compare", "lottery", "--option", "win_probability=much"),
            "win_probability is 'much'; expected a number",
        ),
        (("compare", "bridge", "--option", "slip=0.1", "--option", "slip=0.2"), "--option gives slip twice"),
        (("compare", "bridge", "--backend", "risk:eta=1,eta=2"), "gives eta twice; give it once"),
        (("compare", "bridge", "--horizon", "2.5"), "horizon is '2.5'; give a whole number of steps, or inf"),
        (("compare", "FrozenLake-v1", "--option", "is_slipery=false"), "is_slipery"),
        (("compare", "bridge", "--reward", "goal:states=1.5,value=2"), "states is 1.5; give indices, names or a mask"),
        (("compare", "bridge", "--reward", "goal:states=none,value=2"), "states is None; give indices"),
        (("compare", "bridge", "--backend", "variational:tolerance=word"), "tolerance is 'word'; expected a number"),
        (("compare", "bridge", "--backend", "variational:tolerance=inf"), "tolerance is inf"),
        (("compare", "bridge", "--backend", "exact:tolerance=inf"), "tolerance is inf"),
        (("compare", "bridge", "--backend", "risk:max_iterations=1.5"), "1.5; expected a whole number"),
        (("compare", "bridge", "--backend", "variational:max_iterations=1.5"), "a whole number or none"),
        (("compare", "bridge", "--backend", "risk:accelerate=3"), "accelerate is 3; expected true or false"),
        (("draw", "lottery", "--what", "modle"), "did you mean 'model'?"),
    ],
)
def test_what_was_meant_is_said_in_one_line(cai, words, message):  # noqa: F811
    code, out, err = cai(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_the_shell_completes_names(monkeypatch, capsys):
    def complete(*words):
        """What the shell's function is told, by the command in this process."""
        for name, value in (("COMP_WORDS", " ".join(words)), ("COMP_CWORD", str(len(words) - 1))):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("_CAI_COMPLETE", "complete_bash")
        monkeypatch.setattr(sys, "argv", ["cai"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.split()

    assert complete("cai", "compare", "bri") == ["bridge"]
    assert complete("cai", "compare", "bridge", "--backend", "exact,opt") == ["exact,optimistic"]
    assert "compare" in complete("cai", "com")
    assert complete("cai", "draw", "bridge", "--what", "m") == ["model", "messages"]
    assert complete("cai", "compare", "bridge", "--reward", "wa") == ["waypoint"]


def test_a_backend_without_its_option_is_told_where_it_goes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", "bridge", "exact"])
    assert stop.value.code == 2
    assert "backends are named after --backend" in capsys.readouterr().err


def test_every_summary_of_a_command_is_whole(capsys):
    with pytest.raises(SystemExit):
        main([])
    summaries = capsys.readouterr().out.split("Commands:")[1]
    assert "explore " in summaries
    assert "..." not in summaries
