// The exact backup of one problem summed over actions first, x_t = D M x_{t+1} with x = e^{v - c}: many steps in one
// scale c, without a logarithm or a shift between them, and the gradient of such a pass.

#pragma once

#include "exact.h"
#include "shifted.h"

namespace cai::LEVEL {

const double HIGHEST = 200.0;    // nats above c that a terminal state, whose value is 0, may come to lie
const int64_t FEW = 8;           // steps: after a run that is shorter some go one by one, twice as many each time
const int TOGETHER = 8;          // steps of a gradient that are added up at once

// Writes the messages of `steps` steps before the last row, which is known, into rows [., S] of which every `ring`-th
// shares its memory, in nats. With `levels` [steps + 1] rows are left as x, the last too, and c of each is written; then
// the return value says whether one scale served, without which rows are of no use.
template <class F>
int64_t merged_backward(const Problem& problem, F* rows, int64_t steps, int64_t ring, double* levels) {
  const int64_t S = problem.states, SIZE = Shifted<F>::BLOCK;
  const F* factors = static_cast<const F*>(problem.factors);
  const uint8_t* terminal = problem.terminal;
  const bool falls = problem.discount < 1.0 || terminal != nullptr;
  const int threads = threads_for(entries(problem.merged, S), problem.threads);
  const Shifted<F> merged(problem.merged, S);
  Vector<double> first(S), second(S), shift(1);
  Vector<double> allowed(S);  // 0 where a state is infeasible and may stay at it, else -1
  double *known = first.data(), *next = second.data(), level = 0.0;
  int64_t length = -1, pause = 1, wait = 0;  // steps of the present scale (-1: none is open), and single steps to take
  for (int64_t t = steps - 1; t >= 0; --t) {
    F *following = rows + (t + 1) % ring * S, *out = rows + t % ring * S;
    if (length < 0 && wait == 0) {
      level = problem.discount < 1.0 ? 0.0 : -INFTY;
      for (int64_t s = 0; s < S; ++s) level = std::max(level, double(following[s]));
      level = level == -INFTY ? 0.0 : level;
      for (int64_t s = 0; s < S; ++s) allowed[s] = following[s] == F(-INFTY) ? 0.0 : -1.0;
#pragma omp simd
      for (int64_t s = 0; s < S; ++s) known[s] = power(double(following[s]) - level);
      if (levels != nullptr) {
        levels[t + 1] = level;
        for (int64_t s = 0; s < S; ++s) following[s] = F(known[s]);
      }
      length = 0;
    }
    if (length >= 0) {
      const double later = level + problem.rise, ended = falls ? std::exp(-later) : 0.0;
      int64_t bad = falls && later < -HIGHEST;
      if (problem.discount < 1.0 && !bad) {
        const double fallen = (1.0 - problem.discount) * std::exp(-level);
#pragma omp simd
        for (int64_t s = 0; s < S; ++s) known[s] = problem.discount * known[s] + fallen;
      }
      if (!bad) {
        const double least = problem.smallest, most = 1.0 / problem.smallest;
#pragma omp parallel for num_threads(threads) reduction(+ : bad) schedule(static)
        for (int64_t start = 0; start < S; start += SIZE) {
          const int64_t stop = std::min(S, start + SIZE);
          merged.products(start, stop, known, next);
          for (int64_t s = start; s < stop; ++s) next[s] *= double(factors[s]);
          if (terminal != nullptr)
            for (int64_t s = start; s < stop; ++s) next[s] = terminal[s] ? ended : next[s];
#pragma omp simd reduction(+ : bad)
          for (int64_t s = start; s < stop; ++s)
            bad += !((next[s] >= least || next[s] == allowed[s]) && next[s] <= most);
          if (levels != nullptr) {
            for (int64_t s = start; s < stop; ++s) out[s] = F(next[s]);
          } else {
#pragma omp simd
            for (int64_t s = start; s < stop; ++s) out[s] = F(logarithm(next[s]) + later);
          }
        }
      }
      if (bad == 0) {
        std::swap(known, next);
        level = later;
        ++length;
        if (levels != nullptr) {
          levels[t] = later;
        } else {
          end_terminal(problem, out);
        }
        continue;
      }
      if (levels != nullptr) return 0;
      wait = length < FEW ? pause : 1;
      pause = length < FEW ? 2 * pause : 1;
      length = -1;
    }
    exact_step(problem, true, following, known, shift.data(), out);
    --wait;
  }
  return 1;
}

// Adds to `flows` [entries], of N states from s on, gamma times the sum over `number` steps of r_j(s) x_j(s') and `lost`
// times r_j(s); r_j and x_j begin at every S-th of `rates` and of `rows`. Several states are as `Shifted` says.
template <class F, int N>
inline void add_flows(const Sums& sums, int64_t S, int64_t s, int64_t number, double discount, const double* lost,
                      const double* rates, const F* rows, double* flows) {
  const int64_t begin = sums.pointers[s], count = sums.pointers[s + 1] - begin;
  Lanes<N> own[TOGETHER], ended = {};
  for (int64_t j = 0; j < number; ++j) {
    own[j] = Lanes<N>::load(rates + j * S + s);
    for (int i = 0; i < Lanes<N>::PARTS; ++i) {
      ended.part[i] += own[j].part[i] * lost[j];
      own[j].part[i] *= discount;
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    const F* arrived = rows + sums.columns[begin + k];
    Lanes<N> even = ended, odd = {};
    for (int64_t j = 0; j < number; ++j) {
      if (k + 1 == count) expect<N>(arrived + j * S);
      const Lanes<N> x = Lanes<N>::load(arrived + j * S);
      Lanes<N>& sum = j % 2 == 0 ? even : odd;
      for (int i = 0; i < Lanes<N>::PARTS; ++i) sum.part[i] += own[j].part[i] * x.part[i];
    }
    for (int i = 0; i < Lanes<N>::PARTS; ++i) even.part[i] += odd.part[i];
    double found[N];
    even.store(found);
    for (int i = 0; i < N; ++i) flows[begin + i * count + k] += found[i];
  }
}

// Adds d_t(s, a) of `steps` steps to `total` [S, A] in place of one step after the other, from rows e^{v - c} [., S] and
// their levels: rates r_t = a_t f / x_t follow each other by r_{t+1} = gamma f M' r_t, and the sum over t of
// r_t(s) x_{t+1}(s') is what flows from s to s'. Returns 0, and leaves everything as it was, where floats do not hold
// the rates; else `adjoint` [S] is that of the last row.
template <class F>
int64_t merged_forward(const Problem& problem, const F* rows, const double* levels, int64_t steps, double* adjoint,
                       double* total) {
  const int64_t S = problem.states, A = problem.actions, count = entries(problem.merged, S), SIZE = Shifted<F>::BLOCK;
  const F *factors = static_cast<const F*>(problem.factors), *last = rows + steps * S;
  const int threads = threads_for(count, problem.threads);
  Vector<double> rates(S * (TOGETHER + 1)), sums(count, 0.0);
  const Shifted<F> merged(problem.merged, S), turned(problem.merged_turned, S);
  for (int64_t s = 0; s < S; ++s) {
    const bool flows = rows[s] > F(0) && !(problem.terminal != nullptr && problem.terminal[s]);
    rates[s] = flows ? adjoint[s] * factors[s] / double(rows[s]) : 0.0;
  }
  for (int64_t begin = 0; begin < steps; begin += TOGETHER) {
    const int64_t number = std::min<int64_t>(TOGETHER, steps - begin);
    for (int64_t j = 0; j < number; ++j) {
      const double* from = rates.data() + j * S;
      double* to = rates.data() + (j + 1) * S;
      const bool end = begin + j + 1 == steps;
      const F* scale = end ? last : factors;
#pragma omp parallel for num_threads(threads) schedule(static)
      for (int64_t start = 0; start < S; start += SIZE) {
        const int64_t stop = std::min(S, start + SIZE);
        turned.products(start, stop, from, to);
#pragma omp simd
        for (int64_t s = start; s < stop; ++s) to[s] *= problem.discount * double(scale[s]);
        if (problem.terminal != nullptr && !end)
          for (int64_t s = start; s < stop; ++s) to[s] = problem.terminal[s] ? 0.0 : to[s];
      }
    }
    const F* first = rows + (begin + 1) * S;
    double fallen[TOGETHER] = {};
    for (int64_t j = 0; j < number; ++j) {
      if (problem.discount < 1.0) fallen[j] = (1.0 - problem.discount) * std::exp(-levels[begin + j + 1]);
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t start = 0; start < S; start += SIZE) {
      merged.each(start, std::min(S, start + SIZE), [&](auto states, int64_t s) {
        add_flows<F, states.value>(problem.merged, S, s, number, problem.discount, fallen, rates.data(), first,
                                   sums.data());
      });
    }
    for (int64_t s = 0; s < S; ++s) rates[s] = rates[number * S + s];
  }
  double sound = 0.0;
  for (int64_t i = 0; i < count; ++i) sound += sums[i];
  for (int64_t s = 0; s < S; ++s) sound += rates[s];
  if (!(sound < INFTY && sound > -INFTY)) return 0;  // rates of infeasible states may grow beyond floats
  for (int64_t s = 0; s < S; ++s) adjoint[s] = rates[s];
  const Sums& chances = problem.chances;
  const F *weights = static_cast<const F*>(problem.weights), *entry_weights = static_cast<const F*>(chances.weights);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < S * A; ++row) {
    const int64_t begin = chances.pointers != nullptr ? chances.pointers[row] : row * chances.outcomes;
    const int64_t end = chances.pointers != nullptr ? chances.pointers[row + 1] : begin + chances.outcomes;
    double sum = 0.0;
    for (int64_t entry = begin; entry < end; ++entry) sum += entry_weights[entry] * sums[problem.slots[entry]];
    total[row] += weights[row] * sum;
  }
  return 1;
}

}  // namespace cai::LEVEL
