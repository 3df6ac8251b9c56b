// The steps of soft control as fused loops, compiled once for each set of instructions.
//
// LEVEL names the set: it is the namespace of everything here, and ends the names of what is exported, so that no two
// compilations share a function: a linker that finds one twice keeps either, whatever instructions it uses.
//
// Tables are row-major: values [S, B], rewards, priors and shares [S, A, B], of B problems side by side (often one).
// They are stored as F and computed in double.

#include "chain.h"
#include "exact.h"
#include "fixed.h"

using namespace cai::LEVEL;

#pragma GCC visibility push(default)
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
  void weighted_sums_##SUFFIX(const Step* step, const Sums* sums, const F* x, F* out) {                              \
    weighted_sums(*step, *sums, x, out);                                                                             \
  }                                                                                                                  \
  void gather_##SUFFIX(const Sums* sums, int64_t width, int64_t problems, int64_t threads, const F* x, F* out) {     \
    gather(*sums, width, problems, threads, x, out);                                                                 \
  }                                                                                                                  \
  int64_t chain_##SUFFIX(const Chain* chain, const Sums* sums, F* rows, double* scratch) {                           \
    return run_chain(*chain, *sums, rows, scratch);                                                                  \
  }                                                                                                                  \
  void correlate_##SUFFIX(const Sums* sums, int64_t width, int64_t count, const F* ahead, const F* behind,           \
                          F* totals, int64_t threads) {                                                              \
    correlate(*sums, width, count, ahead, behind, totals, threads);                                                  \
  }
#define JOINED(number, level) number##_##level
#define SUFFIX_OF(number, level) JOINED(number, level)
#define EXPORT_AS(F, SUFFIX) EXPORT(F, SUFFIX)
EXPORT_AS(double, SUFFIX_OF(f64, LEVEL))
EXPORT_AS(float, SUFFIX_OF(f32, LEVEL))
}
#pragma GCC visibility pop
