// Results of several problems, each with memory of its own. What is large is written past the caches, which are left to
// what is read again: a line that is written so need not be fetched first.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace cai::LEVEL {

const int64_t PAST_CACHES = 1 << 24;  // bytes of a result from which it is written past the caches

#if defined(__x86_64__)
inline void store_past(double x, double* place) {
  long long bits;
  std::memcpy(&bits, &x, sizeof bits);
  _mm_stream_si64(reinterpret_cast<long long*>(place), bits);
}
inline void store_past(float x, float* place) {
  int bits;
  std::memcpy(&bits, &x, sizeof bits);
  _mm_stream_si32(reinterpret_cast<int*>(place), bits);
}
inline void stores_done() { _mm_sfence(); }  // before another thread reads
#else
template <class F>
inline void store_past(F x, F* place) { *place = x; }
inline void stores_done() {}
#endif

// place[s] = column[s * problems] of `count` states, past the caches if PAST.
template <bool PAST, class F>
inline void store_column(const F* column, int64_t count, int64_t problems, F* place) {
  for (int64_t s = 0; s < count; ++s) {
    if (PAST) {
      store_past(column[s * problems], place + s);
    } else {
      place[s] = column[s * problems];
    }
  }
}

// The same of two neighbouring columns, two numbers at a time where memory allows.
template <bool PAST, class F>
inline void store_columns(const F* columns, int64_t count, int64_t problems, F* one, F* other) {
  int64_t s = 0;
#if defined(__x86_64__)
  if constexpr (PAST && sizeof(F) == 8) {
    const bool aligned = reinterpret_cast<uintptr_t>(one) % 16 == 0 && reinterpret_cast<uintptr_t>(other) % 16 == 0;
    for (; aligned && s + 2 <= count; s += 2) {
      const __m128d x = _mm_loadu_pd(columns + s * problems), y = _mm_loadu_pd(columns + (s + 1) * problems);
      _mm_stream_pd(one + s, _mm_unpacklo_pd(x, y));
      _mm_stream_pd(other + s, _mm_unpackhi_pd(x, y));
    }
  }
#endif
  store_column<PAST>(columns + s * problems, count - s, problems, one + s);
  store_column<PAST>(columns + s * problems + 1, count - s, problems, other + s);
}

}  // namespace cai::LEVEL
