// The sampler on a device: one launch draws one token for each row, the same one that the CPU draws for the same logits.
//
//   sample(Work)    grid: rows * ranks blocks of THREADS threads; a cluster has `ranks` of them
//
// ranks is 1 up to compute capability 8.x, and 1 to 8 from 9.0 on, where blocks of a cluster see each other's shared memory.
// Shared memory holds `Shared` and, unless `work.keys` is given, four bytes for each id of the block's slice.
//
// The reference is rust/src/sampler (docs/sampling.md is the contract); cuda/sample.cuh is the algorithm and cuda/numbers.cuh its
// arithmetic. Here stands only what the CPU has no word for. Nothing waits for the host, so a launch can be captured in a graph.
#include "sample.cuh"

#if __CUDA_ARCH__ >= 900
#define HAS_CLUSTERS 1
#else
#define HAS_CLUSTERS 0
#endif

extern __shared__ __align__(16) unsigned char memory[];

/// The threads of this block, and the blocks of its cluster.
class DeviceTeam {
public:
    __device__ DeviceTeam(const Lane& lane, u32 ranks, u32 vocab) : lane_(lane), ranks_(ranks), vocab_(vocab) {}

    __device__ u32 ranks() const { return ranks_; }
    __device__ u32 begin_of(u32 rank) const { return slice_of(rank, ranks_, vocab_); }
    __device__ const Shared& lead() const { return lane_.lead; }

    /// The memory of this thread's block, named so that the compiler knows where it lies.
    __device__ static Shared& own(const Lane&) { return *reinterpret_cast<Shared*>(memory); }

    template <class Act>
    __device__ void apart(Act act) {
        act(lane_);
        __syncthreads();
    }

    template <class Act>
    __device__ void together(Act act) {
        act(lane_);
#if HAS_CLUSTERS
        if (ranks_ > 1) {
            // Not the aligned kind: the threads of a warp may come here one after another.
            asm volatile("barrier.cluster.arrive;\n\tbarrier.cluster.wait;" ::: "memory");
            return;
        }
#endif
        __syncthreads();
    }

    __device__ static void add(u32& place, u32 value) { atomicAdd(&place, value); }
    __device__ static void add(u64& place, u64 value) { atomicAdd(&place, value); }

    /// Counts one up; gives the count before.
    __device__ static u32 take(u32& place) { return atomicAdd(&place, 1); }

    /// Raises a maximum. All threads of a warp come here together.
    __device__ static void raise(u32& place, u32 value) {
        value = __reduce_max_sync(0xFFFFFFFF, value);
        if (threadIdx.x % 32 == 0) atomicMax(&place, value);
    }

private:
    Lane lane_;
    u32 ranks_, vocab_;
};

/// This block's place in its cluster, and the size of that.
__device__ inline u32 cluster_rank() {
    u32 rank = 0;
#if HAS_CLUSTERS
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}

__device__ inline u32 cluster_size() {
    u32 size = 1;
#if HAS_CLUSTERS
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
    return size;
}

/// The same place in the first block's memory.
__device__ inline Shared& leader_of(Shared& own) {
#if HAS_CLUSTERS
    u64 place;
    asm("mapa.u64 %0, %1, %2;" : "=l"(place) : "l"(reinterpret_cast<u64>(&own)), "r"(0));
    return *reinterpret_cast<Shared*>(place);
#else
    return own;
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) sample(const __grid_constant__ Work work) {
    const u32 rank = cluster_rank(), ranks = cluster_size(), row = blockIdx.x / ranks;
    const u32 begin = slice_of(rank, ranks, work.vocab), end = slice_of(rank + 1, ranks, work.vocab);
    Shared& own = *reinterpret_cast<Shared*>(memory);
    u32* keys = work.keys ? work.keys + static_cast<u64>(row) * work.vocab + begin
                          : reinterpret_cast<u32*>(memory + sizeof(Shared));
    sample_row(DeviceTeam({threadIdx.x, rank, leader_of(own), keys, begin, end}, ranks, work.vocab), work, row);
}
