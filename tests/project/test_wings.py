"""Which wing may import which: one line an arrow, no circle between wings, none between the files of inference.

Every import counts, also one inside a function or under TYPE_CHECKING. Wings are the folders of a floor; the files that
lie on a floor itself (its `__init__`, `registry`, `cli`) stand above its wings, and no wing imports them.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"models": "cai.models", "inference": "cai.inference", "cai": "cai"}  # from below; arrows point down

ARROWS = {
    "models": """
        processes -> common
        rewards -> common
        rewards -> processes
        trajectory -> common
        trajectory -> processes
        trajectory -> rewards
        continuous -> common
        continuous -> processes
        continuous -> rewards
        continuous -> trajectory
        environments -> common
        environments -> continuous
        environments -> rewards
        environments -> trajectory
        environments -> zoo
        demonstrations -> common
        demonstrations -> trajectory
        programs -> common
        programs -> continuous
        programs -> rewards
        programs -> trajectory
        zoo -> common
        zoo -> continuous
        zoo -> processes
        zoo -> rewards
        zoo -> trajectory
    """,
    "inference": """
        tabular -> core
        tabular -> kernels
        planning -> core
        planning -> gaussian
        gaussian -> core
        programs -> core
        programs -> tabular
        particles -> core
        particles -> gaussian
        particles -> programs
        particles -> tabular
        learning -> core
        learning -> tabular
        restricted -> core
        restricted -> gaussian
        restricted -> kernels
        restricted -> programs
        restricted -> tabular
        backends -> core
        backends -> gaussian
        backends -> programs
        backends -> tabular
    """,
    "cai": """
        evaluation -> policies
        studies -> evaluation
        studies -> policies
        studies -> pictures
        studies -> tasks
        explorer -> pictures
        explorer -> studies
        inverse -> pictures
        inverse -> policies
        inverse -> tasks
    """,
}


def modules(root):
    """{module name: its file} of the three floors under a folder."""
    found = {}
    for floor, package in FLOORS.items():
        for path in sorted((root / floor).rglob("*.py")):
            parts = path.relative_to(root / floor).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def statements(node):
    """All statements below a node; expressions, which hold no import, are nine tenths of a tree."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, name, ()):
            yield inner
            yield from statements(inner)


def imports(root):
    """{module: the modules of the three floors that it imports, wherever in the file}."""
    known = modules(root)
    graph = {}
    for name, path in known.items():
        reached = set()
        for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                reached |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path} imports relatively"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                reached |= (inner & known.keys()) or {node.module}
        graph[name] = reached & known.keys() - {name}
    return graph


def wing(module):
    """(floor, wing) of a module; the wing is empty for a file that lies on the floor itself."""
    floor = next(floor for floor, package in FLOORS.items() if f"{module}.".startswith(f"{package}."))
    first = module.removeprefix(FLOORS[floor]).removeprefix(".").split(".")[0]
    return floor, first if (ROOT / floor / first).is_dir() else ""


def wrong_arrows(graph):
    """What the table does not allow, as sentences."""
    allowed = {(floor, *line.split()[::2]) for floor, text in ARROWS.items() for line in text.strip().splitlines()}
    order, found = list(FLOORS), set()
    for module, reached in graph.items():
        floor, own = wing(module)
        for other in reached:
            lower, target = wing(other)
            upward = order.index(lower) > order.index(floor)
            sideways = lower == floor and own and target != own and (floor, own, target) not in allowed
            if upward or sideways:
                found.add(f"{module} imports {other}: {floor}/{own} -> {lower}/{target} is no arrow of the table")
    return sorted(found)


def circle(graph):
    """A circle in a directed graph as a list of its nodes, or None."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return None
        path.append(node)
        found = next((way for other in sorted(graph.get(node, ())) if (way := visit(other))), None)
        path.pop()
        done.add(node)
        return found

    return next((way for node in sorted(graph) if (way := visit(node))), None)


GRAPH = imports(ROOT)


def test_every_import_follows_an_arrow_of_the_table():
    assert wrong_arrows(GRAPH) == []


@pytest.mark.parametrize("floor", FLOORS)
def test_the_wings_form_no_circle(floor):
    graph = {}
    for line in ARROWS[floor].strip().splitlines():
        start, end = line.split()[::2]
        graph.setdefault(start, set()).add(end)
    assert circle(graph) is None


def test_the_files_of_inference_form_no_circle():
    inner = {module for module in GRAPH if wing(module)[0] == "inference"} - {"cai.inference"}
    assert circle({module: GRAPH[module] & inner for module in inner}) is None


def test_every_arrow_of_the_table_is_needed():
    drawn = {(*wing(module), wing(other)[1]) for module, reached in GRAPH.items() for other in reached}
    for floor, text in ARROWS.items():
        for line in text.strip().splitlines():
            assert (floor, *line.split()[::2]) in drawn, f"{floor}: nothing needs {line.strip()}"


def test_a_new_arrow_and_a_new_circle_are_seen():
    up = GRAPH | {"cai.models.common.numerics": {"cai.inference.registry"}}
    assert any("models/common -> inference/" in sentence for sentence in wrong_arrows(up))
    side = GRAPH | {"cai.models.rewards.base": {"cai.models.trajectory.model"}}
    assert any("models/rewards -> models/trajectory" in sentence for sentence in wrong_arrows(side))
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None


def test_imports_inside_functions_and_for_types_count(tmp_path):
    text = "if TYPE_CHECKING:\n    from cai.models.b import x\ndef f():\n    from cai.models import c\n"
    (tmp_path / "models").mkdir()
    for name, content in (("a", text), ("b", ""), ("c", "")):
        (tmp_path / "models" / f"{name}.py").write_text(content)
    assert imports(tmp_path)["cai.models.a"] == {"cai.models.b", "cai.models.c"}
