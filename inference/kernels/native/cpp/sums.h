// Weighted sums over outcomes, out(s, a) = sum_k w_k x(s'_k), for one or for several problems side by side.

#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"
#include "vector.h"

namespace cai::LEVEL {

// Rows of weighted sums: dense (outcomes is -1), of `outcomes` entries each (no pointers), or between pointers.
struct Sums {
  int64_t rows, outcomes;
  const int32_t* pointers;
  const int32_t* columns;
  const void* weights;
};

template <class F, bool GUARDED>
inline double term(const F* weights, int64_t entry, double x) {
  const double weight = weights[entry];
  if (GUARDED) return weight != 0.0 ? weight * x : 0.0;  // what is not possible may be worth -inf
  return weight * x;
}

template <class F, bool GUARDED>
inline double listed_dot(const F* weights, const int32_t* columns, int64_t count, const double* x) {
  double total = 0.0;
  if (count < 16) {
    for (int64_t k = 0; k < count; ++k) total += term<F, GUARDED>(weights, k, x[columns[k]]);
    return total;
  }
  double parts[4] = {0.0, 0.0, 0.0, 0.0};
  int64_t k = 0;
  for (; k + 4 <= count; k += 4)
    for (int lane = 0; lane < 4; ++lane) parts[lane] += term<F, GUARDED>(weights, k + lane, x[columns[k + lane]]);
  for (; k < count; ++k) total += term<F, GUARDED>(weights, k, x[columns[k]]);
  return total + ((parts[0] + parts[1]) + (parts[2] + parts[3]));
}

// ROWS neighbouring rows of a dense table: several streams from memory at a time are faster than one. Without the pragma
// GCC 12 runs vectors of AVX-512 along rows instead of lanes, which takes 1.7 times as long.
template <class F, bool GUARDED, int ROWS>
inline void dense_dots(const F* weights, int64_t count, const double* x, double* out) {
  const int LANES = 8;
  double parts[ROWS][LANES] = {};
  int64_t k = 0;
  for (; k + LANES <= count; k += LANES)
    for (int row = 0; row < ROWS; ++row) {
#pragma omp simd
      for (int lane = 0; lane < LANES; ++lane)
        parts[row][lane] += term<F, GUARDED>(weights + row * count, k + lane, x[k + lane]);
    }
  for (; k < count; ++k)
    for (int row = 0; row < ROWS; ++row) parts[row][0] += term<F, GUARDED>(weights + row * count, k, x[k]);
  for (int row = 0; row < ROWS; ++row) {
    out[row] = 0.0;
    for (int lane = 0; lane < LANES; ++lane) out[row] += parts[row][lane];
  }
}

// The entries of one row; all columns in turn where `columns` is null.
template <class F>
struct Row {
  const F* weights;
  const int32_t* columns;
  int64_t count;
};

// K: of rows of K listed entries; 0 of any.
template <class F, int K = 0>
inline Row<F> row_of(const Sums& sums, int64_t row, int64_t width) {
  const F* weights = static_cast<const F*>(sums.weights);
  if (K > 0) return {weights + row * K, sums.columns + row * K, K};
  if (sums.outcomes < 0) return {weights + row * width, nullptr, width};
  const bool listed = sums.pointers != nullptr;
  const int64_t begin = listed ? sums.pointers[row] : row * sums.outcomes;
  const int64_t end = listed ? sums.pointers[row + 1] : begin + sums.outcomes;
  return {weights + begin, sums.columns + begin, end - begin};
}

// sum_k w_k x[s'_k, b] of N neighbouring problems, over K listed entries (0: as many as the row has).
template <class F, bool GUARDED, int N, int K = 0>
inline Lanes<N> lanes_dot(const Row<F>& row, const double* x, int64_t problems) {
  Lanes<N> total = {};
  const int64_t count = K > 0 ? K : row.count;
  for (int64_t k = 0; k < count; ++k) {
    const double weight = row.weights[k];
    if (GUARDED && weight == 0.0) continue;
    const int64_t from = K == 0 && row.columns == nullptr ? k : int64_t(row.columns[k]);
    const Lanes<N> arrived = Lanes<N>::load(x + from * problems);
    for (int i = 0; i < Lanes<N>::PARTS; ++i) total.part[i] += weight * arrived.part[i];
  }
  return total;
}

// Calls use(Constant<K>) for rows of K entries each where these are few, else use(Constant<0>).
template <class Use>
inline void with_count(const Sums& sums, const Use& use) {
  switch (sums.pointers == nullptr ? sums.outcomes : 0) {
    case 1: return use(Constant<1>());
    case 2: return use(Constant<2>());
    case 3: return use(Constant<3>());
    case 4: return use(Constant<4>());
    case 5: return use(Constant<5>());
  }
  use(Constant<0>());
}

// Rows of K entries each, one problem.
template <class F, bool GUARDED, int K>
void even_rows(const F* weights, const int32_t* columns, int64_t number, const double* x, double* out) {
  for (int64_t row = 0; row < number; ++row) {
    double total = 0.0;
    for (int k = 0; k < K; ++k) total += term<F, GUARDED>(weights, row * K + k, x[columns[row * K + k]]);
    out[row] = total;
  }
}

// Rows of `count` entries each, one problem; few of them are written out, as a loop of unknown length takes longer.
template <class F, bool GUARDED>
void rows_of(int64_t count, const F* weights, const int32_t* columns, int64_t number, const double* x, double* out) {
  switch (count) {
    case 1: return even_rows<F, GUARDED, 1>(weights, columns, number, x, out);
    case 2: return even_rows<F, GUARDED, 2>(weights, columns, number, x, out);
    case 3: return even_rows<F, GUARDED, 3>(weights, columns, number, x, out);
    case 4: return even_rows<F, GUARDED, 4>(weights, columns, number, x, out);
    case 5: return even_rows<F, GUARDED, 5>(weights, columns, number, x, out);
  }
  for (int64_t row = 0; row < number; ++row)
    out[row] = listed_dot<F, GUARDED>(weights + row * count, columns + row * count, count, x);
}

// out[row, b] = sum_k w_k x[s'_k, b] of `number` rows from `first` on.
template <class F, bool GUARDED>
void products(const Sums& sums, int64_t first, int64_t number, int64_t width, const double* x, int64_t problems,
              double* out) {
  const bool dense = sums.outcomes < 0, listed = !dense && sums.pointers != nullptr;
  const int64_t even = dense ? width : sums.outcomes, skipped = listed ? 0 : first * even;
  const F* weights = static_cast<const F*>(sums.weights) + skipped;
  const int32_t* columns = dense ? nullptr : sums.columns + skipped;
  if (problems == 1 && !dense && !listed) return rows_of<F, GUARDED>(even, weights, columns, number, x, out);
  if (problems == 1 && listed) {
    const int32_t* begins = sums.pointers + first;
    for (int64_t row = 0, stop; row < number; row = stop) {  // neighbours are often of one length
      const int64_t begin = begins[row], count = begins[row + 1] - begin;
      for (stop = row + 1; stop < number && begins[stop + 1] - begins[stop] == count;) ++stop;
      rows_of<F, GUARDED>(count, weights + begin, columns + begin, stop - row, x, out + row);
    }
    return;
  }
  if (problems == 1) {
    int64_t row = 0;
    for (; row + 8 <= number; row += 8) dense_dots<F, GUARDED, 8>(weights + row * width, width, x, out + row);
    for (; row < number; ++row) dense_dots<F, GUARDED, 1>(weights + row * width, width, x, out + row);
    return;
  }
  for (int64_t row = 0; row < number; ++row) {
    const Row<F> entries = row_of<F>(sums, first + row, width);
    each_piece(problems, [&](auto lanes, int64_t b) {
      lanes_dot<F, GUARDED, lanes.value>(entries, x + b, problems).store(out + row * problems + b);
    });
  }
}

const int64_t WORTH_THREADS = 1 << 16;  // multiplications from which threads pay: about 60 microseconds of them

inline int64_t entries(const Sums& sums, int64_t width) {
  if (sums.outcomes < 0) return sums.rows * width;
  return sums.pointers != nullptr ? sums.pointers[sums.rows] - sums.pointers[0] : sums.rows * sums.outcomes;
}

inline int threads_for(int64_t work, int64_t threads) { return work < WORTH_THREADS ? 1 : int(threads); }

// A copy in double where F is another type.
template <class F>
const double* as_double(const F* values, int64_t count, Vector<double>& copy) {
  copy.resize(count);
  for (int64_t i = 0; i < count; ++i) copy[i] = double(values[i]);
  return copy.data();
}
template <>
inline const double* as_double(const double* values, int64_t, Vector<double>&) {
  return values;
}

// out[row, b] = sum_k w_k x[s'_k, b] of all rows.
template <class F>
void gather(const Sums& sums, int64_t width, int64_t problems, int64_t threads, const F* x, F* out) {
  const int64_t SIZE = 512;
  const int used = threads_for(entries(sums, width) * problems, threads);
  Vector<double> copy;
  const double* from = as_double(x, width * problems, copy);
#pragma omp parallel num_threads(used)
  {
    Vector<double> found(SIZE * problems);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < sums.rows; start += SIZE) {
      const int64_t number = std::min(SIZE, sums.rows - start);
      products<F, false>(sums, start, number, width, from, problems, found.data());
      for (int64_t i = 0; i < number * problems; ++i) out[start * problems + i] = F(found[i]);
    }
  }
}

}  // namespace cai::LEVEL
