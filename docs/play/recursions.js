// The two soft recursions over a finite horizon, and what their answer earns; the reference that the page computes with.
// A model is {start, actions, terminal: [S], outcomes: [S][A] of [{next, chance, reward}, ...], horizon, temperature}.
"use strict";

(() => {
  // alpha log sum_i weight_i exp(value_i / alpha), without overflow; weights add up to 1 and zero weights are left out.
  function softMean(values, weights, alpha) {
    const mean = values.reduce((sum, value, i) => sum + weights[i] * value, 0);
    const gaps = values.map((value) => (value - mean) / alpha);
    if (Math.max(...gaps.map(Math.abs)) < 0.5) {
      // near the mean the logarithm of a sum near 1 would lose digits
      return mean + alpha * Math.log1p(gaps.reduce((sum, gap, i) => sum + weights[i] * Math.expm1(gap), 0));
    }
    const top = Math.max(...gaps);
    return mean + alpha * (top + Math.log(gaps.reduce((sum, gap, i) => sum + weights[i] * Math.exp(gap - top), 0)));
  }

  // Fixed dynamics: Q(s, a) = sum_s' p(s'|s,a) (r + V(s')).
  function fixedBackup(worths, chances) {
    return worths.reduce((sum, worth, i) => sum + chances[i] * worth, 0);
  }

  // Dynamics tilted by eta: Q(s, a) = (alpha / eta) log sum_s' p(s'|s,a) exp(eta (r + V(s')) / alpha).
  function tiltedBackup(worths, chances, alpha, eta) {
    return softMean(worths, chances, alpha / eta);
  }

  // q(s'|s,a) proportional to p(s'|s,a) exp(eta (r + V(s')) / alpha).
  function tiltedChances(worths, chances, alpha, eta) {
    const exponents = worths.map((worth) => (eta * worth) / alpha);
    const top = Math.max(...exponents);
    const weights = exponents.map((exponent, i) => chances[i] * Math.exp(exponent - top));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return weights.map((weight) => weight / total);
  }

  // values [T + 1][S] in reward units, policy [T][S][A], and the dynamics believed in: believed [T][S][A] of chances.
  function solve(model, eta) {
    const { temperature: alpha, horizon, outcomes, terminal } = model;
    const values = [terminal.map(() => 0)];
    const policy = [];
    const believed = [];
    for (let t = horizon - 1; t >= 0; t -= 1) {
      const later = values[0];
      const row = [];
      const policies = [];
      const dynamics = [];
      outcomes.forEach((actions, state) => {
        const prior = actions.map(() => 1 / actions.length);
        const worths = actions.map((list) => list.map(({ next, reward }) => reward + later[next]));
        const chances = actions.map((list) => list.map(({ chance }) => chance));
        const q = worths.map((worth, a) =>
          eta === 0 ? fixedBackup(worth, chances[a]) : tiltedBackup(worth, chances[a], alpha, eta),
        );
        const value = terminal[state] ? 0 : softMean(q, prior, alpha);
        row.push(value);
        policies.push(terminal[state] ? prior : q.map((worth, a) => prior[a] * Math.exp((worth - value) / alpha)));
        dynamics.push(worths.map((worth, a) => (eta === 0 ? chances[a] : tiltedChances(worth, chances[a], alpha, eta))));
      });
      values.unshift(row);
      policy.unshift(policies);
      believed.unshift(dynamics);
    }
    return { values, policy, believed };
  }

  // Expected return, KL of the dynamics in nats, and visits [S] (of ends: their probability), under given chances.
  function follow(model, policy, chancesAt) {
    let now = model.terminal.map((_, state) => (state === model.start ? 1 : 0));
    const visits = model.terminal.map(() => 0);
    let earned = 0;
    let luck = 0;
    for (let t = 0; t < model.horizon; t += 1) {
      const later = model.terminal.map(() => 0);
      now.forEach((mass, state) => {
        if (model.terminal[state]) {
          later[state] += mass;
          return;
        }
        visits[state] += mass;
        model.outcomes[state].forEach((list, action) => {
          const taken = mass * policy[t][state][action];
          const chances = chancesAt(t, state, action);
          list.forEach(({ next, chance, reward }, k) => {
            const moved = taken * chances[k];
            if (moved === 0) return;
            later[next] += moved;
            earned += moved * reward;
            luck += moved * Math.log(chances[k] / chance);
          });
        });
      });
      now = later;
    }
    model.terminal.forEach((ends, state) => {
      if (ends) visits[state] = now[state];
    });
    return { earned, luck, visits };
  }

  // What backend `risk` answers at eta: 1 is the exact posterior, 0 the best policy under the true dynamics.
  function answer(model, eta) {
    const { values, policy, believed } = solve(model, eta);
    const hoped = follow(model, policy, (t, state, action) => believed[t][state][action]);
    const tried = follow(model, policy, (t, state, action) => model.outcomes[state][action].map(({ chance }) => chance));
    return {
      values: values[0],
      policy: policy[0],
      dynamics: believed[0],
      believed: hoped.earned,
      real: tried.earned,
      luck: hoped.luck,
      hopedVisits: hoped.visits,
      realVisits: tried.visits,
    };
  }

  // A map of characters: a move goes to one of its two sides with probability slip on cells of the bridge.
  function bridge(table, { slip, temperature, horizon }) {
    const cells = [];
    const index = new Map();
    table.rows.forEach((row, i) =>
      [...row].forEach((kind, j) => {
        if (kind === "#") return;
        index.set(`${i},${j}`, cells.length);
        cells.push({ row: i, column: j, kind });
      }),
    );
    const moves = [[-1, 0], [0, 1], [1, 0], [0, -1]];
    const terminal = cells.map(({ kind }) => kind === "G" || kind === "~");
    const outcomes = cells.map(({ row, column, kind }, state) =>
      moves.map(([down, right]) => {
        if (terminal[state]) return [{ next: state, chance: 1, reward: 0 }];
        const slips = kind === "=" ? slip : 0;
        const found = new Map();
        [[down, right, 1 - slips], [right, down, slips / 2], [-right, -down, slips / 2]].forEach(([y, x, chance]) => {
          const next = index.get(`${row + y},${column + x}`) ?? state; // walls and edges hold one back
          if (chance > 0) found.set(next, (found.get(next) ?? 0) + chance);
        });
        return [...found].map(([next, chance]) => {
          const paid = { G: table.goal_reward, "~": table.fall_reward }[cells[next].kind] ?? 0;
          return { next, chance, reward: paid - table.step_cost };
        });
      }),
    );
    const start = cells.findIndex(({ kind }) => kind === "S");
    return { start, terminal, outcomes, horizon, temperature, cells, actions: ["up", "right", "down", "left"] };
  }

  // One decision: a safe loss, or a gamble on nothing and a great loss.
  function lottery(table, { temperature }) {
    const win = table.win_probability;
    const stay = [1, 2, 3].map((state) => [0, 1].map(() => [{ next: state, chance: 1, reward: 0 }]));
    const gamble = [
      { next: 2, chance: win, reward: 0 },
      { next: 3, chance: 1 - win, reward: table.lose_reward },
    ];
    return {
      start: 0,
      terminal: [false, true, true, true],
      outcomes: [[[{ next: 1, chance: 1, reward: table.safe_reward }], gamble], ...stay],
      horizon: table.horizon,
      temperature,
      actions: ["safe", "gamble"],
    };
  }

  globalThis.RECURSIONS = { answer, solve, models: { bridge, lottery } };
})();
