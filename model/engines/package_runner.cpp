// Runs a package of AOTInductor from C, so that Python's lock is free meanwhile (torch's own binding holds it).
//
// A runner keeps the results of its last call until they are copied out; one call at a time. Pointers are of
// contiguous memory. Types: 0 float32, 1 int64, 2 bfloat16.
#include <ATen/ops/from_blob.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <string>
#include <vector>

namespace {

struct Runner {
  explicit Runner(const char* path) : package(path) {}
  torch::inductor::AOTIModelPackageLoader package;
  std::vector<at::Tensor> results;
};

thread_local std::string said;

template <class Work>
bool succeeds(Work&& work) {
  try {
    work();
    return true;
  } catch (const std::exception& error) {
    said = error.what();
  } catch (...) {
    said = "unknown error";
  }
  return false;
}

constexpr at::ScalarType types[] = {at::kFloat, at::kLong, at::kBFloat16};

// -1 for a type without a number.
int64_t number_of(at::ScalarType type) {
  const auto* place = std::find(std::begin(types), std::end(types), type);
  return place == std::end(types) ? -1 : place - std::begin(types);
}

}  // namespace

extern "C" {

const char* runner_error() { return said.c_str(); }

Runner* runner_load(const char* path) {
  Runner* runner = nullptr;
  succeeds([&] { runner = new Runner(path); });
  return runner;
}

void runner_free(Runner* runner) { delete runner; }

// Of input i: its data, its type, its number of dimensions; the sizes of all one after the other.
// Returns the number of results, -1 for an error.
int64_t runner_run(Runner* runner, int64_t num_inputs, void* const* data, const int64_t* codes,
                   const int64_t* ranks, const int64_t* sizes) {
  const bool done = succeeds([&] {
    c10::InferenceMode inference;
    std::vector<at::Tensor> inputs;
    for (int64_t i = 0; i < num_inputs; sizes += ranks[i], ++i)
      inputs.push_back(at::from_blob(data[i], at::IntArrayRef(sizes, ranks[i]), types[codes[i]]));
    runner->results = runner->package.run(inputs);
    for (auto& result : runner->results) {
      TORCH_CHECK(number_of(result.scalar_type()) >= 0, "result of type ", result.scalar_type());
      result = result.contiguous();
    }
  });
  return done ? static_cast<int64_t>(runner->results.size()) : -1;
}

// The sizes (room for 8), returns the number of dimensions.
int64_t runner_sizes(const Runner* runner, int64_t index, int64_t* sizes) {
  const auto shape = runner->results[index].sizes();
  std::copy(shape.begin(), shape.end(), sizes);
  return static_cast<int64_t>(shape.size());
}

int64_t runner_type(const Runner* runner, int64_t index) {
  return number_of(runner->results[index].scalar_type());
}

void runner_take(Runner* runner, int64_t index, void* target) {
  auto& result = runner->results[index];
  std::memcpy(target, result.const_data_ptr(), result.nbytes());
  result = at::Tensor();
}

}  // extern "C"
