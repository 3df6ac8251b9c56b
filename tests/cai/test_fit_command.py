"""`cai fit` on files: what is written, what is printed, and how failures end."""

import json

import pytest
from networks import draw_trips, town

from cai.cli import main
from cai.inverse import fit

TOWN = ["minutes", "left", "u_turn"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    network = town()
    trips = draw_trips(network, TOWN, [-1.5, -0.5, -2.0], 60)
    trips["person"] = trips["trip"] // 3
    tables = {"links": network.links, "turns": network.turns, "exits": network.exits, "trips": trips}
    for name, frame in tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return folder, network, trips


def run(files, *more, features="minutes,left,u_turn"):
    options = [
        word for name in ("links", "turns", "exits", "trips") for word in (f"--{name}", str(files[0] / f"{name}.csv"))
    ]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *options, "--features", features, *more])
    return ended.value.code


def test_the_estimate_is_written(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(files) == 0
    told = json.loads((tmp_path / "coefficients.json").read_text())
    want = fit(files[1], files[2], features=TOWN)
    assert told["coefficients"] == pytest.approx(dict(want.coefficients), rel=1e-9)
    assert told["status"] == "success"
    assert "Estimate of reward coefficients" in capsys.readouterr().out
    assert run(files, "--out", str(tmp_path / "deep" / "x.json"), "--covariance", "cluster") == 0
    other = json.loads((tmp_path / "deep" / "x.json").read_text())
    assert (other["covariance_kind"], other["coefficients"]) == ("cluster", told["coefficients"])


def test_json_is_all_that_is_printed(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(files, "--json", "--ends", "exit", "--objective", "path") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["objective"] == "path"
    assert not list(tmp_path.iterdir())


def test_failures_end_in_a_sentence(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(files, "--json", features="left") == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["coefficients"] == {"left": None}
    assert "infeasible start" in said.err
    assert run(files, features="minuets") == 2
    assert "did you mean 'minutes'" in capsys.readouterr().err
    assert run(files, "--trips", str(tmp_path / "none.csv")) == 2
    assert "none.csv" in capsys.readouterr().err
    assert run(files, "--ends", "stop") == 2
    assert run(files, "--covariance", "robust") == 2
    assert not list(tmp_path.iterdir())


def test_trips_that_do_not_fit_are_left_out_where_asked(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trips = files[2].copy()
    trips.loc[trips["trip"] == 5, "link"] = 10**6
    trips.to_csv(tmp_path / "trips.csv", index=False)
    assert run(files, "--trips", str(tmp_path / "trips.csv")) == 2
    assert "the network has no link 1000000 (row " in capsys.readouterr().err
    assert run(files, "--trips", str(tmp_path / "trips.csv"), "--drop", "report") == 0
    said = capsys.readouterr().out
    assert "Left out:" in said
    want = fit(files[1], files[2][files[2]["trip"] != 5], features=TOWN)
    told = json.loads((tmp_path / "coefficients.json").read_text())
    assert told["coefficients"] == pytest.approx(dict(want.coefficients), rel=1e-9)
