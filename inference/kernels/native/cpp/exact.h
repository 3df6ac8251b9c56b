// The exact backup with one shift for all states, and one step forward along it. States whose sums underflow are done
// again by a shift of their own.

#pragma once

#include "step.h"

namespace cai::LEVEL {

// Of N problems from b on, `largest` [B] or the largest of `rows` of values, where that is larger.
template <class F, int N>
void batch_largest(const F* values, int64_t rows, int64_t problems, int64_t b, double* largest) {
  Lanes<N> high = Lanes<N>::load(largest + b);
  for (int64_t s = 0; s < rows; ++s) {
    expect<N>(values + s * problems + b);
    const Lanes<N> value = Lanes<N>::load(values + s * problems + b);
    for (int i = 0; i < Lanes<N>::PARTS; ++i) high.part[i] = larger(value.part[i], high.part[i]);
  }
  high.store(largest + b);
}

// x = factor e^{v - c} + added of N problems from b on; c and `added` are [B].
template <class F, int N>
void batch_powers(const F* values, int64_t rows, int64_t problems, int64_t b, const double* shift, double factor,
                  const double* added, double* x) {
  const Lanes<N> c = Lanes<N>::load(shift + b), more = Lanes<N>::load(added + b);
  for (int64_t s = 0; s < rows; ++s) {
    expect<N>(values + s * problems + b);
    Lanes<N> value = Lanes<N>::load(values + s * problems + b);
    for (int i = 0; i < Lanes<N>::PARTS; ++i)
      value.part[i] = factor * power(value.part[i] - c.part[i]) + more.part[i];
    value.store(x + s * problems + b);
  }
}

// x = gamma e^{v - c} + (1 - gamma) e^{-c} [S, B]; c [B], the largest finite value, at least 0 with a discount.
template <class F>
void arrivals(const Problem& problem, const F* following, double* x, double* shift, int threads) {
  const int64_t S = problem.states, B = problem.problems;
  for (int64_t b = 0; b < B; ++b) shift[b] = problem.discount < 1.0 ? 0.0 : -INFTY;
#pragma omp parallel num_threads(threads)
  {
    Vector<double> largest(B, -INFTY);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < S; start += 1024) {
      const int64_t stop = std::min(S, start + 1024);
      if (B == 1) {
        double high = -INFTY;
#pragma omp simd reduction(max : high)
        for (int64_t s = start; s < stop; ++s) high = double(following[s]) > high ? double(following[s]) : high;
        largest[0] = std::max(largest[0], high);
      } else {
        each_piece(B, [&](auto lanes, int64_t b) {
          batch_largest<F, lanes.value>(following + start * B, stop - start, B, b, largest.data());
        });
      }
    }
#pragma omp critical
    for (int64_t b = 0; b < B; ++b) shift[b] = std::max(shift[b], largest[b]);
#pragma omp barrier
#pragma omp single
    for (int64_t b = 0; b < B; ++b) shift[b] = shift[b] == -INFTY ? 0.0 : shift[b];
    Vector<double> fallen(B, 0.0);
    if (problem.discount < 1.0)
      for (int64_t b = 0; b < B; ++b) fallen[b] = (1.0 - problem.discount) * std::exp(-shift[b]);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < S; start += 1024) {
      const int64_t stop = std::min(S, start + 1024);
      if (B == 1) {
        const double c = shift[0], f = fallen[0];
#pragma omp simd
        for (int64_t s = start; s < stop; ++s) x[s] = problem.discount * power(double(following[s]) - c) + f;
      } else {
        each_piece(B, [&](auto lanes, int64_t b) {
          batch_powers<F, lanes.value>(following + start * B, stop - start, B, b, shift, problem.discount,
                                       fallen.data(), x + start * B);
        });
      }
    }
  }
}

// p(a|s) e^rho over the largest of its state [count, A, B] from `start` on: those at hand, or made in `made`.
template <class F>
const F* weights_of(const Problem& problem, int64_t start, int64_t count, F* made) {
  const int64_t A = problem.actions, B = problem.problems;
  if (problem.weights != nullptr) return static_cast<const F*>(problem.weights) + start * A * B;
  const F* scores = static_cast<const F*>(problem.scores) + start * A * B;
  const F* largest = static_cast<const F*>(problem.row_largest) + start * B;
  for (int64_t row = 0; row < count * A; ++row)
#pragma omp simd
    for (int64_t b = 0; b < B; ++b) {
      const double score = double(scores[row * B + b]) + problem.shared_prior;
      made[row * B + b] = F(score - double(largest[row / A * B + b]));
    }
#pragma omp simd
  for (int64_t i = 0; i < count * A * B; ++i) made[i] = F(power(double(made[i])));
  return made;
}

// Products P x of a block [count, A, B], and their weighted sums over actions [count, B]; or, without weights, those of
// the merged table.
template <class F>
void exact_sums(const Problem& problem, const F* weights, const double* x, int64_t start, int64_t count,
                double* arrived, double* total) {
  const int64_t A = problem.actions, B = problem.problems;
  if (weights == nullptr) return products<F, false>(problem.merged, start, count, problem.states, x, B, total);
  products<F, false>(problem.chances, start * A, count * A, problem.states, x, B, arrived);
  for (int64_t i = 0; i < count; ++i) {
    double* sum = total + i * B;
    const double* product = arrived + i * A * B;
    const F* weight = weights + i * A * B;
    for (int64_t b = 0; b < B; ++b) sum[b] = weight[b] * product[b];
    for (int64_t a = 1; a < A; ++a)
#pragma omp simd
      for (int64_t b = 0; b < B; ++b) sum[b] += weight[a * B + b] * product[a * B + b];
  }
}

// The same sums of N problems from b on, over rows of K entries (0: of any number), which leave no products behind.
template <class F, int K, int N>
__attribute__((noinline)) void batch_exact_sums(const Problem& problem, const F* weights, const double* x, int64_t b,
                                                int64_t start, int64_t count, double* total) {
  const Sums chances = problem.chances;
  const int64_t A = problem.actions, B = problem.problems, S = problem.states;
  for (int64_t i = 0; i < count; ++i) {
    Lanes<N> sum = {};
    for (int64_t a = 0; a < A; ++a) {
      const Row<F> row = row_of<F, K>(chances, (start + i) * A + a, S);
      const Lanes<N> arrived = lanes_dot<F, false, N, K>(row, x + b, B);
      expect<N>(weights + (i * A + a) * B + b);
      const Lanes<N> weight = Lanes<N>::load(weights + (i * A + a) * B + b);
      for (int part = 0; part < Lanes<N>::PARTS; ++part) sum.part[part] += weight.part[part] * arrived.part[part];
    }
    sum.store(total + i * B + b);
  }
}

// Calls use(action, next state, log p(a|s) + rho_k + log p_k + what it is worth to arrive) for what is possible in s.
template <class F, class Use>
void each_outcome(const Problem& problem, const F* following, int64_t s, int64_t b, const Use& use) {
  const Sums& sums = problem.chances;
  const int64_t A = problem.actions, B = problem.problems;
  const F *chances = static_cast<const F*>(sums.weights), *logs = static_cast<const F*>(problem.log_chances);
  const bool dense = sums.outcomes < 0;
  for (int64_t a = 0; a < A; ++a) {
    const int64_t row = s * A + a;
    const double score = double(static_cast<const F*>(problem.scores)[row * B + b]) + problem.shared_prior;
    if (score == -INFTY) continue;
    const int64_t even = dense ? problem.states : sums.outcomes;
    const int64_t begin = sums.pointers != nullptr ? sums.pointers[row] : row * even;
    const int64_t end = sums.pointers != nullptr ? sums.pointers[row + 1] : begin + even;
    for (int64_t entry = begin; entry < end; ++entry) {
      const int64_t next = dense ? entry - begin : sums.columns[entry];
      double worth = following[next * B + b];
      if (chances[entry] == F(0) && logs == nullptr) continue;
      if (problem.discount < 1.0) {
        const double goes_on = worth + std::log(problem.discount), falls = std::log1p(-problem.discount);
        const double high = std::max(goes_on, falls), low = std::min(goes_on, falls);
        worth = high + std::log1p(std::exp(low - high));
      }
      if (worth == -INFTY) continue;
      const double chance = logs != nullptr ? double(logs[entry]) : std::log(double(chances[entry]));
      if (chance > -INFTY) use(a, next, score + chance + worth);
    }
  }
}

// v_t(s) by a shift of its own.
template <class F>
double local_value(const Problem& problem, const F* following, int64_t s, int64_t b) {
  double largest = -INFTY, sum = 0.0;
  each_outcome(problem, following, s, b, [&](int64_t, int64_t, double x) { largest = std::max(largest, x); });
  if (largest == -INFTY) return -INFTY;
  each_outcome(problem, following, s, b, [&](int64_t, int64_t, double x) { sum += std::exp(x - largest); });
  return largest + std::log(sum);
}

// v = log `total` + `largest` + `shifts` of `length` numbers, infinite where `total` is under `smallest`; whether one is.
template <class F>
__attribute__((noinline)) bool exact_values(const double* total, const F* largest, const double* shifts,
                                            int64_t length, double smallest, F* out) {
  each_piece(length, [&](auto lanes, int64_t first) {
    using Piece = Lanes<lanes.value>;
    using X = typename Piece::X;
    expect<lanes.value>(largest + first);
    const Piece sum = Piece::load(total + first), high = Piece::load(largest + first);
    const Piece shift = Piece::load(shifts + first);
    Piece value;
    for (int i = 0; i < Piece::PARTS; ++i) {
      const X found = logarithm_of_normal(sum.part[i]) + high.part[i] + shift.part[i];
      value.part[i] = sum.part[i] >= smallest ? found : X() + INFTY;
    }
    value.store(out + first);
  });
  int64_t low = 0;
#pragma omp simd reduction(| : low)
  for (int64_t i = 0; i < length; ++i) low |= out[i] == F(INFTY);
  return low != 0;
}

// The block loops here are written out: with one loop that calls a function of each block batches took 2.8 times as long
// (GCC 12).

// v_t [S, B] from v_{t+1}; x [S, B] and c [B] are memory.
template <class F>
void exact_step(const Problem& problem, bool merged, const F* following, double* x, double* shift, F* out) {
  const int64_t A = problem.actions, B = problem.problems, block = block_of(problem);
  const int threads = threads_for(merged ? entries(problem.merged, problem.states) : work_of(problem), problem.threads);
  const F* row_largest = static_cast<const F*>(problem.row_largest);
  arrivals(problem, following, x, shift, threads);
  bool low = false;
#pragma omp parallel num_threads(threads) reduction(| : low)
  {
    Vector<double> arrived(merged ? 0 : A * block * B), total(block * B), shifts(block * B);
    for (int64_t i = 0; i < block * B; ++i) shifts[i] = shift[i % B];
    Vector<F> made(merged || problem.weights != nullptr ? 0 : A * block * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < problem.states; start += block) {
      const int64_t count = std::min(block, problem.states - start);
      const F* weights = merged ? nullptr : weights_of<F>(problem, start, count, made.data());
      if (B == 1) {
        exact_sums<F>(problem, weights, x, start, count, arrived.data(), total.data());
      } else {
        with_count(problem.chances, [&](auto entries) {
          each_piece(B, [&](auto lanes, int64_t b) {
            batch_exact_sums<F, entries.value, lanes.value>(problem, weights, x, b, start, count, total.data());
          });
        });
      }
      low |= exact_values(total.data(), row_largest + start * B, shifts.data(), count * B, problem.smallest,
                          out + start * B);
    }
  }
  end_terminal(problem, out);
  if (!low) return;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
  for (int64_t i = 0; i < problem.states * B; ++i)
    if (out[i] == F(INFTY)) out[i] = F(local_value(problem, following, i / B, i % B));
}

// From a_t [S, B]: d_t(s, a), added to `total` [S, A, B], and a_{t+1} in place of a_t. Sums under `least`, by which rates
// might overflow, are done again. `flow` [S, A, B], x and `rates` [S, B] and c [B] are memory.
template <class F>
void exact_forward(const Problem& problem, const F* values, const F* following, double* adjoint, double least,
                   double* flow, double* total, double* x, double* rates, double* shift) {
  const int64_t A = problem.actions, B = problem.problems, block = block_of(problem), S = problem.states;
  const int threads = threads_for(work_of(problem), problem.threads);
  const uint8_t* terminal = problem.terminal;
  arrivals(problem, following, x, shift, threads);
  int64_t low = 0;
#pragma omp parallel num_threads(threads) reduction(+ : low)
  {
    Vector<double> arrived(A * block * B), sums(block * B);
    Vector<F> made(problem.weights != nullptr ? 0 : A * block * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < S; start += block) {
      const int64_t count = std::min(block, S - start);
      const F* weights = weights_of<F>(problem, start, count, made.data());
      exact_sums<F>(problem, weights, x, start, count, arrived.data(), sums.data());
      const double* above = adjoint + start * B;
      const F* value = values + start * B;
      double* rate = rates + start * B;
      if (terminal != nullptr)
        for (int64_t i = 0; i < count * B; ++i) sums[i] = terminal[start + i / B] ? INFTY : sums[i];
#pragma omp simd reduction(+ : low)
      for (int64_t i = 0; i < count * B; ++i) {
        const bool sound = sums[i] > 0.0 && sums[i] >= least;
        const bool again = !sound && value[i] > F(-INFTY) && above[i] != 0.0;
        rate[i] = sound ? above[i] / sums[i] : 0.0;
        low += again;
        sums[i] = again ? -1.0 : sums[i];
      }
      for (int64_t i = 0; i < count; ++i)
        for (int64_t a = 0; a < A; ++a) {
          const int64_t inside = (i * A + a) * B, at = start * A * B + inside, state = i * B;
#pragma omp simd
          for (int64_t b = 0; b < B; ++b) {
            const double share = weights[inside + b] * rate[state + b];
            flow[at + b] = share;
            total[at + b] += share * arrived[inside + b];
          }
        }
      for (int64_t i = 0; low > 0 && i < count * B; ++i)
        if (sums[i] < 0.0) rate[i] = INFTY;
    }
  }
  Vector<double> above(low > 0 ? S * B : 0);
  for (int64_t i = 0; i < above.size(); ++i) above[i] = adjoint[i];
  turned_products<F>(problem, flow, adjoint);
  for (int64_t s = 0; s < S; ++s)
#pragma omp simd
    for (int64_t b = 0; b < B; ++b)
      adjoint[s * B + b] *= problem.discount == 1.0
                                ? x[s * B + b]
                                : problem.discount * power(double(following[s * B + b]) - shift[b]);
  for (int64_t i = 0; i < above.size(); ++i) {
    if (rates[i] != INFTY) continue;
    const int64_t s = i / B, b = i % B;
    const double value = values[i];
    double sum = 0.0;
    each_outcome(problem, following, s, b, [&](int64_t, int64_t, double term) { sum += std::exp(term - value); });
    each_outcome(problem, following, s, b, [&](int64_t a, int64_t next, double term) {
      const double part = above[i] / sum * std::exp(term - value);
      const double v = following[next * B + b];
      // The probability given optimality that a chain which arrives goes on.
      const double goes_on = problem.discount == 1.0
                                 ? 1.0
                                 : 1.0 / (1.0 + (1.0 - problem.discount) / problem.discount * std::exp(-v));
      total[(s * A + a) * B + b] += part;
      adjoint[next * B + b] += part * goes_on;
    });
  }
}

}  // namespace cai::LEVEL
