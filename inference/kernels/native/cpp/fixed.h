// The fixed-dynamics backup, and one step forward along it. Each state has a shift of its own, its largest score.

#pragma once

#include "step.h"

namespace cai::LEVEL {

// Scores log p(a|s) + q(s, a) of `count` states from `start` on, [A, count * B], and the largest of each state, 0
// where none is finite.
template <class F, bool GUARDED>
void fixed_scores(const Problem& problem, const double* following, int64_t start, int64_t count, double* arrived,
                  double* scores, double* largest) {
  const int64_t A = problem.actions, B = problem.problems, length = count * B;
  const F* own = static_cast<const F*>(problem.scores) + start * A * B;
  const double discount = problem.discount, shared = problem.shared_prior;
  products<F, GUARDED>(problem.chances, start * A, count * A, problem.states, following, B, arrived);
  if (B == 1) {
    for (int64_t row = 0; row < count * A; ++row) arrived[row] = discount * arrived[row] + (own[row] + shared);
    for (int64_t a = 0; a < A; ++a)
      for (int64_t i = 0; i < count; ++i) scores[a * count + i] = arrived[i * A + a];
  } else {
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

inline bool has_infinite(const double* values, int64_t count, int threads) {
  int found = 0;
#pragma omp parallel for simd num_threads(threads) reduction(| : found) schedule(static)
  for (int64_t i = 0; i < count; ++i) found |= values[i] == -INFTY;
  return found != 0;
}

// Calls emit(start, count, powers [A, count * B], their sums [count * B], the largest scores [count * B]) by block.
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
      emit(start, count, scores.data(), total.data(), largest.data());
    }
  }
}

// The same, told apart by whether v_{t+1} may be -inf.
template <class F, class Emit>
void fixed_blocks(const Problem& problem, const F* following, const Emit& emit) {
  const int threads = threads_for(work_of(problem), problem.threads);
  Vector<double> copy;
  const double* values = as_double(following, problem.states * problem.problems, copy);
  if (has_infinite(values, problem.states * problem.problems, threads)) {
    each_block<F, true>(problem, values, threads, emit);
  } else {
    each_block<F, false>(problem, values, threads, emit);
  }
}

// v_t [S, B] from v_{t+1}.
template <class F>
void fixed_step(const Problem& problem, const F* following, F* out) {
  const int64_t B = problem.problems;
  fixed_blocks(problem, following,
               [=](int64_t start, int64_t count, const double*, const double* total, const double* largest) {
                 F* place = out + start * B;
#pragma omp simd
                 for (int64_t i = 0; i < count * B; ++i) place[i] = F(largest[i] + logarithm(total[i]));
               });
  end_terminal(problem, out);
}

// From a_t [S, B]: d_t(s, a) = a_t(s) pi_t(a|s), written into `flow` and added to `total` [S, A, B], and a_{t+1} in
// place of a_t.
template <class F>
void fixed_forward(const Problem& problem, const F* following, double* adjoint, double* flow, double* total) {
  const int64_t A = problem.actions, B = problem.problems;
  const uint8_t* terminal = problem.terminal;
  fixed_blocks(problem, following,
               [=](int64_t start, int64_t count, const double* powers, const double* sums, const double*) {
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
               });
  turned_products<F>(problem, flow, adjoint);
  if (problem.discount != 1.0)
    for (int64_t i = 0; i < problem.states * B; ++i) adjoint[i] *= problem.discount;
}

}  // namespace cai::LEVEL
