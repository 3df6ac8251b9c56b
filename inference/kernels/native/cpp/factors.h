// Triangular solves with the sparse factors of a matrix, for many right-hand sides that lie side by side.

#pragma once

#include <cstdint>

namespace cai::LEVEL {

// L with a diagonal of ones and U of a square matrix, by columns; entries of a column in any order.
struct Factors {
  int64_t size;
  const int32_t *lower_begins, *lower_rows, *upper_begins, *upper_rows;
  const double *lower, *upper;
};

// y -= a x
template <class F>
inline void subtract(int64_t count, F a, const F* x, F* y) {
  for (int64_t r = 0; r < count; ++r) y[r] -= a * x[r];
}

template <class F>
inline bool is_zero(int64_t count, const F* x) {
  for (int64_t r = 0; r < count; ++r)
    if (x[r] != F(0)) return false;
  return true;
}

// Solves L U x = b for rows of `count` numbers, in place.
template <class F>
void solve_factors(const Factors& f, int64_t count, F* x) {
  for (int64_t j = 0; j < f.size; ++j) {
    const F* own = x + j * count;
    if (is_zero(count, own)) continue;  // right-hand sides are sparse
    for (int32_t p = f.lower_begins[j]; p < f.lower_begins[j + 1]; ++p)
      if (f.lower_rows[p] > j) subtract(count, F(f.lower[p]), own, x + f.lower_rows[p] * count);
  }
  for (int64_t j = f.size - 1; j >= 0; --j) {
    F* own = x + j * count;
    F pivot = 0;
    for (int32_t p = f.upper_begins[j]; p < f.upper_begins[j + 1]; ++p)
      if (f.upper_rows[p] == j) pivot = F(f.upper[p]);
    for (int64_t r = 0; r < count; ++r) own[r] /= pivot;
    for (int32_t p = f.upper_begins[j]; p < f.upper_begins[j + 1]; ++p)
      if (f.upper_rows[p] < j) subtract(count, F(f.upper[p]), own, x + f.upper_rows[p] * count);
  }
}

// Solves U^T L^T x = b for rows of `count` numbers, in place.
template <class F>
void solve_factors_transposed(const Factors& f, int64_t count, F* x) {
  for (int64_t j = 0; j < f.size; ++j) {
    F* own = x + j * count;
    F pivot = 0;
    for (int32_t p = f.upper_begins[j]; p < f.upper_begins[j + 1]; ++p) {
      const int32_t i = f.upper_rows[p];
      if (i < j) subtract(count, F(f.upper[p]), x + i * count, own);
      if (i == j) pivot = F(f.upper[p]);
    }
    for (int64_t r = 0; r < count; ++r) own[r] /= pivot;
  }
  for (int64_t j = f.size - 1; j >= 0; --j)
    for (int32_t p = f.lower_begins[j]; p < f.lower_begins[j + 1]; ++p)
      if (f.lower_rows[p] > j) subtract(count, F(f.lower[p]), x + f.lower_rows[p] * count, x + j * count);
}

// out(e) = sum_r left(tails(e), r) right(heads(e), r)
template <class F>
void edge_products(int64_t edges, int64_t count, const int64_t* tails, const int64_t* heads, const F* left,
                   const F* right, F* out) {
  for (int64_t e = 0; e < edges; ++e) {
    const F *x = left + tails[e] * count, *y = right + heads[e] * count;
    F parts[8] = {0};  // several sums, which the processor adds to at once
    int64_t r = 0;
    for (; r + 8 <= count; r += 8)
      for (int64_t k = 0; k < 8; ++k) parts[k] += x[r + k] * y[r + k];
    F total = 0;
    for (; r < count; ++r) total += x[r] * y[r];
    for (int64_t k = 0; k < 8; ++k) total += parts[k];
    out[e] = total;
  }
}

}  // namespace cai::LEVEL
