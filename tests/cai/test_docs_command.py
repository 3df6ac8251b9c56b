"""`cai docs`: where the site is found, and what is said where it is not."""

import webbrowser

import pytest

from cai import docs_command
from cai.cli import main


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """What a browser was asked to open; no clone with a site is around."""
    found = []
    monkeypatch.setattr(webbrowser, "open", found.append)
    monkeypatch.setattr(docs_command.cai, "__file__", str(tmp_path / "clone" / "cai" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    return found


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main(["docs", *words])
    return stop.value.code


@pytest.mark.parametrize(("place", "words"), [("out/docs", ()), ("clone/out/docs", ()), ("far", ("--folder", "far"))])
def test_the_site_is_opened_where_it_was_built(opened, tmp_path, capsys, place, words):
    page = tmp_path / place / "index.html"
    page.parent.mkdir(parents=True)
    page.touch()
    assert run(*words) == 0
    assert opened == [page.as_uri()]
    assert run(*words, "--no-browser") == 0
    assert capsys.readouterr().out.split() == [str(page)] * 2
    assert len(opened) == 1


def test_where_there_is_none_one_reads_how_it_is_built(opened, tmp_path, capsys):
    assert run() == 2
    error = capsys.readouterr().err
    assert "'make docs' in a clone of the repository builds it" in error
    assert str(tmp_path / "clone" / "out" / "docs") in error
    (tmp_path / "far").mkdir()
    assert run("--folder", "far") == 2
    assert "not found in far" in capsys.readouterr().err
    assert opened == []
