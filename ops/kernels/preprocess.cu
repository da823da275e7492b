// From the planes of a YUV 4:2:0 picture to the network's input, in one pass: resize, RGB, normalise, pad.
//
// Ours. What is computed: ops/yuv.py. Follows numbers.cu in one translation unit.
//
// A thread makes the three channels of one pixel of the input. It converts each source pixel under its filter
// to RGB, clamped to 0..255 as a picture's would be, and adds them up in float32. The filter is separable:
// cells of fold x fold source pixels, all of one weight, and over cells either the part that the pixel covers
// (AREA) or the two cells around its centre. Positions are integer arithmetic, hence exact.

constexpr int THREADS = 256;

struct Span { int first, last; };

// Cells, of `cells`, that count for pixel `at` of `size`.
__device__ __forceinline__ Span span_of(int at, int cells, int size, bool area) {
    if (area) return {at * cells / size, ((at + 1) * cells - 1) / size};
    const int place = (2 * at + 1) * cells - size;  // of the centre, in cells, times 2 * size
    const int first = place <= 0 ? 0 : place / (2 * size);
    return {first, place <= 0 || first + 1 == cells ? first : first + 1};
}

// Weight of one of them; those of a span sum to 1.
__device__ __forceinline__ float weight_of(int cell, Span span, int at, int cells, int size, bool area) {
    if (area) {
        const int begin = max(cell * size, at * cells), end = min((cell + 1) * size, (at + 1) * cells);
        return (float)(end - begin) / (float)cells;
    }
    if (span.first == span.last) return 1.0f;
    const int beyond = (2 * at + 1) * cells - size - span.first * 2 * size;
    const float share = (float)beyond / (float)(2 * size);
    return cell == span.first ? 1.0f - share : share;
}

__device__ __forceinline__ float clamped(float level) { return fminf(fmaxf(level, 0.0f), 255.0f); }

// out (3, height, width); luma in rows of luma_line bytes, blue and red differences in rows of chroma_line bytes,
// chroma_step bytes from one to the next. cells_high * fold rows of the source show in content_height rows of
// `out`, cells_wide * fold columns in content_width. Products of cells and sizes stay below 2^29.
template <typename T>
__global__ void __launch_bounds__(THREADS)
yuv_to_input(T* __restrict__ out, const unsigned char* __restrict__ luma, const unsigned char* __restrict__ blue,
             const unsigned char* __restrict__ red, int luma_line, int chroma_line, int chroma_step, int fold,
             int cells_high, int cells_wide, int area, int content_height, int content_width, int height,
             int width, float luma_scale, float luma_shift, float red_of_red, float green_of_blue,
             float green_of_red, float blue_of_blue, float scale_red, float scale_green, float scale_blue,
             float shift_red, float shift_green, float shift_blue) {
    const int index = blockIdx.x * THREADS + threadIdx.x, plane = height * width;
    if (index >= plane) return;
    const int row = index / width, column = index % width;
    if (row >= content_height || column >= content_width) {
        store(out + index, 0.0f);
        store(out + plane + index, 0.0f);
        store(out + 2 * plane + index, 0.0f);
        return;
    }
    const Span down = span_of(row, cells_high, content_height, area);
    const Span across = span_of(column, cells_wide, content_width, area);
    float sum_red = 0.0f, sum_green = 0.0f, sum_blue = 0.0f;
    for (int i = down.first; i <= down.last; ++i) {
        const float weight_down = weight_of(i, down, row, cells_high, content_height, area);
        for (int j = across.first; j <= across.last; ++j) {
            float r = 0.0f, g = 0.0f, b = 0.0f;
            for (int y = i * fold; y < (i + 1) * fold; ++y) {
                for (int x = j * fold; x < (j + 1) * fold; ++x) {
                    const int chroma = (y >> 1) * chroma_line + (x >> 1) * chroma_step;
                    const float base = fmaf((float)luma[y * luma_line + x], luma_scale, luma_shift);
                    const float u = (float)blue[chroma] - 128.0f, v = (float)red[chroma] - 128.0f;
                    r += clamped(fmaf(red_of_red, v, base));
                    g += clamped(fmaf(green_of_blue, u, fmaf(green_of_red, v, base)));
                    b += clamped(fmaf(blue_of_blue, u, base));
                }
            }
            const float weight = weight_down * weight_of(j, across, column, cells_wide, content_width, area);
            sum_red = fmaf(weight, r, sum_red);
            sum_green = fmaf(weight, g, sum_green);
            sum_blue = fmaf(weight, b, sum_blue);
        }
    }
    const float mean = 1.0f / (float)(fold * fold);
    store(out + index, sum_red * mean * scale_red - shift_red);
    store(out + plane + index, sum_green * mean * scale_green - shift_green);
    store(out + 2 * plane + index, sum_blue * mean * scale_blue - shift_blue);
}
