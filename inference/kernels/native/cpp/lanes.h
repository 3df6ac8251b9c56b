// Neighbouring numbers of several problems or states, computed at once. GCC 12 copies arrays of a few doubles by halves of
// what the next instruction reads, which then waits for them: these are vectors of the processor by type.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace cai::LEVEL {

#if defined(__AVX512F__)
const int WIDTH = 8;
#elif defined(__AVX__)
const int WIDTH = 4;
#else
const int WIDTH = 2;
#endif

template <class F, int N>
struct VectorOf {
  typedef F type __attribute__((vector_size(N * sizeof(F))));
  typedef F in_memory __attribute__((vector_size(N * sizeof(F)), aligned(alignof(F))));
};
template <class F>
struct VectorOf<F, 1> {
  using type = F;
  using in_memory = F;
};

// N numbers in vectors of up to WIDTH.
template <int N>
struct Lanes {
  static constexpr int WIDE = N < WIDTH ? N : WIDTH, PARTS = N / WIDE;
  using X = typename VectorOf<double, WIDE>::type;
  X part[PARTS];

  template <class F>
  static Lanes load(const F* from) {
    Lanes lanes;
    for (int i = 0; i < PARTS; ++i)
      lanes.part[i] = converted<X>(*reinterpret_cast<const typename VectorOf<F, WIDE>::in_memory*>(from + i * WIDE));
    return lanes;
  }
  template <class F>
  void store(F* place) const {
    using Stored = typename VectorOf<F, WIDE>::in_memory;
    for (int i = 0; i < PARTS; ++i) *reinterpret_cast<Stored*>(place + i * WIDE) = converted<Stored>(part[i]);
  }

 private:
  template <class To, class From>
  static To converted(From from) {
    if constexpr (WIDE == 1) {
      return To(from);
    } else {
      return __builtin_convertvector(from, To);
    }
  }
};

// What a loop will come to lies this many numbers ahead: where several tables are read along with it, a processor that is
// not told so waits for them half of the time.
const int64_t AHEAD = 256;

template <int N, class F>
inline void expect(const F* from) {
  for (int64_t i = 0; i < N; i += 64 / int64_t(sizeof(F))) __builtin_prefetch(from + AHEAD + i);
}

template <int N>
using Constant = std::integral_constant<int, N>;

// Calls use(Constant<N>, the first) for pieces of 0..length of N neighbours each, 16 where there are as many.
template <class Use>
inline void each_piece(int64_t length, const Use& use) {
  int64_t first = 0;
  for (; first + 16 <= length; first += 16) use(Constant<16>(), first);
  for (; first + 8 <= length; first += 8) use(Constant<8>(), first);
  for (; first + 4 <= length; first += 4) use(Constant<4>(), first);
  for (; first < length; ++first) use(Constant<1>(), first);
}

}  // namespace cai::LEVEL
