// One row of logits to one token, by a team of threads: the algorithm of cuda/sample.cu.
//
// A team is one block of THREADS threads, or several blocks (`ranks`) that share the row: each holds the keys of a slice of
// the ids, and the first leads. The work is a line of phases. In a phase every thread acts on its own, then all wait:
// `together` for the whole team, `apart` for the threads of each block. What stands between the phases is computed by every thread
// alike, from the leader's memory.
//
// Rules that make it right whatever the order of threads within a phase:
//   - No thread reads in a phase what another writes in it; sums and maxima of integers, which have no order, excepted.
//   - What is read between two phases is not written in the phase that follows.
//   - Memory of another block is read and written only with a `together` between.
// The team is a parameter, so that the tests run the same source on the CPU, the threads of each phase in any order.
#pragma once

#include "numbers.cuh"

#ifndef THREADS
#define THREADS 1024
#endif

constexpr u32 WARPS = THREADS / 32;
constexpr u32 MAX_RANKS = 8;
constexpr u32 BINS = 256;
constexpr u32 GROUPS = 16;
/// Copies of a histogram in a block: neighbours in a warp hardly ever add to the same word.
constexpr u32 COLUMNS = 8;
constexpr u32 MAX_TOLD = 20;
/// Columns hold sums of 16-bit halves in 32 bits: this many tokens cannot overflow them, wherever they fall.
constexpr u32 MAX_VOCAB = 1 << 19;
constexpr u32 NONE = 0xFFFFFFFF;

// --- what the host hands over and gets back (rust/src/cuda.rs packs it, kernels/sample.py launches with it) -------------

/// The parameters of one row, already checked.
struct Input {
    u64 seed;
    /// In parts of 2^32; WHOLE keeps all.
    u64 top_p, typical_p;
    u32 position, choice;
    /// 0 keeps all.
    u32 top_k;
    /// The least weight that min_p keeps, at least 1.
    u32 least;
    /// 1 / temperature.
    float inverse;
    float repetition, frequency, presence;
    /// Where the row's changes lie, and how many.
    u32 first_change, num_changes;
    /// Which mask is the row's, or NONE.
    u32 mask;
    /// How many of the likeliest tokens to tell beside the chosen one's log-probability, or NONE: not even that.
    u32 told;
    /// Not 0: the likeliest token.
    u32 greedy;
    u32 unused;
};

/// How one logit of a row changes. A row names each id once.
struct Change {
    u32 id;
    float bias;
    /// Times the token was drawn.
    u32 count;
    /// Not 0: the repetition penalty applies.
    u32 repeats;
};

/// What log-probabilities of a row are made of: ln p = logit - peak - ln(sum / 2^31), all of the raw row.
struct Told {
    u64 sum;
    float peak, chosen;
    /// The likeliest tokens, best first, ties by lower id.
    u32 ids[MAX_TOLD];
    float logits[MAX_TOLD];
};

/// One launch.
struct Work {
    const void* logits;       // (rows, vocab) of `kind`
    i64 stride;               // elements from one row to the next
    const Input* inputs;      // (rows,)
    const Change* changes;
    const u32* masks;         // (masks, words): one bit for each token, the lowest id in the lowest bit
    u32* keys;                // (rows, vocab) of scratch memory, or null: shared memory holds the keys
    i64* ids;                 // (rows,) drawn tokens
    u32* possible;            // (rows,) 0 where no allowed token had a usable logit: then the id is the lowest allowed one
    Told* told;               // (rows,) or null
    u32 vocab, words, kind, unused;
};

static_assert(sizeof(Input) == 80 && sizeof(Change) == 16 && sizeof(Told) == 176 && sizeof(Work) == 88, "the host knows these sizes");

// --- what the threads share -----------------------------------------------------------------------------------

struct Choice {
    u32 bin;
    /// What is still needed of the bin, and what it holds.
    u64 rest, mass;
};

struct Found {
    u32 piece;
    u64 rest;
};

/// Maxima of a row, each computed at most once.
enum Maximum : u32 { RAW_PEAK, PEAK, LOWEST_ID, MAXIMA };

/// Shared memory of one block; what stands below "leader" counts in the first block alone.
struct Shared {
    u32 low[BINS * COLUMNS], high[BINS * COLUMNS];
    u64 sums[THREADS + WARPS];
    u64 inner[WARPS];
    // leader; `taken` has the bins as they are walked, the largest keys first
    u64 bins[BINS], taken[BINS];
    u64 groups[GROUPS];
    u64 pieces[MAX_RANKS * WARPS];
    u64 totals[MAX_RANKS];
    u64 total;
    Choice choice;
    Found found;
    u32 token;
    u32 maxima[MAXIMA];
    u32 listed;
    u64 list[MAX_TOLD];
};

static_assert(THREADS != 1024 || sizeof(Shared) == 31656, "the host knows this size");

/// A thread, and what it may touch.
struct Lane {
    u32 thread, rank;
    Shared& lead;
    /// Keys of the ids from `begin` to `end`.
    u32* keys;
    u32 begin, end;

    __device__ bool leads() const { return rank == 0; }
    __device__ u32& key(u32 id) const { return keys[id - begin]; }
};

/// The first id of a slice; slices are whole vectors of 16 bytes.
__device__ inline u32 slice_of(u32 rank, u32 ranks, u32 vocab) {
    u32 span = (vocab + ranks - 1) / ranks;
    u32 first = rank * ((span + 7) / 8 * 8);
    return first < vocab ? first : vocab;
}

/// The first id of a piece of a slice: WARPS pieces, in id order.
__device__ inline u32 piece_of(u32 piece, u32 begin, u32 end) {
    u32 size = ((end - begin + WARPS - 1) / WARPS + 31) / 32 * 32;
    u32 first = begin + piece * size;
    return first < end ? first : end;
}

/// Where the sum of a thread lies: one word is left out after each warp's, so that threads that add up a warp's each do not
/// meet in a memory bank.
__device__ inline u32 padded(u32 thread) { return thread + thread / 32; }

// --- what is summed -------------------------------------------------------------------------------------------

/// Where a selection ends: what comes before (key, id) is kept, and that one too. Larger keys come first, then lower ids.
struct Cut {
    u32 key = 0, id = NONE;

    __device__ bool keeps(u32 other, u32 other_id) const { return other > key || (other == key && other_id <= id); }

    /// What both keep.
    __device__ Cut tighter(Cut other) const { return keeps(other.key, other.id) ? other : *this; }
};

enum Unit : u32 {
    /// Every token is one.
    COUNT,
    /// The integer mass of what is kept.
    MASS,
    /// That times the information content; of 64 bits the lower and the upper half, since the sum has 76.
    CONTENT_LOW,
    CONTENT_HIGH,
};

/// What a token counts, and its place in line. One type for all steps: each building block is then compiled once.
struct Measure {
    Unit unit = COUNT;
    Scale scale = {0, 0};
    /// What top_k and top_p keep.
    Cut likeliest;
    /// What min_p keeps.
    u32 least = 1;
    /// Those are first in line whose information content is closest to `mean`; else the likeliest are.
    bool by_content = false;
    u32 mean = 0;
    /// What typical_p keeps.
    Cut closest;
    /// Of tokens with this key alone.
    bool ties = false;
    u32 tie = 0;

    __device__ u32 key(u32 raw) const {
        if (!by_content) return raw;
        u32 content = scale.surprise(raw);
        return ~(content > mean ? content - mean : mean - content);
    }

    __device__ u64 of(u32 raw, u32 id) const {
        if (ties && key(raw) != tie) return 0;
        if (unit == COUNT) return 1;
        if (!likeliest.keeps(raw, id)) return 0;
        u32 weight = scale.weight(raw);
        if (weight < least || (by_content && !closest.keeps(key(raw), id))) return 0;
        if (unit == MASS) return weight;
        u64 content = static_cast<u64>(weight) * scale.surprise(raw);
        return unit == CONTENT_LOW ? content & 0xFFFFFFFF : content >> 32;
    }
};

/// How far to go along a sum: to a number, to a part of 2^32, or to where random bits point.
struct Goal {
    u64 number = 0, part = 0, random = 0;

    /// What must be reached, at least 1.
    __device__ u64 need(u64 total) const { return number ? number : part_of(total, part); }

    /// What must be exceeded.
    __device__ u64 target(u64 total) const { return number ? number - 1 : high_product(random, total); }
};

// --- building blocks ------------------------------------------------------------------------------------------

/// The largest of `of(key, id)` over the row, at least 0.
template <class Team, class Of>
__device__ u32 maximum(Team team, Maximum slot, Of of) {
    team.together([&](const Lane& lane) {
        u32 most = 0;
        for (u32 id = lane.begin + lane.thread; id < lane.end; id += THREADS) {
            u32 value = of(lane.key(id), id);
            most = value > most ? value : most;
        }
        team.raise(lane.lead.maxima[slot], most);
    });
    return team.lead().maxima[slot];
}

/// Sums a row by pieces: the leader then has the sum of each piece, and of each rank.
template <class Team>
__device__ __noinline__ void sum_pieces(Team team, Measure measure) {
    team.apart([&](const Lane& lane) {
        u32 piece = lane.thread / 32;
        u32 last = piece_of(piece + 1, lane.begin, lane.end);
        u64 sum = 0;
        for (u32 id = piece_of(piece, lane.begin, lane.end) + lane.thread % 32; id < last; id += 32) {
            sum += measure.of(lane.key(id), id);
        }
        team.own(lane).sums[padded(lane.thread)] = sum;
    });
    team.together([&](const Lane& lane) {
        if (lane.thread >= WARPS) return;
        u64 sum = 0;
        for (u32 place = 0; place < 32; ++place) sum += team.own(lane).sums[padded(lane.thread * 32 + place)];
        lane.lead.pieces[lane.rank * WARPS + lane.thread] = sum;
    });
    team.apart([&](const Lane& lane) {
        if (!lane.leads() || lane.thread >= team.ranks()) return;
        u64 sum = 0;
        for (u32 piece = 0; piece < WARPS; ++piece) sum += team.own(lane).pieces[lane.thread * WARPS + piece];
        team.own(lane).totals[lane.thread] = sum;
    });
}

/// What `sum_pieces` made of the whole row; for the leader's first thread.
template <class Team>
__device__ u64 total_of(const Team& team, const Shared& own) {
    u64 total = 0;
    for (u32 rank = 0; rank < team.ranks(); ++rank) total += own.totals[rank];
    return total;
}

/// The sum over the row.
template <class Team>
__device__ __noinline__ u64 sum(Team team, Measure measure) {
    sum_pieces(team, measure);
    team.together([&](const Lane& lane) {
        if (lane.leads() && lane.thread == 0) team.own(lane).total = total_of(team, team.own(lane));
    });
    return team.lead().total;
}

/// The first index at which the running sum of `values` exceeds `left`, which becomes what is left before it.
///
/// No branch leaves the loop early, so that the reads need not wait for each other.
__device__ inline u32 walk(const u64* values, u32 count, u64& left) {
    u64 running = 0, before = 0;
    u32 index = 0;
#pragma unroll 16
    for (u32 place = 0; place + 1 < count; ++place) {
        running += values[place];
        if (running <= left) {
            before = running;
            ++index;
        }
    }
    left -= before;
    return index;
}

/// The first id, in id order, at which the running sum exceeds the goal's target.
template <class Team>
__device__ __noinline__ u32 seek(Team team, Measure measure, Goal goal) {
    sum_pieces(team, measure);
    team.together([&](const Lane& lane) {
        if (!lane.leads() || lane.thread != 0) return;
        u64 left = goal.target(total_of(team, team.own(lane)));
        u32 rank = walk(team.own(lane).totals, team.ranks(), left);
        u32 piece = walk(team.own(lane).pieces + rank * WARPS, WARPS, left);
        team.own(lane).found = {rank * WARPS + piece, left};
    });
    // The block that holds the piece cuts it once more: each thread has a few neighbouring ids.
    const Found found = team.lead().found;
    const u32 rank = found.piece / WARPS, piece = found.piece % WARPS;
    const u32 begin = team.begin_of(rank), end = team.begin_of(rank + 1);
    const u32 first = piece_of(piece, begin, end), last = piece_of(piece + 1, begin, end);
    const u32 each = (last - first + THREADS - 1) / THREADS;
    team.apart([&](const Lane& lane) {
        if (lane.rank != rank) return;
        u64 sum = 0;
#pragma unroll 1
        for (u32 id = first + lane.thread * each; id < first + (lane.thread + 1) * each && id < last; ++id) {
            sum += measure.of(lane.key(id), id);
        }
        team.own(lane).sums[padded(lane.thread)] = sum;
    });
    team.apart([&](const Lane& lane) {
        if (lane.rank != rank || lane.thread >= WARPS) return;
        u64 sum = 0;
        for (u32 place = 0; place < 32; ++place) sum += team.own(lane).sums[padded(lane.thread * 32 + place)];
        team.own(lane).inner[lane.thread] = sum;
    });
    team.together([&](const Lane& lane) {
        if (lane.rank != rank || lane.thread != 0) return;
        u64 left = found.rest;
        u32 warp = walk(team.own(lane).inner, WARPS, left);
        u32 place = walk(team.own(lane).sums + padded(warp * 32), 32, left);
        u32 id = first + (warp * 32 + place) * each;
#pragma unroll 1
        for (; id + 1 < last; ++id) {
            u64 mass = measure.of(lane.key(id), id);
            if (left < mass) break;
            left -= mass;
        }
        lane.lead.token = id;
    });
    return team.lead().token;
}

/// The fewest tokens whose sum reaches the goal's need, taken by falling `measure.key`, ties by lower id.
///
/// Eight bits of the key a round: a histogram of what shares the bits found so far, and the bin at which the need is
/// reached. What is left when all bits are found has one key, and is taken in id order.
template <class Team>
__device__ __noinline__ Cut select(Team team, Measure measure, Goal goal) {
    u32 prefix = 0;
    u64 rest = 0, mass = 0;
    for (u32 shift = 32; shift > 0;) {
        const bool first = shift == 32;
        shift -= 8;
        team.apart([&](const Lane& lane) {
            for (u32 id = lane.begin + lane.thread; id < lane.end; id += THREADS) {
                u32 raw = lane.key(id), key = measure.key(raw);
                if (!first && key >> (shift + 8) != prefix) continue;
                u32 weight = static_cast<u32>(measure.of(raw, id));
                if (weight == 0) continue;
                u32 place = (key >> shift & (BINS - 1)) * COLUMNS + lane.thread % COLUMNS;
                team.add(team.own(lane).low[place], weight & 0xFFFF);
                if (weight >> 16) team.add(team.own(lane).high[place], weight >> 16);
            }
        });
        team.together([&](const Lane& lane) {
            for (u32 bin = lane.thread; bin < BINS; bin += THREADS) {
                u64 sum = 0;
                for (u32 place = bin * COLUMNS; place < (bin + 1) * COLUMNS; ++place) {
                    sum += team.own(lane).low[place] + (static_cast<u64>(team.own(lane).high[place]) << 16);
                    team.own(lane).low[place] = team.own(lane).high[place] = 0;
                }
                if (sum) team.add(lane.lead.bins[bin], sum);
            }
        });
        team.apart([&](const Lane& lane) {
            if (!lane.leads()) return;
            for (u32 bin = lane.thread; bin < BINS; bin += THREADS) {
                team.own(lane).taken[BINS - 1 - bin] = team.own(lane).bins[bin];
                team.own(lane).bins[bin] = 0;
            }
        });
        team.apart([&](const Lane& lane) {
            if (!lane.leads() || lane.thread >= GROUPS) return;
            u64 sum = 0;
            for (u32 bin = 0; bin < BINS / GROUPS; ++bin) sum += team.own(lane).taken[lane.thread * (BINS / GROUPS) + bin];
            team.own(lane).groups[lane.thread] = sum;
        });
        team.together([&](const Lane& lane) {
            if (!lane.leads() || lane.thread != 0) return;
            Shared& own = team.own(lane);
            u64 left = rest - 1;
            if (first) {
                u64 total = 0;
                for (u32 group = 0; group < GROUPS; ++group) total += own.groups[group];
                left = goal.need(total) - 1;
            }
            const u32 group = walk(own.groups, GROUPS, left);
            const u32 place = group * (BINS / GROUPS) + walk(own.taken + group * (BINS / GROUPS), BINS / GROUPS, left);
            own.choice = {BINS - 1 - place, left + 1, own.taken[place]};
        });
        const Choice choice = team.lead().choice;
        prefix = prefix << 8 | choice.bin;
        rest = choice.rest;
        mass = choice.mass;
        if (rest == mass) return {prefix << shift, NONE};
    }
    if (!measure.by_content) {
        // Tokens of one logit weigh the same, and one that is needed in part is needed: mostly there is but one.
        const u32 each = measure.unit == COUNT ? 1 : measure.scale.weight(prefix);
        if ((rest + each - 1) / each * each == mass) return {prefix, NONE};
    }
    measure.ties = true;
    measure.tie = prefix;
    return {prefix, seek(team, measure, {rest, 0, 0})};
}

// --- the steps of a row -------------------------------------------------------------------------------------------

/// Sixteen bytes of a row.
struct alignas(16) Quad {
    u32 words[4];
};

/// Reads the ids of a slice into keys; gives the largest.
template <Kind KIND>
__device__ __noinline__ u32 load_slice(Lane lane, const void* row) {
    constexpr u32 PER = 16 / size_of(KIND);
    u32 most = 0;
    auto put = [&](u32 id, float logit) {
        u32 key = key_of(logit);
        lane.key(id) = key;
        most = key > most ? key : most;
    };
    const bool aligned = reinterpret_cast<u64>(row) % 16 == 0;
    const u32 quads = aligned ? (lane.end - lane.begin) / PER : 0;
    const Quad* from = static_cast<const Quad*>(row) + lane.begin / PER;
#pragma unroll 2
    for (u32 index = lane.thread; index < quads; index += THREADS) {
        const Quad quad = from[index];
        for (u32 place = 0; place < PER; ++place) {
            u32 bits = KIND == F32 ? quad.words[place] : quad.words[place / 2] >> place % 2 * 16 & 0xFFFF;
            put(lane.begin + index * PER + place, bounded(widened(KIND, bits)));
        }
    }
    for (u32 id = lane.begin + quads * PER + lane.thread; id < lane.end; id += THREADS) put(id, logit_at(KIND, row, id));
    return most;
}

/// Reads the row into keys; gives the largest.
template <class Team>
__device__ u32 load(Team team, u32 kind, const void* row) {
    team.together([&](const Lane& lane) {
        u32 most = kind == F32   ? load_slice<F32>(lane, row)
                   : kind == F16 ? load_slice<F16>(lane, row)
                                 : load_slice<BF16>(lane, row);
        team.raise(lane.lead.maxima[RAW_PEAK], most);
    });
    return team.lead().maxima[RAW_PEAK];
}

/// The raw distribution and its likeliest tokens, taken before anything is changed.
template <class Team>
__device__ __noinline__ void tell(Team team, u32 wanted, u32 peak, Told& told) {
    Measure raw;
    Cut cut = {NONE, 0};
    if (wanted) cut = select(team, raw, {wanted, 0, 0});
    raw.unit = MASS;
    raw.scale = {logit_of(peak), 1};
    const u64 mass = sum(team, raw);
    team.together([&](const Lane& lane) {
        for (u32 id = lane.begin + lane.thread; id < lane.end; id += THREADS) {
            u32 key = lane.key(id);
            if (cut.keeps(key, id)) lane.lead.list[team.take(lane.lead.listed)] = static_cast<u64>(key) << 32 | ~id;
        }
    });
    team.apart([&](const Lane& lane) {
        if (!lane.leads()) return;
        if (lane.thread == 0) {
            told.sum = mass;
            told.peak = raw.scale.peak;
        }
        // The list has no order of its own: each entry counts those before it.
        if (lane.thread >= wanted) return;
        const u64 entry = team.own(lane).list[lane.thread];
        u32 rank = 0;
        for (u32 other = 0; other < wanted; ++other) rank += team.own(lane).list[other] > entry;
        told.ids[rank] = ~static_cast<u32>(entry);
        told.logits[rank] = logit_of(static_cast<u32>(entry >> 32));
    });
}

/// Bias, then repetition, then frequency, then presence, each rounded to float32.
__device__ inline float changed(float logit, const Change& change, const Input& input) {
    logit = logit + change.bias;
    if (change.repeats) logit = logit > 0.0f ? logit / input.repetition : logit * input.repetition;
    if (change.count) {
        logit = logit - static_cast<float>(change.count) * input.frequency;
        logit = logit - input.presence;
    }
    return logit;
}

__device__ inline bool allowed(const u32* mask, u32 id) { return mask[id / 32] >> id % 32 & 1; }

/// Changes the keys that bias, penalties and mask name.
template <class Team>
__device__ __noinline__ void change(Team team, const Work& work, const Input& input, const void* row, const u32* mask) {
    team.apart([&](const Lane& lane) {
        for (u32 index = lane.thread; index < input.num_changes; index += THREADS) {
            const Change one = work.changes[input.first_change + index];
            if (one.id < lane.begin || one.id >= lane.end) continue;
            lane.key(one.id) = key_of(bounded(changed(logit_at(work.kind, row, one.id), one, input)));
        }
    });
    team.apart([&](const Lane& lane) {
        if (!mask) return;
        for (u32 id = lane.begin + lane.thread; id < lane.end; id += THREADS) {
            if (!allowed(mask, id)) lane.key(id) = IMPOSSIBLE;
        }
    });
}

/// The token of a row whose likeliest has the key `peak`.
template <class Team>
__device__ __noinline__ u32 choose(Team team, const Input& input, u32 vocab, u32 peak) {
    // The lowest id is the largest complement.
    if (input.greedy) return ~maximum(team, LOWEST_ID, [&](u32 key, u32 id) { return key == peak ? ~id : 0; });

    Measure kept;
    for (u32 step = 0; step < 3; ++step) {
        Goal goal;
        if (step == 0) {  // top_k
            if (input.top_k == 0 || input.top_k >= vocab) continue;
            goal.number = input.top_k;
        } else if (step == 1) {  // top_p
            kept.unit = MASS;
            kept.scale = {logit_of(peak), input.inverse};
            if (input.top_p == WHOLE) continue;
            goal.part = input.top_p;
        } else {  // min_p, typical_p
            kept.least = input.least;
            if (input.typical_p == WHOLE) continue;
            // The mean of the information content is the entropy but for what cancels.
            u64 sums[3];
            for (u32 part = 0; part < 3; ++part) {
                kept.unit = static_cast<Unit>(MASS + part);
                sums[part] = sum(team, kept);
            }
            kept.unit = MASS;
            kept.mean = quotient(sums[2], sums[1], sums[0]);
            kept.by_content = true;
            goal.part = input.typical_p;
        }
        const Cut cut = select(team, kept, goal);
        if (kept.by_content) {
            kept.closest = cut;
        } else {
            kept.likeliest = kept.likeliest.tighter(cut);
        }
    }
    return seek(team, kept, {0, 0, random_bits(input.seed, input.position, input.choice)});
}

/// Draws the token of one row. Every thread of the team comes here, and leaves when the row is done.
template <class Team>
__device__ void sample_row(Team team, const Work& work, u32 index) {
    const Input& input = work.inputs[index];
    const void* row = static_cast<const char*>(work.logits) + static_cast<i64>(index) * work.stride * size_of(work.kind);
    const u32* mask = input.mask == NONE ? nullptr : work.masks + static_cast<u64>(input.mask) * work.words;
    Told* told = input.told == NONE ? nullptr : work.told + index;

    team.together([&](const Lane& lane) {
        for (u32 place = lane.thread; place < BINS * COLUMNS; place += THREADS) team.own(lane).low[place] = team.own(lane).high[place] = 0;
        for (u32 bin = lane.thread; bin < BINS; bin += THREADS) team.own(lane).bins[bin] = 0;
        if (lane.thread < MAXIMA) team.own(lane).maxima[lane.thread] = 0;
        if (lane.thread == 0) team.own(lane).listed = 0;
    });
    u32 peak = load(team, work.kind, row);
    if (told) tell(team, input.told < work.vocab ? input.told : work.vocab, peak, *told);
    if (input.num_changes || mask) {
        change(team, work, input, row, mask);
        peak = maximum(team, PEAK, [](u32 key, u32) { return key; });
    }
    const bool possible = peak > IMPOSSIBLE;
    u32 id = 0;
    if (possible) {
        id = choose(team, input, work.vocab, peak);
    } else if (mask) {
        u32 lowest = maximum(team, LOWEST_ID, [&](u32, u32 id) { return allowed(mask, id) ? ~id : 0; });
        id = lowest ? ~lowest : 0;
    }
    team.together([&](const Lane& lane) {
        if (!lane.leads() || lane.thread != 0) return;
        work.ids[index] = id;
        work.possible[index] = possible;
        if (told) told->chosen = logit_of(key_of(logit_at(work.kind, row, id)));
    });
}
