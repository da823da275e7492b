// A guard of CUDA devices that does nothing: a torch without CUDA has none, and asks for one wherever fake CUDA
// tensors are indexed or copied.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
}
