// cuda/sample.cuh on the CPU, in two ways.
//
//   sample_rows     Quick: each phase is a loop over the threads of the team, in an order that the caller names.
//   sample_apart    As on a device: each thread is a fiber with a stack of its own, and goes on from a barrier as soon as those that
//                   wait there with it have come, in any order and as far ahead of the others as barriers let it.
//
// A result that depended on the order of threads would be a race on a device; here it is another token.
#include <ucontext.h>

#include <cstring>
#include <memory>
#include <vector>

#define __device__
#define __noinline__

static inline unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float __uint_as_float(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

#include "sample.cuh"

/// Blocks of threads whose memory is that of this process.
struct Blocks {
    std::vector<Shared> shared;
    std::vector<u32> memory;
    u32* keys;
    u32 vocab;
    /// Where to begin and how far to step: every odd step visits each thread once.
    u32 offset, step;

    Blocks(u32 ranks, const Work& work, u32 row, u32 order)
        // What a block finds in its memory is what the last one left.
        : shared(ranks), memory(work.keys ? 0 : work.vocab, 0xA5A5A5A5),
          keys(work.keys ? work.keys + static_cast<u64>(row) * work.vocab : memory.data()), vocab(work.vocab),
          offset(order), step(2 * order + 1) {
        for (Shared& one : shared) std::memset(static_cast<void*>(&one), 0xA5, sizeof one);
    }
};

class HostTeam {
public:
    explicit HostTeam(Blocks& blocks) : blocks_(&blocks) {}

    u32 ranks() const { return static_cast<u32>(blocks_->shared.size()); }
    u32 begin_of(u32 rank) const { return slice_of(rank, ranks(), blocks_->vocab); }
    const Shared& lead() const { return blocks_->shared[0]; }
    Shared& own(const Lane& lane) const { return blocks_->shared[lane.rank]; }

    template <class Act>
    void together(Act act) {
        for (u32 turn = 0; turn < ranks(); ++turn) {
            // The leader last, then first, then last again: others may be ahead of it or behind.
            const u32 rank = blocks_->offset % 2 ? ranks() - 1 - turn : turn;
            const u32 begin = begin_of(rank), end = begin_of(rank + 1);
            for (u32 count = 0; count < THREADS; ++count) {
                const u32 thread = (blocks_->offset + count * blocks_->step) % THREADS;
                act(Lane{thread, rank, blocks_->shared[0], blocks_->keys + begin, begin, end});
            }
        }
        blocks_->offset = blocks_->offset * 5 + 1;
    }

    template <class Act>
    void apart(Act act) {
        together(act);
    }

    template <class T>
    static void add(T& place, T value) {
        place += value;
    }
    static u32 take(u32& place) { return place++; }
    static void raise(u32& place, u32 value) { place = value > place ? value : place; }

private:
    Blocks* blocks_;
};

/// The threads of a team as fibers.
class Fibers {
public:
    Fibers(Blocks& blocks, const Work& work, u32 row, u32 seed)
        : blocks_(blocks), work_(work), row_(row), seed_(seed), fibers_(blocks.shared.size() * THREADS) {}

    /// Runs all to their end.
    void run() {
        for (u32 index = 0; index < fibers_.size(); ++index) {
            Fiber& fiber = fibers_[index];
            fiber.stack.reset(new char[STACK]);
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = STACK;
            fiber.context.uc_link = &scheduler_;
            makecontext(&fiber.context, reinterpret_cast<void (*)()>(enter), 0);
        }
        running_ = this;
        std::vector<u32> ready(fibers_.size());
        for (u32 index = 0; index < ready.size(); ++index) ready[index] = index;
        while (!ready.empty()) {
            seed_ = seed_ * 1664525 + 1013904223;
            std::swap(ready[(seed_ >> 8) % ready.size()], ready.back());
            current_ = ready.back();
            ready.pop_back();
            swapcontext(&scheduler_, &fibers_[current_].context);
            release(ready);
        }
        for (const Fiber& fiber : fibers_) stuck |= fiber.at != DONE;
    }

    /// Whether some wait for others who never come.
    bool stuck = false;

private:
    enum At { RUNS, BLOCK, TEAM, DONE };
    struct Fiber {
        ucontext_t context;
        std::unique_ptr<char[]> stack;
        At at = RUNS;
    };

    class Team {
    public:
        Team(Fibers& fibers, u32 index) : fibers_(&fibers), index_(index) {}
        u32 ranks() const { return static_cast<u32>(fibers_->blocks_.shared.size()); }
        u32 begin_of(u32 rank) const { return slice_of(rank, ranks(), fibers_->blocks_.vocab); }
        const Shared& lead() const { return fibers_->blocks_.shared[0]; }
        Shared& own(const Lane& lane) const { return fibers_->blocks_.shared[lane.rank]; }

        template <class Act>
        void apart(Act act) {
            act(lane());
            fibers_->wait(index_, BLOCK);
        }
        template <class Act>
        void together(Act act) {
            act(lane());
            fibers_->wait(index_, TEAM);
        }
        template <class T>
        static void add(T& place, T value) {
            place += value;
        }
        static u32 take(u32& place) { return place++; }
        static void raise(u32& place, u32 value) { place = value > place ? value : place; }

    private:
        Lane lane() const {
            const u32 rank = index_ / THREADS, begin = begin_of(rank);
            return {index_ % THREADS, rank, fibers_->blocks_.shared[0], fibers_->blocks_.keys + begin, begin, begin_of(rank + 1)};
        }
        Fibers* fibers_;
        u32 index_;
    };

    static void enter() {
        const u32 index = running_->current_;
        sample_row(Team(*running_, index), running_->work_, running_->row_);
        running_->fibers_[index].at = DONE;
    }

    void wait(u32 index, At at) {
        fibers_[index].at = at;
        swapcontext(&fibers_[index].context, &scheduler_);
    }

    /// Makes those ready whose barrier is complete.
    void release(std::vector<u32>& ready) {
        const u32 rank = current_ / THREADS;
        release(ready, BLOCK, rank * THREADS, (rank + 1) * THREADS);
        release(ready, TEAM, 0, static_cast<u32>(fibers_.size()));
    }
    void release(std::vector<u32>& ready, At at, u32 begin, u32 end) {
        for (u32 index = begin; index < end; ++index) {
            if (fibers_[index].at != at) return;
        }
        for (u32 index = begin; index < end; ++index) {
            fibers_[index].at = RUNS;
            ready.push_back(index);
        }
    }

    static constexpr size_t STACK = 32768;
    static inline Fibers* running_ = nullptr;
    Blocks& blocks_;
    const Work& work_;
    u32 row_, seed_, current_ = 0;
    std::vector<Fiber> fibers_;
    ucontext_t scheduler_;
};

extern "C" {

/// Draws the rows of one launch, each thread a fiber. Gives how many rows got stuck in a barrier.
u32 sample_apart(const Work* work, u32 rows, u32 ranks, u32 order) {
    u32 stuck = 0;
    for (u32 row = 0; row < rows; ++row) {
        Blocks blocks(ranks, *work, row, order + row);
        Fibers fibers(blocks, *work, row, order + row);
        fibers.run();
        stuck += fibers.stuck;
    }
    return stuck;
}

/// Draws the rows of one launch. `order`: in which order the threads of a phase act.
void sample_rows(const Work* work, u32 rows, u32 ranks, u32 order) {
    for (u32 row = 0; row < rows; ++row) {
        Blocks blocks(ranks, *work, row, order + row);
        sample_row(HostTeam(blocks), *work, row);
    }
}

// The pieces of arithmetic, for tests that need no row.
u32 threads() { return THREADS; }
u32 shared_bytes() { return sizeof(Shared); }
u32 weight_of(float logit, float peak, float inverse) { return Scale{peak, inverse}.weight(key_of(logit)); }
u32 key_of_logit(float logit) { return key_of(logit); }
float half_of(u32 bits) { return widened(F16, bits); }
u64 high_half(u64 a, u64 b) { return high_product(a, b); }
u64 part(u64 mass, u64 of) { return part_of(mass, of); }
u32 quotient_of(u64 high, u64 low, u64 divisor) { return quotient(high, low, divisor); }
u64 bits_of(u64 seed, u32 position, u32 choice) { return random_bits(seed, position, choice); }
}
