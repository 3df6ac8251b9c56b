"""do and condition on any program: against sums over all assignments, against Pyro's own handlers, and each other."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from campaigns import each_seed
from example_programs import MOVE, PRIOR, REWARD, START, drawn_at_the_end, drawn_first, wind_after_action, windy
from oracle import log_sum, random_problem
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from refusals import check, refuse

import cai
from cai.inference import Status
from cai.models import MDP, OutcomeReward, TableReward, TrajectoryModel, bridge, build_model
from cai.models.programs.inspect import inspect_program
from cai.models.programs.interventions import RevisedProgram, condition, do

HOPE = torch.tensor([[0.6, -0.4], [-1.0, 0.3], [0.2, 0.9]], dtype=torch.float64)


def remembering(horizon):
    """Each step's action prior and dynamics look at the action before the last one too: history=2."""

    def program():
        before = torch.tensor(0)
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in pyro.markov(range(1, horizon + 1), history=2):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[(state + before) % 3]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[(state + 2 * before) % 3, action]))
            pyro.factor(f"O_{t}", REWARD[state, action, following] + HOPE[state, before])
            before, state = action, following

    return program


EIGHTHS = {
    "start": torch.tensor([0.25, 0.0, 0.75]),
    "prior": torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.125, 0.875]]),
    "move": torch.tensor(
        [
            [[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]],
            [[0.0, 0.0, 1.0], [0.375, 0.0, 0.625]],
            [[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]],
        ]
    ),
    "reward": torch.tensor([[0.5, -1.0], [0.0, 2.0], [-0.25, 0.75]]),
}


def in_single_precision(horizon, dtype=torch.float32):
    """Categorical and Bernoulli sites with probs= of float32, whose zeros Pyro clamps to 1e-7; eighths are exact."""
    start, prior, move, reward = (EIGHTHS[key].to(dtype) for key in ("start", "prior", "move", "reward"))

    def program():
        state = pyro.sample("s_1", dist.Categorical(probs=start))
        for t in pyro.markov(range(1, horizon + 1)):
            action = pyro.sample(f"a_{t}", dist.Bernoulli(probs=prior[state, 1]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(probs=move[state, action.long()]))
            pyro.factor(f"O_{t}", reward[state, action.long()])
            state = following

    return program


PROGRAMS = (drawn_at_the_end, drawn_first, windy, remembering, in_single_precision)
NAMES = [kind.__name__ for kind in PROGRAMS]


def assignments(program):
    """Every joint value of the latents with {site: probability} and the total log factor, by Pyro's replay of each."""
    info = inspect_program(program)
    for values in itertools.product(*(range(info.sizes[name]) for name in info.latents)):
        assignment = dict(zip(info.latents, values, strict=True))
        data = {name: torch.tensor(value) for name, value in assignment.items()}
        nodes = poutine.trace(poutine.condition(program, data)).get_trace().nodes
        chances, score = {}, 0.0
        for name, node in nodes.items():
            if name in assignment:
                chances[name] = probability(node["fn"], assignment[name])
            elif node["type"] == "sample" and isinstance(node["fn"], dist.Bernoulli):
                score += math.log(probability(node["fn"], int(node["value"])))
            elif node["type"] == "sample":
                score += float(node["fn"].log_factor)
        yield assignment, chances, score


def probability(fn, value):
    """p(value) as the author wrote it, zero where it is zero."""
    given = fn.__dict__["probs"]
    if isinstance(fn, dist.Bernoulli):
        return float(given if value else 1 - given)
    return float(given[value])


_CACHE = {}


def every(kind, horizon):
    if (kind, horizon) not in _CACHE:
        _CACHE[kind, horizon] = list(assignments(kind(horizon)))
    return _CACHE[kind, horizon]


def weighed(rows, interventions, evidence):
    """(assignment, weight) of what is left: set sites lose their own factor, known ones keep it."""
    for assignment, chances, score in rows:
        if all(assignment[site] == value for site, value in (interventions | evidence).items()):
            weight = math.prod(p for site, p in chances.items() if site not in interventions) * math.exp(score)
            if weight > 0:
                yield assignment, weight


def marginals(rows, horizon, num_states=3):
    total = math.fsum(weight for _, weight in rows)
    result = np.zeros((horizon + 1, num_states))
    for assignment, weight in rows:
        for t in range(horizon + 1):
            if f"s_{t + 1}" in assignment:
                result[t, assignment[f"s_{t + 1}"]] += weight / total
    return result


CASES = {
    "do an action": ({"a_2": 1}, {}),
    "know an action": ({}, {"a_2": 1}),
    "do two actions": ({"a_1": 0, "a_2": 1}, {}),
    "know two actions": ({}, {"a_1": 1, "a_2": 1}),
    "do and know": ({"a_1": 1}, {"a_2": 0}),
    "do a state": ({"s_2": 2}, {}),
    "know a state": ({}, {"s_2": 2}),
    "do the start, know an action": ({"s_1": 0}, {"a_2": 1}),
    "do what is known": ({"a_2": 0}, {"s_2": 0}),
    "know what is done": ({"a_2": 0}, {"a_2": 0}),
}


def revised(program, interventions, evidence):
    return condition(do(program, interventions), evidence)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", PROGRAMS, ids=NAMES)
def test_evidence_and_posterior_are_sums_over_all_assignments(kind, case):
    interventions, evidence = CASES[case]
    program = revised(kind(2), interventions, evidence)
    rows = list(weighed(every(kind, 2), interventions, evidence))
    total = math.fsum(weight for _, weight in rows)
    found = cai.infer(program, "enumeration")
    assert float(found.log_evidence) == pytest.approx(math.log(total), abs=1e-9)
    want = marginals(rows, 2)[: found.state_marginals.shape[0]]
    assert np.allclose(found.state_marginals, want, atol=1e-9, rtol=0)
    for t, state in itertools.product(range(2), range(3)):
        here = [(a[f"a_{t + 1}"], w) for a, w in rows if a[f"s_{t + 1}"] == state]
        mass = math.fsum(w for _, w in here)
        if mass > 0:
            row = [math.fsum(w for a, w in here if a == action) / mass for action in range(2)]
            assert found.action_probs[t, state].tolist() == pytest.approx(row, abs=1e-9)
    states, actions = found.sample(30, seed=1)
    for site, value in (interventions | evidence).items():
        drawn = states if site[0] == "s" else actions
        assert bool((drawn[:, int(site[2:]) - 1] == value).all())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [drawn_at_the_end, drawn_first, in_single_precision], ids=lambda kind: kind.__name__)
def test_the_optimistic_guide_closes_on_the_same_evidence(kind, case):
    interventions, evidence = CASES[case]
    total = math.fsum(weight for _, weight in weighed(every(kind, 2), interventions, evidence))
    found = cai.infer(revised(kind(2), interventions, evidence), "optimistic", solver="svi")
    assert float(found.elbo) == pytest.approx(math.log(total), abs=1e-9)


def fixed(kind, horizon, interventions, evidence):
    """The best bound with the dynamics fixed, by recursion: a set action costs nothing, a known one its prior."""
    values = [0.0] * 3
    for t in reversed(range(1, horizon + 1)):
        rows = []
        for state in range(3):
            terms = []
            for action in range(2):
                if kind is drawn_first and t == horizon:
                    gain = float(REWARD[state, action, 0])
                else:
                    moves, last = MOVE[state, action].tolist(), interventions.get(f"s_{t + 1}")
                    moves = moves if last is None else [float(n == last) for n in range(3)]
                    gain = sum(p * (float(REWARD[state, action, n]) + values[n]) for n, p in enumerate(moves) if p > 0)
                wanted = interventions.get(f"a_{t}", evidence.get(f"a_{t}", action))
                cost = 0.0 if f"a_{t}" in interventions else math.log(float(PRIOR[state, action]))
                terms.append(gain + cost if action == wanted else -math.inf)
            rows.append(log_sum(terms))
        values = rows
    start = interventions.get("s_1")
    return (
        values[start] if start is not None else sum(float(p) * v for p, v in zip(START, values, strict=True) if p > 0)
    )


@pytest.mark.parametrize("horizon", [2, 5])
@pytest.mark.parametrize("case", [name for name, (_, known) in CASES.items() if not any(s[0] == "s" for s in known)])
@pytest.mark.parametrize("kind", [drawn_at_the_end, drawn_first], ids=lambda kind: kind.__name__)
def test_the_variational_guide_takes_set_and_known_actions(kind, case, horizon):
    interventions, evidence = CASES[case]
    found = cai.infer(revised(kind(horizon), interventions, evidence), "variational")
    assert float(found.elbo) == pytest.approx(fixed(kind, horizon, interventions, evidence), abs=1e-9)
    assert float(found.luck) == pytest.approx(0.0, abs=1e-9)
    for site, value in (interventions | evidence).items():
        if site[0] == "a":
            t = int(site[2:]) - 1
            reached = found.state_marginals[t] > 0
            assert torch.allclose(found.action_probs[t, reached, value], torch.ones(()).double(), atol=1e-12)


def test_a_known_state_that_chance_may_miss_is_unavoidable():
    program = condition(drawn_at_the_end(2), {"s_2": 2})
    assert cai.infer(program, "variational", throw=False).status is Status.UNAVOIDABLE
    assert cai.infer(do(drawn_at_the_end(2), {"s_2": 2}), "variational").status is Status.SUCCESS


# ---- Pyro's own handlers -------------------------------------------------------------------------------------------


def evidence_in_pyro(program):
    loss = TraceEnum_ELBO(max_plate_nesting=0).loss(config_enumerate(program, default="parallel"), lambda: None)
    return -float(loss)


def without_markov(kind, monkeypatch):
    """Pyro's do hides the site that it splits off, which pyro.markov would miss: plain loops instead."""
    monkeypatch.setattr(pyro, "markov", lambda steps, **_: steps)
    return kind(2)


ALONE = (drawn_at_the_end, drawn_first, wind_after_action, remembering)  # in one precision, as Pyro alone needs


@pytest.mark.parametrize("kind", ALONE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("case", [name for name, (done, known) in CASES.items() if not done.keys() & known.keys()])
def test_the_evidence_is_that_of_pyros_handlers(kind, case, monkeypatch):
    interventions, evidence = CASES[case]
    program = without_markov(kind, monkeypatch)
    theirs = poutine.do(program, {site: torch.tensor(value) for site, value in interventions.items()})
    theirs = poutine.condition(theirs, {site: torch.tensor(value) for site, value in evidence.items()})
    want = evidence_in_pyro(theirs)
    assert evidence_in_pyro(revised(program, interventions, evidence)) == pytest.approx(want, abs=1e-9)
    found = cai.infer(revised(program, interventions, evidence), "enumeration")
    assert float(found.log_evidence) == pytest.approx(want, abs=1e-9)


def test_programs_in_single_precision_stay_so():
    """In Pyro alone, without our exact sites, nothing of float64 is mixed in, and a set Bernoulli stays a float."""
    program = revised(in_single_precision(2), {"a_1": 1}, {"a_2": 0, "s_2": 2})
    nodes = poutine.trace(program).get_trace().nodes
    assert {node["value"].dtype for name, node in nodes.items() if name[:2] == "a_"} == {torch.float32}
    assert float(nodes["a_1"]["value"]) == 1.0
    assert {node["fn"].log_prob(node["value"]).dtype for node in nodes.values() if node["type"] == "sample"} == {
        torch.float32
    }
    assert math.isfinite(evidence_in_pyro(program))
    double = revised(in_single_precision(2, torch.float64), {"a_1": 1}, {"a_2": 0, "s_2": 2})
    found = [float(cai.infer(p, "enumeration").log_evidence) for p in (program, double)]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


# ---- where they differ, and where they agree -----------------------------------------------------------------------


def indifferent(prior):
    """A model that wants nothing: its posterior is what is known of the prior."""
    mdp = MDP(MOVE, START)
    return TrajectoryModel(mdp, 0.0, 3, action_prior=prior)


def test_knowing_an_action_tells_about_the_state_and_setting_it_does_not():
    model = indifferent(PRIOR)
    before = cai.infer(model, "enumeration").state_marginals
    known = cai.infer(condition(model, {1: 1}), "enumeration")
    done = cai.infer(do(model, {1: 1}), "enumeration")
    assert torch.allclose(done.state_marginals[:2], before[:2], atol=1e-12, rtol=0)
    told = before[1] * PRIOR[:, 1]
    assert torch.allclose(known.state_marginals[1], told / told.sum(), atol=1e-12, rtol=0)
    assert not torch.allclose(known.state_marginals[:2], before[:2], atol=1e-2)
    assert float(known.log_evidence) == pytest.approx(math.log(float(told.sum())), abs=1e-12)
    assert float(done.log_evidence) == pytest.approx(0.0, abs=1e-12)
    after = [m @ MOVE[:, 1] for m in (known.state_marginals[1], done.state_marginals[1])]
    assert torch.allclose(known.state_marginals[2], after[0], atol=1e-12, rtol=0)
    assert torch.allclose(done.state_marginals[2], after[1], atol=1e-12, rtol=0)


def test_they_agree_where_the_action_prior_does_not_look_at_the_state():
    model = TrajectoryModel(MDP(MOVE, START), TableReward(REWARD), 3, action_prior=[0.3, 0.7])
    known, done = (cai.infer(how(model, {1: 1}), "enumeration") for how in (condition, do))
    assert float(done.log_evidence - known.log_evidence) == pytest.approx(-math.log(0.7), abs=1e-12)
    assert torch.allclose(known.state_marginals, done.state_marginals, atol=1e-12, rtol=0)
    assert torch.allclose(known.action_probs, done.action_probs, atol=1e-12, rtol=0)


def test_the_evidence_with_an_action_is_that_of_the_action_in_the_posterior():
    model = TrajectoryModel(MDP(MOVE, START), TableReward(REWARD), 3, action_prior=PRIOR)
    posterior = cai.infer(model, "exact")
    for t, action in itertools.product(range(3), range(2)):
        joint = cai.infer(condition(model, {t: action}), "enumeration").log_evidence
        want = posterior.state_marginals[t] @ posterior.action_probs[t, :, action]
        assert float((joint - posterior.log_evidence).exp()) == pytest.approx(float(want), abs=1e-9)


def weight(problem, at, action, cut, state=None, t=-1):
    """p(O, a_at = action), or p(O | do(a_at = action)) if the prior is cut, by recursion over all that can happen."""
    if t == -1:
        return math.fsum(p * weight(problem, at, action, cut, s, 0) for s, p in enumerate(problem.initial) if p > 0)
    if t == problem.horizon:
        return 1.0
    if state is None:  # fallen: every action alike
        return 1.0 if cut or at < t else 1.0 / problem.num_actions
    total = 0.0
    for a, prior in enumerate(problem.prior[state]):
        if t == at:
            prior = float(a == action) * (1.0 if cut else prior)
        if prior == 0:
            continue
        if problem.terminal[state]:
            total += prior * weight(problem, at, action, cut, state, t + 1)
            continue
        for p, following, rewards in problem.outcomes[state][a]:
            chance = prior * p * math.exp(rewards[t] / problem.temperature)
            if chance > 0:
                total += chance * problem.discount * weight(problem, at, action, cut, following, t + 1)
                if problem.discount < 1:
                    total += chance * (1 - problem.discount) * weight(problem, at, action, cut, None, t + 1)
    return total


def nonterminal_states(problem, t):
    """Where a decision may have to be made at time index t."""
    reached = {s for s, p in enumerate(problem.initial) if p > 0}
    for _ in range(t):
        reached = {
            following
            for s in reached
            for a, prior in enumerate(problem.prior[s])
            for p, following, _ in problem.outcomes[s][a]
            if prior > 0 and p > 0
        }
    return [s for s in reached if not problem.terminal[s]]


def logarithm(value):
    return math.log(value) if value > 0 else -math.inf


@each_seed(range(60), quick=16)
def test_models_with_discounts_terminals_and_outcomes(seed):
    problem = random_problem(seed)
    model, t = problem.model, seed % problem.horizon
    for action in range(problem.num_actions):
        want = logarithm(weight(problem, t, action, cut=False))
        found = cai.infer(condition(model, {t: action}), "enumeration", throw=False)
        assert float(found.log_evidence) == pytest.approx(want, abs=1e-9)
        assert found.status is (Status.SUCCESS if want > -math.inf else Status.IMPOSSIBLE)
        if not all(bool(model.mdp.available[s, action]) for s in nonterminal_states(problem, t)):
            with pytest.raises(ValueError, match=r"is not available in state .* where the run can be then"):
                do(model, {t: action})
            continue
        want = logarithm(weight(problem, t, action, cut=True))
        found = cai.infer(do(model, {t: action}), "enumeration", throw=False)
        assert float(found.log_evidence) == pytest.approx(want, abs=1e-9)


def test_what_comes_before_says_which_actions_exist():
    """State 1 has no action 1; it cannot be reached once action 0 or state 0 is set."""
    moves = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]
    model = TrajectoryModel(MDP(moves, [1.0, 0.0], available=[[True, True], [True, False]]), 0.0, 3)
    do(model, {"a_1": 1})
    for first in ({"a_1": 0}, {"s_2": 0}):
        assert float(cai.infer(do(do(model, first), {"a_2": 1}), "enumeration").log_evidence) == 0.0
        do(model, first | {"a_2": 1})
    with pytest.raises(ValueError, match=r"a_2 is set to 1, .* state 1, .* \(time index 1\); available .*: 0; or cond"):
        do(model, {"a_2": 1})
    with pytest.raises(ValueError, match="a_3 is set to 1"):
        do(model, {"a_2": 1, "s_2": 0, "a_3": 1})
    with pytest.raises(ValueError, match="a_2 is set to 1"):
        do(model, {"a_1": 0, "s_2": 1, "a_2": 1})
    assert float(cai.infer(condition(model, {"a_2": 1}), "enumeration").log_evidence) == pytest.approx(math.log(0.25))


def test_an_action_may_be_set_that_the_prior_never_takes():
    model = indifferent([1.0, 0.0])
    assert cai.infer(condition(model, {0: 1}), "enumeration", throw=False).status is Status.IMPOSSIBLE
    assert cai.infer(condition(model, {0: 1}), "variational", throw=False).status is Status.IMPOSSIBLE
    found = cai.infer(do(model, {0: 1}), "variational")
    assert torch.allclose(found.state_marginals[1], START @ MOVE[:, 1], atol=1e-12, rtol=0)


def test_the_lottery_by_hand():
    """Gambling is -10 or 0 at evens; set, it believes in luck all the same, and known, it costs the prior's log 2."""
    model = build_model("lottery")
    set_, known = (how(model, {0: "gamble"}) for how in (do, condition))
    luck = math.log((1 + math.exp(-10)) / 2)
    assert float(cai.infer(set_, "enumeration").log_evidence) == pytest.approx(luck, abs=1e-12)
    assert float(cai.infer(known, "enumeration").log_evidence) == pytest.approx(luck - math.log(2), abs=1e-12)
    assert float(cai.infer(set_, "variational").elbo) == pytest.approx(-5.0, abs=1e-12)
    assert float(cai.infer(known, "variational").elbo) == pytest.approx(-5.0 - math.log(2), abs=1e-9)
    won = do(model, {"s_2": "won"})
    assert float(cai.infer(won, "enumeration").log_evidence) == pytest.approx(0.0, abs=1e-12)


# ---- the program itself --------------------------------------------------------------------------------------------


def test_a_revised_program_keeps_its_sites():
    program, model = windy(3), bridge(horizon=4)
    for base, actions in ((program, {0: 1, "wind_2": 1, "s_3": 0}), (model, {0: "up", "s_1": 3})):
        before, after, known = (inspect_program(p) for p in (base, do(base, actions), condition(base, actions)))
        assert after == before
        assert known.factors != before.factors
        assert (known.latents, known.sizes) == (before.latents, before.sizes)
        assert set(known.factors) - set(before.factors) == {f"evidence.{s}" for s in ("a_1", *list(actions)[1:])}


def test_names_say_what_was_done():
    program = do(condition(drawn_first(3), {"a_2": 1}), {0: 1})
    assert program.__name__ == "program | do(a_1 = 1), a_2 = 1"
    assert repr(program) == "RevisedProgram('program | do(a_1 = 1), a_2 = 1')"
    named = condition(do(build_model("lottery"), {0: "gamble"}), {"s_2": "lost"})
    assert named.__name__ == "lottery | do(a_1 = gamble), s_2 = lost"
    assert do(drawn_first(3), {}).__name__ == "program"
    assert isinstance(do(program, {}), RevisedProgram)
    assert cai.compare(named, ["enumeration"]).to_json().count("lottery | do(a_1 = gamble), s_2 = lost") >= 1


def test_any_way_to_write_a_number_will_do():
    program = drawn_at_the_end(3)
    for key, value in ((1, np.int64(1)), (torch.tensor(1), torch.tensor(1)), (np.int32(1), True + 0), ("a_2", 1)):
        assert dict(do(program, {key: value}).interventions) == {"a_2": 1}


def test_nesting_does_not_depend_on_the_order():
    first = do(condition(do(windy(2), {0: 1}), {"wind_2": 1}), {"s_2": 2})
    second = condition(do(windy(2), {"a_1": 1, "s_2": 2}), {"wind_2": 1})
    values = [float(cai.infer(program, "enumeration").log_evidence) for program in (first, second)]
    assert values[0] == values[1]
    assert do(do(windy(2), {0: 1}), {"a_1": 1}).interventions == {"a_1": 1}
    assert condition(condition(windy(2), {0: 1}), {"a_1": 1}).evidence == {"a_1": 1}
    contradicted = condition(do(windy(2), {0: 1}), {0: 0})
    assert cai.infer(contradicted, "enumeration", throw=False).status is Status.IMPOSSIBLE


def test_a_site_that_is_not_drawn_in_every_run_is_missed():
    draws = iter([True, True, False])

    def moody():
        state = pyro.sample("s_1", dist.Categorical(START))
        pyro.sample("a_1", dist.Categorical(PRIOR[state]))
        if next(draws):
            pyro.sample("mood", dist.Bernoulli(0.5))
        pyro.factor("O_1", torch.tensor(0.0))

    program = do(moody, {"mood": 1})
    program()
    with pytest.raises(ValueError, match="this run of the program did not draw 'mood', which is set or known"):
        program()


def paid_by_outcome(**options):
    """Two states; each outcome pays its own reward, and state 1 is left for itself alone."""
    mdp = MDP.from_successors([[[0, 1]], [[1, 1]]], [[[0.5, 0.5]], [[1.0, 0.0]]], [1.0, 0.0])
    return TrajectoryModel(mdp, OutcomeReward([[[1.0, 2.0]], [[3.0, 4.0]]]), 3, **options)


def test_a_next_state_may_be_set_where_its_reward_is_known():
    model = paid_by_outcome()
    found = cai.infer(do(model, {"s_2": 1}), "enumeration")
    assert float(found.log_evidence) == pytest.approx(2.0 + 3.0 + 3.0, abs=1e-12)
    with pytest.raises(ValueError, match=r"s_3 cannot be set to 0: .* none of action 0 in state 1 leads there"):
        do(model, {"s_3": 0})
    far = TrajectoryModel(model.mdp, lambda s, a, after, t: 1.0 * after, 3)
    assert float(cai.infer(do(far, {"s_2": 1, "s_3": 0, "s_4": 1}), "enumeration").log_evidence) == pytest.approx(2.0)


# ---- refusals ------------------------------------------------------------------------------------------------------

PROGRAM = drawn_at_the_end(3)
LOTTERY = build_model("lottery")


def continuous():
    state = pyro.sample("s_1", dist.Categorical(START))
    pyro.sample("a_1", dist.Categorical(PRIOR[state]))
    pyro.sample("wind", dist.Normal(0.0, 1.0))
    pyro.factor("O_1", torch.tensor(0.0))


REFUSED = {
    "no mapping": (lambda: do(PROGRAM, [0, 1]), TypeError, r"set is given as \[0, 1\]; give a dict .* \{'a_1': 1\}"),
    "no program": (lambda: do(3, {0: 1}), TypeError, "expected a TrajectoryModel or a Pyro program"),
    "an endless model": (
        lambda: do(LOTTERY.replace(horizon=math.inf), {0: 1}),
        "this model's horizon is infinite; give horizon=N",
    ),
    "a late time": (
        lambda: do(PROGRAM, {3: 1}),
        r"no action at time index 3; the program has 3 actions, time indices 0 to 2 \(sites a_1 to a_3\)",
    ),
    "a negative time": (lambda: condition(PROGRAM, {-1: 1}), "no action at time index -1"),
    "a bool for a time": (lambda: do(PROGRAM, {True: 1}), TypeError, "True names no site; give a time index from 0"),
    "a fraction for a time": (lambda: do(PROGRAM, {0.0: 1}), TypeError, "0.0 names no site"),
    "an unknown site": (lambda: do(PROGRAM, {"a_9": 1}), "draws no site called 'a_9'; its latents are s_1, a_1, .*s_4"),
    "a factor": (lambda: do(PROGRAM, {"O_2": 1}), "'O_2' is a factor or an observation, .* can be set"),
    "an observation": (lambda: condition(windy(2), {"O_1": 1}), "'O_1' is a factor or .* can be known"),
    "no value of a density": (
        lambda: do(continuous, {"wind": math.nan}),
        TypeError,
        "the value of wind is nan; it is drawn from a density: give a finite number",
    ),
    "one site twice": (lambda: do(PROGRAM, {1: 0, "a_2": 0}), "a_2 is given twice, .* give it once"),
    "a value too large": (lambda: do(PROGRAM, {"a_2": 2}), "the value of a_2 is 2; its actions are 0 to 1"),
    "a negative value": (lambda: condition(PROGRAM, {"s_2": -1}), "the value of s_2 is -1; its states are 0 to 2"),
    "a value of a latent": (lambda: do(windy(2), {"wind_1": 2}), "the value of wind_1 is 2; its values are 0 to 1"),
    "a fraction": (lambda: do(PROGRAM, {0: 0.5}), TypeError, "the value of a_1 is 0.5; give a whole number$"),
    "a bool": (lambda: do(LOTTERY, {0: True}), TypeError, "a_1 is True; give a whole number or a name"),
    "a name for a program": (lambda: do(PROGRAM, {0: "left"}), "'left'; the actions of this site have no names"),
    "an unknown action": (lambda: do(LOTTERY, {0: "win"}), "no action is called 'win'; names are safe, gamble"),
    "an unknown state": (lambda: do(LOTTERY, {"s_2": "rich"}), "no state is called 'rich'; names are choice, safe"),
    "set twice": (lambda: do(do(PROGRAM, {0: 1}), {0: 0}), "a_1 is set to 1 already"),
    "known twice": (lambda: condition(condition(PROGRAM, {0: 1}), {0: 0}), "a_1 is known to be 1 already; .* be 0 as"),
    "set what is known": (lambda: do(condition(PROGRAM, {0: 1}), {0: 1}), "a_1 is known to be 1, .* cut the evidence"),
    "an outcome": (
        lambda: do(paid_by_outcome(discount=0.9), {"k_1": 1}),
        "k_1 is the number of an outcome, which means something else",
    ),
    "a state after its reward": (
        lambda: do(paid_by_outcome(discount=0.9), {"s_2": 1}),
        "s_2 cannot be set: the reward at time index 0 is that of an outcome k_1, .* condition on the state",
    ),
}


@refuse(REFUSED)
def test_refusals(build, error, pattern):
    check(build, error, pattern)


# ---- continuous sites ---------------------------------------------------------------------------------------------


def push():
    state = pyro.sample("s_1", dist.Normal(torch.zeros(()).double(), 1.0))
    action = pyro.sample("a_1", dist.Normal(state, 1.0))
    pyro.sample("s_2", dist.Normal(state + action, 1.0))
    pyro.factor("O_1", dist.Normal(torch.ones(()).double(), 1.0).log_prob(action))


def density(value, mean, variance):
    return -0.5 * (value - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)


def test_a_density_is_set_and_known_as_in_closed_form():
    """Setting a_1 leaves the evidence p(O | a_1) and s_1 as it was; knowing it tells about s_1."""
    reward = density(1.0, 0.5, 1.0)
    cases = {
        "do": (do(push, {"a_1": 0.5}), reward, 0.0, 1.0),
        "condition": (condition(push, {"a_1": torch.tensor(0.5)}), reward + density(0.5, 0.0, 2.0), 0.25, 0.5),
        "both": (condition(do(push, {0: 0.5}), {"s_2": 2.0}), reward + density(2.0, 0.5, 2.0), 0.75, 0.5),
    }
    for name, (program, evidence, mean, variance) in cases.items():
        posterior = cai.infer(program, "smc", num_particles=20_000)
        particles = posterior.details["particles"]
        assert bool((particles.values["a_1"] == 0.5).all()), name
        found, states = float(posterior.log_evidence), particles.values["s_1"]
        assert found == pytest.approx(evidence, abs=0.05), name  # more than five standard errors of a weight below 1
        assert float((particles.weights * states).sum()) == pytest.approx(mean, abs=0.06), name
        assert float((particles.weights * (states - mean) ** 2).sum()) == pytest.approx(variance, abs=0.1), name


def observing(site, value):
    """Two steps of two states, one site of which is observed by the program itself."""

    def program():
        obs = {site: value}
        state = pyro.sample("s_1", dist.Categorical(START[:2] / START[:2].sum()), obs=obs.get("s_1"))
        for t in (1, 2):
            action = pyro.sample(f"a_{t}", dist.Categorical(torch.tensor([0.5, 0.5])), obs=obs.get(f"a_{t}"))
            pyro.factor(f"O_{t}", -torch.tensor([[0.5, 1.0], [0.25, 2.0]])[state, action])
            state = pyro.sample(f"s_{t + 1}", dist.Categorical(torch.tensor([0.5, 0.5])), obs=obs.get(f"s_{t + 1}"))

    return program


@pytest.mark.parametrize("backend", ["variational", "restricted", "variational:solver=svi"])
@pytest.mark.parametrize("site", ["s_1", "s_3"])
def test_a_state_that_no_policy_can_bring_about_is_told_from_a_reward_that_is_forbidden(backend, site):
    words = rf"unavoidable.*the program observes {site}, which chance may miss.*do\(program, \{{'{site}': ...\}}\)"
    with pytest.raises(cai.inference.InferenceError, match=words):
        cai.infer(observing(site, torch.tensor(1)), backend)
    assert words.split(".*")[1][:20] in cai.compare(observing(site, torch.tensor(1)), [backend]).rows[0].detail
    assert cai.infer(observing("a_1", torch.tensor(1)), backend).status.ok


@pytest.mark.parametrize("backend", ["enumeration", "variational", "smc"])
@pytest.mark.parametrize(("site", "value"), [("s_1", 7), ("a_2", -1), ("s_2", 2), ("s_1", 0.5)])
def test_an_observation_that_no_site_can_draw_is_named(backend, site, value):
    words = rf"^site '{site}' observes {value}, and its 2 values are 0 to 1$"
    with pytest.raises(ValueError, match=words):
        cai.infer(observing(site, torch.tensor(value)), backend)


def test_an_observed_index_that_is_a_float_is_told():
    with pytest.raises(ValueError, match=r"observe torch.tensor\(1\), not torch.tensor\(1.0\)"):
        cai.infer(observing("s_1", torch.tensor(1.0)), "enumeration")
