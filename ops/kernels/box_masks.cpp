// Masks drawn by a small network of each query's own, within its box alone, on a CPU.
//
// Ours. Formula and layout: ops/box_masks.py, whose portable form computes every cell of the picture; most of them
// lie outside of the box. Needs no header of torch: ops/native.py compiles it and passes addresses of contiguous
// float32 tensors. A mask's bits do not depend on the other masks, nor on the number of threads.
//
// B windows, T frames, Q queries, c channels, h x w cells.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kLanes = 8;  // cells of a vector
constexpr int kMaxChannels = 64;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

inline Vector all(float x) { return Vector{} + x; }

inline Vector relu(Vector x) { return x > 0 ? x : Vector{}; }

// Where the cells of an axis lie in a box: (cell centre - box centre) / half of its side.
struct Axis {
    float centre, half, stride;
    float place(int64_t cell) const { return (cell * stride + stride / 2 - centre) / half; }
};

Axis axis_of(float centre, float side, float stride) {
    const float half = side * 0.5f;
    return {centre, half > stride / 2 ? half : stride / 2, stride};
}

// The cells of an axis inside of the border: first and one past the last. Places only grow along the axis.
void inside(const Axis& axis, int64_t count, float border, int64_t& first, int64_t& end) {
    first = 0;
    while (first < count && axis.place(first) < -border) ++first;
    end = first;
    while (end < count && axis.place(end) <= border) ++end;
}

struct Shape {
    int64_t B, T, Q, h, w;
    int c;
    float stride, border, outside;
};

// CHANNELS: c where it is known when compiled, else 0.
template <int CHANNELS>
void draw(float* mask, const float* features, const float* parameters, const float* box, const Shape& s) {
    const int c = CHANNELS ? CHANNELS : s.c;
    const int64_t plane = s.h * s.w;
    const float* weight1 = parameters;  // c rows of x, y, x^2, y^2 and c features
    const float* weight2 = weight1 + (int64_t)c * (c + 4);
    const float* weight3 = weight2 + (int64_t)c * c;
    const float *bias1 = weight3 + c, *bias2 = bias1 + c, bias3 = bias2[c];

    if (!(std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) && std::isfinite(box[3]))) {
        for (int64_t i = 0; i < plane; ++i) mask[i] = NAN;
        return;
    }
    for (int64_t i = 0; i < plane; ++i) mask[i] = s.outside;
    const Axis across = axis_of(box[0], box[2], s.stride), down = axis_of(box[1], box[3], s.stride);
    int64_t x0, x1, y0, y1;
    inside(across, s.w, s.border, x0, x1);
    inside(down, s.h, s.border, y0, y1);

    float of_row[kMaxChannels];
    Vector first[kMaxChannels], second[kMaxChannels];
    for (int64_t y = y0; y < y1; ++y) {
        const float v = down.place(y);
        for (int o = 0; o < c; ++o) {
            const float* row = weight1 + (int64_t)o * (c + 4);
            of_row[o] = bias1[o] + row[1] * v + row[3] * (v * v);
        }
        for (int64_t x = x0; x < x1; x += kLanes) {
            const int64_t n = x1 - x < kLanes ? x1 - x : kLanes;
            Vector u;
            for (int lane = 0; lane < kLanes; ++lane) u[lane] = across.place(x + lane);
            const Vector u_squared = u * u;
            const float* cell = features + y * s.w + x;
            Vector in[kMaxChannels];
            for (int i = 0; i < c; ++i) {
                Vector values = {};
                std::memcpy(&values, cell + i * plane, (x + kLanes <= s.w ? kLanes : n) * sizeof(float));
                in[i] = values;
            }
            for (int o = 0; o < c; ++o) {
                const float* row = weight1 + (int64_t)o * (c + 4);
                Vector sum = all(of_row[o]) + row[0] * u + row[2] * u_squared;
                for (int i = 0; i < c; ++i) sum += row[4 + i] * in[i];
                first[o] = relu(sum);
            }
            for (int o = 0; o < c; ++o) {
                Vector sum = all(bias2[o]);
                for (int i = 0; i < c; ++i) sum += weight2[o * c + i] * first[i];
                second[o] = relu(sum);
            }
            Vector sum = all(bias3);
            for (int i = 0; i < c; ++i) sum += weight3[i] * second[i];
            std::memcpy(mask + y * s.w + x, &sum, n * sizeof(float));
        }
    }
}

}  // namespace

// result (B, Q, T, h, w), features (B, T, c, h, w), parameters (B, Q, n), boxes (B, T, Q, 4) cxcywh in pixels.
// numbers: B, T, Q, c, h, w; scales: stride, border, outside. Returns 1 for what the code has no room for.
extern "C" int box_masks_float(
    float* result, const float* features, const float* parameters, const float* boxes, const int64_t* numbers,
    const float* scales, int threads
) {
    const Shape s = {numbers[0], numbers[1], numbers[2], numbers[4], numbers[5],
                     (int)numbers[3], scales[0], scales[1], scales[2]};
    if (s.c > kMaxChannels) return 1;
    const int64_t size = (int64_t)s.c * (s.c + 4) + (int64_t)s.c * s.c + 3 * s.c + 1, plane = s.h * s.w;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < s.B * s.Q * s.T; ++task) {
        const int64_t t = task % s.T, q = task / s.T % s.Q, b = task / (s.T * s.Q);
        float* mask = result + task * plane;
        const float* of_frame = features + (b * s.T + t) * s.c * plane;
        const float* of_query = parameters + (b * s.Q + q) * size;
        const float* box = boxes + ((b * s.T + t) * s.Q + q) * 4;
        if (s.c == 16) draw<16>(mask, of_frame, of_query, box, s);
        else draw<0>(mask, of_frame, of_query, box, s);
    }
    return 0;
}
