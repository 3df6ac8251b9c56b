// Many products in a row, x_{j+1} = f * (W x_j) state by state, and the sums of what two such chains have in common.

#pragma once

#include "sums.h"

namespace cai::LEVEL {

const int64_t CHAIN_WORTH_THREADS = 1 << 13;  // multiplications of one step from which threads pay: they wait spinning

// What happens to the messages of a chain between two products.
struct Chain {
  int64_t states, steps, stride, threads;
  double discount, least, most;
  const double* levels;     // e^{-c} of every step, the known one first; null without discount and terminal states
  const void* factors;      // [S]
  const uint8_t* terminal;  // [S], or null: where x is e^{-c} at every step
  const uint8_t* hopeless;  // [S], or null: where x may be 0
};

// Fills rows[stride], rows[2 stride], ... from rows[0], as long as every x is between `least` and `most`, or
// hopeless and no larger.
// Returns how many rows were filled so. `scratch` [2, S] holds gamma x + (1 - gamma) e^{-c} where that is not x.
template <class F>
int64_t run_chain(const Chain& chain, const Sums& sums, F* rows, double* scratch) {
  const int64_t S = chain.states, SIZE = 512;
  const F* factors = static_cast<const F*>(chain.factors);
  const bool apart = sizeof(F) != sizeof(double) || chain.discount != 1.0;
  const int threads = entries(sums, S) < CHAIN_WORTH_THREADS ? 1 : int(chain.threads);
  auto goes_on = [&chain](double x, int64_t step) {
    return chain.discount == 1.0 ? x : chain.discount * x + (1.0 - chain.discount) * chain.levels[step];
  };
  int64_t done = chain.steps;
  Vector<int> bad(chain.steps, 0);
#pragma omp parallel num_threads(threads)
  {
    Vector<double> found(SIZE);
    if (apart) {
#pragma omp for schedule(static)
      for (int64_t s = 0; s < S; ++s) scratch[s] = goes_on(double(rows[s]), 0);
    }
    for (int64_t step = 0; step < chain.steps; ++step) {
      const double* from = apart ? scratch + step % 2 * S : reinterpret_cast<const double*>(rows + step * chain.stride);
      double* ahead = scratch + (step + 1) % 2 * S;
      F* out = rows + (step + 1) * chain.stride;
      int64_t low = 0;
#pragma omp for schedule(static) nowait
      for (int64_t start = 0; start < S; start += SIZE) {
        const int64_t number = std::min(SIZE, S - start);
        products<F, false>(sums, start, number, S, from, 1, found.data());
        for (int64_t i = 0; i < number; ++i) found[i] *= double(factors[start + i]);
        if (chain.terminal != nullptr)
          for (int64_t i = 0; i < number; ++i)
            if (chain.terminal[start + i]) found[i] = chain.levels[step + 1];
        if (chain.hopeless == nullptr) {
#pragma omp simd reduction(+ : low)
          for (int64_t i = 0; i < number; ++i) low += !(found[i] >= chain.least && found[i] <= chain.most);
        } else {
          for (int64_t i = 0; i < number; ++i) low += !((found[i] >= chain.least || chain.hopeless[start + i]) && found[i] <= chain.most);
        }
        for (int64_t i = 0; i < number; ++i) out[start + i] = F(found[i]);
        if (apart)
          for (int64_t i = 0; i < number; ++i) ahead[start + i] = goes_on(double(out[start + i]), step + 1);
      }
      if (low) {
#pragma omp atomic write
        bad[step] = 1;
      }
#pragma omp barrier
      if (bad[step]) {  // the same for every thread
#pragma omp single nowait
        done = step;
        break;
      }
    }
  }
  return done;
}

const int64_t TOGETHER = 16;  // steps that are added up at once

// For each entry s -> s' of a sparse table, the sum of ahead[j, s] * behind[j, s'] over `count` steps j.
template <class F>
void correlate(const Sums& sums, int64_t width, int64_t count, const F* ahead, const F* behind, F* totals,
               int64_t threads) {
  Vector<double> turned(width * TOGETHER), sum(entries(sums, width), 0.0);
  const int used = threads_for(entries(sums, width) * count, threads);
#pragma omp parallel num_threads(used)
  for (int64_t first = 0; first < count; first += TOGETHER) {
    const int64_t number = std::min(TOGETHER, count - first);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < width; start += 64)
      for (int64_t j = 0; j < TOGETHER; ++j)
        for (int64_t s = start; s < std::min(width, start + 64); ++s)
          turned[s * TOGETHER + j] = j < number ? double(behind[(first + j) * width + s]) : 0.0;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < sums.rows; start += 64) {
      const int64_t stop = std::min(sums.rows, start + 64);
      double rates[64 * TOGETHER];
      for (int64_t j = 0; j < TOGETHER; ++j)
        for (int64_t row = start; row < stop; ++row)
          rates[(row - start) * TOGETHER + j] = j < number ? double(ahead[(first + j) * sums.rows + row]) : 0.0;
      for (int64_t row = start; row < stop; ++row) {
        const double* rate = rates + (row - start) * TOGETHER;
        const int64_t begin = sums.pointers != nullptr ? sums.pointers[row] : row * sums.outcomes;
        const int64_t end = sums.pointers != nullptr ? sums.pointers[row + 1] : begin + sums.outcomes;
        for (int64_t entry = begin; entry < end; ++entry) {
          const double* arrived = turned.data() + int64_t(sums.columns[entry]) * TOGETHER;
          double parts[8] = {};
          for (int64_t j = 0; j < TOGETHER; j += 8)
            for (int64_t lane = 0; lane < 8; ++lane) parts[lane] += rate[j + lane] * arrived[j + lane];
          for (int lane = 0; lane < 8; ++lane) sum[entry] += parts[lane];
        }
      }
    }
  }
  for (int64_t i = 0; i < sum.size(); ++i) totals[i] = F(sum[i]);
}

}  // namespace cai::LEVEL
