// Products with a sparse table of one problem, of rows that lie side by side, as on a grid, eight at a time.

#pragma once

#include "sums.h"

namespace cai::LEVEL {

const int SIDE = 8;  // rows that are computed at once

// A table whose rows have `pointers`, and which of them are computed at once: SIDE neighbours that have equally many
// entries, each of which is one column after that of the row before. Only blocks of BLOCK rows are asked for.
template <class F>
class Shifted {
 public:
  static const int64_t BLOCK = 512;

  Shifted(const Sums& sums, int64_t width) : sums_(sums), width_(width), at_once_(sums.rows, 0) {
    if (sums.pointers == nullptr) return;
    for (int64_t start = 0; start < sums.rows; start += BLOCK)
      for (int64_t row = start; row + SIDE <= std::min(sums.rows, start + BLOCK);) {
        at_once_[row] = is_shifted(row);
        if (at_once_[row]) turn(row);
        row += at_once_[row] ? SIDE : 1;
      }
  }

  // Calls use(Constant<N>, row) for N rows from `row` on, which are computed at once, until all from start to stop are.
  template <class Use>
  void each(int64_t start, int64_t stop, const Use& use) const {
    for (int64_t row = start; row < stop;) {
      if (at_once_[row]) {
        use(Constant<SIDE>(), row);
        row += SIDE;
      } else {
        use(Constant<1>(), row++);
      }
    }
  }

  // out[row] = sum_k w_k x[s'_k] of the rows from `start` to `stop`.
  void products(int64_t start, int64_t stop, const double* x, double* out) const {
    if (weights_.size() == 0) return LEVEL::products<F, false>(sums_, start, stop - start, width_, x, 1, out + start);
    for (int64_t row = start, next; row < stop; row = next) {
      for (next = row; next < stop && !at_once_[next];) ++next;
      LEVEL::products<F, false>(sums_, row, next - row, width_, x, 1, out + row);
      for (; next < stop && at_once_[next]; next += SIDE) {
        const int64_t begin = sums_.pointers[next], count = sums_.pointers[next + 1] - begin;
        Lanes<SIDE> total = {};
        for (int64_t k = 0; k < count; ++k) {
          const Lanes<SIDE> weight = Lanes<SIDE>::load(weights_.data() + begin + k * SIDE);
          const Lanes<SIDE> arrived = Lanes<SIDE>::load(x + sums_.columns[begin + k]);
          for (int i = 0; i < Lanes<SIDE>::PARTS; ++i) total.part[i] += weight.part[i] * arrived.part[i];
        }
        total.store(out + next);
      }
    }
  }

 private:
  bool is_shifted(int64_t row) const {
    const int64_t begin = sums_.pointers[row], count = sums_.pointers[row + 1] - begin;
    for (int64_t i = 1; i < SIDE; ++i) {
      const int64_t own = begin + i * count;
      if (sums_.pointers[row + i] != own || sums_.pointers[row + i + 1] != own + count) return false;
      for (int64_t k = 0; k < count; ++k)
        if (sums_.columns[own + k] != sums_.columns[begin + k] + i) return false;
    }
    return true;
  }

  // Writes the weights of SIDE rows from `row` on, those of one k beside each other.
  void turn(int64_t row) {
    const int64_t begin = sums_.pointers[row], count = sums_.pointers[row + 1] - begin;
    const F* weights = static_cast<const F*>(sums_.weights) + begin;
    if (weights_.size() == 0) weights_.resize(entries(sums_, width_));
    for (int64_t i = 0; i < SIDE; ++i)
      for (int64_t k = 0; k < count; ++k) weights_[begin + k * SIDE + i] = weights[i * count + k];
  }

  const Sums sums_;
  const int64_t width_;
  Vector<F> weights_;
  Vector<uint8_t> at_once_;
};

}  // namespace cai::LEVEL
