// What g++ needs to run a CUDA kernel on the CPU: each thread of a block is a fibre, barriers switch fibres.
//
// Blocks run one after the other, so `__shared__` is static storage. Within a block a warp runs until it waits
// for the whole block, and within a warp a fibre until it waits for the others, both forward or backward by
// index: where a barrier is missing or too narrow, the two orders give different results.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#define KERNEL_SHIM 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Index { int x; };
static Index threadIdx, blockIdx;

namespace shim {

enum class Wait { none, warp, block, done };

struct Fibre {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(128 * 1024);
    Wait wait = Wait::none;
};

static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static const std::function<void()>* body;

static void enter() {
    (*body)();
    fibres[threadIdx.x].wait = Wait::done;
}

static void pause(Wait wait) {
    Fibre& self = fibres[threadIdx.x];
    self.wait = wait;
    swapcontext(&self.context, &scheduler);
}

// Threads that have returned count as arrived, as they do on the device.
static bool release(int begin, int end, Wait wait) {
    bool any = false;
    for (int i = begin; i < end; ++i) {
        if (fibres[i].wait != wait && fibres[i].wait != Wait::done) return false;
        any |= fibres[i].wait == wait;
    }
    for (int i = begin; any && i < end; ++i) {
        if (fibres[i].wait == wait) fibres[i].wait = Wait::none;
    }
    return any;
}

// Until all its fibres wait for the block or have returned; true where all have.
static bool run_warp(int begin, int end, bool backward) {
    bool done;
    do {
        done = true;
        for (int step = 0; step < end - begin; ++step) {
            const int i = backward ? end - 1 - step : begin + step;
            if (fibres[i].wait == Wait::none) {
                threadIdx.x = i;
                swapcontext(&scheduler, &fibres[i].context);
            }
            done &= fibres[i].wait == Wait::done;
        }
    } while (release(begin, end, Wait::warp));
    return done;
}

static void run_block(int threads, bool backward) {
    for (int i = 0; i < threads; ++i) {
        Fibre& fibre = fibres[i];
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = &scheduler;
        fibre.wait = Wait::none;
        makecontext(&fibre.context, enter, 0);
    }
    const int num_warps = (threads + 31) / 32;
    for (;;) {
        bool done = true;
        for (int step = 0; step < num_warps; ++step) {
            const int begin = (backward ? num_warps - 1 - step : step) * 32;
            done &= run_warp(begin, std::min(threads, begin + 32), backward);
        }
        if (done) return;
        if (!release(0, threads, Wait::block)) {
            std::fprintf(stderr, "kernel shim: threads wait at different barriers for ever\n");
            std::abort();
        }
    }
}

static void run_blocks(int blocks, int threads, bool backward, const std::function<void()>& kernel) {
    if ((int)fibres.size() < threads) fibres.resize(threads);
    body = &kernel;
    for (int block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        run_block(threads, backward);
    }
}

// Any kernel by addresses and numbers, in the order of its parameters of either kind.
template <typename P>
P argument(void* const* pointers, const double* scalars, int index, int pointers_before) {
    if constexpr (std::is_pointer_v<P>) return (P)pointers[pointers_before];
    else return (P)scalars[index - pointers_before];
}

template <typename... P>
struct Kernel {
    static constexpr int num_pointers = (0 + ... + std::is_pointer_v<P>), num_scalars = sizeof...(P) - num_pointers;

    // How many of the first `end` parameters are pointers.
    static constexpr int pointers_before(int end) {
        constexpr bool kinds[] = {std::is_pointer_v<P>...};
        int num = 0;
        for (int i = 0; i < end; ++i) num += kinds[i];
        return num;
    }

    template <size_t... I>
    static void call(void (*kernel)(P...), void* const* pointers, const double* scalars, std::index_sequence<I...>) {
        kernel(argument<P>(pointers, scalars, (int)I, pointers_before(I))...);
    }
};

template <typename... P>
int launch(void (*kernel)(P...), void* const* pointers, int num_pointers, const double* scalars, int num_scalars,
           int blocks, int threads, bool backward) {
    if (num_pointers != Kernel<P...>::num_pointers || num_scalars != Kernel<P...>::num_scalars) return 1;
    run_blocks(blocks, threads, backward, [&] {
        Kernel<P...>::call(kernel, pointers, scalars, std::index_sequence_for<P...>());
    });
    return 0;
}

}  // namespace shim

inline void __syncwarp() { shim::pause(shim::Wait::warp); }
inline void __syncthreads() { shim::pause(shim::Wait::block); }
inline float __expf(float x) { return std::exp(x); }
inline void atomicAdd(float* to, float x) { *to += x; }
inline void atomicMin(int* to, int x) { *to = std::min(*to, x); }
inline void atomicMax(int* to, int x) { *to = std::max(*to, x); }

using std::max;
using std::min;

// g++ fuses no multiplication with an addition unless it is told of a processor that can.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

inline float __uint_as_float(unsigned bits) {
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

inline unsigned __float_as_uint(float x) {
    unsigned result;
    std::memcpy(&result, &x, 4);
    return result;
}

// IEEE binary16 by arithmetic on its fields, exact; rounding to nearest even.
inline float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp((float)fraction, -24);
    return sign * std::ldexp((float)(fraction + 1024), exponent - 25);
}

inline unsigned short float_to_half(float x) {
    const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (size != size) return 0x7fff;
    if (size == 0.0f) return sign;
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent;
    std::frexp(size, &exponent);  // size in [2^(exponent-1), 2^exponent)
    const int ulp = std::max(exponent, -13) - 11;
    const int steps = (int)std::nearbyint(std::ldexp(size, -ulp));  // a carry to 2048 is the next exponent
    return sign | (unsigned short)(((ulp + 24) << 10) + steps);
}
