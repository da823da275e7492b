// Multi-scale deformable attention, forward and backward, with softmax and location arithmetic inside.
//
// Ours. Formula and layout: ops/deform_attn.py. Follows numbers.cu in one translation unit. Also compiled by
// g++ with tests/support/kernel_shim.h, where fibres stand for threads.
//
// B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
// A block serves QUERIES queries; D / VECTOR neighbouring threads ("lanes") serve one query and head:
//   1. each lane locates a part of the head's L*K samples into shared memory (float32),
//   2. each lane reads the four corners of all of them, VECTOR channels at a time (16 bytes at best).
// Where the lanes of a head never straddle a warp, the warp alone waits between the steps.
//
// A first corner is clamped into its level, so that every corner is a row of `value`; the hat
// max(0, 1 - |position - corner|) gives corners outside the level weight 0. Comparisons are written so
// that a NaN position gives a NaN weight, as in ops/bag.py.

template <typename T, int VECTOR>
struct alignas(sizeof(T) * VECTOR) Pack { T data[VECTOR]; };

template <typename T, int VECTOR>
__device__ __forceinline__ void load(float (&to)[VECTOR], const T* from) {
    const Pack<T, VECTOR> pack = *reinterpret_cast<const Pack<T, VECTOR>*>(from);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) to[i] = to_float(pack.data[i]);
}

struct Level { int height, width, start; };

// size_{l+1} = ceil(size_l / 2), hence size_l = ceil(size_0 / 2^l).
template <int L>
__device__ __forceinline__ Level level_of(int level, int height0, int width0) {
    int start = 0;
#pragma unroll
    for (int i = 0; i < L - 1; ++i) {
        const int round_up = (1 << i) - 1;
        if (i < level) start += ((height0 + round_up) >> i) * ((width0 + round_up) >> i);
    }
    const int round_up = (1 << level) - 1;
    return {(height0 + round_up) >> level, (width0 + round_up) >> level, start};
}

struct Axis {
    int first;       // index of the first corner
    float distance;  // position minus first corner
    float extent;    // pixels a unit of offset
};

template <bool BOX, int K>
__device__ __forceinline__ Axis locate(float offset, float centre, float box_size, int size) {
    const float extent = BOX ? box_size * (0.5f / K) * size : 1.0f;
    const float position = fmaf(offset, extent, centre * size) - 0.5f;
    const float first = floorf(fminf(fmaxf(position, 0.0f), fmaxf(size - 2.0f, 0.0f)));
    return {(int)first, position - first, extent};
}

struct Hats { float first, second; };

__device__ __forceinline__ Hats hats(float distance, int size) {
    const float to_first = fabsf(distance), to_second = fabsf(distance - 1.0f);
    return {to_first >= 1.0f ? 0.0f : 1.0f - to_first,
            size == 1 || to_second >= 1.0f ? 0.0f : 1.0f - to_second};
}

// Derivative of the hats; at a whole pixel the one to the right, as grid_sample takes it.
__device__ __forceinline__ Hats slopes(float distance, int size) {
    const bool inside = distance >= 0.0f && distance < 1.0f;
    const bool before = distance >= -1.0f && distance < 0.0f, after = distance >= 1.0f && distance < 2.0f;
    return {inside ? -1.0f : before ? 1.0f : 0.0f, size == 1 ? 0.0f : inside ? 1.0f : after ? -1.0f : 0.0f};
}

template <int LANES>
__device__ __forceinline__ void sync_lanes() {
    if (32 % LANES == 0) __syncwarp(); else __syncthreads();
}

// Adds weight * given to what all queries add to; `to` is aligned to the vector. From sm_90 on one instruction
// adds four floats, each by itself.
template <int VECTOR>
__device__ __forceinline__ void add_to(float* to, const float (&given)[VECTOR], float weight) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    constexpr int BY_FOUR = VECTOR / 4 * 4;
#pragma unroll
    for (int i = 0; i < BY_FOUR; i += 4)
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to + i)),
                     "f"(weight * given[i]), "f"(weight * given[i + 1]), "f"(weight * given[i + 2]),
                     "f"(weight * given[i + 3])
                     : "memory");
#else
    constexpr int BY_FOUR = 0;
#endif
#pragma unroll
    for (int i = BY_FOUR; i < VECTOR; ++i) atomicAdd(to + i, weight * given[i]);
}

struct alignas(16) Four { float a, b, c, d; };
struct alignas(8) Place { int offset; float share; };

template <typename TR, int L, int COORDINATES, bool PER_LEVEL>
__device__ __forceinline__ const TR* reference_of(const TR* reference, int query, int level) {
    return reference + (PER_LEVEL ? ((long long)query * L + level) * COORDINATES
                                  : (long long)query * COORDINATES);
}

template <typename TS, int SAMPLES>
__device__ __forceinline__ float largest(const TS* logits) {
    float top = to_float(logits[0]);
#pragma unroll
    for (int s = 1; s < SAMPLES; ++s) top = fmaxf(top, to_float(logits[s]));
    return top;
}

// out (B, Q, M*D), value (B, S, M, D), sampling (B, Q, 3*M*L*K), reference (B, Q, [L,] 2|4), contiguous,
// value and out aligned to VECTOR elements. num_queries is B*Q. S*M*D < 2^31.
template <typename T, typename TS, typename TR, int M, int D, int L, int K, int COORDINATES, bool PER_LEVEL,
          int VECTOR, int QUERIES>
__device__ __forceinline__ void
attend(T* __restrict__ out, const T* __restrict__ value, const TS* __restrict__ sampling,
       const TR* __restrict__ reference, int num_queries, int queries_per_element, int num_positions,
       int height0, int width0) {
    constexpr int LANES = D / VECTOR, SAMPLES = L * K, N = M * SAMPLES;
    constexpr int STRIDE = SAMPLES | 1;  // odd: the heads of a warp read different banks
    constexpr bool BOX = COORDINATES == 4;
    __shared__ Four weights[QUERIES * M * STRIDE];  // of the corners, times the share
    __shared__ Place places[QUERIES * M * STRIDE];  // of the first corner; exp(logit - largest)

    const int slot = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int head = slot % M, query = blockIdx.x * QUERIES + slot / M;
    const bool live = query < num_queries;

    if (live) {
        const TS* map = sampling + (long long)query * 3 * N + head * SAMPLES;
        const float top = largest<TS, SAMPLES>(map + 2 * N);
        for (int s = lane; s < SAMPLES; s += LANES) {
            const Level level = level_of<L>(s / K, height0, width0);
            const TR* point = reference_of<TR, L, COORDINATES, PER_LEVEL>(reference, query, s / K);
            const Axis x = locate<BOX, K>(to_float(map[s]), to_float(point[0]),
                                          BOX ? to_float(point[COORDINATES - 2]) : 0.0f, level.width);
            const Axis y = locate<BOX, K>(to_float(map[N + s]), to_float(point[1]),
                                          BOX ? to_float(point[COORDINATES - 1]) : 0.0f, level.height);
            const Hats across = hats(x.distance, level.width), down = hats(y.distance, level.height);
            const float share = __expf(to_float(map[2 * N + s]) - top);
            const float upper = share * down.first, lower = share * down.second;
            weights[slot * STRIDE + s] = {upper * across.first, upper * across.second,
                                          lower * across.first, lower * across.second};
            places[slot * STRIDE + s] = {(level.start + y.first * level.width + x.first) * (M * D), share};
        }
    }
    sync_lanes<LANES>();
    if (!live) return;

    const T* table = value + ((long long)(query / queries_per_element) * num_positions * M + head) * D
                   + lane * VECTOR;
    float sum[VECTOR] = {}, total = 0.0f;
#pragma unroll 1
    for (int l = 0; l < L; ++l) {
        const Level level = level_of<L>(l, height0, width0);
        const int right = level.width > 1 ? M * D : 0, below = level.height > 1 ? level.width * (M * D) : 0;
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const Four weight = weights[slot * STRIDE + l * K + k];
            const Place place = places[slot * STRIDE + l * K + k];
            const T* corner = table + place.offset;
            float c00[VECTOR], c01[VECTOR], c10[VECTOR], c11[VECTOR];
            load(c00, corner);
            load(c01, corner + right);
            load(c10, corner + below);
            load(c11, corner + below + right);
            total += place.share;
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                sum[i] = fmaf(weight.a, c00[i], sum[i]);
                sum[i] = fmaf(weight.b, c01[i], sum[i]);
                sum[i] = fmaf(weight.c, c10[i], sum[i]);
                sum[i] = fmaf(weight.d, c11[i], sum[i]);
            }
        }
    }
    const float scale = 1.0f / total;
    Pack<T, VECTOR> result;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) store(&result.data[i], sum[i] * scale);
    *reinterpret_cast<Pack<T, VECTOR>*>(out + ((long long)query * M + head) * D + lane * VECTOR) = result;
}

template <typename T, typename TS, typename TR, int M, int D, int L, int K, int COORDINATES, bool PER_LEVEL,
          int VECTOR, int QUERIES>
__global__ void __launch_bounds__(QUERIES * M * (D / VECTOR))
deform_attn_forward(T* __restrict__ out, const T* __restrict__ value, const TS* __restrict__ sampling,
                    const TR* __restrict__ reference, int num_queries, int queries_per_element,
                    int num_positions, int height0, int width0) {
    attend<T, TS, TR, M, D, L, K, COORDINATES, PER_LEVEL, VECTOR, QUERIES>(
        out, value, sampling, reference, num_queries, queries_per_element, num_positions, height0, width0);
}

// The same with the parameters in TensorRT's order: inputs, integers, outputs (ops/tensorrt_plugin.py).
template <typename T, typename TS, typename TR, int M, int D, int L, int K, int COORDINATES, bool PER_LEVEL,
          int VECTOR, int QUERIES>
__global__ void __launch_bounds__(QUERIES * M * (D / VECTOR))
deform_attn_plugin(const T* __restrict__ value, const TS* __restrict__ sampling,
                   const TR* __restrict__ reference, int num_queries, int queries_per_element,
                   int num_positions, int height0, int width0, T* __restrict__ out) {
    attend<T, TS, TR, M, D, L, K, COORDINATES, PER_LEVEL, VECTOR, QUERIES>(
        out, value, sampling, reference, num_queries, queries_per_element, num_positions, height0, width0);
}

// Gradients, given grad (B, Q, M*D) in the layout of `out`. grad_value (B, S, M, D) is float32, zeroed by the
// caller and added to by atomics, so its last bits differ from run to run; the other two are written whole.
template <typename T, typename TS, typename TR, int M, int D, int L, int K, int COORDINATES, bool PER_LEVEL,
          int VECTOR, int QUERIES>
__global__ void __launch_bounds__(QUERIES * M * (D / VECTOR))
deform_attn_backward(float* __restrict__ grad_value, TS* __restrict__ grad_sampling,
                     TR* __restrict__ grad_reference, const T* __restrict__ grad, const T* __restrict__ value,
                     const TS* __restrict__ sampling, const TR* __restrict__ reference, int num_queries,
                     int queries_per_element, int num_positions, int height0, int width0) {
    constexpr int LANES = D / VECTOR, SAMPLES = L * K, N = M * SAMPLES, THREADS = QUERIES * M * LANES;
    constexpr int STRIDE = SAMPLES | 1;
    constexpr bool BOX = COORDINATES == 4;
    __shared__ Four records[QUERIES * M * STRIDE];  // distances x and y, share; at the end d reference
    __shared__ int offsets[QUERIES * M * STRIDE];   // of the first corner
    __shared__ float partial[SAMPLES * 3 * THREADS];  // a lane's part of the sample, and of its d/dx, d/dy
    __shared__ float dots[THREADS];                 // a lane's part of the sum of attention * sample

    const int slot = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int head = slot % M, query = blockIdx.x * QUERIES + slot / M;
    const bool live = query < num_queries;
    const TS* map = sampling + (long long)query * 3 * N + head * SAMPLES;

    if (live) {
        const float top = largest<TS, SAMPLES>(map + 2 * N);
        for (int s = lane; s < SAMPLES; s += LANES) {
            const Level level = level_of<L>(s / K, height0, width0);
            const TR* point = reference_of<TR, L, COORDINATES, PER_LEVEL>(reference, query, s / K);
            const Axis x = locate<BOX, K>(to_float(map[s]), to_float(point[0]),
                                          BOX ? to_float(point[COORDINATES - 2]) : 0.0f, level.width);
            const Axis y = locate<BOX, K>(to_float(map[N + s]), to_float(point[1]),
                                          BOX ? to_float(point[COORDINATES - 1]) : 0.0f, level.height);
            records[slot * STRIDE + s] = {x.distance, y.distance, __expf(to_float(map[2 * N + s]) - top), 0.0f};
            offsets[slot * STRIDE + s] = (level.start + y.first * level.width + x.first) * (M * D);
        }
    }
    sync_lanes<LANES>();

    float scale = 0.0f;
    if (live) {
        float total = 0.0f;
#pragma unroll
        for (int s = 0; s < SAMPLES; ++s) total += records[slot * STRIDE + s].c;
        scale = 1.0f / total;
        const long long origin =
            ((long long)(query / queries_per_element) * num_positions * M + head) * D + lane * VECTOR;
        float given[VECTOR], dot = 0.0f;
        load(given, grad + ((long long)query * M + head) * D + lane * VECTOR);
#pragma unroll 1
        for (int s = 0; s < SAMPLES; ++s) {
            const Level level = level_of<L>(s / K, height0, width0);
            const Four record = records[slot * STRIDE + s];
            const Hats across = hats(record.a, level.width), down = hats(record.b, level.height);
            const float attention = record.c * scale;
            const int right = level.width > 1 ? M * D : 0;
            const int below = level.height > 1 ? level.width * (M * D) : 0;
            float products[4];
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
                const long long at =
                    origin + offsets[slot * STRIDE + s] + (corner & 1 ? right : 0) + (corner & 2 ? below : 0);
                const float weight = attention * (corner & 1 ? across.second : across.first)
                                   * (corner & 2 ? down.second : down.first);
                float read[VECTOR], product = 0.0f;
                load(read, value + at);
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) product = fmaf(given[i], read[i], product);
                products[corner] = product;
                if (weight != 0.0f) {
                    add_to(grad_value + at, given, weight);
                }
            }
            const Hats slope_x = slopes(record.a, level.width), slope_y = slopes(record.b, level.height);
            const float upper = products[0] * across.first + products[1] * across.second;
            const float lower = products[2] * across.first + products[3] * across.second;
            const float left = products[0] * down.first + products[2] * down.second;
            const float beside = products[1] * down.first + products[3] * down.second;
            const float sampled = upper * down.first + lower * down.second;
            dot = fmaf(attention, sampled, dot);
            partial[(s * 3 + 0) * THREADS + threadIdx.x] = sampled;
            partial[(s * 3 + 1) * THREADS + threadIdx.x] = left * slope_x.first + beside * slope_x.second;
            partial[(s * 3 + 2) * THREADS + threadIdx.x] = upper * slope_y.first + lower * slope_y.second;
        }
        dots[threadIdx.x] = dot;
    }
    sync_lanes<LANES>();

    if (live) {
        const int first_lane = slot * LANES;
        float dot = 0.0f;
        for (int i = 0; i < LANES; ++i) dot += dots[first_lane + i];
        TS* grad_map = grad_sampling + (long long)query * 3 * N + head * SAMPLES;
        for (int s = lane; s < SAMPLES; s += LANES) {
            float sampled = 0.0f, along_x = 0.0f, along_y = 0.0f;
            for (int i = 0; i < LANES; ++i) {
                sampled += partial[(s * 3 + 0) * THREADS + first_lane + i];
                along_x += partial[(s * 3 + 1) * THREADS + first_lane + i];
                along_y += partial[(s * 3 + 2) * THREADS + first_lane + i];
            }
            const Level level = level_of<L>(s / K, height0, width0);
            const TR* point = reference_of<TR, L, COORDINATES, PER_LEVEL>(reference, query, s / K);
            const float attention = records[slot * STRIDE + s].c * scale;
            const float d_x = attention * along_x, d_y = attention * along_y;
            float extent_x = 1.0f, extent_y = 1.0f;
            Four toward = {d_x * level.width, d_y * level.height, 0.0f, 0.0f};
            if (BOX) {
                extent_x = to_float(point[COORDINATES - 2]) * (0.5f / K) * level.width;
                extent_y = to_float(point[COORDINATES - 1]) * (0.5f / K) * level.height;
                toward.c = toward.a * to_float(map[s]) * (0.5f / K);
                toward.d = toward.b * to_float(map[N + s]) * (0.5f / K);
            }
            store(grad_map + s, d_x * extent_x);
            store(grad_map + N + s, d_y * extent_y);
            store(grad_map + 2 * N + s, attention * (sampled - dot));
            records[slot * STRIDE + s] = toward;  // of this sample no other thread reads what stood there
        }
    }
    __syncthreads();  // the heads of a query meet here

    constexpr int POINTS = PER_LEVEL ? L : 1, SPAN = SAMPLES / POINTS;
    for (int i = threadIdx.x; i < QUERIES * POINTS * COORDINATES; i += THREADS) {
        const int axis = i % COORDINATES, point = i / COORDINATES % POINTS, local = i / (COORDINATES * POINTS);
        const int to = blockIdx.x * QUERIES + local;
        if (to >= num_queries) continue;
        float sum = 0.0f;
        for (int m = 0; m < M; ++m) {
            for (int s = point * SPAN; s < (point + 1) * SPAN; ++s) {
                const Four part = records[(local * M + m) * STRIDE + s];
                sum += axis == 0 ? part.a : axis == 1 ? part.b : axis == 2 ? part.c : part.d;
            }
        }
        store(grad_reference + ((long long)to * POINTS + point) * COORDINATES + axis, sum);
    }
}
