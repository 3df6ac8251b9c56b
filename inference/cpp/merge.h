// Sums over actions made once and for all, and what a sweep adds up along them.

#pragma once

#include "sums.h"

namespace cai {

// The range of entries of a sparse row.
inline void range_of(const Sums& sums, int64_t row, int64_t* first, int64_t* last) {
  *first = sums.pointers != nullptr ? sums.pointers[row] : row * sums.outcomes;
  *last = sums.pointers != nullptr ? sums.pointers[row + 1] : *first + sums.outcomes;
}

const int64_t HISTORY = 16;  // steps that are added up at once, as native_pass.py has it

// Adds up, for each entry s -> s' of a sparse table, rate[j, s] * x[j, s'] over `count` steps j, HISTORY at most.
template <class F>
void accumulate(const Sums& sums, int64_t width, int64_t count, const F* rates, const double* x, double* totals,
                int64_t threads) {
  std::vector<double> turned(width * count);
  const int used = threads_for(entries(sums, width) * count, threads);
#pragma omp parallel num_threads(used)
  {
#pragma omp for schedule(static)
    for (int64_t start = 0; start < width; start += 64)
      for (int64_t j = 0; j < count; ++j)
        for (int64_t s = start; s < std::min(width, start + 64); ++s) turned[s * count + j] = x[j * width + s];
#pragma omp for schedule(static)
    for (int64_t row = 0; row < sums.rows; ++row) {
      double rate[HISTORY];
      for (int64_t j = 0; j < HISTORY; ++j) rate[j] = j < count ? double(rates[j * sums.rows + row]) : 0.0;
      int64_t first, last;
      range_of(sums, row, &first, &last);
      for (int64_t entry = first; entry < last; ++entry) {
        const double* arrived = turned.data() + int64_t(sums.columns[entry]) * count;
        double total = 0.0;
        if (count == HISTORY) {
          double parts[8] = {};
          for (int64_t j = 0; j < HISTORY; j += 8)
            for (int64_t lane = 0; lane < 8; ++lane) parts[lane] += rate[j + lane] * arrived[j + lane];
          for (int lane = 0; lane < 8; ++lane) total += parts[lane];
        } else {
          for (int64_t j = 0; j < count; ++j) total += rate[j] * arrived[j];
        }
        totals[entry] += total;
      }
    }
  }
}

// The rows of each state added up, weighted: pointers [S + 1], columns and values, of which the number is returned.
template <class F>
int64_t merge(const Sums& sums, int64_t states, const F* weights, int32_t* pointers, int32_t* columns, F* values) {
  const int64_t actions = sums.rows / states;
  const F* chances = static_cast<const F*>(sums.weights);
  std::vector<int32_t> place(states, -1);
  int64_t number = 0;
  for (int64_t s = 0; s < states; ++s) {
    const int64_t begin = pointers[s] = int32_t(number);
    for (int64_t row = s * actions; row < (s + 1) * actions; ++row) {
      int64_t first, last;
      range_of(sums, row, &first, &last);
      for (int64_t entry = first; entry < last; ++entry) {
        if (chances[entry] == F(0)) continue;
        const int32_t column = sums.columns[entry];
        const F share = F(weights[row] * chances[entry]);
        if (place[column] < begin) {
          place[column] = int32_t(number);
          columns[number] = column;
          values[number++] = share;
        } else {
          values[place[column]] += share;
        }
      }
    }
  }
  pointers[states] = int32_t(number);
  return number;
}

// out[s, a] = sum_k w_k totals(s -> s'_k), where totals belong to the entries of the merged table.
template <class F>
void spread(const Sums& sums, const Sums& merged, int64_t states, const double* totals, F* out) {
  const int64_t actions = sums.rows / states;
  const F* chances = static_cast<const F*>(sums.weights);
  std::vector<double> found(states, 0.0);
  for (int64_t s = 0; s < states; ++s) {
    int64_t first, last;
    range_of(merged, s, &first, &last);
    for (int64_t entry = first; entry < last; ++entry) found[merged.columns[entry]] = totals[entry];
    for (int64_t row = s * actions; row < (s + 1) * actions; ++row) {
      range_of(sums, row, &first, &last);
      double total = 0.0;
      for (int64_t entry = first; entry < last; ++entry)
        if (chances[entry] != F(0)) total += chances[entry] * found[sums.columns[entry]];
      out[row] = F(total);
    }
  }
}

}  // namespace cai
