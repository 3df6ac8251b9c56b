"""Models of the zoo under Gymnasium ids, `gymnasium.make("cai/Bridge-v0")`, once both packages are imported.

Gymnasium takes a second to import, and `import cai` does without it. So the ids are registered at once where Gymnasium
is loaded already, and else as soon as it has been.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

from cai.models.environments.making import environment, vector_environment
from cai.models.zoo.registry import build_model, zoo_entries

__all__ = ["gymnasium_id", "register_zoo"]


def gymnasium_id(name: str) -> str:
    """The id of a model of the zoo: "four-rooms" is "cai/FourRooms-v0"."""
    return f"cai/{''.join(part.capitalize() for part in name.split('-'))}-v0"


def register_zoo() -> None:
    """Registers the models of the zoo with Gymnasium, now or as soon as it is imported."""
    if "gymnasium" in sys.modules and hasattr(sys.modules["gymnasium"], "register"):
        _register()
    elif not any(isinstance(finder, _AfterGymnasium) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterGymnasium())


def _register() -> None:
    import gymnasium

    for entry in zoo_entries():
        if entry.environment and gymnasium_id(entry.name) not in gymnasium.registry:
            gymnasium.register(
                gymnasium_id(entry.name),
                entry_point="cai.models.environments.registration:make_one",
                vector_entry_point="cai.models.environments.registration:make_vector",
                kwargs={"model": entry.name},
            )


def make_one(model: str, *, observe: Any = "one-hot", render_mode: str | None = None, **options: Any) -> Any:
    """What `gymnasium.make` calls.

    Args:
        model: its name in the zoo.
        observe: as for `vector_environment`.
        render_mode: "rgb_array" where the model has a layout.
        **options: `seed` and `observation_space` of `environment`; all others of the model (horizon, slip, ...).
    """
    own = {name: options.pop(name) for name in ("seed", "observation_space") if name in options}
    return environment(build_model(model, **options), observe=observe, render_mode=render_mode, **own)


def make_vector(model: str, num_envs: int = 1, *, observe: Any = "one-hot", **options: Any) -> Any:
    """What `gymnasium.make_vec` calls.

    Args:
        model: its name in the zoo.
        num_envs: how many copies.
        observe: as for `vector_environment`.
        **options: `seed`, `max_episode_steps` and `observation_space` of `vector_environment`; all others of the model.
    """
    names = ("seed", "observation_space", "max_episode_steps")
    own = {name: options.pop(name) for name in names if name in options}
    options.pop("render_mode", None)
    return vector_environment(build_model(model, **options), num_envs, observe=observe, **own)


class _AfterGymnasium(importlib.abc.MetaPathFinder):
    """Waits for the import of Gymnasium, and leaves it to the ordinary finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(importlib.abc.Loader):
    """Loads Gymnasium by its own loader, and registers the zoo afterwards."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        created: types.ModuleType | None = self.loader.create_module(spec)
        return created

    def exec_module(self, module: types.ModuleType) -> None:
        for holder, name in ((module.__spec__, "loader"), (module, "__loader__")):
            setattr(holder, name, self.loader)
        self.loader.exec_module(module)
        _register()
