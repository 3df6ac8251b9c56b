// The fixed-dynamics backup, and one step of its sweep. Each state has a shift of its own, the largest score.

#pragma once

#include "step.h"

namespace cai::LEVEL {

// Scores log p(a|s) + q(s, a) of `count` states from `start` on, [A, count * B], and the largest of each state, 0
// where none is finite.
template <class F, bool GUARDED>
void fixed_scores(const Step& step, const Sums& sums, const double* following, int64_t start, int64_t count,
                  double* arrived, double* scores, double* largest) {
  const int64_t A = step.actions, B = step.problems, length = count * B;
  const F* rewards = static_cast<const F*>(step.rewards) + start * A * B;
  const F* prior = static_cast<const F*>(step.prior);
  if (prior != nullptr) prior += start * A * step.prior_problems;
  products<F, GUARDED>(sums, start * A, count * A, step.states, following, B, arrived);
  if (B == 1) {
    for (int64_t row = 0; row < count * A; ++row)
      arrived[row] = step.discount * arrived[row] + (step.scale * rewards[row] + step.shared_prior);
    if (prior != nullptr)
      for (int64_t row = 0; row < count * A; ++row) arrived[row] += prior[row];
    for (int64_t a = 0; a < A; ++a)
      for (int64_t i = 0; i < count; ++i) scores[a * count + i] = arrived[i * A + a];
  } else {
    for (int64_t row = 0; row < count * A; ++row) {
      const double* from = arrived + row * B;
      const F* reward = rewards + row * B;
      double* place = scores + row % A * length + row / A * B;
      if (prior != nullptr && step.prior_problems > 1) {
        const F* before = prior + row * B;
#pragma omp simd
        for (int64_t b = 0; b < B; ++b) place[b] = step.discount * from[b] + (step.scale * reward[b] + before[b]);
      } else {
        const double before = prior == nullptr ? step.shared_prior : double(prior[row]);
#pragma omp simd
        for (int64_t b = 0; b < B; ++b) place[b] = step.discount * from[b] + (step.scale * reward[b] + before);
      }
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

// The scores as powers relative to the largest, and their sums: at least 1, or 0 without hope.
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
void each_block(const Step& step, const Sums& sums, const double* following, int threads, const Emit& emit) {
  const int64_t A = step.actions, B = step.problems, block = block_of(step);
#pragma omp parallel num_threads(threads)
  {
    Vector<double> arrived(A * block * B), scores(A * block * B), largest(block * B), total(block * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < step.states; start += block) {
      const int64_t count = std::min(block, step.states - start);
      fixed_scores<F, GUARDED>(step, sums, following, start, count, arrived.data(), scores.data(), largest.data());
      raise(scores.data(), largest.data(), A, count * B, total.data());
      emit(start, count, scores.data(), total.data(), largest.data());
    }
  }
}

// The same, told apart by whether v_{t+1} may be -inf.
template <class F, class Emit>
void fixed_blocks(const Step& step, const Sums& sums, const F* following, const Emit& emit) {
  const int threads = threads_for(entries(sums, step.states) * step.problems, step.threads);
  Vector<double> copy;
  const double* values = as_double(following, step.states * step.problems, copy);
  if (has_infinite(values, step.states * step.problems, threads)) {
    each_block<F, true>(step, sums, values, threads, emit);
  } else {
    each_block<F, false>(step, sums, values, threads, emit);
  }
}

// v_t [S, B].
template <class F>
void fixed_step(const Step& step, const Sums& sums, const F* following, F* out) {
  const int64_t B = step.problems;
  fixed_blocks(step, sums, following,
               [=](int64_t start, int64_t count, const double*, const double* total, const double* largest) {
                 F* place = out + start * B;
#pragma omp simd
                 for (int64_t i = 0; i < count * B; ++i) place[i] = F(largest[i] + logarithm(total[i]));
               });
}

// d_t [S, A, B], which is also added to `total_table`.
template <class F>
void fixed_shares(const Step& step, const Sums& sums, const F* following, const F* adjoint, F* table, F* total_table) {
  const int64_t A = step.actions, B = step.problems;
  fixed_blocks(step, sums, following,
               [=](int64_t start, int64_t count, const double* powers, const double* total, const double*) {
                 for (int64_t i = 0; i < count; ++i)
                   for (int64_t b = 0; b < B; ++b) {
                     const int64_t at = i * B + b;
                     const double rate = total[at] > 0.0 ? double(adjoint[start * B + at]) / total[at] : 0.0;
                     for (int64_t a = 0; a < A; ++a) {
                       const int64_t row = ((start + i) * A + a) * B + b;
                       table[row] = F(powers[a * count * B + at] * rate);
                       total_table[row] += table[row];
                     }
                   }
               });
}

}  // namespace cai::LEVEL
