// Stores that leave the caches to what is read again: a line that is written past them need not be fetched first.

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

template <bool PAST, class F>
inline void store(F x, F* place) {
  if (PAST) {
    store_past(x, place);
  } else {
    *place = x;
  }
}

}  // namespace cai::LEVEL
