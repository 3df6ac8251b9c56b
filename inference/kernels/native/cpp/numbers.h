// Powers and logarithms that a compiler can run along a vector; written out, since those of the C library are calls. X is
// double, for loops that the compiler turns into vectors, or a vector of doubles.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace cai::LEVEL {

const double INFTY = INFINITY;

// The larger and the smaller of two, b where one is NaN. GCC 12 would make two instructions of a comparison of vectors.
template <class X>
inline X larger(X a, X b) {
#if defined(__AVX__)
  if constexpr (sizeof(X) == 32) return _mm256_max_pd(a, b);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(X) == 16) return _mm_max_pd(a, b);
#endif
  return a > b ? a : b;
}
template <class X>
inline X smaller(X a, X b) {
#if defined(__AVX__)
  if constexpr (sizeof(X) == 32) return _mm256_min_pd(a, b);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(X) == 16) return _mm_min_pd(a, b);
#endif
  return a < b ? a : b;
}

// The bits of an X.
template <class X>
struct Bits {
  typedef uint64_t type __attribute__((vector_size(sizeof(X))));
};
template <>
struct Bits<double> {
  using type = uint64_t;
};

template <class X>
inline X from_bits(typename Bits<X>::type bits) {
  X value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class X>
inline typename Bits<X>::type to_bits(X value) {
  typename Bits<X>::type bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// 2^52 + 2^51: adding it leaves the nearest integer in the low bits. With the 1023 these are those of an exponent.
const double SHIFTER = 6755399441055744.0 + 1023.0;

// e^rest for |rest| <= log(2) / 2, and times 2^k of the k that was added to SHIFTER.
template <class X>
inline X scaled_power(X rest, X shifted) {
  // 1 + rest + rest^2 times the polynomial of degree 9 whose largest relative error for |rest| <= log(2) / 2 is least, 4e-18,
  // found by Remez's exchange; by pairs, since a processor that waits for one term after the other takes twice as long.
  const X two = rest * rest, four = two * two;
  const X low_terms = (0x1.000000000000ap-1 + rest * 0x1.55555555554fap-3) +
                      two * (0x1.55555555508cbp-5 + rest * 0x1.1111111127b97p-7);
  const X middle = (0x1.6c16c1841c139p-10 + rest * 0x1.a01a012a58797p-13) +
                   two * (0x1.a0199a2ce13d0p-16 + rest * 0x1.71df25799584bp-19);
  const X high = 0x1.28ad5860886b8p-22 + rest * 0x1.ad7efffdb4577p-26;
  const X sum = 1.0 + (rest + two * (low_terms + four * (middle + four * high)));
  return sum * from_bits<X>(to_bits(shifted) << 52);
}

// e^x for x up to 700, within 2 units of the last place; 0 where the result would be under the smallest normal number.
template <class X>
inline X power(X x) {
  const X least = X() - 707.0, low = x < least ? least : x;
  const X shifted = low * 1.4426950408889634 + SHIFTER, whole = shifted - SHIFTER;
  const X rest = (low - whole * 0x1.62e42fefa3800p-1) - whole * 0x1.ef35793c76730p-45;  // log 2 in two parts
  return x < least ? X() : scaled_power(rest, shifted);
}

// e^x for x <= 0, of which only what counts beside 1 is asked: within 1e-16, and 1e-307 for x under -707 or NaN.
template <class X>
inline X power_beside_one(X x) {
  const X low = larger(x, X() - 707.0);
  const X shifted = low * 1.4426950408889634 + SHIFTER, whole = shifted - SHIFTER;
  return scaled_power(low - whole * 0x1.62e42fefa39efp-1, shifted);
}

// log x of a normal number, within 3 units of the last place, by 2 atanh((m - 1) / (m + 1)) of its mantissa m between
// sqrt(1/2) and sqrt(2).
template <class X>
inline X logarithm_of_normal(X x) {
  const uint64_t half_root = 0x3fe6a09e667f3bcdull;  // the bits of sqrt(1/2)
  const auto moved = to_bits(x) + (0x3ff0000000000000ull - half_root);
  const X e = from_bits<X>((moved >> 52) | 0x4330000000000000ull) - (4503599627370496.0 + 1023.0);
  const X m = from_bits<X>((moved & 0x000fffffffffffffull) + half_root);
  const X ratio = (m - 1.0) / (m + 1.0), square = ratio * ratio;  // square <= 0.0295
  const X two = square * square, four = two * two;
  // (atanh(ratio) / ratio - 1) / square by the polynomial of degree 6 whose error is least, at most 1e-18 of the result.
  const X low = (0x1.5555555555592p-2 + square * 0x1.999999997ff0cp-3) +
                two * (0x1.24924941e2476p-3 + square * 0x1.c71c52134bdeep-4);
  const X sum = low + four * ((0x1.74663d3140b85p-4 + square * 0x1.39a1e085e63dfp-4) + two * 0x1.2f041b535d663p-4);
  const X twice = ratio + ratio;
  return e * 0x1.62e42fefa3800p-1 + (e * 0x1.ef35793c76730p-45 + (twice * square * sum + twice));
}

// The same, and -inf where x is 0.
template <class X>
inline X logarithm(X x) {
  return x > X() ? logarithm_of_normal(x) : X() - INFTY;
}

}  // namespace cai::LEVEL
