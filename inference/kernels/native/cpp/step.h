// What the steps of both backups share.

#pragma once

#include "numbers.h"
#include "sums.h"

namespace cai::LEVEL {

// What one step reads.
struct Step {
  int64_t states, actions, problems, threads;
  double discount, scale, shared_prior, smallest, level;
  const void* rewards;      // [S, A, B]
  const void* prior;        // log p(a|s): [S, A, B], [S, A] where prior_problems is 1, or null for shared_prior
  int64_t prior_problems;   // B or 1
  const void* weights;      // p(a|s) e^rho over the largest of its state [S, A, B], or null for 1
  const void* row_largest;  // [S, B], or null: then shares are relative to `level`
};

const int64_t BLOCK = 1 << 11;  // scores of one block: 16 KiB

// States of a block, whose scores stay in the cache while powers and logarithms run along them.
inline int64_t block_of(const Step& step) {
  return std::max<int64_t>(1, BLOCK / (step.actions * step.problems));
}

}  // namespace cai::LEVEL
