// Multi-scale deformable attention on a CPU, forward and backward, with softmax and location arithmetic inside.
//
// Ours. Formula and layout: ops/deform_attn.py; the same steps as ops/kernels/deform_attn.cu. Needs no header
// of torch: ops/native.py compiles it and passes addresses of contiguous float32 or float64 tensors.
//
// B batch, S positions of all levels, M heads, D channels of a head, Q queries, L levels, K points.
// Forward runs over queries; backward over (batch element, head), each of which owns its part of the gradient
// of `value`: no atomics, and the same bits whatever the number of threads.
//
// A first corner is clamped into its level, so that every corner is a row of `value`; the hat
// max(0, 1 - |position - corner|) gives corners outside the level weight 0. Comparisons are written so
// that a NaN position gives a NaN weight, as in ops/bag.py.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kLanes = 8;  // channels of a vector
constexpr int kMaxSamples = 64;  // L*K
constexpr int kMaxLevels = 16;

template <typename T>
struct VectorOf {
    typedef T type __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias));
};

struct Shape {
    int64_t B, S, M, D, Q;
    int L, K, coordinates, per_level;
    int height[kMaxLevels], width[kMaxLevels];
    int64_t start[kMaxLevels];
};

// e^x to about an ulp for x <= 0: the loop over samples must vectorise, which a call of expf prevents.
inline float exp_of(float x) {
    const float scaled = x * 1.44269504f;
    const float whole = (scaled + 12582912.0f) - 12582912.0f;  // rounds to nearest
    float r = x - whole * 0.693145752f;
    r = r - whole * 1.42860677e-6f;
    float p = 1.98756915e-4f;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345190e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    const int32_t exponent = (int32_t)(whole > -126.0f ? whole : -126.0f) + 127;
    const int32_t bits = (int32_t)((uint32_t)exponent << 23);
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return x < -87.0f ? 0.0f : p * power;
}
inline double exp_of(double x) { return std::exp(x); }

// What the L*K samples of a query have in common for all heads.
template <typename T>
struct Query {
    T base_x[kMaxSamples], base_y[kMaxSamples];      // position without offset
    T extent_x[kMaxSamples], extent_y[kMaxSamples];  // pixels a unit of offset
};

template <typename T>
struct Levels {
    T last_x[kMaxSamples], last_y[kMaxSamples];      // largest index of a first corner
    T second_x[kMaxSamples], second_y[kMaxSamples];  // 0 where the level has one pixel on that axis
    int32_t start[kMaxSamples], width[kMaxSamples];
    int32_t right[kMaxSamples], below[kMaxSamples];  // pixels to the second corner
};

template <typename T>
struct Samples {
    T attention[kMaxSamples];
    T first_x[kMaxSamples], second_x[kMaxSamples], first_y[kMaxSamples], second_y[kMaxSamples];  // hats
    T distance_x[kMaxSamples], distance_y[kMaxSamples];  // position minus first corner
    int32_t pixel[kMaxSamples];                          // of the first corner, over all levels
};

template <typename T>
Levels<T> make_levels(const Shape& s) {
    Levels<T> levels;
    for (int i = 0; i < s.L * s.K; ++i) {
        const int l = i / s.K, height = s.height[l], width = s.width[l];
        levels.last_x[i] = width > 2 ? width - 2 : 0;
        levels.last_y[i] = height > 2 ? height - 2 : 0;
        levels.second_x[i] = width > 1;
        levels.second_y[i] = height > 1;
        levels.start[i] = (int32_t)s.start[l];
        levels.width[i] = width;
        levels.right[i] = width > 1;
        levels.below[i] = height > 1 ? width : 0;
    }
    return levels;
}

template <typename T>
void make_query(Query<T>& query, const Shape& s, const T* reference) {
    for (int l = 0; l < s.L; ++l) {
        const T* point = reference + (s.per_level ? l * s.coordinates : 0);
        const T width = (T)s.width[l], height = (T)s.height[l];
        const bool box = s.coordinates == 4;
        for (int i = l * s.K; i < (l + 1) * s.K; ++i) {
            query.base_x[i] = point[0] * width - (T)0.5;
            query.base_y[i] = point[1] * height - (T)0.5;
            query.extent_x[i] = box ? point[2] * ((T)0.5 / s.K) * width : (T)1;
            query.extent_y[i] = box ? point[3] * ((T)0.5 / s.K) * height : (T)1;
        }
    }
}

template <typename T>
inline T hat(T distance) {
    const T height = 1 - std::fabs(distance);
    return height <= 0 ? (T)0 : height;  // NaN stays
}

// LK > 0 is the number of samples at compile time, 0 reads it from `num_samples`.
template <typename T, int LK>
inline void locate(
    Samples<T>& out, const Query<T>& query, const Levels<T>& levels, const T* x, const T* y, const T* logits,
    int num_samples
) {
    const int n = LK ? LK : num_samples;
    T highest = logits[0];
    for (int i = 1; i < n; ++i) highest = logits[i] > highest ? logits[i] : highest;
    T sum = 0;
    for (int i = 0; i < n; ++i) out.attention[i] = exp_of(logits[i] - highest);
    for (int i = 0; i < n; ++i) sum += out.attention[i];
    const T scale = 1 / sum;
    for (int i = 0; i < n; ++i) {
        out.attention[i] *= scale;
        const T at_x = x[i] * query.extent_x[i] + query.base_x[i];
        const T at_y = y[i] * query.extent_y[i] + query.base_y[i];
        T corner_x = at_x > 0 ? at_x : (T)0, corner_y = at_y > 0 ? at_y : (T)0;  // NaN becomes 0
        corner_x = corner_x < levels.last_x[i] ? corner_x : levels.last_x[i];
        corner_y = corner_y < levels.last_y[i] ? corner_y : levels.last_y[i];
        const int32_t column = (int32_t)corner_x, row = (int32_t)corner_y;
        const T distance_x = at_x - (T)column, distance_y = at_y - (T)row;
        out.distance_x[i] = distance_x;
        out.distance_y[i] = distance_y;
        out.first_x[i] = hat(distance_x);
        out.first_y[i] = hat(distance_y);
        out.second_x[i] = hat(distance_x - 1) * levels.second_x[i];
        out.second_y[i] = hat(distance_y - 1) * levels.second_y[i];
        out.pixel[i] = levels.start[i] + row * levels.width[i] + column;
    }
}

// NV > 0: D = NV * kLanes, held in registers.
template <typename T, int NV, int LK>
void forward_rows(
    T* result, const T* value, const T* sampling, const T* reference, const Shape& s, int64_t begin, int64_t end
) {
    typedef typename VectorOf<T>::type vector;
    const Levels<T> levels = make_levels<T>(s);
    const int n = LK ? LK : s.L * s.K;
    const int64_t N = s.M * n, pitch = s.M * s.D;
    const int64_t point = (int64_t)s.coordinates * (s.per_level ? s.L : 1);
    Query<T> query;
    Samples<T> samples;
    for (int64_t row = begin; row < end; ++row) {
        make_query(query, s, reference + row * point);
        const T* table = value + row / s.Q * s.S * pitch;
        const T* own = sampling + row * 3 * N;
        for (int64_t m = 0; m < s.M; ++m) {
            locate<T, LK>(samples, query, levels, own + m * n, own + N + m * n, own + 2 * N + m * n, n);
            T* out = result + row * pitch + m * s.D;
            vector sums[NV ? NV : 1];
            for (int v = 0; v < NV; ++v) sums[v] = vector{};
            if (!NV) std::memset(out, 0, s.D * sizeof(T));
            for (int i = 0; i < n; ++i) {
                const T top = samples.attention[i] * samples.first_y[i];
                const T bottom = samples.attention[i] * samples.second_y[i];
                const T w00 = top * samples.first_x[i], w01 = top * samples.second_x[i];
                const T w10 = bottom * samples.first_x[i], w11 = bottom * samples.second_x[i];
                const T* r00 = table + samples.pixel[i] * pitch + m * s.D;
                const T* r01 = r00 + levels.right[i] * pitch;
                const T* r10 = r00 + levels.below[i] * pitch;
                const T* r11 = r10 + levels.right[i] * pitch;
                for (int v = 0; v < NV; ++v) {
                    sums[v] += w00 * ((const vector*)r00)[v] + w01 * ((const vector*)r01)[v];
                    sums[v] += w10 * ((const vector*)r10)[v] + w11 * ((const vector*)r11)[v];
                }
                if (!NV)
                    for (int64_t d = 0; d < s.D; ++d)
                        out[d] += (w00 * r00[d] + w01 * r01[d]) + (w10 * r10[d] + w11 * r11[d]);
            }
            for (int v = 0; v < NV; ++v) ((vector*)out)[v] = sums[v];
        }
    }
}

template <typename T, int NV>
inline T product(const T* a, const T* b, int64_t D) {
    typedef typename VectorOf<T>::type vector;
    T sum = 0;
    if (NV) {
        vector sums = vector{};
        for (int v = 0; v < NV; ++v) sums += ((const vector*)a)[v] * ((const vector*)b)[v];
        for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    } else {
        for (int64_t d = 0; d < D; ++d) sum += a[d] * b[d];
    }
    return sum;
}

template <typename T, int NV>
inline void add(T* to, T weight, const T* from, int64_t D) {
    typedef typename VectorOf<T>::type vector;
    for (int v = 0; v < NV; ++v) ((vector*)to)[v] += weight * ((const vector*)from)[v];
    if (!NV)
        for (int64_t d = 0; d < D; ++d) to[d] += weight * from[d];
}

// Derivative of the hats of the first and second corner; at a whole pixel the one to the right.
template <typename T>
inline void slopes(T distance, T has_second, T& first, T& second) {
    const T at = std::floor(distance);
    first = (T)(at == -1) - (T)(at == 0);
    second = ((T)(at == 0) - (T)(at == 1)) * has_second;
}

// grad_sampling receives the gradients of positions in place of those of offsets; finish() makes them.
template <typename T, int NV, int LK>
void backward_head(
    T* grad_value, T* grad_sampling, const T* grad, const T* value, const T* sampling, const T* reference,
    const Shape& s, int64_t b, int64_t m
) {
    const Levels<T> levels = make_levels<T>(s);
    const int n = LK ? LK : s.L * s.K;
    const int64_t N = s.M * n, pitch = s.M * s.D;
    const int64_t point = (int64_t)s.coordinates * (s.per_level ? s.L : 1);
    const T* table = value + b * s.S * pitch + m * s.D;
    T* grad_table = grad_value + b * s.S * pitch + m * s.D;
    Query<T> query;
    Samples<T> samples;
    T sampled[kMaxSamples];
    for (int64_t row = b * s.Q; row < (b + 1) * s.Q; ++row) {
        make_query(query, s, reference + row * point);
        const T* own = sampling + row * 3 * N + m * n;
        T* own_grad = grad_sampling + row * 3 * N + m * n;
        locate<T, LK>(samples, query, levels, own, own + N, own + 2 * N, n);
        const T* g = grad + row * pitch + m * s.D;
        T mean = 0;
        for (int i = 0; i < n; ++i) {
            const T first_x = samples.first_x[i], second_x = samples.second_x[i];
            const T first_y = samples.first_y[i], second_y = samples.second_y[i];
            const int64_t at = samples.pixel[i] * pitch;
            const int64_t right = levels.right[i] * pitch, below = levels.below[i] * pitch;
            const T c00 = product<T, NV>(table + at, g, s.D);
            const T c01 = product<T, NV>(table + at + right, g, s.D);
            const T c10 = product<T, NV>(table + at + below, g, s.D);
            const T c11 = product<T, NV>(table + at + below + right, g, s.D);
            const T a = samples.attention[i];
            add<T, NV>(grad_table + at, a * first_y * first_x, g, s.D);
            add<T, NV>(grad_table + at + right, a * first_y * second_x, g, s.D);
            add<T, NV>(grad_table + at + below, a * second_y * first_x, g, s.D);
            add<T, NV>(grad_table + at + below + right, a * second_y * second_x, g, s.D);
            T slope_x0, slope_x1, slope_y0, slope_y1;
            slopes(samples.distance_x[i], levels.second_x[i], slope_x0, slope_x1);
            slopes(samples.distance_y[i], levels.second_y[i], slope_y0, slope_y1);
            const T along_x0 = c00 * first_x + c01 * second_x, along_x1 = c10 * first_x + c11 * second_x;
            const T along_y0 = c00 * first_y + c10 * second_y, along_y1 = c01 * first_y + c11 * second_y;
            own_grad[i] = a * (along_y0 * slope_x0 + along_y1 * slope_x1);
            own_grad[N + i] = a * (along_x0 * slope_y0 + along_x1 * slope_y1);
            sampled[i] = along_x0 * first_y + along_x1 * second_y;
            mean += a * sampled[i];
        }
        for (int i = 0; i < n; ++i) own_grad[2 * N + i] = samples.attention[i] * (sampled[i] - mean);
    }
}

// Gradients of positions to those of offsets and of the reference point of one query.
template <typename T>
void finish(T* grad_sampling, T* grad_reference, const T* sampling, const T* reference, const Shape& s) {
    const int n = s.L * s.K;
    const int64_t N = s.M * n;
    const int64_t point = (int64_t)s.coordinates * (s.per_level ? s.L : 1);
    Query<T> query;
    make_query(query, s, reference);
    for (int64_t i = 0; i < point; ++i) grad_reference[i] = 0;
    for (int64_t i = 0; i < N; ++i) {
        const int sample = (int)(i % n), l = sample / s.K;
        T* to = grad_reference + (s.per_level ? l * s.coordinates : 0);
        const T x = grad_sampling[i] * s.width[l], y = grad_sampling[N + i] * s.height[l];
        to[0] += x;
        to[1] += y;
        if (s.coordinates == 4) {
            to[2] += x * sampling[i] * ((T)0.5 / s.K);
            to[3] += y * sampling[N + i] * ((T)0.5 / s.K);
        }
        grad_sampling[i] *= query.extent_x[sample];
        grad_sampling[N + i] *= query.extent_y[sample];
    }
}

bool read_shape(Shape& s, const int64_t* numbers) {
    s.B = numbers[0], s.S = numbers[1], s.M = numbers[2], s.D = numbers[3], s.Q = numbers[4];
    s.L = (int)numbers[7], s.K = (int)numbers[8];
    s.coordinates = (int)numbers[9], s.per_level = (int)numbers[10];
    if (s.L > kMaxLevels || s.L * s.K > kMaxSamples) return false;
    int64_t height = numbers[5], width = numbers[6], start = 0;
    for (int l = 0; l < s.L; ++l) {
        s.height[l] = (int)height, s.width[l] = (int)width, s.start[l] = start;
        start += height * width;
        height = (height + 1) / 2, width = (width + 1) / 2;
    }
    return start == s.S && start < INT32_MAX;
}

// The shapes of the shipped and of the paper's network get a function of their own; all others share one, and
// float64, which only checks use, has no more than that.
#define DISPATCH(FUNCTION, ...)                                                               \
    do {                                                                                      \
        if constexpr (sizeof(T) == sizeof(float)) {                                           \
            if (shape.D == 24 && shape.L * shape.K == 8) FUNCTION<T, 3, 8>(__VA_ARGS__);      \
            else if (shape.D == 32 && shape.L * shape.K == 16) FUNCTION<T, 4, 16>(__VA_ARGS__); \
            else FUNCTION<T, 0, 0>(__VA_ARGS__);                                              \
        } else {                                                                              \
            FUNCTION<T, 0, 0>(__VA_ARGS__);                                                   \
        }                                                                                     \
    } while (0)

constexpr int64_t kChunk = 64;  // queries of a forward task

template <typename T>
int forward(T* result, const T* value, const T* sampling, const T* reference, const int64_t* numbers, int threads) {
    Shape shape;
    if (!read_shape(shape, numbers)) return 1;
    const int64_t rows = shape.B * shape.Q, chunks = (rows + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t begin = chunk * kChunk, end = begin + kChunk < rows ? begin + kChunk : rows;
        DISPATCH(forward_rows, result, value, sampling, reference, shape, begin, end);
    }
    return 0;
}

template <typename T>
int backward(
    T* grad_value, T* grad_sampling, T* grad_reference, const T* grad, const T* value, const T* sampling,
    const T* reference, const int64_t* numbers, int threads
) {
    Shape shape;
    if (!read_shape(shape, numbers)) return 1;
    const int64_t rows = shape.B * shape.Q, tasks = shape.B * shape.M;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t b = task / shape.M, m = task % shape.M;
        DISPATCH(backward_head, grad_value, grad_sampling, grad, value, sampling, reference, shape, b, m);
    }
    const int64_t width = 3 * shape.M * shape.L * shape.K;
    const int64_t point = (int64_t)shape.coordinates * (shape.per_level ? shape.L : 1);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; ++row)
        finish(
            grad_sampling + row * width, grad_reference + row * point, sampling + row * width,
            reference + row * point, shape
        );
    return 0;
}

}  // namespace

// numbers: B, S, M, D, Q, height0, width0, L, K, coordinates, per_level. grad_value must be zero. Returns 1 for
// what the code has no room for.
extern "C" {
int deform_attn_forward_float(
    float* result, const float* value, const float* sampling, const float* reference, const int64_t* numbers,
    int threads
) {
    return forward(result, value, sampling, reference, numbers, threads);
}
int deform_attn_forward_double(
    double* result, const double* value, const double* sampling, const double* reference,
    const int64_t* numbers, int threads
) {
    return forward(result, value, sampling, reference, numbers, threads);
}
int deform_attn_backward_float(
    float* grad_value, float* grad_sampling, float* grad_reference, const float* grad, const float* value,
    const float* sampling, const float* reference, const int64_t* numbers, int threads
) {
    return backward(
        grad_value, grad_sampling, grad_reference, grad, value, sampling, reference, numbers, threads);
}
int deform_attn_backward_double(
    double* grad_value, double* grad_sampling, double* grad_reference, const double* grad, const double* value,
    const double* sampling, const double* reference, const int64_t* numbers, int threads
) {
    return backward(
        grad_value, grad_sampling, grad_reference, grad, value, sampling, reference, numbers, threads);
}
}
