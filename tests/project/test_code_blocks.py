"""Code in the README and on the pages of the site: names and keywords exist, and what can be run in a moment is run."""

import ast
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path

import networkx
import pytest
import torch

import cai
from cai.models import LinearReward, TrajectoryModel, random_mdp, road_network

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "pages").rglob("*.md"))]


def blocks(page):
    """[(number, code)] of a page, without what stands around."""
    found = re.findall(r"(?ms)^( *)```(?:py|python)\n(.*?)^ *```", page.read_text())
    return [textwrap.dedent(code) for _, code in found]


ALL = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page))
]


def resolve(node, names):
    """What a chain of names such as cai.models.MDP.from_sparse stands for; None where only a run knows."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, names)
        if inspect.ismodule(owner) or inspect.isclass(owner):
            assert hasattr(owner, node.attr), f"{owner.__name__} has no {node.attr}"
            return getattr(owner, node.attr)
    return None


def check_call(call, called):
    """Keywords that the function takes, and options that the backend has."""
    parameters = inspect.signature(called).parameters
    given = {keyword.arg for keyword in call.keywords} - {None}
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        if called is cai.infer and isinstance(call.args[1], ast.Constant):
            backend = cai.available_backends()[call.args[1].value]
            known = {*parameters, *inspect.signature(backend).parameters}
            assert given <= known, f"{call.args[1].value} has no option {given - known}"
        return
    assert given <= set(parameters), f"{called.__name__} has no argument {given - set(parameters)}"


@pytest.mark.parametrize("code", ALL)
def test_names_and_keywords_exist(code):
    tree, names = ast.parse(code), {"cai": cai}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cai":
            module = import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
                names[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            resolve(node, names)
        if isinstance(node, ast.Call):
            called = resolve(node.func, names)
            if called is not None and getattr(called, "__module__", "").startswith("cai."):
                check_call(node, called)


def given_tables():
    chances = torch.full((3, 2, 3), 1 / 3).double()
    chances[:, 0] = torch.tensor([0.5, 0.25, 0.25])
    return {"P": chances, "p0": [1, 0, 0], "P_a": chances[:, 0], "R": torch.ones(3, 2).double()} | {
        "next_states": torch.tensor([[[0, 1]] * 2] * 3),
        "probabilities": torch.full((3, 2, 2), 0.5).double(),
    }


def given_matrices():
    one, two = torch.eye(1).double(), torch.eye(2).double()
    push = torch.tensor([[0.0], [1.0]]).double()
    start = {"m1": torch.zeros(2).double(), "S1": two, "K0": torch.zeros(1, 2).double(), "k0": torch.zeros(1).double()}
    return {"A": two, "B": push, "W": 0.1 * two, "Q": two, "R": one, "L": one} | start


def given_trips():
    Path("links.csv").write_text("link,minutes\na,1\nb,2\nc,3\nd,1\ne,2\n")
    turns = "a,b,0,0\na,c,1,0\na,e,1,0\nb,d,0,0\nc,d,0,0\ne,d,1,0\nb,a,0,1\n"
    Path("turns.csv").write_text("from,to,left,u_turn\n" + turns)
    Path("exits.csv").write_text("link,destination\nd,home\n")
    ways = ["abd", "acd", "aed", "abd", "abacd", "abd"]
    lines = [f"{trip},{place},{link}\n" for trip, way in enumerate(ways) for place, link in enumerate(way)]
    Path("trips.csv").write_text("trip,position,link\n" + "".join(lines))
    return {}


def given_demonstrations():
    mdp = random_mdp(0, num_states=4, horizon=5).mdp
    reward = LinearReward(torch.randn(4, 2).double(), weights=torch.tensor([1.0, -1.0]))
    model = TrajectoryModel(mdp, reward, 5)
    return {"model": model, "posterior": cai.infer(model, "variational"), "elsewhere": model.replace(horizon=8)}


def given_network():
    graph = networkx.grid_2d_graph(3, 3).to_directed()
    graph = networkx.relabel_nodes(graph, {(2, 2): "home"})
    networkx.set_edge_attributes(graph, 1.0, "length")
    model = random_mdp(0, num_states=4, horizon=5)
    chances = model.mdp.dense()
    table = torch.ones(4, chances.shape[1]).double()
    return {
        "matrix": chances.reshape(-1, 4).to_sparse(),
        "initial": [1, 0, 0, 0],
        "graph": graph,
        "turn_cost": lambda *turn: 1.0,
        "road_network": road_network,
        "model": model.replace(temperature=torch.tensor(1.0, dtype=torch.float64, requires_grad=True)),
        "rewards": torch.stack([table * factor for factor in range(64)]),
        "torch": torch,
    }


RUN = {  # the beginning of a block of the README, what it is given, and what stands for what is not here
    "from cai.models import MDP, TrajectoryModel": (given_tables, {"[P_a, ...]": "[P_a, P_a]"}),
    "from cai.models import LinearGaussianModel": (
        given_matrices,
        {'cai.infer(cai.models.pendulum(), "ilqr")': "None"},
    ),
    "network = cai.inverse": (given_trips, {}),
    "from cai.inverse import Demonstrations": (given_demonstrations, {}),
    "mdp = MDP.from_sparse": (given_network, {'"cuda"': '"cpu"'}),
}


@pytest.mark.parametrize("begin", RUN)
def test_blocks_of_the_readme_run(begin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = (code for code in blocks(ROOT / "README.md") if code.startswith(begin))
    given, instead = RUN[begin]
    for word, other in instead.items():
        assert word in code
        code = code.replace(word, other)
    exec(compile(code, begin, "exec"), {"cai": cai, "MDP": cai.models.MDP, **given()})
