"""The site: everything public has words of its own, every backend a page, and faults of built pages are seen."""

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the sources of the site are no part of the package

from cai.inference.registry import _BUILT_IN
from cai.models.zoo.registry import zoo_entries
from docs.api_pages import CONSTANTS, api_pages
from docs.backend_pages import backend_pages, described_options
from docs.docstrings import rewrite
from docs.equations import is_code, to_latex
from docs.links import problems
from docs.names import MODULES, homes
from docs.zoo_page import zoo_page

WRITTEN = ROOT / "docs" / "pages"
BACKENDS = {cls.name: cls for cls in _BUILT_IN}
SECTIONS = ("## The question it answers", "## Its equation", "## When not to use it")


def missing_docstrings(names):
    """The full names, members of classes included, of what has no docstring that stands on its own."""
    found = []
    for full in names:
        module, _, name = full.rpartition(".")
        thing = getattr(import_module(module), name)
        if full in CONSTANTS:
            continue
        found += [full] if is_empty(inspect.getdoc(thing), thing) else []
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            function = getattr(function, "func", function)
            if not member.startswith("_") and inspect.isfunction(function):
                said = inspect.getdoc(getattr(thing, member)) or inspect.getdoc(function)
                found += [f"{full}.{member}"] if is_empty(said, function) else []
    return found


def is_empty(said, thing):
    made = inspect.isclass(thing) and said is not None and said.startswith(f"{thing.__name__}(")  # dataclasses do that
    return not said or made or len(said.split()) < 3 or re.match(r"(see|as in) `", said, re.I) is not None


def test_every_public_object_has_a_docstring():
    assert missing_docstrings(set(homes().values())) == []


def test_a_missing_docstring_is_seen(monkeypatch):
    monkeypatch.setattr("cai.infer", lambda model: None)
    monkeypatch.setattr("cai.MDP.dense", lambda self: None)
    assert missing_docstrings(["cai.infer", "cai.MDP", "cai.compare"]) == ["cai.infer", "cai.MDP.dense"]


def test_modules_say_what_they_are():
    for module in MODULES:
        assert import_module(module).__doc__, module


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_every_public_name_once(module):
    page = api_pages()[f"api/{module}.rst"]
    for name in import_module(module).__all__:
        full = re.escape(f"{module}.{name}")
        assert len(re.findall(rf'^\.\. (?:auto|py:)\w+:: {full}$|id="{full}"', page, re.M)) == 1, name


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_a_page_with_question_equation_and_limits(name):
    page = backend_pages()[f"backends/{name}.md"]
    places = [page.index(section) for section in SECTIONS]
    assert places == sorted(places)
    equation = page[places[1] : places[2]]
    assert equation.count("$$") >= 2
    assert re.search(r"\((?:\w|\W)*(?:1|2)\d{3}|\w+ (?:1|2)\d{3}", equation), "the equation has no source"
    assert f"pictures/backends-{name}.png" in page
    assert all(text for _, _, text in described_options(BACKENDS[name])), "an option has no description"


def test_an_option_without_a_description_is_seen():
    made = type("Made", (BACKENDS["risk"],), {"__doc__": BACKENDS["risk"].__doc__})
    made.__dataclass_fields__ = made.__dataclass_fields__ | {
        "unsaid": type("F", (), {"name": "unsaid", "default": 1, "_field_type": None})
    }
    from dataclasses import _FIELD  # how `fields` tells options from class variables

    made.__dataclass_fields__["unsaid"]._field_type = _FIELD
    assert [name for name, _, text in described_options(made) if not text] == ["unsaid"]


def test_the_decision_table_names_every_backend():
    text = (WRITTEN / "which_backend.md").read_text() + (WRITTEN / "backends" / "variational.md").read_text()
    for name in BACKENDS:
        assert f"backends/{name}.md" in (WRITTEN / "which_backend.md").read_text(), name
    for target in re.findall(r"\]\((?:backends/)?([\w-]+)\.md\)", text):
        assert target in BACKENDS, target


def test_the_gallery_shows_every_model_with_picture_size_and_words():
    page = zoo_page()["zoo.rst"]
    entries = re.split(r"(?m)^[-]{3,}$", page)[1:]
    assert len(entries) == len(zoo_entries())
    for entry, text in zip(zoo_entries(), entries, strict=True):
        assert f"pictures/zoo-{entry.name}.png" in text
        assert re.search(r"S = \d+, A = \d+, T = \d+|States in R\^\d, actions in R\^\d, T = \d+", text), entry.name
        assert len(text.split(":width:")[1].split()) > 20, f"{entry.name}: where is it from, and what is it like?"


@pytest.mark.parametrize(
    ("written", "latex"),
    [
        (
            "Q(s, a) = (alpha / eta) log E_{s'}[exp(eta (r + V(s')) / alpha)]",
            r"Q(s, a) = (\alpha / \eta ) \log E_{s'}[\exp (\eta (r + V(s')) / \alpha )]",
        ),
        ("pi_{n+1} maximises E_pi[r]", r"\pi _{n+1} \ \text{maximises}\ E_{\pi }[r]"),
        ("max_s' v(s')      over a", r"\max _{s'} v(s') \qquad \text{over}\ a"),
        ("prod_i pi_i(a | s)^w_i <= 1", r"\prod _{i} \pi _{i}(a \mid s)^{w_{i}} \le 1"),
        ("V(start)    = alpha", r"V(\text{start}) = \alpha"),
        ("A = [1 h; 0 1]", r"A = \begin{bmatrix}1 & h \\ 0 & 1\end{bmatrix}"),
        ("pi(a|s) proportional to p(a|s)", r"\pi (a\mid s) \propto p(a\mid s)"),
        ("m1 = KL(pi* || pi_0)", r"m_{1} = \operatorname{KL}(\pi ^* \,\|\, \pi _{0})"),
    ],
)
def test_equations_of_docstrings_become_latex(written, latex):
    assert re.sub(r"\s+", " ", to_latex(written)).strip() == latex


def blocks():
    """Every indented block of a public docstring, as the site shows it."""
    for full in set(homes().values()) - set(CONSTANTS):
        module, _, name = full.rpartition(".")
        said = rewrite(inspect.getdoc(getattr(import_module(module), name)) or "", {})
        for kind, block in re.findall(r"(?m)^\.\. (math|code-block)::.*\n\n((?:   .*\n|\n)+)", said):
            yield full, kind, block


def test_every_block_is_balanced_latex_or_python():
    seen = {"math": 0, "code-block": 0}
    for full, kind, block in blocks():
        seen[kind] += 1
        if kind == "math":
            assert block.count("{") == block.count("}"), full
            assert not re.search(r"(?<!\\)[%&#](?![^\n]*(bmatrix|\\end))", block), full
        else:
            compile(inspect.cleandoc(block), full, "exec")
    assert seen["math"] >= 15
    assert seen["code-block"] >= 3
    assert is_code('model = f("a")')
    assert not is_code("V = log Q")


def test_prose_of_docstrings_is_no_markup_by_accident():
    said = rewrite(
        "The |r| of pi* and x_ of `infer`s, `a b`.\n\n    V = Q\n\nArgs:\n    *args: a * b.", {"infer": "cai.infer"}
    )
    assert r"\|r\| of pi\* and x\_ of :py:obj:`infer <cai.infer>`\ s, ``a b``." in said
    assert ".. math::" in said
    assert r"    *args: a \* b\." in said


def test_wrong_links_and_other_hosts_are_seen(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"><a href="b.html#there">x</a><a href="a.html#here">y</a></p>')
    (tmp_path / "b.html").write_text('<p id="there"></p><a href="https://elsewhere.org">a link may lead away</a>')
    assert problems(tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<script src="https://cdn.elsewhere.org/x.js"></script><link rel="stylesheet" href="//fonts.org/a.css">'
        '<img src="no.png"><a href="c.html">z</a>'
    )
    found = "\n".join(problems(tmp_path))
    for words in (
        "x.js from another host",
        "a.css from another host",
        "no.png, which is not there",
        "c.html",
        "no such place",
    ):
        assert words in found
    assert len(problems(tmp_path)) == 5
    assert problems(tmp_path / "nowhere")


def test_a_missing_place_is_seen(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"></p>')
    assert problems(tmp_path, {"a.html": ["here"]}) == []
    assert problems(tmp_path, {"a.html": ["here", "gone"], "b.html": ["x"]}) == [
        "a.html has no place called gone",
        "b.html has no place called x",
    ]


def test_the_quick_start_runs(tmp_path, monkeypatch, capsys):
    text = (WRITTEN / "quick_start.md").read_text()
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    code = code.replace("figure = ", "figures[len(figures)] = ")
    figures = {}
    exec(compile(code, "quick_start.md", "exec"), {"figures": figures})
    assert len(figures) == 5
    for figure in figures.values():
        figure.draw_without_rendering()  # what has no room warns, and warnings are errors
    assert "Estimate of reward coefficients" in capsys.readouterr().out
