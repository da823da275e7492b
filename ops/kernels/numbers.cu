// Half types and their conversions, for all kernels: each is compiled with this text before its own.
//
// Ours. Header-free, so that NVRTC needs no include path; what g++ needs is in tests/support/kernel_shim.h.

struct half_t { unsigned short bits; };
struct bfloat16_t { unsigned short bits; };

#ifndef KERNEL_SHIM  // the shim brings its own
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
    return result;
}

__device__ __forceinline__ unsigned short float_to_half(float x) {
    unsigned short result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(x));
    return result;
}
#endif

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(half_t x) { return half_to_float(x.bits); }
__device__ __forceinline__ float to_float(bfloat16_t x) { return __uint_as_float((unsigned)x.bits << 16); }

__device__ __forceinline__ void store(float* to, float x) { *to = x; }
__device__ __forceinline__ void store(half_t* to, float x) { to->bits = float_to_half(x); }
__device__ __forceinline__ void store(bfloat16_t* to, float x) {
    // Round to nearest even in integers: the conversion instruction needs sm_80.
    const unsigned bits = __float_as_uint(x);
    to->bits = x != x ? 0x7fc0 : (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
