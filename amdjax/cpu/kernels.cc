// Kernels for what XLA computes slowly on CPU. They run on XLA's threads.
//
// The gradient of a convolution with respect to its kernel:
//
//   out[i, j, c, d] = sum over b, y, z of x[b, s y + i - top, t z + j - left, c] grad[b, y, z, d]
//
// A row of the kernel is a product of matrices that needs no copies: at a position (b, y, z) the
// values x[..., j, c] of all j and c are contiguous in a zero-padded image. The product is computed
// in tiles of `out` that stay in registers during a loop over all positions of a group of images,
// which stay in the cache.
//
// Sums over all axes but the channels, in a single pass:
//
//   out[0, c] = sum over n of a[n, c],   out[1, c] = sum over n of a[n, c] b[n, c]

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

// A tile has kRows x 2 vectors or 2 kRows x 1: with two vectors of `grad` and one of `x` they fill
// the registers.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 6;
#else
constexpr int kLanes = 4, kRows = 12;
#endif
constexpr int64_t kCachedFloats = 1 << 16;  // size of a group of images
constexpr int64_t kSummedFloats = 1 << 22;  // size of the sums of all parts, unless below kMinParts
constexpr int64_t kMinParts = 4, kMaxParts = 16;
constexpr int64_t kRowParts = 64, kRowsPerSum = 64;  // for the sums over all but the channels

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4)));

struct Sizes {
  int64_t batch, height, width, channels;               // of x
  int64_t out_height, out_width, out_channels;          // of grad
  int64_t kernel_height, kernel_width;                  // of out
  int64_t stride_y, stride_x, top, left;                // of the convolution
  int64_t padded_height, padded_width;                  // of a zero-padded image

  int64_t image() const { return padded_height * padded_width * channels; }
  int64_t grad_image() const { return out_height * out_width * out_channels; }
  int64_t row() const { return kernel_width * channels; }  // of the kernel, for one channel of grad
  int64_t out() const { return kernel_height * row() * out_channels; }
};

// Adds the products of `images` padded images and gradients to `rows` x (V kLanes) values of out.
template <int R, int V>
void AddTile(const Sizes& n, int64_t images, const float* x, const float* grad, int64_t rows,
             float* out) {
  Vector sum[R][V] = {};
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t y = 0; y < n.out_height; ++y) {
      const float* from = x + image * n.image() + y * n.stride_y * n.padded_width * n.channels;
      const float* by = grad + image * n.grad_image() + y * n.out_width * n.out_channels;
      for (int64_t z = 0; z < n.out_width; ++z) {
        Vector g[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) g[v] = *reinterpret_cast<const Vector*>(by + v * kLanes);
#pragma GCC unroll 24
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) sum[r][v] += from[r] * g[v];
        }
        from += n.stride_x * n.channels;
        by += n.out_channels;
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int v = 0; v < V; ++v) {
      *reinterpret_cast<Vector*>(out + r * n.out_channels + v * kLanes) += sum[r][v];
    }
  }
}

template <int R, int V>
void AddColumns(const Sizes& n, int64_t images, const float* x, const float* grad, float* out) {
  for (int64_t i = 0; i < n.kernel_height; ++i) {
    for (int64_t row = 0; row < n.row(); row += R) {
      AddTile<R, V>(n, images, x + i * n.padded_width * n.channels + row, grad,
                    std::min<int64_t>(R, n.row() - row),
                    out + (i * n.row() + row) * n.out_channels);
    }
  }
}

// Sums images `first` to `last` - 1 into `out`; `padded` is zero and has room for `group` images
// and, after them, for the excess values of the last tile.
void SumImages(const Sizes& n, const float* x, const float* grad, int64_t first, int64_t last,
               int64_t group, float* padded, float* out) {
  std::fill_n(out, n.out(), 0.0f);
  for (; first < last; first += group) {
    const int64_t images = std::min(group, last - first);
    for (int64_t image = 0; image < images; ++image) {
      for (int64_t y = 0; y < n.height; ++y) {
        std::memcpy(padded + image * n.image() +
                        ((y + n.top) * n.padded_width + n.left) * n.channels,
                    x + ((first + image) * n.height + y) * n.width * n.channels,
                    sizeof(float) * n.width * n.channels);
      }
    }
    const float* by = grad + first * n.grad_image();
    int64_t column = 0;
    for (; column + 2 * kLanes <= n.out_channels; column += 2 * kLanes) {
      AddColumns<kRows, 2>(n, images, padded, by + column, out + column);
    }
    for (; column < n.out_channels; column += kLanes) {
      AddColumns<2 * kRows, 1>(n, images, padded, by + column, out + column);
    }
  }
}

// Adds the sums of rows `first` to `last` - 1 to out [2, channels]. A vector sums kRowsPerSum rows
// before it is added to `out`, which keeps rounding errors small.
void SumRows(const float* a, const float* b, int64_t channels, int64_t first, int64_t last,
             float* out) {
  for (; first < last; first += kRowsPerSum) {
    const int64_t rows = std::min(kRowsPerSum, last - first);
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vector sum = {}, product = {};
      for (int64_t i = first * channels + c; i < (first + rows) * channels; i += channels) {
        const Vector value = *reinterpret_cast<const Vector*>(a + i);
        sum += value;
        product += value * *reinterpret_cast<const Vector*>(b + i);
      }
      *reinterpret_cast<Vector*>(out + c) += sum;
      *reinterpret_cast<Vector*>(out + channels + c) += product;
    }
  }
}

// Calls f(0) to f(count - 1) on the pool's threads and on the calling one, which does not wait for
// threads that have not started: the programs of several devices may share a pool.
template <typename F>
void ForEach(ffi::ThreadPool& pool, int64_t count, const F& f) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto progress = std::make_shared<Progress>();
  // A thread that starts after this function has returned finds no index left, so that it does not
  // touch `f`, which no longer exists then; `progress` it owns.
  auto work = [progress, count, &f] {
    for (int64_t i; (i = progress->next++) < count;) {
      f(i);
      if (++progress->done == count) {
        std::lock_guard<std::mutex> lock(progress->mutex);
        progress->all_done.notify_one();
      }
    }
  };
  const int64_t helpers = std::min(count, pool.num_threads()) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    auto copy = work;
    pool.Schedule(std::move(copy));
  }
  work();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done == count; });
}

// Sums parts [count, size] to out [size], in order of the parts.
void AddParts(const float* parts, int64_t count, int64_t size, float* out) {
  std::copy_n(parts, size, out);
  for (int64_t part = 1; part < count; ++part) {
    for (int64_t i = 0; i < size; ++i) out[i] += parts[part * size + i];
  }
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x,
                          ffi::Buffer<ffi::F32> grad, ffi::ResultBuffer<ffi::F32> out,
                          int64_t stride_y, int64_t stride_x, int64_t top, int64_t left) {
  const auto in = x.dimensions(), by = grad.dimensions(), kernel = out->dimensions();
  if (in.size() != 4 || by.size() != 4 || kernel.size() != 4 || by[3] % kLanes != 0) {
    return ffi::Error::InvalidArgument("needs [B,H,W,C] and [B,h,w,D] with D a multiple of 16");
  }
  Sizes n = {in[0], in[1], in[2], in[3], by[1], by[2], by[3], kernel[0], kernel[1],
             stride_y, stride_x, top, left, 0, 0};
  n.padded_height = std::max(n.top + n.height, (n.out_height - 1) * stride_y + n.kernel_height);
  n.padded_width = std::max(n.left + n.width, (n.out_width - 1) * stride_x + n.kernel_width);

  // Each part of the batch has a separate sum, so that the result does not depend on the threads.
  const int64_t parts = std::min(
      n.batch, std::clamp(kSummedFloats / n.out(), kMinParts, kMaxParts));
  const int64_t group = std::clamp<int64_t>(kCachedFloats / (n.image() + n.grad_image()), 1,
                                            (n.batch + parts - 1) / parts);
  const int64_t room = group * n.image() + 2 * kRows;
  std::unique_ptr<float[]> sums(new (std::nothrow) float[parts * n.out()]);
  if (!sums) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a kernel's gradient");
  }
  ForEach(pool, parts, [&](int64_t part) {
    static thread_local std::vector<float> padded;  // kept between calls, as it is in the cache
    padded.assign(room, 0.0f);
    SumImages(n, x.typed_data(), grad.typed_data(), n.batch * part / parts,
              n.batch * (part + 1) / parts, group, padded.data(), sums.get() + part * n.out());
  });
  AddParts(sums.get(), parts, n.out(), out->typed_data());
  return ffi::Error::Success();
}

ffi::Error ChannelSums(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> a, ffi::Buffer<ffi::F32> b,
                       ffi::ResultBuffer<ffi::F32> out) {
  const int64_t channels = a.dimensions().back(), rows = a.element_count() / channels;
  if (channels % kLanes != 0 || b.element_count() != a.element_count()) {
    return ffi::Error::InvalidArgument("needs two arrays [...,C] with C a multiple of 16");
  }
  std::unique_ptr<float[]> sums(new (std::nothrow) float[kRowParts * 2 * channels]());
  if (!sums) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for sums");
  ForEach(pool, kRowParts, [&](int64_t part) {
    SumRows(a.typed_data(), b.typed_data(), channels, rows * part / kRowParts,
            rows * (part + 1) / kRowParts, sums.get() + part * 2 * channels);
  });
  AddParts(sums.get(), kRowParts, 2 * channels, out->typed_data());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(amdjax_channel_sums, ChannelSums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(amdjax_kernel_gradient, KernelGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("stride_y")
                                  .Attr<int64_t>("stride_x")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left"));
