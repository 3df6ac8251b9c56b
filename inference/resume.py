"""Goes on with runs that were stored and cut off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cai.inference.core.driver import Checkpoints, check_schedule, drive
from cai.inference.registry import judged, make_backend
from cai.inference.runs import extend_run, learner_for, read_run, told_apart

__all__ = ["resume"]


def resume(
    folder: str | Path,
    *,
    steps: int | None = None,
    exact: bool = True,
    model: Any = None,
    world: Any = None,
    throw: bool = True,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    max_seconds: float = math.inf,
    **options: Any,
) -> Any:
    """Goes on with the run that `infer`, `cai.inverse.airl` or `gail` began with a folder, from its last stored state.

    It ends with the same bits as a run that nothing stopped, on the same machine with the same versions. A run that has
    ended gives its answer again; one that ended at its limit goes on if a higher `max_iterations` is given.

    Args:
        folder: of the run.
        steps: of a learner whose budget is one of transitions: the new total, at least the one so far, which holds
            unless given.
        exact: whether to refuse where the same bits cannot be promised, as in an environment that does not come back to
            where it was by its seed and actions; False goes on with new episodes there.
        model: what the run is about. A `TrajectoryModel` comes back from the folder (a Python reward as its table, so
            that nothing there is executed); a program must be given again, and its sites and sizes are checked.
        world: the same as `model`, for a learner in an environment that is known by no id.
        throw: raise unless the status is success; with False the posterior comes back with its status.
        checkpoint_every: store after every so many steps; None for no such rule.
        checkpoint_seconds: store when so many seconds have passed since the last time.
        max_seconds: begin no step later than this, and answer with the best so far.
        **options: options of the backend that no file can hold, such as a policy's module, as the run began with them;
            and a higher `max_iterations`.

    Returns:
        What the function that began the run returns: the posterior, or the `AdversarialEstimate`.

    Raises:
        FileNotFoundError: if the folder holds no run.
        StorageError: if it is damaged; names the file and the field.
        ValueError: if the run is about another model, or something is missing that no file can hold.
        InferenceError: if inference failed and `throw` is True; of `airl` and `gail` a `FitError`.
    """
    check_schedule(checkpoint_every, checkpoint_seconds)
    if model is not None and world is not None:
        raise ValueError("model and world are two names of the same thing; give one of them")
    run, model, options = read_run(folder, world if model is None else model, options)
    if steps is not None:
        options = extend_run(folder, run, options, steps)
    backend = make_backend(run.backend, **options)
    if run.purpose is None:
        backend.supports(model)
    learner = learner_for(backend, model) if run.purpose is None else run.purpose.learner(backend, model)
    every = getattr(learner, "checkpoint_every", None) if checkpoint_every is None else checkpoint_every
    checkpoints = Checkpoints(Path(folder), steps=every, seconds=checkpoint_seconds, exact=exact, run=told_apart(run))
    answer = drive(learner, model, seed=run.seed, checkpoints=checkpoints, max_seconds=max_seconds)
    return judged(backend, answer, throw) if run.purpose is None else run.purpose.result(answer, run.seed, throw)
