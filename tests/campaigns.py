"""Random problems of a law: a few in every run of the suite, all of them in the campaign ('make campaigns')."""

import pytest


def over_seeds(every, quick, blocks=2):
    """Parametrises a test over "seeds": some in every run of the suite, the rest behind the marker `campaign`.

    Args:
        every: all seeds of the law, in order.
        quick: how many of them, from the first on, each run tries; or a list of these seeds where regimes are rare,
            and then the campaign tries all of `every`. They must reach every regime of the law.
        blocks: into how many tests the rest is cut, so that it spreads over processes.
    """
    return pytest.mark.parametrize("seeds", seed_parts(every, quick, blocks))


def seed_parts(every, quick, blocks):
    """The parameters of over_seeds."""
    every = list(every)
    first, rest = (every[:quick], every[quick:]) if isinstance(quick, int) else (list(quick), every)
    parts = [pytest.param(first, id=f"{len(first)} problems")]
    for block in range(blocks):
        if part := rest[block::blocks]:
            parts.append(pytest.param(part, id=f"campaign-{block}", marks=pytest.mark.campaign))
    return parts


def over_methods(methods, every, quick, blocks=2):
    """Parametrises a law over "method" and "seeds" as over_seeds does, with fewer problems where a method is slow.

    Args:
        methods: rows of `methods.py`; a run of the suite tries quick // method.cost problems, at least three.
        every: all seeds of the law, in order.
        quick: how many of them each run of the suite tries with a fast method.
        blocks: into how many tests the rest is cut.
    """
    parts = [
        pytest.param(method, *part.values, id=f"{method}-{part.id}", marks=part.marks)
        for method in methods
        for part in seed_parts(every, max(quick // method.cost, 3), blocks)
    ]
    return pytest.mark.parametrize(("method", "seeds"), parts)


def each_seed(every, quick):
    """Parametrises a test over "seed", one case a seed: `quick` of them unmarked, the rest in the campaign."""
    every = list(every)
    rest = [pytest.param(seed, marks=pytest.mark.campaign) for seed in every[quick:]]
    return pytest.mark.parametrize("seed", [*every[:quick], *rest])
