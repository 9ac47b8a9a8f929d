// Parts of a training step that libtorch has no operator for. Everything here is for the CPU, for images [N, C, H, W] whose channels lie
// side by side, and is a node of libtorch's gradient graph. Each has a plain counterpart among libtorch's operators, which
// src/tensor/native.rs names and the tests compare it with.
//
// A gradient that will be differentiated itself is computed by libtorch's operators, which know theirs.
//
// Sums run in float32 over a block of rows and in double over the blocks. Blocks depend on the shapes alone, so that results do not
// depend on the number of threads.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
// One copy for each generation of processors; the loader takes the best one that runs.
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORISED
#endif
#define INLINED inline __attribute__((always_inline))

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Numbers of images as they are stored: float32, or the bits of bfloat16.
INLINED float widened(float value) { return value; }

INLINED float widened(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

INLINED void store(float value, float* to) { *to = value; }

// To the nearest, and to even where two are equally near.
INLINED void store(float value, uint16_t* to) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  *to = static_cast<uint16_t>(is_nan ? 0x7fc0u : nearest);
}

template <typename Number>
const Number* numbers_of(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const Number*>(tensor.const_data_ptr()) : nullptr;
}

template <typename Number>
Number* new_numbers_of(at::Tensor& tensor) {
  return tensor.defined() ? static_cast<Number*>(tensor.mutable_data_ptr()) : nullptr;
}

template <typename Number>
Number* behind(Number* numbers, int64_t count) {
  return numbers == nullptr ? nullptr : numbers + count;
}

// Calls `work` with a number of the kind that the tensor holds.
template <typename Work>
void by_kind(const at::Tensor& tensor, const Work& work) {
  if (tensor.scalar_type() == at::kFloat) {
    work(float{});
  } else {
    work(uint16_t{});
  }
}

at::Tensor beside_each_other(const at::Tensor& images) { return images.contiguous(at::MemoryFormat::ChannelsLast); }

// Rows [N * H * W] of channels [C], cut into blocks.
struct Rows {
  int64_t count, channels, block, blocks;

  explicit Rows(const at::Tensor& images)
      : count(images.size(0) * images.size(2) * images.size(3)), channels(images.size(1)) {
    block = std::max<int64_t>(8, 32768 / std::max<int64_t>(channels, 1));
    blocks = (count + block - 1) / block;
  }

  template <typename Work>
  void each_block(const Work& work) const {
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        work(index, index * block, std::min(block, count - index * block));
      }
    });
  }
};

// The loops are compiled once for each kind of number and generation of processors.
namespace loops {

// Adds up, over rows, `x - pivot` and its square.
template <typename Number>
INLINED void add_moments(const Number* __restrict__ x, const float* __restrict__ pivot, int64_t rows, int64_t channels,
                         float* __restrict__ sums, float* __restrict__ squares) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const Number* __restrict__ at = x + row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float a = widened(at[c]) - pivot[c], b = widened(at[c + channels]) - pivot[c];
      const float d = widened(at[c + 2 * channels]) - pivot[c], e = widened(at[c + 3 * channels]) - pivot[c];
      sums[c] += (a + b) + (d + e);
      squares[c] += (a * a + b * b) + (d * d + e * e);
    }
  }
  for (; row < rows; ++row) {
    for (int64_t c = 0; c < channels; ++c) {
      const float a = widened(x[row * channels + c]) - pivot[c];
      sums[c] += a;
      squares[c] += a * a;
    }
  }
}

// `y = max(factor (x - mean) + bias + other, least)`; without another tensor `other` is null. `x` may be `y`.
template <typename Number>
INLINED void transform(const Number* x, const Number* __restrict__ other, const float* __restrict__ mean,
                       const float* __restrict__ factor, const float* __restrict__ bias, float least, int64_t rows, int64_t channels,
                       Number* y) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    if (other == nullptr) {
      for (int64_t c = 0; c < channels; ++c) {
        const float value = (widened(x[at + c]) - mean[c]) * factor[c] + bias[c];
        store(value < least ? least : value, y + at + c);
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        const float value = (widened(x[at + c]) - mean[c]) * factor[c] + bias[c] + widened(other[at + c]);
        store(value < least ? least : value, y + at + c);
      }
    }
  }
}

// Adds up, over rows, the gradient that the activation lets through, and its product with `x - mean`. `y` is null without activation.
template <typename Number>
INLINED void add_gradients(const Number* __restrict__ gradient, const Number* __restrict__ x, const Number* __restrict__ y,
                           const float* __restrict__ mean, int64_t rows, int64_t channels, float* __restrict__ sums,
                           float* __restrict__ products) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    if (y == nullptr) {
      for (int64_t c = 0; c < channels; ++c) {
        const float g = widened(gradient[at + c]);
        sums[c] += g;
        products[c] += g * (widened(x[at + c]) - mean[c]);
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        const float g = widened(y[at + c]) <= 0.0f ? 0.0f : widened(gradient[at + c]);
        sums[c] += g;
        products[c] += g * (widened(x[at + c]) - mean[c]);
      }
    }
  }
}

// `dx = a g + b (x - mean) + d`; `through` gets g itself where somebody wants it.
template <typename Number>
INLINED void pass_back(const Number* __restrict__ gradient, const Number* __restrict__ x, const Number* __restrict__ y,
                       const float* __restrict__ mean, const float* __restrict__ a, const float* __restrict__ b,
                       const float* __restrict__ d, int64_t rows, int64_t channels, Number* __restrict__ dx,
                       Number* __restrict__ through) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    if (y == nullptr) {
      for (int64_t c = 0; c < channels; ++c) {
        store(a[c] * widened(gradient[at + c]) + b[c] * (widened(x[at + c]) - mean[c]) + d[c], dx + at + c);
      }
    } else if (through == nullptr) {
      for (int64_t c = 0; c < channels; ++c) {
        const float g = widened(y[at + c]) <= 0.0f ? 0.0f : widened(gradient[at + c]);
        store(a[c] * g + b[c] * (widened(x[at + c]) - mean[c]) + d[c], dx + at + c);
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        const Number kept = widened(y[at + c]) <= 0.0f ? Number{0} : gradient[at + c];
        through[at + c] = kept;
        store(a[c] * widened(kept) + b[c] * (widened(x[at + c]) - mean[c]) + d[c], dx + at + c);
      }
    }
  }
}

template <typename Number>
INLINED void add_row(const Number* __restrict__ row, int64_t channels, float* __restrict__ sums) {
  for (int64_t c = 0; c < channels; ++c) sums[c] += widened(row[c]);
}

template <typename Number>
INLINED void store_row(const float* __restrict__ sums, int64_t channels, Number* __restrict__ row) {
  for (int64_t c = 0; c < channels; ++c) store(sums[c], row + c);
}

}  // namespace loops

#define FOR_NUMBERS(Number)                                                                                                        \
  VECTORISED void add_moments(const Number* x, const float* pivot, int64_t rows, int64_t channels, float* sums, float* squares) {  \
    loops::add_moments(x, pivot, rows, channels, sums, squares);                                                                   \
  }                                                                                                                                \
  VECTORISED void transform(const Number* x, const Number* other, const float* mean, const float* factor, const float* bias,       \
                            float least, int64_t rows, int64_t channels, Number* y) {                                              \
    loops::transform(x, other, mean, factor, bias, least, rows, channels, y);                                                      \
  }                                                                                                                                \
  VECTORISED void add_gradients(const Number* gradient, const Number* x, const Number* y, const float* mean, int64_t rows,         \
                                int64_t channels, float* sums, float* products) {                                                  \
    loops::add_gradients(gradient, x, y, mean, rows, channels, sums, products);                                                    \
  }                                                                                                                                \
  VECTORISED void pass_back(const Number* gradient, const Number* x, const Number* y, const float* mean, const float* a,           \
                            const float* b, const float* d, int64_t rows, int64_t channels, Number* dx, Number* through) {         \
    loops::pass_back(gradient, x, y, mean, a, b, d, rows, channels, dx, through);                                                  \
  }                                                                                                                                \
  VECTORISED void add_row(const Number* row, int64_t channels, float* sums) { loops::add_row(row, channels, sums); }               \
  VECTORISED void store_row(const float* sums, int64_t channels, Number* row) { loops::store_row(sums, channels, row); }

FOR_NUMBERS(float)
FOR_NUMBERS(uint16_t)

VECTORISED double product(const float* __restrict__ a, const float* __restrict__ b, int64_t count) {
  // Sixteen sums side by side: one alone could not be computed in parallel without changing its order.
  float sums[16] = {};
  int64_t index = 0;
  for (; index + 16 <= count; index += 16) {
    for (int64_t lane = 0; lane < 16; ++lane) sums[lane] += a[index + lane] * b[index + lane];
  }
  double total = 0.0;
  for (const float sum : sums) total += sum;
  for (; index < count; ++index) total += a[index] * b[index];
  return total;
}

// `to = (g - share v) inverse`.
VECTORISED void subtract_scaled(const float* __restrict__ g, const float* __restrict__ v, float share, float inverse, int64_t count,
                                float* __restrict__ to) {
  for (int64_t index = 0; index < count; ++index) to[index] = (g[index] - share * v[index]) * inverse;
}

// Two sums for each channel over all rows.
template <typename Add>
std::pair<std::vector<double>, std::vector<double>> two_sums(const Rows& rows, const Add& add) {
  const size_t channels = rows.channels;
  std::vector<float> parts(2 * channels * rows.blocks, 0.0f);
  rows.each_block([&](int64_t index, int64_t first, int64_t count) {
    float* sums = parts.data() + 2 * channels * index;
    add(first, count, sums, sums + channels);
  });
  std::vector<double> first(channels, 0.0), second(channels, 0.0);
  for (int64_t index = 0; index < rows.blocks; ++index) {
    const float* sums = parts.data() + 2 * channels * index;
    for (size_t c = 0; c < channels; ++c) {
      first[c] += sums[c];
      second[c] += sums[channels + c];
    }
  }
  return {first, second};
}

// Batch normalisation, then the sum with another tensor of the same shape if there is one, then ReLU if wanted.
struct NormAct : public torch::autograd::Function<NormAct> {
  static at::Tensor forward(AutogradContext* ctx, at::Tensor input, std::optional<at::Tensor> other, at::Tensor scale, at::Tensor bias,
                            at::Tensor running_mean, at::Tensor running_variance, bool live, double momentum, double epsilon,
                            bool relu, bool overwrite) {
    const at::Tensor x = beside_each_other(input);
    const at::Tensor residual = other ? beside_each_other(*other) : at::Tensor();
    const Rows rows(x);
    const int64_t channels = rows.channels;
    const float* weights = scale.const_data_ptr<float>();
    const float* biases = bias.const_data_ptr<float>();
    at::Tensor mean = at::empty({channels}, scale.options()), inverse = at::empty({channels}, scale.options());
    float* means = mean.mutable_data_ptr<float>();
    float* inverses = inverse.mutable_data_ptr<float>();
    float* old_means = running_mean.mutable_data_ptr<float>();
    float* old_variances = running_variance.mutable_data_ptr<float>();
    if (live) {
      // Squares are those of distances from some number of the channel: far from zero, those from zero would lose their digits.
      std::vector<float> pivot(channels);
      std::vector<double> sums, squares;
      by_kind(x, [&](auto number) {
        const auto* xs = numbers_of<decltype(number)>(x);
        for (int64_t c = 0; c < channels; ++c) pivot[c] = widened(xs[c]);
        std::tie(sums, squares) = two_sums(rows, [&](int64_t first, int64_t count, float* s, float* q) {
          add_moments(xs + first * channels, pivot.data(), count, channels, s, q);
        });
      });
      const double n = static_cast<double>(rows.count);
      for (int64_t c = 0; c < channels; ++c) {
        const double shift = sums[c] / n, variance = std::max(0.0, squares[c] / n - shift * shift);
        means[c] = static_cast<float>(pivot[c] + shift);
        inverses[c] = static_cast<float>(1.0 / std::sqrt(variance + epsilon));
        old_means[c] = static_cast<float>((1.0 - momentum) * old_means[c] + momentum * (pivot[c] + shift));
        // Running statistics take the sample's variance, as libtorch's do.
        old_variances[c] = static_cast<float>((1.0 - momentum) * old_variances[c] + momentum * variance * n / (n - 1.0));
      }
      // Whoever kept these for a gradient has to learn that they changed.
      running_mean.unsafeGetTensorImpl()->bump_version();
      running_variance.unsafeGetTensorImpl()->bump_version();
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        means[c] = old_means[c];
        inverses[c] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(old_variances[c]) + epsilon));
      }
    }
    std::vector<float> factor(channels);
    for (int64_t c = 0; c < channels; ++c) factor[c] = weights[c] * inverses[c];
    const float least = relu ? 0.0f : -std::numeric_limits<float>::infinity();
    // Whoever will ask for a gradient needs the input again.
    at::Tensor y = overwrite ? x.detach() : at::empty_like(x);
    by_kind(x, [&](auto number) {
      using Number = decltype(number);
      const auto *xs = numbers_of<Number>(x), *others = numbers_of<Number>(residual);
      auto* ys = new_numbers_of<Number>(y);
      rows.each_block([&](int64_t, int64_t first, int64_t count) {
        const int64_t at = first * channels;
        transform(xs + at, behind(others, at), means, factor.data(), biases, least, count, channels, ys + at);
      });
    });
    // The input itself: what is arranged here is not in the graph.
    ctx->save_for_backward({input, relu ? y : at::Tensor(), scale, mean, inverse, live ? at::Tensor() : running_mean,
                            live ? at::Tensor() : running_variance});
    ctx->saved_data["epsilon"] = epsilon;
    ctx->saved_data["live"] = live;
    ctx->saved_data["residual"] = residual.defined();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &input = saved[0], &y = saved[1], &scale = saved[2], &mean = saved[3], &inverse = saved[4];
    const bool live = ctx->saved_data["live"].toBool(), has_residual = ctx->saved_data["residual"].toBool();
    if (at::GradMode::is_enabled()) {
      const at::Tensor let_through = y.defined() ? gradients[0] * y.le(0).logical_not() : gradients[0];
      auto [dx, d_scale, d_bias] = at::native_batch_norm_backward(let_through, input, scale, saved[5], saved[6], mean, inverse, live,
                                                                  ctx->saved_data["epsilon"].toDouble(), {true, true, true});
      return list_of(dx, has_residual ? let_through : at::Tensor(), d_scale, d_bias);
    }
    const at::Tensor x = beside_each_other(input), gradient = beside_each_other(gradients[0]);
    const Rows rows(x);
    const int64_t channels = rows.channels;
    const float *means = mean.const_data_ptr<float>(), *inverses = inverse.const_data_ptr<float>();
    std::vector<double> sums, products;
    by_kind(x, [&](auto number) {
      using Number = decltype(number);
      const auto *xs = numbers_of<Number>(x), *ys = numbers_of<Number>(y), *gs = numbers_of<Number>(gradient);
      std::tie(sums, products) = two_sums(rows, [&](int64_t first, int64_t count, float* s, float* p) {
        const int64_t at = first * channels;
        add_gradients(gs + at, xs + at, behind(ys, at), means, count, channels, s, p);
      });
    });
    at::Tensor d_scale = at::empty({channels}, scale.options()), d_bias = at::empty({channels}, scale.options());
    std::vector<float> a(channels), b(channels, 0.0f), d(channels, 0.0f);
    const double n = static_cast<double>(rows.count);
    for (int64_t c = 0; c < channels; ++c) {
      d_bias.mutable_data_ptr<float>()[c] = static_cast<float>(sums[c]);
      d_scale.mutable_data_ptr<float>()[c] = static_cast<float>(products[c] * inverses[c]);
      a[c] = scale.const_data_ptr<float>()[c] * inverses[c];
      if (live) {
        b[c] = static_cast<float>(-static_cast<double>(a[c]) * inverses[c] * inverses[c] * products[c] / n);
        d[c] = static_cast<float>(-static_cast<double>(a[c]) * sums[c] / n);
      }
    }
    at::Tensor dx = at::empty_like(x);
    at::Tensor through;
    if (has_residual) through = y.defined() ? at::empty_like(x) : gradient;
    by_kind(x, [&](auto number) {
      using Number = decltype(number);
      const auto *xs = numbers_of<Number>(x), *ys = numbers_of<Number>(y), *gs = numbers_of<Number>(gradient);
      auto* dxs = new_numbers_of<Number>(dx);
      // Without activation the gradient passes as it is.
      auto* throughs = y.defined() ? new_numbers_of<Number>(through) : nullptr;
      rows.each_block([&](int64_t, int64_t first, int64_t count) {
        const int64_t at = first * channels;
        pass_back(gs + at, xs + at, behind(ys, at), means, a.data(), b.data(), d.data(), count, channels, dxs + at, behind(throughs, at));
      });
    });
    return list_of(dx, through, d_scale, d_bias);
  }

  // Of all arguments of `forward`: those behind the bias have no gradient.
  static variable_list list_of(at::Tensor input, at::Tensor other, at::Tensor scale, at::Tensor bias) {
    const at::Tensor none;
    return {input, other, scale, bias, none, none, none, none, none, none, none};
  }
};

// Where a convolution's window lies.
struct Window {
  int64_t kernel[2], stride[2], padding[2], dilation[2], input[2], output[2], images, channels;

  Window(const at::Tensor& x, const at::Tensor& weight, const int64_t* steps) : images(x.size(0)), channels(x.size(1)) {
    for (int axis = 0; axis < 2; ++axis) {
      kernel[axis] = weight.size(2 + axis);
      stride[axis] = steps[axis];
      padding[axis] = steps[2 + axis];
      dilation[axis] = steps[4 + axis];
      input[axis] = x.size(2 + axis);
      const int64_t reach = input[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1;
      TORCH_CHECK(reach >= 0, "a window is larger than its padded image");
      output[axis] = reach / stride[axis] + 1;
    }
  }

  int64_t rows() const { return images * output[0] * output[1]; }
  int64_t places() const { return kernel[0] * kernel[1]; }
};

// What the window meets at every place: [rows, kernel places, channels].
at::Tensor met(const at::Tensor& x, const Window& window) {
  const size_t bytes = window.channels * x.element_size();
  at::Tensor columns =
      at::empty({window.rows(), window.places() * window.channels}, x.options().memory_format(at::MemoryFormat::Contiguous));
  const char* from = static_cast<const char*>(x.const_data_ptr());
  char* to = static_cast<char*>(columns.mutable_data_ptr());
  at::parallel_for(0, window.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t left = row % window.output[1], top = row / window.output[1] % window.output[0];
      const int64_t image = row / (window.output[0] * window.output[1]);
      char* at = to + row * window.places() * bytes;
      for (int64_t i = 0; i < window.kernel[0]; ++i) {
        const int64_t h = top * window.stride[0] - window.padding[0] + i * window.dilation[0];
        for (int64_t j = 0; j < window.kernel[1]; ++j, at += bytes) {
          const int64_t w = left * window.stride[1] - window.padding[1] + j * window.dilation[1];
          if (h < 0 || h >= window.input[0] || w < 0 || w >= window.input[1]) {
            // Of either kind of number, zero is all bits zero.
            std::memset(at, 0, bytes);
          } else {
            std::memcpy(at, from + ((image * window.input[0] + h) * window.input[1] + w) * bytes, bytes);
          }
        }
      }
    }
  });
  return columns;
}

// The transpose of `met`: what every place of the image gets from the windows that met it.
at::Tensor unmet(const at::Tensor& columns, const at::Tensor& like, const Window& window) {
  const int64_t channels = window.channels;
  at::Tensor image = at::empty_like(like);
  by_kind(like, [&](auto number) {
    const auto* from = numbers_of<decltype(number)>(columns);
    auto* to = new_numbers_of<decltype(number)>(image);
    at::parallel_for(0, window.images * window.input[0] * window.input[1], 16, [&](int64_t begin, int64_t end) {
      std::vector<float> sums(channels);
      for (int64_t place = begin; place < end; ++place) {
        const int64_t w = place % window.input[1], h = place / window.input[1] % window.input[0];
        const int64_t n = place / (window.input[0] * window.input[1]);
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t i = 0; i < window.kernel[0]; ++i) {
          const int64_t top = h + window.padding[0] - i * window.dilation[0];
          if (top < 0 || top % window.stride[0] != 0 || top / window.stride[0] >= window.output[0]) continue;
          for (int64_t j = 0; j < window.kernel[1]; ++j) {
            const int64_t left = w + window.padding[1] - j * window.dilation[1];
            if (left < 0 || left % window.stride[1] != 0 || left / window.stride[1] >= window.output[1]) continue;
            const int64_t row = (n * window.output[0] + top / window.stride[0]) * window.output[1] + left / window.stride[1];
            add_row(from + (row * window.places() + i * window.kernel[1] + j) * channels, channels, sums.data());
          }
        }
        store_row(sums.data(), channels, to + place * channels);
      }
    });
  });
  return image;
}

// [O, a, b] as [O, b, a].
at::Tensor turned(const at::Tensor& tensor, int64_t a, int64_t b) {
  const int64_t outputs = tensor.size(0);
  at::Tensor result = at::empty({outputs, b * a}, tensor.options());
  by_kind(tensor, [&](auto number) {
    const auto* from = numbers_of<decltype(number)>(tensor);
    auto* to = new_numbers_of<decltype(number)>(result);
    at::parallel_for(0, outputs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t o = begin * a * b; o < end * a * b; o += a * b) {
        for (int64_t j = 0; j < b; ++j) {
          for (int64_t i = 0; i < a; ++i) to[o + j * a + i] = from[o + i * b + j];
        }
      }
    });
  });
  return result;
}

// Filters [O, C, h, w] as the rows of a matrix [O, h w C]. Nothing has to be moved where their channels lie side by side.
at::Tensor as_rows(const at::Tensor& filters) {
  if (filters.is_contiguous(at::MemoryFormat::ChannelsLast)) return filters.permute({0, 2, 3, 1}).reshape({filters.size(0), -1});
  return turned(filters.contiguous(), filters.size(1), filters.size(2) * filters.size(3));
}

// The inverse of `as_rows`, laid out as `filters` are.
at::Tensor as_filters(const at::Tensor& rows, const at::Tensor& filters) {
  if (filters.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    return rows.view({filters.size(0), filters.size(2), filters.size(3), filters.size(1)}).permute({0, 3, 1, 2});
  }
  return turned(rows, filters.size(2) * filters.size(3), filters.size(1)).view(filters.sizes());
}

// A convolution as one matrix product. oneDNN's own kernels lose most of their speed where images have become a few pixels large.
struct ConvByProduct : public torch::autograd::Function<ConvByProduct> {
  static at::Tensor forward(AutogradContext* ctx, at::Tensor input, at::Tensor filters, std::optional<at::Tensor> bias,
                            std::vector<int64_t> steps) {
    const at::Tensor x = beside_each_other(input);
    const at::Tensor& weight = filters;
    const Window window(x, weight, steps.data());
    const at::Tensor packed = as_rows(weight);
    const at::Tensor columns = met(x, window);
    at::Tensor y = bias ? at::addmm(*bias, columns, packed.t()) : at::mm(columns, packed.t());
    ctx->save_for_backward({input, weight});
    ctx->saved_data["steps"] = steps;
    ctx->saved_data["bias"] = bias.has_value();
    return y.view({window.images, window.output[0], window.output[1], weight.size(0)}).permute({0, 3, 1, 2});
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1];
    const auto steps = ctx->saved_data["steps"].toIntVector();
    const Window window(input, weight, steps.data());
    const bool has_bias = ctx->saved_data["bias"].toBool();
    if (at::GradMode::is_enabled()) {
      const at::IntArrayRef all(steps);
      const std::array<bool, 3> wanted = {ctx->needs_input_grad(0), ctx->needs_input_grad(1), has_bias};
      auto [dx, d_weight, d_bias] =
          at::convolution_backward(gradients[0], input, weight, at::IntArrayRef(weight.size(0)), all.slice(0, 2), all.slice(2, 2),
                                   all.slice(4, 2), false, {0, 0}, 1, wanted);
      return {dx, d_weight, d_bias, at::Tensor()};
    }
    const at::Tensor gradient = beside_each_other(gradients[0]).permute({0, 2, 3, 1}).reshape({window.rows(), weight.size(0)});
    const at::Tensor x = beside_each_other(input);
    at::Tensor dx, d_weight, d_bias;
    if (ctx->needs_input_grad(0)) {
      dx = unmet(at::mm(gradient, as_rows(weight)), x, window);
    }
    if (ctx->needs_input_grad(1)) {
      const at::Tensor product = at::mm(gradient.t(), met(x, window));
      d_weight = as_filters(product, weight);
    }
    if (has_bias) d_bias = gradient.sum(0);
    return {dx, d_weight, d_bias, at::Tensor()};
  }
};

// `W / (u' W v)` for a weight of O rows in the order of its memory, with constant u `[O]` and v. Written out, the gradient
// `(g - <g, W / norm> u v') / norm` is two passes over the weight; left to libtorch it is eight.
struct BySpectralNorm : public torch::autograd::Function<BySpectralNorm> {
  static at::Tensor forward(AutogradContext* ctx, at::Tensor weight, at::Tensor u, at::Tensor v, double norm) {
    at::Tensor y = weight / norm;
    ctx->save_for_backward({y, u, v});
    ctx->saved_data["norm"] = norm;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "the gradient of a spectral norm cannot be differentiated");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &y = saved[0], &u = saved[1], &v = saved[2];
    const double norm = ctx->saved_data["norm"].toDouble();
    const at::Tensor gradient = gradients[0].strides() == y.strides() ? gradients[0] : at::empty_like(y).copy_(gradients[0]);
    const int64_t rows = u.numel(), columns = v.numel();
    const float *gs = numbers_of<float>(gradient), *ys = numbers_of<float>(y), *us = numbers_of<float>(u), *vs = numbers_of<float>(v);
    std::vector<double> parts(rows);
    at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) parts[row] = product(gs + row * columns, ys + row * columns, columns);
    });
    double along = 0.0;
    for (const double part : parts) along += part;
    at::Tensor result = at::empty_like(y);
    float* to = new_numbers_of<float>(result);
    const float inverse = static_cast<float>(1.0 / norm);
    at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        subtract_scaled(gs + row * columns, vs, static_cast<float>(along * us[row]), inverse, columns, to + row * columns);
      }
    });
    const at::Tensor none;
    return {result, none, none, none};
  }
};

// A convolution, the sum with another tensor if there is one, and ReLU if wanted, in one of oneDNN's kernels, which libtorch has for its own
// compiler. The sum takes the other tensor's place where that is allowed.
at::Tensor conv_act(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const int64_t* steps, int64_t groups,
                    const at::Tensor* other, bool relu, bool overwrite) {
  const at::IntArrayRef strides(steps, 2), paddings(steps + 2, 2), dilations(steps + 4, 2);
  const char* name = other && overwrite ? "mkldnn::_convolution_pointwise_" : "mkldnn::_convolution_pointwise";
  const auto kernel = c10::Dispatcher::singleton().findSchemaOrThrow(name, other ? "binary" : "");
  const c10::impl::GenericList none(c10::OptionalType::create(c10::NumberType::get()));
  const c10::IValue activation = relu ? c10::IValue("relu") : c10::IValue();
  std::vector<c10::IValue> stack;
  if (other == nullptr) {
    stack = {x, weight, bias, paddings, strides, dilations, groups, relu ? "relu" : "none", none, c10::IValue()};
  } else {
    stack = {x, *other, weight, bias, paddings, strides, dilations, groups, "add", 1.0, activation, none, c10::IValue()};
    if (overwrite) std::swap(stack[0], stack[1]);
  }
  kernel.callBoxed(&stack);
  return stack.at(0).toTensor();
}

thread_local std::string last_error;

template <typename Work>
at::Tensor* guarded(const Work& work) {
  try {
    return new at::Tensor(work());
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an error without a message";
  }
  return nullptr;
}

std::optional<at::Tensor> optional(const at::Tensor* tensor) {
  if (tensor == nullptr) return std::nullopt;
  return *tensor;
}

}  // namespace

extern "C" {

// For a process that computes on GPUs: products of float32 are not rounded to fewer bits, and of several ways to do a convolution the
// fastest is found by trying.
void cmira_settle_cuda() {
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setBenchmarkCuDNN(true);
}

const char* cmira_last_error() { return last_error.c_str(); }

at::Tensor* cmira_norm_act(const at::Tensor* input, const at::Tensor* other, const at::Tensor* scale, const at::Tensor* bias,
                           const at::Tensor* mean, const at::Tensor* variance, bool live, double momentum, double epsilon, bool relu,
                           bool overwrite) {
  return guarded([&] {
    overwrite = overwrite && !at::GradMode::is_enabled();
    return NormAct::apply(*input, optional(other), *scale, *bias, *mean, *variance, live, momentum, epsilon, relu, overwrite);
  });
}

// `steps` are strides, paddings and dilations, two of each.
at::Tensor* cmira_conv_by_product(const at::Tensor* input, const at::Tensor* weight, const at::Tensor* bias, const int64_t* steps) {
  return guarded([&] { return ConvByProduct::apply(*input, *weight, optional(bias), std::vector<int64_t>(steps, steps + 6)); });
}

// `steps` are strides, paddings and dilations, two of each; for what no gradient is asked for.
at::Tensor* cmira_conv_act(const at::Tensor* input, const at::Tensor* weight, const at::Tensor* bias, const int64_t* steps,
                           int64_t groups, const at::Tensor* other, bool relu, bool overwrite) {
  return guarded([&] {
    const at::NoGradGuard guard;
    return conv_act(*input, *weight, *bias, steps, groups, other, relu, overwrite);
  });
}

at::Tensor* cmira_by_spectral_norm(const at::Tensor* weight, const at::Tensor* u, const at::Tensor* v, double norm) {
  return guarded([&] { return BySpectralNorm::apply(*weight, *u, *v, norm); });
}

// One step of SGD for `count` parameters at once; `velocities` is null without momentum.
bool cmira_sgd(at::Tensor* const* params, at::Tensor* const* gradients, at::Tensor* const* velocities, int64_t count,
               double weight_decay, double momentum, double learning_rate, bool nesterov) {
  const auto* result = guarded([&] {
    std::vector<at::Tensor> p, g, v;
    for (int64_t index = 0; index < count; ++index) {
      p.push_back(*params[index]);
      g.push_back(*gradients[index]);
      if (velocities != nullptr) v.push_back(*velocities[index]);
    }
    const at::NoGradGuard guard;
    at::_fused_sgd_(p, g, v, weight_decay, momentum, learning_rate, 0.0, nesterov, false, false);
    return at::Tensor();
  });
  delete result;
  return result != nullptr;
}

}  // extern "C"
