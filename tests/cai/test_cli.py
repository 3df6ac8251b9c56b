"""The command line: every command, JSON that is JSON, files that are saved, and bad arguments in one line."""

import json
import subprocess
import sys

import pytest

from cai.cli import main
from cai.inference import available_backends
from cai.models import available_models

PNG = b"\x89PNG\r\n\x1a\n"
DEFAULTS = ["exact", "variational", "optimistic"]


def refuse(constant):
    raise AssertionError(f"JSON knows no {constant}")


@pytest.fixture
def cai(capsys):
    """Runs the command line: exit code, standard output, standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def table(cai):
    """Runs `cai compare ... --json`, which must print one JSON object and nothing else."""

    def call(*arguments):
        code, out, err = cai("compare", *arguments, "--json")
        assert (code, err) == (0, "")
        assert out.endswith("}\n")
        assert out.count("\n") == 1
        return json.loads(out, parse_constant=refuse)

    return call


# ---- compare -----------------------------------------------------------------------------------------------------


def test_compare_prints_two_tables(cai):
    code, out, err = cai("compare", "lottery")
    assert (code, err) == (0, "")
    assert out.startswith("lottery: S = 4, A = 2, T = 1, temperature 1, discount 1\n")
    assert "What each backend believes" in out
    assert "What its policy does in the true world" in out
    assert all(out.count(backend) >= 2 for backend in DEFAULTS)
    assert "ends in lost" in out
    assert "-0.8348" in out  # log((e^-1 + (1 + e^-10) / 2) / 2)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.campaign)])
def test_compare_in_other_processes_and_in_a_folder(table, cai, tmp_path, workers):
    alone = without_seconds(table("bridge"))
    assert without_seconds(table("bridge", "--workers", workers, "--folder", tmp_path / "study")) == alone
    first, again = (table("bridge", "--folder", tmp_path / "study") for _ in range(2))
    assert first == again  # seconds, too: nothing was done
    code, _, err = cai("compare", "bridge", "--seed", 1, "--folder", tmp_path / "study")
    assert code == 2
    assert "asks something else, and differs in the seeds: 0 before, 1 now" in err


def test_compare_says_why_a_row_has_no_answer(cai):
    code, out, _ = cai("compare", "river-swim", "--horizon", "inf", "--backend", "variational")
    assert code == 1
    assert "diverged" in out
    assert "lower the discount" in out


def test_json_is_one_object_and_nothing_else(table):
    found = table("lottery")
    assert list(found) == ["model", "horizon", "temperature", "discount", "rows"]
    assert [found[key] for key in ("model", "horizon", "temperature", "discount")] == ["lottery", 1, 1.0, 1.0]
    assert [row["backend"] for row in found["rows"]] == DEFAULTS


def test_json_of_failed_rows(table):
    found = table("bridge", "--horizon", "inf", "--backend", "enumeration", "--backend", "exact")
    assert [row["status"] for row in found["rows"]] == ["unsupported", "success"]
    assert found["rows"][0]["elbo"] is None
    assert "finite horizon" in found["rows"][0]["detail"]
    assert found["rows"][1]["detail"] == ""


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_a_run_without_any_answer_is_an_error(cai, option):
    code, out, err = cai("compare", "bridge", "--horizon", "inf", "--backend", "enumeration", *option)
    assert code == 1
    assert "needs a finite horizon" in out
    assert err == "error: no backend has answered; the rows say why\n"
    assert cai("compare", "bridge", "--horizon", "inf", "--backend", "enumeration", "--backend", "exact")[0] == 0


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_what_cannot_be_saved_is_printed_all_the_same(cai, tmp_path, option):
    (tmp_path / "comparison.json").symlink_to("elsewhere")
    code, out, err = cai("compare", "lottery", "--out", tmp_path, *option)
    assert code == 1
    assert all(backend in out for backend in DEFAULTS)
    assert err.startswith(f"error: '{tmp_path}/comparison.json' is a symbolic link to 'elsewhere'")
    assert err.count("\n") == 1


def test_the_file_that_failed_is_named_and_the_others_stay(cai, tmp_path):
    (tmp_path / "comparison.png").mkdir()
    code, out, err = cai("compare", "lottery", "--out", tmp_path)
    assert code == 1
    assert "What its policy does in the true world" in out
    assert f"saved {tmp_path}/comparison.json" in out
    assert "comparison.png' is a folder" in err


def test_json_with_saved_pictures_prints_nothing_else(table, tmp_path):
    assert table("lottery", "--out", tmp_path)["model"] == "lottery"
    assert (tmp_path / "comparison.png").exists()


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_gymnasium_models_have_the_three_default_rows(table, name):
    found = table(name, "--horizon", "100")
    assert (found["model"], found["horizon"]) == (name, 100)
    assert [(row["backend"], row["status"]) for row in found["rows"]] == [(name, "success") for name in DEFAULTS]
    assert all(row["real_return"] is not None for row in found["rows"])


def test_repeated_backends(table):
    names = ["optimistic", "enumeration", "exact"]
    found = table("lottery", *(part for name in names for part in ("--backend", name)))
    assert [row["backend"] for row in found["rows"]] == names


def test_infinite_horizon(table):
    found = table("bridge", "--horizon", "inf", "--discount", "0.9")
    assert found["horizon"] is None
    assert [row["status"] for row in found["rows"]] == ["success"] * 3


def test_infinite_horizon_in_words(cai):
    code, out, _ = cai("compare", "bridge", "--horizon", "inf")
    assert code == 0
    assert "T = inf" in out


def test_numbers_reach_the_model(table):
    found = table("bridge", "--horizon", "7", "--temperature", "2.5", "--discount", "0.9", "--slip", "0.3")
    assert [found[key] for key in ("horizon", "temperature", "discount")] == [7, 2.5, 0.9]
    slippery, firm = (table("bridge", "--slip", slip)["rows"][0]["luck"] for slip in ("0.3", "0"))
    assert slippery > 1
    assert firm == pytest.approx(0.0, abs=1e-12)


def without_seconds(found):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found["rows"]]


def test_seeds_reproduce(table, cai):
    assert without_seconds(table("bridge", "--seed", "3")) == without_seconds(table("bridge", "--seed", "3"))
    _, first, _ = cai("compare", "bridge", "--seed", "3")
    _, second, _ = cai("compare", "bridge", "--seed", "4")
    assert first.split("true world")[1] != second.split("true world")[1]


def test_out_saves_the_pictures_and_the_numbers(cai, tmp_path):
    folder = tmp_path / "new" / "folder"
    code, out, err = cai("compare", "bridge", "--out", folder)
    assert (code, err) == (0, "")
    expected = {"comparison", "factor-graph", "luck-exact", "luck-optimistic", "luck-variational", "messages", "paths",
                "values-exact", "values-optimistic", "values-variational"}  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {f"{name}.png" for name in expected} | {"comparison.json"}
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(PNG)
    for path in folder.iterdir():
        assert f"saved {path}\n" in out
    saved = json.loads((folder / "comparison.json").read_text(), parse_constant=refuse)
    assert [row["backend"] for row in saved["rows"]] == DEFAULTS


def test_out_of_an_infinite_horizon(cai, tmp_path):
    code, _, err = cai("compare", "bridge", "--horizon", "inf", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert {"comparison.png", "values-exact.png", "comparison.json"} <= {path.name for path in tmp_path.iterdir()}


def test_out_saves_the_scene_and_films_of_a_continuous_model(cai, tmp_path):
    words = ("--horizon", "3", "--backend", "variational", "--backend", "smc", "--out", str(tmp_path))
    code, out, err = cai("compare", "double-integrator", *words)
    assert (code, err) == (0, "")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"comparison.json", "comparison.png", "factor-graph.png", "model.png", "variational.gif", "smc.gif"} <= names
    assert out.count("saved ") == len(names)


# ---- lists -------------------------------------------------------------------------------------------------------


def test_models(cai):
    code, out, err = cai("models")
    assert (code, err) == (0, "")
    for name, entry in available_models().items():
        (line,) = [line for line in out.splitlines() if f" {name} " in line]
        assert entry.summary in line


def test_backends(cai):
    code, out, err = cai("backends")
    assert (code, err) == (0, "")
    for name, backend in available_backends().items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"│ {name} ")]
        assert str(backend.target) in line


def test_help(cai):
    code, out, err = cai("--help")
    assert (code, err) == (0, "")
    assert all(command in out for command in ("compare", "models", "backends", "draw"))


@pytest.mark.parametrize("command", ["compare", "models", "backends", "draw"])
def test_help_of_a_command(cai, command):
    code, out, err = cai(command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: cai {command}" in out


# ---- draw --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["model", "factor-graph", "values", "luck", "messages"])
@pytest.mark.parametrize("model", ["lottery", "bridge"])
def test_draw(cai, tmp_path, model, what):
    path = tmp_path / "picture.png"
    assert cai("draw", model, "--what", what, "--out", path) == (0, f"saved {path}\n", "")
    assert path.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("model", "what", "backend"),
    [
        ("double-integrator", "values", None),
        ("double-integrator", "luck", None),
        ("double-integrator", "bands", "variational"),
        ("lqg", "gains", None),
        ("dubins", "plan", None),
    ],
)
def test_draw_an_answer_about_a_continuous_model(cai, tmp_path, model, what, backend):
    path = tmp_path / "picture.png"
    chosen = ("--backend", backend) if backend else ()
    assert cai("draw", model, "--what", what, *chosen, "--out", path) == (0, f"saved {path}\n", "")
    assert path.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("double-integrator", "--what", "messages"), "draw 'values'"),
        (("pendulum", "--what", "values"), "use 'ilqr', 'mppi'"),
        (("pendulum", "--what", "values", "--backend", "mppi", "--horizon", "3"), "draw 'plan'"),
        (("pendulum", "--what", "gains"), "draw 'plan'"),
        (("dubins", "--what", "bands"), "draw 'plan'"),
        (("lottery", "--what", "plan"), "draw values, luck or messages"),
    ],
)
def test_draw_says_which_picture_has_a_meaning(cai, tmp_path, arguments, advice):
    path = tmp_path / "picture.png"
    code, out, err = cai("draw", *arguments, "--out", path)
    assert code in (1, 2)
    assert (out, err.count("\n")) == ("", 1)
    assert advice in err
    assert not path.exists()


def test_explore_refuses_what_its_answers_are_not_about(cai):
    code, out, err = cai("explore", "pendulum", "--no-browser")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "cai.compare(model, ['ilqr', 'mppi'])" in err


def test_draw_names_the_file_itself(cai, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cai("draw", "lottery") == (0, "saved lottery-model.png\n", "")
    assert cai("draw", "lottery", "--what", "factor-graph") == (0, "saved lottery-factor-graph.png\n", "")
    assert cai("draw", "bridge", "--what", "values", "--backend", "variational")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "lottery-model.png",
        "lottery-factor-graph.png",
        "bridge-values.png",
    }


def test_draw_an_answer_that_failed_is_an_error(cai, tmp_path):
    path = tmp_path / "picture.png"
    code, out, err = cai("draw", "river-swim", "--what", "values", "--backend", "variational", "--horizon", "inf",
                         "--out", path)  # fmt: skip
    assert (code, out) == (1, "")
    assert "diverged" in err
    assert err.count("\n") == 1
    assert not path.exists()


# ---- bad arguments -----------------------------------------------------------------------------------------------

BAD = {
    "no such command": ("frobnicate",),
    "no such option": ("compare", "lottery", "--bogus"),
    "no model": ("compare",),
    "too many": ("compare", "lottery", "bridge"),
    "unknown model": ("compare", "nope"),
    "unknown Gymnasium id": ("compare", "Nope-v1"),
    "unknown Gymnasium module": ("compare", "nomodule:Nope-v1"),
    "no transition table": ("compare", "CartPole-v1"),
    "unknown backend": ("compare", "lottery", "--backend", "nope"),
    "one unknown backend": ("compare", "lottery", "--backend", "exact", "--backend", "nope"),
    "horizon of letters": ("compare", "lottery", "--horizon", "abc"),
    "horizon 0": ("compare", "lottery", "--horizon", "0"),
    "horizon -3": ("compare", "lottery", "--horizon", "-3"),
    "horizon 2.5": ("compare", "lottery", "--horizon", "2.5"),
    "horizon nan": ("compare", "lottery", "--horizon", "nan"),
    "horizon -inf": ("compare", "gridworld", "--horizon", "-inf"),
    "temperature 0": ("compare", "lottery", "--temperature", "0"),
    "temperature -1": ("compare", "lottery", "--temperature", "-1"),
    "temperature nan": ("compare", "lottery", "--temperature", "nan"),
    "temperature inf": ("compare", "lottery", "--temperature", "inf"),
    "temperature of letters": ("compare", "lottery", "--temperature", "hot"),
    "discount 0": ("compare", "lottery", "--discount", "0"),
    "discount 1.5": ("compare", "lottery", "--discount", "1.5"),
    "discount nan": ("compare", "lottery", "--discount", "nan"),
    "slip 2": ("compare", "bridge", "--slip", "2"),
    "slip nan": ("compare", "bridge", "--slip", "nan"),
    "slip where there is none": ("compare", "lottery", "--slip", "0.1"),
    "slip of Gymnasium": ("compare", "FrozenLake-v1", "--slip", "0.1"),
    "seed of letters": ("compare", "lottery", "--seed", "x"),
    "seed too large": ("compare", "lottery", "--seed", "99999999999999999999999"),
    "unknown picture": ("draw", "lottery", "--what", "nope"),
    "draw unknown model": ("draw", "nope"),
    "draw unknown backend": ("draw", "lottery", "--what", "values", "--backend", "nope"),
    "messages of another target": ("draw", "lottery", "--what", "messages", "--backend", "variational"),
    "values of a backend without": ("draw", "lottery", "--what", "values", "--backend", "enumeration"),
    "factor graph without end": ("draw", "bridge", "--what", "factor-graph", "--horizon", "inf"),
    "argument of models": ("models", "x"),
    "argument of backends": ("backends", "x"),
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD.keys())
def test_bad_arguments(cai, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = cai(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_bad_arguments_print_no_half_an_answer(cai, option):
    code, out, err = cai("compare", "lottery", "--temperature", "0", *option)
    assert (code, out) == (2, "")
    assert "temperature is 0.0" in err


def test_factor_graph_without_end_says_so_in_plain_words(cai):
    _, _, err = cai("draw", "bridge", "--what", "factor-graph", "--horizon", "inf")
    assert "horizon" in err
    assert "Trace Shapes" not in err


def test_folder_that_is_a_file(cai, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, err = cai("compare", "lottery", "--out", tmp_path / "file")
    assert (code, out) == (2, "")
    assert "--out needs a folder" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_below_a_file(cai, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, err = cai("compare", "lottery", "--out", tmp_path / "file" / "folder")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_picture_in_a_folder_that_does_not_exist_yet(cai, tmp_path):
    path = tmp_path / "not" / "yet" / "x.png"
    assert cai("draw", "lottery", "--out", path)[:2] == (0, f"saved {path}\n")
    assert path.read_bytes().startswith(PNG)
    code, out, err = cai("draw", "lottery", "--out", path / "x.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is a file; the picture needs a folder" in err


def test_picture_of_an_unknown_format(cai, tmp_path):
    code, out, err = cai("draw", "lottery", "--out", tmp_path / "x.abc")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "abc" in err


def test_picture_is_saved_where_it_says(cai, tmp_path):
    code, out, _ = cai("draw", "lottery", "--out", tmp_path / "picture")
    (path,) = tmp_path.iterdir()
    assert (code, out) == (0, f"saved {path}\n")


def test_picture_that_is_a_folder(cai, tmp_path):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    code, out, err = cai("draw", "lottery", "--out", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)


# ---- as a program ------------------------------------------------------------------------------------------------


def as_program(folder, *arguments):
    command = [sys.executable, "-m", "cai", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_outdated_gymnasium_id_is_one_line(tmp_path):
    done = as_program(tmp_path, "compare", "Taxi-v3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_python_m_cai(tmp_path):
    done = as_program(tmp_path, "compare", "lottery", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["status"] for row in json.loads(done.stdout, parse_constant=refuse)["rows"]] == ["success"] * 3
