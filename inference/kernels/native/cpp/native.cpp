// The passes of soft control over whole horizons, compiled once for each set of instructions.
//
// LEVEL names the set: it is the namespace of everything here, and ends the names of what is exported, so that no two
// compilations share a function: a linker that finds one twice keeps either, whatever instructions it uses.
//
// Tables are row-major: values [S, B], scores and weights [S, A, B], of B problems side by side (often one). They are
// stored as F and computed in double.

#include "factors.h"
#include "fixed.h"
#include "merged.h"
#include "store.h"

namespace cai::LEVEL {

// Writes a row [S, B] of step t into `apart` [B, steps + 1, S]; past the caches, if PAST, where nobody looks for long.
template <class F, bool PAST>
void write_apart(const Problem& problem, const F* row, int64_t t, int64_t steps, F* apart) {
  const int64_t S = problem.states, B = problem.problems, SIZE = 64;
#pragma omp parallel num_threads(threads_for(work_of(problem), problem.threads))
  {
#pragma omp for schedule(static)
    for (int64_t start = 0; start < S; start += SIZE) {
      const int64_t count = std::min(SIZE, S - start), stride = (steps + 1) * S;
      const F* from = row + start * B;
      F* place = apart + t * S + start;
      int64_t b = 0;
      for (; b + 2 <= B; b += 2)
        store_columns<PAST>(from + b, count, B, place + b * stride, place + (b + 1) * stride);
      if (b < B) store_column<PAST>(from + b, count, B, place + b * stride);
    }
    if (PAST) stores_done();
  }
}

// Writes the messages of `steps` steps before the last row, which is known, into rows [., S, B] of which every `ring`-th
// shares its memory; and, unless it is null, into `apart` [B, steps + 1, S].
template <class F>
void backward(const Problem& problem, bool exact, F* rows, int64_t steps, int64_t ring, F* apart) {
  const int64_t size = problem.states * problem.problems;
  if (exact && problem.merged.rows > 0) {  // one problem
    merged_backward<F>(problem, rows, steps, ring, nullptr);
    return;
  }
  const bool past = size * (steps + 1) * int64_t(sizeof(F)) >= PAST_CACHES;
  Vector<double> x(exact ? size : 0), shift(problem.problems);
  bool infinite = !exact && has_infinite(rows + steps % ring * size, size, 1);
  for (int64_t t = steps - 1; t >= 0; --t) {
    const F* following = rows + (t + 1) % ring * size;
    F* out = rows + t % ring * size;
    if (exact) {
      exact_step(problem, false, following, x.data(), shift.data(), out);
    } else {
      infinite = fixed_step(problem, following, infinite, out);
    }
    if (apart != nullptr && past) write_apart<F, true>(problem, out, t, steps, apart);
    if (apart != nullptr && !past) write_apart<F, false>(problem, out, t, steps, apart);
  }
}

// Follows a_t [S, B] along messages in rows [steps + 1, S, B], from the first to the last, in place. What arrives at
// step t is added from `incoming` [steps, S, B]; the d_t are added to `total` [S, A, B]. With `marginals` [steps + 1, S,
// B] all a_t are written there, and terminal states keep theirs; else these pass nothing on. `bound` is one on every a_t.
template <class F>
void forward(const Problem& problem, bool exact, const F* rows, int64_t steps, const F* incoming, double bound,
             double* adjoint, double* total, F* marginals) {
  const int64_t S = problem.states, B = problem.problems, size = S * B;
  const double least = problem.smallest * std::max(1.0, bound);
  Vector<double> flow(size * problem.actions), x(exact ? size : 0), rates(exact ? size : 0), shift(B);
  Vector<double> ended(marginals != nullptr && problem.terminal != nullptr ? size : 0, 0.0);
  for (int64_t t = 0; t <= steps; ++t) {
    for (int64_t i = 0; incoming != nullptr && t < steps && i < size; ++i) adjoint[i] += incoming[t * size + i];
    for (int64_t i = 0; i < ended.size(); ++i) {
      adjoint[i] += ended[i];
      ended[i] = problem.terminal[i / B] ? adjoint[i] : 0.0;
    }
    for (int64_t i = 0; marginals != nullptr && i < size; ++i) marginals[t * size + i] = F(adjoint[i]);
    if (t == steps) return;
    const F* following = rows + (t + 1) * size;
    if (exact) {
      exact_forward(problem, rows + t * size, following, adjoint, least, flow.data(), total, x.data(), rates.data(),
                    shift.data());
    } else {
      fixed_forward(problem, following, adjoint, flow.data(), total);
    }
  }
}

}  // namespace cai::LEVEL

using namespace cai::LEVEL;

#pragma GCC visibility push(default)
extern "C" {
#define EXPORT(F, SUFFIX)                                                                                         \
  void backward_##SUFFIX(const Problem* problem, int64_t exact, F* rows, int64_t steps, int64_t ring, F* apart) {    \
    backward(*problem, exact != 0, rows, steps, ring, apart);                                                        \
  }                                                                                                                  \
  int64_t merged_backward_##SUFFIX(const Problem* problem, F* rows, int64_t steps, double* levels) {                 \
    return merged_backward(*problem, rows, steps, steps + 1, levels);                                                \
  }                                                                                                                  \
  void forward_##SUFFIX(const Problem* problem, int64_t exact, const F* rows, int64_t steps, const F* incoming,      \
                        double bound, double* adjoint, double* total, F* marginals) {                                \
    forward(*problem, exact != 0, rows, steps, incoming, bound, adjoint, total, marginals);                          \
  }                                                                                                                  \
  int64_t merged_forward_##SUFFIX(const Problem* problem, const F* rows, const double* levels, int64_t steps,        \
                                  double* adjoint, double* total) {                                                  \
    return merged_forward(*problem, rows, levels, steps, adjoint, total);                                            \
  }                                                                                                                  \
  void gather_##SUFFIX(const Sums* sums, int64_t width, int64_t problems, int64_t threads, const F* x, F* out) {     \
    gather(*sums, width, problems, threads, x, out);                                                                 \
  }                                                                                                                  \
  void solve_factors_##SUFFIX(const Factors* factors, int64_t transposed, int64_t count, F* x) {                     \
    if (transposed != 0) {                                                                                           \
      solve_factors_transposed(*factors, count, x);                                                                  \
    } else {                                                                                                         \
      solve_factors(*factors, count, x);                                                                             \
    }                                                                                                                \
  }                                                                                                                  \
  void edge_products_##SUFFIX(int64_t edges, int64_t count, const int64_t* tails, const int64_t* heads,              \
                              const F* left, const F* right, F* out) {                                               \
    edge_products(edges, count, tails, heads, left, right, out);                                                     \
  }
#define JOINED(number, level) number##_##level
#define SUFFIX_OF(number, level) JOINED(number, level)
#define EXPORT_AS(F, SUFFIX) EXPORT(F, SUFFIX)
EXPORT_AS(double, SUFFIX_OF(f64, LEVEL))
EXPORT_AS(float, SUFFIX_OF(f32, LEVEL))
}
#pragma GCC visibility pop
