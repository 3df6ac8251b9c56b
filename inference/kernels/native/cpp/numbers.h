// Powers and logarithms that a compiler can run along a vector; written out, since those of the C library are calls.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace cai::LEVEL {

const double INFTY = INFINITY;
inline double from_bits(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint64_t to_bits(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// e^x for x up to 700, within 2 units of the last place; 0 where the result would be under the smallest normal number.
inline double power(double x) {
  const double shifter = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
  const double low = x < -707.0 ? -707.0 : x;
  const double shifted = low * 1.4426950408889634 + shifter;
  const double whole = shifted - shifter;
  const double rest = (low - whole * 0x1.62e42fefa3800p-1) - whole * 0x1.ef35793c76730p-45;  // log 2 in two parts
  // 1 + rest + rest^2 times the polynomial of degree 9 whose largest relative error for |rest| <= log(2) / 2 is least, 4e-18,
  // found by Remez's exchange; by pairs, since a processor that waits for one term after the other takes twice as long.
  const double two = rest * rest, four = two * two;
  const double low_terms = (0x1.000000000000ap-1 + rest * 0x1.55555555554fap-3) +
                           two * (0x1.55555555508cbp-5 + rest * 0x1.1111111127b97p-7);
  const double middle = (0x1.6c16c1841c139p-10 + rest * 0x1.a01a012a58797p-13) +
                        two * (0x1.a0199a2ce13d0p-16 + rest * 0x1.71df25799584bp-19);
  const double high = 0x1.28ad5860886b8p-22 + rest * 0x1.ad7efffdb4577p-26;
  const double sum = 1.0 + (rest + two * (low_terms + four * (middle + four * high)));
  const double scaled = sum * from_bits((to_bits(shifted) << 52) + (uint64_t(1023) << 52));
  return x < -707.0 ? 0.0 : scaled;
}

// log x of a normal number, within 3 units of the last place, by 2 atanh((m - 1) / (m + 1)) of its mantissa m; -inf
// where x is 0.
inline double logarithm(double x) {
  const uint64_t bits = to_bits(x);
  const double mantissa = from_bits((bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull);
  const double exponent = from_bits((bits >> 52) | 0x4330000000000000ull) - 4503599627370496.0 - 1023.0;
  const bool large = mantissa > 1.4142135623730951;
  const double m = large ? 0.5 * mantissa : mantissa;
  const double e = large ? exponent + 1.0 : exponent;
  const double ratio = (m - 1.0) / (m + 1.0), square = ratio * ratio;  // square <= 0.0295
  const double two = square * square, four = two * two;
  // (atanh(ratio) / ratio - 1) / square by the polynomial of degree 6 whose error is least, at most 1e-18 of the result.
  const double low = (0x1.5555555555592p-2 + square * 0x1.999999997ff0cp-3) +
                     two * (0x1.24924941e2476p-3 + square * 0x1.c71c52134bdeep-4);
  const double sum = low + four * ((0x1.74663d3140b85p-4 + square * 0x1.39a1e085e63dfp-4) + two * 0x1.2f041b535d663p-4);
  const double rest = 2.0 * ratio * square * sum + 2.0 * ratio;
  const double found = e * 0x1.62e42fefa3800p-1 + (e * 0x1.ef35793c76730p-45 + rest);
  return x > 0.0 ? found : -INFTY;
}

}  // namespace cai::LEVEL
