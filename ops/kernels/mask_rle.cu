// From mask logits at a stride of the model's input to COCO run lengths in source pixels, a block a mask.
//
// Ours. Sampling and rounding: ops/masks.py, whose float32 and float64 steps are taken one by one (the _rn
// functions keep a multiplication and an addition apart), so that the runs are equal to the last one.
// Follows numbers.cu in one translation unit.
//
// A thread takes a column of pixels. Down a column the logit is linear from cell to cell, so that its runs of
// ones begin and end where those lines cross 0; the pixels in between are never made.
//   1. each thread walks its columns: how many runs, where the first begins, where the last ends; the block
//      finds the rectangle of all ones,
//   2. a prefix sum over columns says where the bounds of each column's runs stand in the list of all,
//   3. each thread walks its columns again and writes the bounds, counted down the columns of the rectangle,
//   4. neighbouring bounds are subtracted.

constexpr int THREADS = 512;
constexpr int GROUPS = 32;
constexpr int HEADER = 6;  // x, y, width, height, number of counts, whether they are more than fit

struct Grid {
    int rows, columns, source_height, source_width;
    double ratio_x, ratio_y;  // cells a source pixel
};

struct Crop { int x0, y0, x1, y1; };

__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double times(double a, double b) { return __dmul_rn(a, b); }

// The box, enlarged on each side by `grow` of its size plus a cell, in whole pixels; all 0 where there is none.
template <typename TB>
__device__ __forceinline__ Crop grown(const TB* box, const Grid& grid, double grow, double cell_x, double cell_y) {
    for (int i = 0; i < 4; ++i) {
        if (box[i] - box[i] != (TB)0) return {0, 0, 0, 0};  // infinite or not a number
    }
    const double margin_x = (double)times((TB)grow, box[2] - box[0]) + cell_x;
    const double margin_y = (double)times((TB)grow, box[3] - box[1]) + cell_y;
    const double x0 = fmin(fmax(floor((double)box[0] - margin_x), 0.0), (double)grid.source_width);
    const double y0 = fmin(fmax(floor((double)box[1] - margin_y), 0.0), (double)grid.source_height);
    const double x1 = fmin(fmax(ceil((double)box[2] + margin_x), 0.0), (double)grid.source_width);
    const double y1 = fmin(fmax(ceil((double)box[3] + margin_y), 0.0), (double)grid.source_height);
    if (!(x1 > x0 && y1 > y0)) return {0, 0, 0, 0};
    return {(int)x0, (int)y0, (int)x1, (int)y1};
}

struct Tap {
    int first;    // of a pixel's two neighbouring cells
    float share;  // weight of the second
};

__device__ __forceinline__ Tap tap_of(int pixel, double ratio, int cells) {
    const double free = __dmul_rn((double)pixel + 0.5, ratio) - 0.5;
    const double position = fmin(fmax(free, 0.0), (double)(cells - 1));
    const int first = min((int)position, max(cells - 2, 0));
    return {first, (float)(position - first)};
}

// A cell of the map; what is no number is outside, infinity a large number, so that 0 times it is 0.
template <typename T>
__device__ __forceinline__ float cell_at(const T* cell) {
    return fminf(fmaxf(to_float(*cell), -1e12f), 1e12f);
}

// Calls emit(top, bottom) for each run of ones in a column of the crop, downwards; no two touch.
template <typename T, typename Emit>
__device__ __forceinline__ void column_runs(const T* logits, const Grid& grid, const Crop& crop, int x, Emit emit) {
    const Tap across = tap_of(x, grid.ratio_x, grid.columns);
    const int second = grid.columns > 1 ? 1 : 0;
    const float keep = 1.0f - across.share;
    const int top = tap_of(crop.y0, grid.ratio_y, grid.rows).first;
    const int num = min(tap_of(crop.y1 - 1, grid.ratio_y, grid.rows).first + 2, grid.rows) - top;
    const T* cell = logits + (long long)top * grid.columns + across.first;
    float before = 0.0f;  // above and below the cells stands a 0, which ends every run
    int begin = 0, open_top = 0, open_bottom = 0;
    for (int i = 0; i <= num; ++i, cell += grid.columns) {
        float value = 0.0f;
        if (i < num) {
            value = __fadd_rn(__fmul_rn(cell_at(cell), keep), __fmul_rn(cell_at(cell + second), across.share));
        }
        if ((value > 0.0f) != (before > 0.0f)) {
            const double upper = before;
            const double cells = upper / (upper - (double)value) + (double)(i - 1) + ((double)top + 0.5);
            const double pixel = cells / grid.ratio_y - 0.5;
            // A logit of 0 is outside: a run begins beyond it and ends before it.
            if (value > 0.0f) {
                begin = max((int)floor(pixel) + 1, crop.y0);
            } else {
                const int end = min((int)ceil(pixel), crop.y1);
                if (end > begin && open_bottom > open_top && begin == open_bottom) {
                    open_bottom = end;
                } else if (end > begin) {
                    if (open_bottom > open_top) emit(open_top, open_bottom);
                    open_top = begin;
                    open_bottom = end;
                }
            }
        }
        before = value;
    }
    if (open_bottom > open_top) emit(open_top, open_bottom);
}

// What is known of a mask's columns, in global memory, `width` of each.
struct Columns {
    int *num, *first, *last;  // runs, later: where their bounds begin; first top and last bottom, -1: no run
};

// The end of column x and the beginning of the next, in the rectangle [top, bottom), are one run.
__device__ __forceinline__ bool joined(const Columns& columns, int x, int top, int bottom) {
    return columns.last[x] == bottom && columns.first[x + 1] == top;
}

// packed (N, HEADER + capacity), a header and counts; scratch (N, 3, source_width); logits (N, rows, columns);
// boxes (N, 4) xyxy in source pixels. A block a mask. Where the counts are more than the capacity, those that are
// written mean nothing.
template <typename T, typename TB>
__global__ void __launch_bounds__(THREADS, 1)
mask_runs(int* __restrict__ packed, int* scratch, const T* __restrict__ logits, const TB* __restrict__ boxes,
          int capacity, int rows, int num_columns, int source_height, int source_width, double ratio_x,
          double ratio_y, double grow, double cell_x, double cell_y) {
    __shared__ Crop crop;
    __shared__ int left, right, upper, lower;  // the rectangle of all ones
    __shared__ int sums[THREADS];              // bounds in the columns of a thread, then in those before it
    __shared__ int group_sums[GROUPS + 1];     // the same of a group of threads, and all

    const Grid grid = {rows, num_columns, source_height, source_width, ratio_x, ratio_y};
    const T* map = logits + (long long)blockIdx.x * rows * num_columns;
    int* header = packed + (long long)blockIdx.x * (HEADER + capacity);
    int* counts = header + HEADER;
    int* own = scratch + (long long)blockIdx.x * 3 * source_width;
    const Columns columns = {own, own + source_width, own + 2 * source_width};
    if (threadIdx.x == 0) {
        crop = grown(boxes + (long long)blockIdx.x * 4, grid, grow, cell_x, cell_y);
        left = source_width;
        right = 0;
        upper = source_height;
        lower = 0;
    }
    __syncthreads();

    for (int x = crop.x0 + threadIdx.x; x < crop.x1; x += THREADS) {
        int num = 0, first = -1, last = -1;
        column_runs(map, grid, crop, x, [&](int top, int bottom) {
            first = num == 0 ? top : first;
            last = bottom;
            ++num;
        });
        columns.num[x] = num;
        columns.first[x] = first;
        columns.last[x] = last;
        if (num > 0) {
            atomicMin(&left, x);
            atomicMax(&right, x + 1);
            atomicMin(&upper, first);
            atomicMax(&lower, last);
        }
    }
    __syncthreads();
    if (right == 0) {
        if (threadIdx.x < HEADER) header[threadIdx.x] = 0;
        return;
    }

    const int chunk = (right - left + THREADS - 1) / THREADS;
    const int from = left + threadIdx.x * chunk, to = min(from + chunk, right);
    int sum = 0;
    for (int x = from; x < to; ++x) {
        const int bounds = 2 * columns.num[x] - (x > left && joined(columns, x - 1, upper, lower))
                         - (x + 1 < right && joined(columns, x, upper, lower));
        columns.num[x] = sum;
        sum += bounds;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < GROUPS) {
        int before = 0;
        for (int i = threadIdx.x * (THREADS / GROUPS); i < (threadIdx.x + 1) * (THREADS / GROUPS); ++i) {
            const int of_thread = sums[i];
            sums[i] = before;
            before += of_thread;
        }
        group_sums[threadIdx.x] = before;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        int before = 0;
        for (int i = 0; i <= GROUPS; ++i) {
            const int of_group = i < GROUPS ? group_sums[i] : 0;
            group_sums[i] = before;
            before += of_group;
        }
    }
    __syncthreads();
    const int offset = group_sums[threadIdx.x / (THREADS / GROUPS)] + sums[threadIdx.x];
    for (int x = from; x < to; ++x) columns.num[x] += offset;
    const int num_bounds = group_sums[GROUPS], height = lower - upper;
    const int num_counts = num_bounds + (columns.last[right - 1] < lower);  // zeros after the last run
    __syncthreads();

    for (int x = left + threadIdx.x; x < right; x += THREADS) {
        const int base = (x - left) * height - upper;
        int at = columns.num[x];
        column_runs(map, grid, crop, x, [&](int top, int bottom) {
            const bool goes_on = top == upper && x > left && columns.last[x - 1] == lower;
            const bool is_carried_on = bottom == lower && x + 1 < right && columns.first[x + 1] == upper;
            if (!goes_on) {
                if (at < capacity) counts[at] = base + top;
                ++at;
            }
            if (!is_carried_on) {
                if (at < capacity) counts[at] = base + bottom;
                ++at;
            }
        });
    }
    if (threadIdx.x == 0) {
        header[0] = left;
        header[1] = upper;
        header[2] = right - left;
        header[3] = height;
        header[4] = num_counts;
        header[5] = num_counts > capacity;
        if (num_counts > num_bounds && num_bounds < capacity) counts[num_bounds] = (right - left) * height;
    }
    __syncthreads();
    if (num_counts > capacity) return;

    // From the last on, so that no bound is overwritten before it has been subtracted.
    for (int begin = (num_counts - 1) / THREADS * THREADS; begin >= 0; begin -= THREADS) {
        const int i = begin + threadIdx.x;
        const int count = i < num_counts ? counts[i] - (i > 0 ? counts[i - 1] : 0) : 0;
        __syncthreads();
        if (i < num_counts) counts[i] = count;
    }
}
