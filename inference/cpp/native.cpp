// The steps of soft control as fused loops: see native.py, which builds and calls them.
//
// Tables are row-major: values [S, B], rewards, priors and shares [S, A, B], of B problems side by side (often one).
// They are stored as F and computed in double.

#include "exact.h"
#include "fixed.h"
#include "merge.h"

using namespace cai;

extern "C" {
#define EXPORT(F, SUFFIX)                                                                                            \
  void fixed_step_##SUFFIX(const Step* step, const Sums* sums, const F* following, F* out) {                         \
    fixed_step(*step, *sums, following, out);                                                                        \
  }                                                                                                                  \
  void fixed_shares_##SUFFIX(const Step* step, const Sums* sums, const F* following, const F* adjoint, F* table,     \
                             F* total) {                                                                             \
    fixed_shares(*step, *sums, following, adjoint, table, total);                                                    \
  }                                                                                                                  \
  int64_t exact_step_##SUFFIX(const Step* step, const Sums* sums, const F* following, double* x, double* shift,      \
                              F* out) {                                                                              \
    return exact_step(*step, *sums, following, x, shift, out);                                                       \
  }                                                                                                                  \
  int64_t exact_shares_##SUFFIX(const Step* step, const Sums* sums, const Sums* transposed, const F* values,         \
                                const F* following, const F* adjoint, double least, double* x, double* shift,        \
                                F* totals, F* rates, F* weighted, F* table, F* products, F* passed) {                \
    return exact_shares(*step, *sums, transposed, values, following, adjoint, least, x, shift, totals, rates,        \
                        weighted, table, products, passed);                                                          \
  }                                                                                                                  \
  void gather_##SUFFIX(const Sums* sums, int64_t width, int64_t problems, int64_t threads, const F* x, F* out) {     \
    gather(*sums, width, problems, threads, x, out);                                                                 \
  }                                                                                                                  \
  void accumulate_##SUFFIX(const Sums* sums, int64_t width, int64_t count, const F* rates, const double* x,          \
                           double* totals, int64_t threads) {                                                        \
    accumulate(*sums, width, count, rates, x, totals, threads);                                                      \
  }                                                                                                                  \
  int64_t merge_##SUFFIX(const Sums* sums, int64_t states, const F* weights, int32_t* pointers, int32_t* columns,    \
                         F* values) {                                                                                \
    return merge(*sums, states, weights, pointers, columns, values);                                                 \
  }                                                                                                                  \
  void spread_##SUFFIX(const Sums* sums, const Sums* merged, int64_t states, const double* totals, F* out) {         \
    spread(*sums, *merged, states, totals, out);                                                                     \
  }
EXPORT(double, f64)
EXPORT(float, f32)
}
