// Memory for a call's intermediate numbers.

#pragma once

#include <cstdint>
#include <cstdlib>

namespace cai::LEVEL {

// Bytes of a line of the cache. Memory begins at one: vectors that cross lines take twice as long.
const int64_t LINE = 64;

// What these loops need of std::vector. The functions of that one have the same names in every compilation of native.cpp,
// so that a linker keeps one of them for all: perhaps one with instructions that the processor does not have.
template <class T>
class Vector {
 public:
  explicit Vector(int64_t count = 0, T value = T()) { resize(count, value); }
  Vector(const Vector&) = delete;
  Vector& operator=(const Vector&) = delete;
  ~Vector() { std::free(data_); }

  // Every element becomes `value`.
  void resize(int64_t count, T value = T()) {
    std::free(data_);
    data_ = static_cast<T*>(std::aligned_alloc(LINE, (count * sizeof(T) / LINE + 1) * LINE));
    if (data_ == nullptr) std::abort();
    count_ = count;
    for (int64_t i = 0; i < count; ++i) data_[i] = value;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace cai::LEVEL
