// The fixed-dynamics backup, and one step forward along it. Each state has a shift of its own, its largest score.

#pragma once

#include "step.h"

namespace cai::LEVEL {

// scores[a, i] = discount * (the product of x and row (i, a), of K entries) + own[i, a] + shared, of one problem. This and
// the next are functions of their own, as GCC 12 made them slower as parts of a larger one.
template <class F, bool GUARDED, int K>
__attribute__((noinline)) void even_scores(const F* weights, const int32_t* columns, const double* x, int64_t actions,
                                           int64_t count, double discount, double shared, const F* own,
                                           double* scores) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t a = 0; a < actions; ++a) {
      const int64_t row = i * actions + a;
      double total = 0.0;
      for (int k = 0; k < K; ++k) total += term<F, GUARDED>(weights, row * K + k, x[columns[row * K + k]]);
      scores[a * count + i] = discount * total + (own[row] + shared);
    }
}

// The same, of products that are known.
template <class F>
__attribute__((noinline)) void known_scores(const double* arrived, int64_t actions, int64_t count, double discount,
                                            double shared, const F* own, double* scores) {
  for (int64_t a = 0; a < actions; ++a)
    for (int64_t i = 0; i < count; ++i)
      scores[a * count + i] = discount * arrived[i * actions + a] + (own[i * actions + a] + shared);
}

template <class F, bool GUARDED>
void one_problem_scores(const Problem& problem, const double* following, int64_t start, int64_t count, double* arrived,
                        double* scores) {
  const Sums& chances = problem.chances;
  const int64_t A = problem.actions, K = chances.pointers == nullptr ? chances.outcomes : 0, first = start * A;
  const double discount = problem.discount, shared = problem.shared_prior;
  const F* own = static_cast<const F*>(problem.scores) + first;
  const F* weights = static_cast<const F*>(chances.weights) + first * K;
  const int32_t* columns = chances.columns + first * K;
  const auto even = [&](auto entries) {
    even_scores<F, GUARDED, entries.value>(weights, columns, following, A, count, discount, shared, own, scores);
  };
  switch (K) {
    case 1: return even(Constant<1>());
    case 2: return even(Constant<2>());
    case 3: return even(Constant<3>());
    case 4: return even(Constant<4>());
    case 5: return even(Constant<5>());
  }
  products<F, GUARDED>(chances, first, count * A, problem.states, following, 1, arrived);
  known_scores(arrived, A, count, discount, shared, own, scores);
}

// Scores log p(a|s) + q(s, a) of `count` states from `start` on, [A, count * B], and the largest of each state, 0
// where none is finite.
template <class F, bool GUARDED>
void fixed_scores(const Problem& problem, const double* following, int64_t start, int64_t count, double* arrived,
                  double* scores, double* largest) {
  const int64_t A = problem.actions, B = problem.problems, length = count * B;
  const F* own = static_cast<const F*>(problem.scores) + start * A * B;
  const double discount = problem.discount, shared = problem.shared_prior;
  if (B == 1) {
    one_problem_scores<F, GUARDED>(problem, following, start, count, arrived, scores);
  } else {
    products<F, GUARDED>(problem.chances, start * A, count * A, problem.states, following, B, arrived);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t a = 0; a < A; ++a) {
        const double* from = arrived + (i * A + a) * B;
        const F* score = own + (i * A + a) * B;
        double* place = scores + a * length + i * B;
#pragma omp simd
        for (int64_t b = 0; b < B; ++b) place[b] = discount * from[b] + (score[b] + shared);
      }
  }
  for (int64_t i = 0; i < length; ++i) largest[i] = scores[i];
  for (int64_t a = 1; a < A; ++a) {
    const double* row = scores + a * length;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) largest[i] = row[i] > largest[i] ? row[i] : largest[i];
  }
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) largest[i] = largest[i] == -INFTY ? 0.0 : largest[i];
}

// The scores as powers relative to the largest, and their sums: at least 1, or 0 where all scores are -inf.
inline void raise(double* scores, const double* largest, int64_t actions, int64_t length, double* total) {
  for (int64_t i = 0; i < length; ++i) total[i] = 0.0;
  for (int64_t a = 0; a < actions; ++a) {
    double* row = scores + a * length;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      row[i] = power(row[i] - largest[i]);
      total[i] += row[i];
    }
  }
}

template <class F>
inline bool has_infinite(const F* values, int64_t count, int threads) {
  int found = 0;
#pragma omp parallel for simd num_threads(threads) reduction(| : found) schedule(static)
  for (int64_t i = 0; i < count; ++i) found |= values[i] == F(-INFTY);
  return found != 0;
}

// Calls emit(start, count, powers [A, count * B], their sums [count * B]) by block.
template <class F, bool GUARDED, class Emit>
void each_block(const Problem& problem, const double* following, int threads, const Emit& emit) {
  const int64_t A = problem.actions, B = problem.problems, block = block_of(problem);
#pragma omp parallel num_threads(threads)
  {
    Vector<double> arrived(A * block * B), scores(A * block * B), largest(block * B), total(block * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < problem.states; start += block) {
      const int64_t count = std::min(block, problem.states - start);
      fixed_scores<F, GUARDED>(problem, following, start, count, arrived.data(), scores.data(), largest.data());
      raise(scores.data(), largest.data(), A, count * B, total.data());
      emit(start, count, scores.data(), total.data());
    }
  }
}

// Calls use(whether v_{t+1} may be -inf, v_{t+1}, threads), the first as a type.
template <class F, class Use>
void told_apart(const Problem& problem, const F* following, const Use& use) {
  const int threads = threads_for(work_of(problem), problem.threads);
  Vector<double> copy;
  const double* values = as_double(following, problem.states * problem.problems, copy);
  if (has_infinite(values, problem.states * problem.problems, threads)) {
    use(std::true_type(), values, threads);
  } else {
    use(std::false_type(), values, threads);
  }
}

// Of N neighbours with scores score(a): the largest score, -inf where none is finite, and the sum of all powers relative to
// it, at least 1. The largest needs no power, as it is 1: of each two scores the larger is kept, and the smaller goes into
// `memory` [A, N]; in place it would be stored by a branch that nobody foresees.
template <int N, class Score>
inline void power_sums(int64_t actions, const Score& score, double* memory, double* most, double* sums) {
  constexpr int PARTS = Lanes<N>::PARTS;
  Lanes<N> largest = score(0), total;
  for (int64_t a = 1; a < actions; ++a) {
    const Lanes<N> other = score(a);
    Lanes<N> less;
    for (int i = 0; i < PARTS; ++i) {
      less.part[i] = smaller(largest.part[i], other.part[i]);
      largest.part[i] = larger(other.part[i], largest.part[i]);
    }
    less.store(memory + a * N);
  }
  for (int i = 0; i < PARTS; ++i) total.part[i] = typename Lanes<N>::X() + 1.0;
  for (int64_t a = 1; a < actions; ++a) {
    const Lanes<N> less = Lanes<N>::load(memory + a * N);
    for (int i = 0; i < PARTS; ++i) total.part[i] += power_beside_one(less.part[i] - largest.part[i]);
  }
  largest.store(most);
  total.store(sums);
}

// Of N problems from b on, `largest` and `total` [count, B] of power_sums for each state from `start` on; rows are of K
// entries (0: of any number), and `memory` is [A, N].
template <class F, bool GUARDED, int K, int N>
__attribute__((noinline)) void batch_sums(const Problem& problem, const double* following, int64_t b, int64_t start,
                                          int64_t count, double* memory, double* largest, double* total) {
  const Sums chances = problem.chances;
  const int64_t A = problem.actions, B = problem.problems, S = problem.states;
  const F* own = static_cast<const F*>(problem.scores) + b;
  const double discount = problem.discount, shared = problem.shared_prior;
  for (int64_t s = start; s < start + count; ++s) {
    const auto score = [=](int64_t a) {
      const int64_t row = s * A + a;
      const Lanes<N> arrived = lanes_dot<F, GUARDED, N, K>(row_of<F, K>(chances, row, S), following + b, B);
      expect<N>(own + row * B);
      Lanes<N> found = Lanes<N>::load(own + row * B);
      for (int i = 0; i < Lanes<N>::PARTS; ++i)
        found.part[i] = discount * arrived.part[i] + (found.part[i] + shared);
      return found;
    };
    const int64_t at = (s - start) * B + b;
    power_sums<N>(A, score, memory, largest + at, total + at);
  }
}

// v_t [count, B] of the states from `start` on, and whether some of it is -inf; `arrived` and `scores` [A, count] are
// memory, as are `memory` [A, 16], `largest` and `total` [count, B]. Logarithms come last, as many at a time as a processor
// overlaps.
template <class F, bool GUARDED>
int64_t fixed_values(const Problem& problem, const double* following, int64_t start, int64_t count, double* arrived,
                     double* scores, double* memory, double* largest, double* total, F* out) {
  const int64_t A = problem.actions, B = problem.problems;
  if (B == 1) {
    one_problem_scores<F, GUARDED>(problem, following, start, count, arrived, scores);
    each_piece(count, [&](auto lanes, int64_t i) {
      const auto score = [&](int64_t a) { return Lanes<lanes.value>::load(scores + a * count + i); };
      power_sums<lanes.value>(A, score, memory, largest + i, total + i);
    });
  } else {
    with_count(problem.chances, [&](auto entries) {
      each_piece(B, [&](auto lanes, int64_t b) {
        batch_sums<F, GUARDED, entries.value, lanes.value>(problem, following, b, start, count, memory, largest, total);
      });
    });
  }
  int64_t found = 0;
#pragma omp simd reduction(| : found)
  for (int64_t i = 0; i < count * B; ++i) {
    out[i] = F(largest[i] + logarithm_of_normal(total[i]));
    found |= out[i] == F(-INFTY);
  }
  return found;
}

// v_t [S, B] from v_{t+1}; whether some of it is -inf.
template <class F, bool GUARDED>
int64_t fixed_rows(const Problem& problem, const double* following, int threads, F* out) {
  const int64_t A = problem.actions, B = problem.problems, block = block_of(problem);
  int64_t found = 0;
#pragma omp parallel num_threads(threads) reduction(| : found)
  {
    Vector<double> arrived(B == 1 ? A * block : 0), scores(B == 1 ? A * block : 0), memory(A * 16);
    Vector<double> largest(block * B), total(block * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < problem.states; start += block) {
      const int64_t count = std::min(block, problem.states - start);
      found |= fixed_values<F, GUARDED>(problem, following, start, count, arrived.data(), scores.data(), memory.data(),
                                        largest.data(), total.data(), out + start * B);
    }
  }
  return found;
}

// Writes v_t and returns whether some of it is -inf, as `infinite` says of v_{t+1}.
template <class F>
bool fixed_step(const Problem& problem, const F* following, bool infinite, F* out) {
  const int threads = threads_for(work_of(problem), problem.threads);
  Vector<double> copy;
  const double* values = as_double(following, problem.states * problem.problems, copy);
  const auto rows = infinite ? fixed_rows<F, true> : fixed_rows<F, false>;
  const int64_t found = rows(problem, values, threads, out);
  end_terminal(problem, out);
  return found != 0;
}

// From a_t [S, B]: d_t(s, a) = a_t(s) pi_t(a|s), written into `flow` and added to `total` [S, A, B], and a_{t+1} in
// place of a_t.
template <class F>
void fixed_forward(const Problem& problem, const F* following, double* adjoint, double* flow, double* total) {
  const int64_t A = problem.actions, B = problem.problems;
  const uint8_t* terminal = problem.terminal;
  const auto emit = [=](int64_t start, int64_t count, const double* powers, const double* sums) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t b = 0; b < B; ++b) {
        const int64_t at = i * B + b;
        const bool flows = sums[at] > 0.0 && !(terminal != nullptr && terminal[start + i]);
        const double rate = flows ? adjoint[start * B + at] / sums[at] : 0.0;
        for (int64_t a = 0; a < A; ++a) {
          const int64_t row = ((start + i) * A + a) * B + b;
          flow[row] = powers[a * count * B + at] * rate;
          total[row] += flow[row];
        }
      }
  };
  told_apart(problem, following, [&](auto guarded, const double* values, int threads) {
    each_block<F, guarded.value>(problem, values, threads, emit);
  });
  turned_products<F>(problem, flow, adjoint);
  if (problem.discount != 1.0)
    for (int64_t i = 0; i < problem.states * B; ++i) adjoint[i] *= problem.discount;
}

}  // namespace cai::LEVEL
