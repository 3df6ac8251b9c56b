// What the library says about itself, compiled for any processor.

#define EXPORTED extern "C" __attribute__((visibility("default")))

// The name of the best compilation of native.cpp that this processor can run.
EXPORTED const char* cai_level() {
#if defined(__x86_64__) && defined(__linux__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return "avx512";
  if (avx2) return "avx2";
#endif
  return "baseline";
}

// The SHA-256 of the files of this folder, in the order of their names: which sources the library was made of.
EXPORTED const char* cai_sources() { return SOURCES; }
