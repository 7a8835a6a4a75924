// shared_ptr.cc - a peer of bench_slot.c: what the standard library of C++ has for a reference that others replace.
//
// It is compiled if there is a C++ compiler with std::atomic<std::shared_ptr>, see tools/cxx; else it is nothing.
#include <version>
#ifdef __cpp_lib_atomic_shared_ptr
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace
{

// As much as the other peers' objects; make_shared() puts its counts in front.
struct plain {
    std::uint64_t value, rest;
};

alignas(64) std::atomic<std::shared_ptr<plain>> shared;

} // namespace

extern "C" std::uint64_t shared_ptr_read(std::size_t count)
{
    std::uint64_t sum = 0;

    for (std::size_t i = 0; i < count; i++)
        sum += shared.load(std::memory_order_acquire)->value;
    return sum;
}

extern "C" void shared_ptr_write(std::uint64_t value)
{
    shared.store(std::make_shared<plain>(plain{value, value}), std::memory_order_release);
}
#endif
