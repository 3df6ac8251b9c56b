// What the passes of both backups share.

#pragma once

#include "numbers.h"
#include "sums.h"

namespace cai::LEVEL {

// One problem, or B of one process, whose steps are all alike.
struct Problem {
  int64_t states, actions, problems, threads;
  double discount, smallest;
  double rise;                   // the largest log p(a|s) + rho of all, by which messages of one scale grow each step
  Sums chances, turned;          // [S A] rows, and the transposed table of S rows (rows is 0: there is none)
  Sums merged, merged_turned;    // summed over actions by `weights`, S rows, and its transpose (rows is 0: none)
  double shared_prior;           // what is to be added to every score
  const void* scores;            // log p(a|s) + rho, less `shared_prior` [S, A, B]
  const void* weights;           // e^(log p(a|s) + rho) over the largest of its state [S, A, B], or null
  const void* row_largest;       // that largest [S, B]
  const void* factors;           // e^(row_largest - rise) [S]; of the merged table
  const void* log_chances;       // log of the entries of `chances`, where these are not exact enough, or null
  const int32_t* slots;          // where each entry of `chances` is found in `merged`
  const uint8_t* terminal;       // [S], or null
};

// Scores of one block: 15.5 KiB. Rows of a power of two would share their places in the cache.
const int64_t BLOCK = 1984;

// States of a block, whose scores stay in the cache while powers and logarithms run along them.
inline int64_t block_of(const Problem& problem) {
  const int64_t most = BLOCK / (problem.actions * problem.problems);
  return std::max<int64_t>(1, std::min(most, problem.states));
}

// Entries of P that one step multiplies.
inline int64_t work_of(const Problem& problem) { return entries(problem.chances, problem.states) * problem.problems; }

// Writes what terminal states are worth, 0, into v [S, B].
template <class F>
void end_terminal(const Problem& problem, F* values) {
  if (problem.terminal == nullptr) return;
  for (int64_t s = 0; s < problem.states; ++s)
    for (int64_t b = 0; problem.terminal[s] && b < problem.problems; ++b) values[s * problem.problems + b] = F(0);
}

// out[s', b] = the sum over (s, a) of p(s'|s,a) y[s, a, b]: through the transposed table, or, where the table is dense,
// row by row, each thread a part of the columns.
template <class F>
void turned_products(const Problem& problem, const double* y, double* out) {
  const int64_t S = problem.states, B = problem.problems, rows = S * problem.actions, SIZE = 512;
  const int threads = threads_for(work_of(problem), problem.threads);
  if (problem.turned.rows > 0) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t start = 0; start < S; start += SIZE)
      products<F, false>(problem.turned, start, std::min(SIZE, S - start), rows, y, B, out + start * B);
    return;
  }
  const F* chances = static_cast<const F*>(problem.chances.weights);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t start = 0; start < S; start += SIZE) {
    const int64_t stop = std::min(S, start + SIZE);
    for (int64_t i = start * B; i < stop * B; ++i) out[i] = 0.0;
    for (int64_t row = 0; row < rows; ++row) {
      const F* chance = chances + row * S;
      const double* from = y + row * B;
      if (B == 1) {
        const double flow = from[0];
        if (flow == 0.0) continue;
#pragma omp simd
        for (int64_t s = start; s < stop; ++s) out[s] += flow * chance[s];
      } else {
        for (int64_t s = start; s < stop; ++s) {
          const double share = chance[s];
#pragma omp simd
          for (int64_t b = 0; b < B; ++b) out[s * B + b] += share * from[b];
        }
      }
    }
  }
}

}  // namespace cai::LEVEL
