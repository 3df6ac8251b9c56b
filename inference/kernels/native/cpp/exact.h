// The exact backup with one shift for all states, and one step of its sweep.

#pragma once

#include "step.h"

namespace cai::LEVEL {

// x = gamma e^{v - c} + (1 - gamma) e^{-c} [S, B]; c [B], the largest finite value, at least 0 with a discount.
template <class F>
void arrivals(const Step& step, const F* following, double* x, double* shift, int threads) {
  const int64_t S = step.states, B = step.problems;
  for (int64_t b = 0; b < B; ++b) shift[b] = step.discount < 1.0 ? 0.0 : -INFTY;
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
        for (int64_t s = start; s < stop; ++s)
#pragma omp simd
          for (int64_t b = 0; b < B; ++b) {
            const double value = following[s * B + b];
            largest[b] = value > largest[b] ? value : largest[b];
          }
      }
    }
#pragma omp critical
    for (int64_t b = 0; b < B; ++b) shift[b] = std::max(shift[b], largest[b]);
#pragma omp barrier
#pragma omp single
    for (int64_t b = 0; b < B; ++b) shift[b] = shift[b] == -INFTY ? 0.0 : shift[b];
    Vector<double> fallen(B, 0.0);
    if (step.discount < 1.0)
      for (int64_t b = 0; b < B; ++b) fallen[b] = (1.0 - step.discount) * std::exp(-shift[b]);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < S; start += 1024) {
      const int64_t stop = std::min(S, start + 1024);
      if (B == 1) {
        const double c = shift[0], f = fallen[0];
#pragma omp simd
        for (int64_t s = start; s < stop; ++s) x[s] = step.discount * power(double(following[s]) - c) + f;
      } else {
        for (int64_t s = start; s < stop; ++s)
#pragma omp simd
          for (int64_t b = 0; b < B; ++b)
            x[s * B + b] = step.discount * power(double(following[s * B + b]) - shift[b]) + fallen[b];
      }
    }
  }
}

// p(a|s) e^rho over the largest of its state, [count, A, B] from `start` on: those at hand, or made here, their
// exponents in `own`; null where actions have been summed over.
template <class F>
const F* shares_of(const Step& step, int64_t start, int64_t count, Vector<double>& own, Vector<F>& made) {
  const int64_t A = step.actions, B = step.problems, number = count * A * B;
  if (step.weights != nullptr) return static_cast<const F*>(step.weights) + start * A * B;
  if (step.rewards == nullptr) return nullptr;
  const F* rewards = static_cast<const F*>(step.rewards) + start * A * B;
  const F* prior = static_cast<const F*>(step.prior);
  const F* largest = static_cast<const F*>(step.row_largest);
  if (largest != nullptr) largest += start * B;
  for (int64_t row = 0; row < count * A; ++row)
    for (int64_t b = 0; b < B; ++b) {
      const int64_t at = step.prior_problems > 1 ? (start * A + row) * B + b : start * A + row;
      const double before = prior == nullptr ? step.shared_prior : double(prior[at]);
      const double most = step.row_largest == nullptr ? step.level : double(largest[row / A * B + b]);
      own[row * B + b] = step.scale * rewards[row * B + b] + before - most;
    }
#pragma omp simd
  for (int64_t i = 0; i < number; ++i) made[i] = F(power(own[i]));
  return made.data();
}

// Products P x of a block [count, A, B], and their sums over actions [count, B], weighted where there are weights.
template <class F>
void exact_sums(const Step& step, const Sums& sums, const double* x, const F* weights, int64_t start, int64_t count,
                double* arrived, double* total) {
  const int64_t A = step.actions, B = step.problems;
  products<F, false>(sums, start * A, count * A, step.states, x, B, arrived);
  if (A == 1 && weights == nullptr) {
    std::copy(arrived, arrived + count * B, total);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    double* sum = total + i * B;
    const double* product = arrived + i * A * B;
    if (weights == nullptr) {
      for (int64_t b = 0; b < B; ++b) sum[b] = product[b];
      for (int64_t a = 1; a < A; ++a)
        for (int64_t b = 0; b < B; ++b) sum[b] += product[a * B + b];
      continue;
    }
    const F* weight = weights + i * A * B;
    for (int64_t b = 0; b < B; ++b) sum[b] = weight[b] * product[b];
    for (int64_t a = 1; a < A; ++a)
#pragma omp simd
      for (int64_t b = 0; b < B; ++b) sum[b] += weight[a * B + b] * product[a * B + b];
  }
}

// What follows has the same block loop three times: with one that calls a function of each block batches took 2.8 times
// as long (GCC 12).

// v_t, +inf where a sum underflows; x [S, B] and c [B] are left behind. Returns how many did.
template <class F>
int64_t exact_step(const Step& step, const Sums& sums, const F* following, double* x, double* shift, F* out) {
  const int64_t A = step.actions, B = step.problems, block = block_of(step);
  const int threads = threads_for(entries(sums, step.states) * B, step.threads);
  const F* row_largest = static_cast<const F*>(step.row_largest);
  arrivals(step, following, x, shift, threads);
  int64_t low = 0;
#pragma omp parallel num_threads(threads) reduction(+ : low)
  {
    Vector<double> arrived(A * block * B), total(block * B), own(A * block * B);
    Vector<F> made(A * block * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < step.states; start += block) {
      const int64_t count = std::min(block, step.states - start);
      const F* weights = shares_of<F>(step, start, count, own, made);
      exact_sums<F>(step, sums, x, weights, start, count, arrived.data(), total.data());
      const F* largest = row_largest + start * B;
      F* place = out + start * B;
      if (B == 1) {
        const double c = shift[0];
#pragma omp simd reduction(+ : low)
        for (int64_t i = 0; i < count; ++i) {
          const bool sound = total[i] >= step.smallest;
          place[i] = F(sound ? logarithm(total[i]) + largest[i] + c : INFTY);
          low += !sound;
        }
      } else {
        for (int64_t i = 0; i < count * B; i += B)
#pragma omp simd reduction(+ : low)
          for (int64_t b = 0; b < B; ++b) {
            const bool sound = total[i + b] >= step.smallest;
            place[i + b] = F(sound ? logarithm(total[i + b]) + largest[i + b] + shift[b] : INFTY);
            low += !sound;
          }
      }
    }
  }
  return low;
}

// The sums over actions and outcomes of x [S, B] alone, [S, B].
template <class F>
void weighted_sums(const Step& step, const Sums& sums, const F* x, F* out) {
  const int64_t A = step.actions, B = step.problems, block = block_of(step);
  const int threads = threads_for(entries(sums, step.states) * B, step.threads);
  Vector<double> copy;
  const double* from = as_double(x, step.states * B, copy);
#pragma omp parallel num_threads(threads)
  {
    Vector<double> arrived(A * block * B), total(block * B), own(A * block * B);
    Vector<F> made(A * block * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < step.states; start += block) {
      const int64_t count = std::min(block, step.states - start);
      const F* weights = shares_of<F>(step, start, count, own, made);
      exact_sums<F>(step, sums, from, weights, start, count, arrived.data(), total.data());
      for (int64_t i = 0; i < count * B; ++i) out[start * B + i] = F(total[i]);
    }
  }
}

// What flows on from y(s, a): passed(s') = gamma e^{v - c} times the sum of w y, through the transposed table.
template <class F>
void pass_on(const Step& step, const Sums& transposed, const F* y, int64_t width, const F* following, const double* x,
             const double* shift, F* passed) {
  const int64_t B = step.problems, SIZE = 512;
  const int threads = threads_for(entries(transposed, width) * B, step.threads);
  Vector<double> copy;
  const double* from = as_double(y, width * B, copy);
#pragma omp parallel num_threads(threads)
  {
    Vector<double> found(SIZE * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < step.states; start += SIZE) {
      const int64_t number = std::min(SIZE, step.states - start), begin = start * B;
      products<F, false>(transposed, start, number, width, from, B, found.data());
      for (int64_t i = 0; i < number * B; ++i) {
        const double goes_on =
            step.discount == 1.0 ? x[begin + i] : step.discount * power(double(following[begin + i]) - shift[i % B]);
        passed[begin + i] = F(found[i] * goes_on);
      }
    }
  }
}

// One step of the sweep, actions apart: sums [S, B] and rates [S, B] (adjoint / sum, 0 where a sum is below `least`); the
// weighted shares w * rate [S, A, B]; either d_t itself, or the products times rates, added to `total_products`; and what
// is passed on, where there is a transposed table. Returns how many states that have hope and an adjoint fell below
// `least`.
template <class F>
int64_t exact_shares(const Step& step, const Sums& sums, const Sums* transposed, const F* values, const F* following,
                     const F* adjoint, double least, double* x, double* shift, F* sum_out, F* rate_out, F* weighted,
                     F* table, F* total_products, F* passed) {
  const int64_t A = step.actions, B = step.problems, block = block_of(step);
  const int threads = threads_for(entries(sums, step.states) * B, step.threads);
  arrivals(step, following, x, shift, threads);
  int64_t low = 0;
#pragma omp parallel num_threads(threads) reduction(+ : low)
  {
    Vector<double> arrived(A * block * B), total(block * B), own(A * block * B);
    Vector<F> made(A * block * B);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < step.states; start += block) {
      const int64_t count = std::min(block, step.states - start), length = count * B;
      const F* weights = shares_of<F>(step, start, count, own, made);
      exact_sums<F>(step, sums, x, weights, start, count, arrived.data(), total.data());
      const F* above = adjoint + start * B;
      const F* value = values + start * B;
      F* rate = rate_out + start * B;
      F* stored = sum_out + start * B;
#pragma omp simd reduction(+ : low)
      for (int64_t i = 0; i < length; ++i) {
        const bool sound = total[i] > 0.0 && total[i] >= least;
        rate[i] = F(sound ? double(above[i]) / total[i] : 0.0);
        stored[i] = F(total[i]);
        low += !sound && value[i] > F(-INFTY) && above[i] != F(0);
      }
      for (int64_t row = 0; row < count * A; ++row) {
        const int64_t inside = row * B, at = start * A * B + inside, state = row / A * B;
        for (int64_t b = 0; b < B; ++b) {
          const F share = weights[inside + b] * rate[state + b];
          weighted[at + b] = share;
          if (table != nullptr) {
            table[at + b] = F(share * arrived[inside + b]);
          } else {
            total_products[at + b] += F(rate[state + b] * arrived[inside + b]);
          }
        }
      }
    }
  }
  if (transposed != nullptr) pass_on(step, *transposed, weighted, step.states * A, following, x, shift, passed);
  return low;
}

}  // namespace cai::LEVEL
