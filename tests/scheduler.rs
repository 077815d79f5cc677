//! Random lives against a naive model: whatever happens to the other sequences, each one draws what it would
//! have drawn alone.
//!
//! The model executes every batch on a toy memory, with one layer for each group. In a layer the value of a position is a
//! hash of the position before it, of the first one in the layer's window, of what the layer before computed of the
//! position, and of the way it is computed: in which cell of a prompt, or on its own; where positions look forwards, also of
//! the last one that they see. So a block
//! shared too early, written twice, freed too soon or cut at another place shows as another token. Steps are executed when
//! they are committed, in their order, and an abandoned step leaves garbage behind.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

use ecocore::batch::{Batch, BatchRow};
use ecocore::error::Error;
use ecocore::sampled::SampledTokens;
use ecocore::scheduler::{GroupConfig, Owner, Scheduler, SchedulerConfig, StepLimits};
use proptest::collection::vec;
use proptest::prelude::*;

/// Tokens that end a sequence, of `VOCAB`.
const END_TOKENS: u32 = 2;
const VOCAB: u32 = 17;

// --- the toy model ------------------------------------------------------------------------------------------

/// Mixes `values` well enough that two different histories do not meet.
fn mix(values: &[u64]) -> u64 {
    values.iter().fold(0x9E37_79B9_7F4A_7C15, |hash: u64, &value| {
        let hash = (hash ^ value).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (hash ^ (hash >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    })
}

/// A prompt as the toy model computes it.
#[derive(Clone, Copy)]
struct Shape<'a> {
    prompt_length: u32,
    whole: &'a [Range<u32>],
    block_size: u32,
}

/// The last point at `position` or before it where a chunk may begin: on the grid, or with a span that is whole.
fn edge_before(position: u32, block_size: u32, whole: &[Range<u32>]) -> u32 {
    let spans = whole.iter().map(|span| span.start).filter(|&start| start <= position);
    spans.chain([position - position % block_size]).max().unwrap_or(0)
}

impl Shape<'_> {
    /// The cell in which a chunk computes a position of its prompt, as far as the chunk has it. Cells lie between points of the
    /// grid and both ends of spans: how positions are computed that see each other is told by nothing behind them.
    fn cell(&self, position: u32, chunk: &Range<u32>) -> Range<u32> {
        let ends = self.whole.iter().map(|span| span.end).filter(|&end| end <= position);
        let start = edge_before(position, self.block_size, self.whole).max(ends.max().unwrap_or(0));
        let points = self.whole.iter().flat_map(|span| [span.start, span.end]);
        let points = points.chain([start - start % self.block_size + self.block_size]);
        let end = points.filter(|&point| point > position).min().unwrap_or(u32::MAX);
        start.max(chunk.start)..end.min(chunk.end).min(self.prompt_length)
    }
}

/// Computes `positions` of a sequence in one layer, whose memory is reached through `at`. `inputs`: of these positions, from
/// the layer before or the tokens; they become the outputs. Prefill and decode differ in their bits.
fn compute(
    positions: Range<u32>,
    inputs: &mut [u64],
    window: Option<u32>,
    shape: Shape<'_>,
    mut at: impl FnMut(u32, Option<u64>) -> u64,
) {
    let Shape { prompt_length, whole, .. } = shape;
    let forwards = |position: u32| {
        let span = whole.iter().find(|span| window.is_some() && span.contains(&position))?;
        Some((span.end - 1).checked_sub(positions.start).expect("the end of a span is not behind") as usize)
    };
    let last_seen: Vec<u64> =
        positions.clone().map(|position| forwards(position).map_or(0, |last| inputs[last])).collect();
    for ((position, input), last) in positions.clone().zip(inputs).zip(last_seen) {
        let seen = seen_from(position, window).map(|seen| seen.map_or(0, |seen| at(seen, None)));
        let cell = if position < prompt_length { shape.cell(position, &positions) } else { 0..0 };
        let way = [u64::from(position), u64::from(cell.start), u64::from(cell.end)];
        *input = at(position, Some(mix(&[&[seen[0], seen[1], *input, last], &way[..]].concat())));
    }
}

/// The position before `position` and the first one of its window; None before the start.
fn seen_from(position: u32, window: Option<u32>) -> [Option<u32>; 2] {
    let first = first_seen(position, window);
    [position.checked_sub(1).filter(|&before| before >= first), Some(first).filter(|&first| first < position)]
}

/// The first position that `position` sees.
fn first_seen(position: u32, window: Option<u32>) -> u32 {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// The draw after a position: a function of what was computed and of the index of the draw.
fn draw(value: u64, output_index: u32) -> u32 {
    (mix(&[value, u64::from(output_index)]) % u64::from(VOCAB)) as u32
}

/// What a sequence draws when it is alone, computed from its definition.
fn drawn_alone(life: &Life, config: &SchedulerConfig) -> Vec<u32> {
    let SchedulerConfig { groups, block_size, .. } = config;
    let shape =
        Shape { prompt_length: life.prompt.len() as u32, whole: &life.whole, block_size: *block_size };
    let mut layers = vec![Vec::new(); groups.len()];
    let mut drawn = Vec::new();
    let mut tokens = life.prompt.clone();
    loop {
        let mut values: Vec<u64> = tokens.iter().map(|&token| u64::from(token)).collect();
        for (group, memory) in groups.iter().zip(&mut layers) {
            let start = memory.len() as u32;
            let at = |position: u32, value: Option<u64>| {
                memory.extend(value);
                memory[position as usize]
            };
            compute(start..start + tokens.len() as u32, &mut values, group.window, shape, at);
        }
        let token = draw(values[values.len() - 1], drawn.len() as u32);
        drawn.push(token);
        if token < END_TOKENS || drawn.len() as u32 == life.max_tokens {
            return drawn;
        }
        tokens = vec![token];
    }
}

// --- scripts ------------------------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Op {
    /// A prompt of `length` tokens: those of its family up to `fork`, its own after it. What the last tenant says has
    /// spans that are whole.
    Submit {
        family: u32,
        fork: u32,
        length: u32,
        max_tokens: u32,
        tenant: u8,
        key: u64,
        priority: u32,
    },
    /// Cancels one of all sequences ever submitted.
    Cancel(usize),
    /// With so many tokens of prompts at most, and without some of all sequences ever submitted.
    Schedule {
        prompt_tokens: u32,
        held: Vec<usize>,
    },
    Commit,
    /// Abandons one of the steps in flight.
    Abandon(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let whose = (0..3u8, 0..3u64, prop_oneof![3 => Just(0), 1 => 0..2u32]);
    let submit = (0..2u32, 0..24u32, 1..24u32, 1..12u32, whose).prop_map(
        |(family, fork, length, max_tokens, (tenant, key, priority))| Op::Submit {
            family,
            fork,
            length,
            max_tokens,
            tenant,
            key,
            priority,
        },
    );
    let limited = (0..24u32, vec(any::<usize>(), 0..3))
        .prop_map(|(prompt_tokens, held)| Op::Schedule { prompt_tokens, held });
    prop_oneof![
        6 => submit,
        1 => any::<usize>().prop_map(Op::Cancel),
        12 => Just(Op::schedule()),
        4 => limited,
        12 => Just(Op::Commit),
        1 => any::<usize>().prop_map(Op::Abandon),
    ]
}

impl Op {
    /// A step without limits of its own.
    fn schedule() -> Self {
        Self::Schedule { prompt_tokens: u32::MAX, held: vec![] }
    }
}

fn config() -> impl Strategy<Value = SchedulerConfig> {
    let full = (2..24u32).prop_map(|num_blocks| GroupConfig { num_blocks, window: None });
    let sliding = || {
        let group = |(num_blocks, window)| GroupConfig { num_blocks, window: Some(window) };
        (2..16u32, 1..20u32).prop_map(group)
    };
    let groups = prop_oneof![
        4 => full.clone().prop_map(|full| vec![full]),
        2 => sliding().prop_map(|sliding| vec![sliding]),
        4 => (full.clone(), sliding()).prop_map(|(full, sliding)| vec![full, sliding]),
        1 => (full, sliding(), sliding()).prop_map(|(full, one, other)| vec![full, one, other]),
    ];
    let sizes = (1..6u32, 1..7usize, 1..24u32, 1..8usize, 0..3usize);
    (sizes, prop::bool::weighted(0.8), groups).prop_map(
        |((block_size, max_sequences, max_batch_tokens, max_waiting, reserved), prefix_caching, groups)| {
            SchedulerConfig {
                groups,
                block_size,
                max_sequences,
                reserved_sequences: reserved.min(max_sequences - 1),
                max_batch_tokens,
                max_waiting,
                prefix_caching,
            }
        },
    )
}

fn prompt(family: u32, fork: u32, length: u32, id: u64) -> Vec<u32> {
    // Few different tokens, so that equal blocks follow unequal beginnings.
    let token = |owner: u64, position: u32| (mix(&[owner, u64::from(position)]) % 2) as u32;
    (0..length).map(|i| token(if i < fork { u64::from(family) } else { id + 100 }, i)).collect()
}

/// Spans of a prompt that no chunk may cut. As with images, what names a prefix tells them too: the salt.
fn spans(tenant: u8, length: u32) -> Vec<Range<u32>> {
    let spans = if tenant == 2 { vec![2..5, 7..13, 13..15, 20..22] } else { vec![] };
    spans.into_iter().filter(|span| span.end <= length).collect()
}

/// A prompt whose spans read alike wherever it forks, since all of their positions see the last one.
fn prompt_with(whole: &[Range<u32>], mut prompt: Vec<u32>) -> Vec<u32> {
    whole.iter().for_each(|span| prompt[span.start as usize..span.end as usize].fill(5));
    prompt
}

// --- the model ----------------------------------------------------------------------------------------------

/// What the model knows of a sequence that has not ended.
#[derive(Debug)]
struct Life {
    prompt: Vec<u32>,
    whole: Vec<Range<u32>>,
    max_tokens: u32,
    tenant: u8,
    key: u64,
    priority: u32,
    /// Committed draws.
    drawn: Vec<u32>,
    /// The next position to be scheduled, since it was last admitted.
    next: u32,
    /// Draws scheduled so far.
    draws: u32,
    has_run: bool,
}

struct World {
    scheduler: Scheduler,
    config: SchedulerConfig,
    lives: HashMap<u64, Life>,
    /// Not yet run, in order of submission.
    queue: VecDeque<u64>,
    in_flight: VecDeque<Batch>,
    /// Of each group.
    memory: Vec<Vec<u64>>,
    /// Tokens of steps in flight and later, as a device would keep them: the newest draws of each sequence.
    device_tokens: HashMap<u64, HashMap<u32, u32>>,
    finished: HashMap<u64, Vec<u32>>,
    next_id: u64,
    trace: Vec<Batch>,
}

impl World {
    fn new(config: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config.clone()).unwrap(),
            memory: config
                .groups
                .iter()
                .map(|group| vec![0xDEAD; (group.num_blocks * config.block_size) as usize])
                .collect(),
            config,
            lives: HashMap::new(),
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            device_tokens: HashMap::new(),
            finished: HashMap::new(),
            next_id: 0,
            trace: Vec::new(),
        }
    }

    fn apply(&mut self, op: &Op, depth: usize) {
        match *op {
            Op::Submit { family, fork, length, max_tokens, tenant, key, priority } => {
                let whole = spans(tenant, length);
                let prompt = prompt_with(&whole, prompt(family, fork, length, self.next_id));
                let owner = Owner { salt: &[tenant, whole.len() as u8], key, priority };
                self.submit(prompt, whole, max_tokens, tenant, owner);
            }
            Op::Cancel(choice) if self.next_id > 0 => self.cancel(choice as u64 % self.next_id),
            Op::Schedule { prompt_tokens, ref held } if self.in_flight.len() < depth => {
                let held = held.iter().map(|&choice| choice as u64 % self.next_id.max(1)).collect::<Vec<_>>();
                self.schedule(StepLimits { prompt_tokens, held: &held });
            }
            Op::Commit => self.commit(),
            Op::Abandon(choice) if !self.in_flight.is_empty() => self.abandon(choice % self.in_flight.len()),
            _ => {}
        }
        self.scheduler.check_integrity().unwrap();
        assert_eq!(self.scheduler.has_work(), !self.lives.is_empty() || !self.in_flight.is_empty());
    }

    fn submit(
        &mut self,
        prompt: Vec<u32>,
        whole: Vec<Range<u32>>,
        max_tokens: u32,
        tenant: u8,
        owner: Owner<'_>,
    ) {
        let id = self.next_id;
        let tokens = prompt.len() as u32 + max_tokens;
        // Behind a window a sequence may be longer than the pool; how long, the scheduler says itself.
        let lacks = |group: &GroupConfig| tokens > group.num_blocks * self.config.block_size;
        let too_long = self.config.groups.iter().any(|group| group.window.is_none() && lacks(group));
        let may_be_too_long = self.config.groups.iter().any(lacks);
        let full = self.scheduler.stats().waiting >= self.config.max_waiting;
        let mut result = self.scheduler.submit(id, prompt.clone(), max_tokens as usize, owner);
        if result.is_ok() {
            result = self.scheduler.keep_whole(id, whole.clone());
        }
        if too_long || matches!(result, Err(Error::ContextLengthExceeded { .. })) {
            assert!(may_be_too_long && matches!(result, Err(Error::ContextLengthExceeded { .. })));
        } else if full {
            assert_eq!(result, Err(Error::QueueFull { limit: self.config.max_waiting }));
        } else {
            result.unwrap();
            self.queue.push_back(id);
            let Owner { key, priority, .. } = owner;
            let (drawn, next, draws, has_run) = (vec![], 0, 0, false);
            let life = Life { prompt, whole, max_tokens, tenant, key, priority, drawn, next, draws, has_run };
            self.lives.insert(id, life);
            self.next_id += 1;
        }
    }

    fn cancel(&mut self, id: u64) {
        let lived = self.lives.remove(&id).is_some();
        self.queue.retain(|&other| other != id);
        assert_eq!(self.scheduler.cancel(id), lived);
        assert!(!self.scheduler.cancel(id), "a sequence ends once");
    }

    fn schedule(&mut self, limits: StepLimits<'_>) {
        let Some(batch) = self.scheduler.schedule_within(limits) else {
            assert!(
                self.lives.is_empty() || !self.in_flight.is_empty() || !limits.held.is_empty(),
                "sequences live, no step is in flight, none is held, and none can be scheduled"
            );
            return;
        };
        assert!(
            batch.rows.iter().all(|row| !limits.held.contains(&row.sequence_id)),
            "held back, and yet there"
        );
        let prompt_tokens =
            limits.prompt_tokens.max(self.config.block_size).saturating_add(self.uncut(&batch));
        let decodes =
            batch.rows.iter().any(|row| row.samples && row.length == 1 && row.start >= row.prompt_length);
        assert!(!decodes || batch.num_prompt_tokens() <= prompt_tokens, "more of prompts than was allowed");
        self.check_sizes(&batch);
        self.check_order_of_admission(&batch);
        let mut offset = 0;
        for (index, row) in batch.rows.iter().enumerate() {
            let tokens = offset..offset + row.length as usize;
            offset = tokens.end;
            self.check_row(&batch, index, row, tokens);
        }
        assert_eq!(offset, batch.token_ids.len());
        self.check_sharing(&batch);
        self.trace.push(batch.clone());
        self.in_flight.push_back(batch);
        self.check_sharing_between_tenants();
    }

    fn check_sizes(&self, batch: &Batch) {
        assert_eq!((batch.block_size, batch.num_groups), (self.config.block_size, self.config.groups.len()));
        assert_eq!(batch.block_tables.len(), batch.num_groups * batch.rows.len() * batch.block_table_width);
        assert_eq!(batch.slots.len(), batch.num_groups * batch.token_ids.len());
        let decodes =
            batch.rows.iter().filter(|row| row.samples && row.length == 1 && row.start >= row.prompt_length);
        let bound = self.config.max_batch_tokens.max(decodes.count() as u32 + self.config.block_size);
        let bound = bound + self.uncut(batch);
        assert!(batch.token_ids.len() as u32 <= bound, "{} tokens in a step", batch.token_ids.len());
        assert!(self.scheduler.stats().running <= self.config.max_sequences);
        let distinct: HashSet<_> = batch.rows.iter().map(|row| row.sequence_id).collect();
        assert_eq!(distinct.len(), batch.rows.len(), "one row for each sequence");
    }

    /// How much longer than its budget a step may be because of what it cannot cut.
    fn uncut(&self, batch: &Batch) -> u32 {
        let whole = |row: &BatchRow| self.lives.get(&row.sequence_id).map_or(&[][..], |life| &life.whole);
        let spans = batch.rows.iter().flat_map(whole);
        spans.map(|span| span.len() as u32 + self.config.block_size).max().unwrap_or(0)
    }

    /// First come, first served: who runs for the first time was the first to come of those of its key and priority.
    fn check_order_of_admission(&mut self, batch: &Batch) {
        for row in &batch.rows {
            let life = self.lives.get_mut(&row.sequence_id).expect("only sequences that live are scheduled");
            if !std::mem::replace(&mut life.has_run, true) {
                let alike = (life.key, life.priority);
                let of = |id: &u64| (self.lives[id].key, self.lives[id].priority);
                let first = self.queue.iter().position(|id| of(id) == alike).unwrap();
                assert_eq!(self.queue.remove(first), Some(row.sequence_id));
            }
        }
    }

    /// The row computes the sequence's next positions, with its tokens, in its blocks.
    fn check_row(&mut self, batch: &Batch, index: usize, row: &BatchRow, tokens: std::ops::Range<usize>) {
        let size = self.config.block_size;
        let cached = row.cached_tokens;
        let life = self.lives.get_mut(&row.sequence_id).unwrap();
        let prompt_length = life.prompt.len() as u32;
        let end = row.start + row.length;
        assert!(row.length >= 1 && row.prompt_length == prompt_length);
        if row.start != life.next {
            // It starts anew: admitted for the first time, or after a preemption, behind a prefix from the cache.
            assert!(
                row.start.is_multiple_of(size) && row.start < prompt_length,
                "a hit is of whole blocks, never all"
            );
            assert!(self.config.prefix_caching || row.start == 0);
            assert!(
                self.in_flight.iter().all(|step| step.rows.iter().all(|r| r.sequence_id != row.sequence_id))
            );
            assert!(life.draws > 0 || life.next > 0 || row.start == cached);
        }
        if row.start < prompt_length {
            let is_edge = |position| edge_before(position, size, &life.whole) == position;
            assert!(is_edge(row.start), "cells start on the grid or with a span");
            assert!(end == prompt_length || (end < prompt_length && is_edge(end)), "and end there");
        }
        assert_eq!(
            row.samples,
            end == prompt_length + life.draws,
            "a draw is due at the newest position, once"
        );
        assert!(!row.samples || row.output_index == life.draws);
        life.draws += u32::from(row.samples);
        life.next = end;
        assert!(life.draws <= life.max_tokens && end < prompt_length + life.max_tokens);

        let cuts = |span: &Range<u32>| span.contains(&end) && span.start != end;
        assert!(!life.whole.iter().any(cuts), "a span is cut");
        for (group, config) in self.config.groups.iter().enumerate() {
            let table = table_of(batch, group, index);
            let first = first_seen(row.start, config.window) / size;
            let (known, unused) = table.split_at(end.div_ceil(size) as usize);
            assert!(unused.iter().all(|&block| block == -1));
            assert!(known[first as usize..].iter().all(|&block| block >= 0));
            let slots = &batch.slots[group * batch.token_ids.len()..][tokens.clone()];
            for (position, &slot) in (row.start..end).zip(slots) {
                let block = table[(position / size) as usize];
                assert_eq!(slot, block * i64::from(size) + i64::from(position % size));
            }
        }
        for (position, token) in (row.start..end).zip(tokens) {
            assert_eq!(batch.positions[token], i64::from(position));
            let known = life.prompt.iter().chain(&life.drawn).nth(position as usize);
            assert_eq!(batch.token_ids[token], known.map_or(-1, |&id| i64::from(id)));
        }
    }

    /// A block that is written now is in no other row's table, of this step or of one in flight.
    fn check_sharing(&self, batch: &Batch) {
        let size = i64::from(self.config.block_size);
        for group in 0..batch.num_groups {
            let mut offset = group * batch.token_ids.len();
            for row in &batch.rows {
                let slots = &batch.slots[offset..offset + row.length as usize];
                offset += row.length as usize;
                let written: HashSet<i64> = slots.iter().map(|slot| slot / size).collect();
                for step in self.in_flight.iter().chain([batch]) {
                    for (index, other) in step.rows.iter().enumerate() {
                        let mut visible = self.visible(step, group, index);
                        assert!(
                            other.sequence_id == row.sequence_id
                                || !visible.any(|(_, block)| written.contains(&block)),
                            "a block in use was given away"
                        );
                    }
                }
            }
        }
    }

    /// Two sequences read the same block only at the same place of the same beginning, of the same tenant.
    fn check_sharing_between_tenants(&self) {
        let size = self.config.block_size as usize;
        for group in 0..self.config.groups.len() {
            let mut readers: HashMap<i64, (usize, u8, usize, &[u32])> = HashMap::new();
            for step in &self.in_flight {
                for (index, row) in step.rows.iter().enumerate() {
                    let Some(life) = self.lives.get(&row.sequence_id) else { continue };
                    for (place, block) in self.visible(step, group, index) {
                        let beginning = &life.prompt[..life.prompt.len().min((place + 1) * size)];
                        let reader = (place, life.tenant, life.whole.len(), beginning);
                        assert_eq!(*readers.entry(block).or_insert(reader), reader);
                    }
                }
            }
        }
    }

    /// The blocks that a row looks at, each with its place in the table: a table may still list some behind the window.
    fn visible<'a>(
        &self,
        batch: &'a Batch,
        group: usize,
        row: usize,
    ) -> impl Iterator<Item = (usize, i64)> + use<'a> {
        let first =
            first_seen(batch.rows[row].start, self.config.groups[group].window) / self.config.block_size;
        let table = table_of(batch, group, row).iter().copied().enumerate();
        table.skip(first as usize).filter(|&(_, block)| block >= 0)
    }

    /// Executes the oldest step and hands its tokens in.
    fn commit(&mut self) {
        let Some(batch) = self.in_flight.pop_front() else { return };
        let tokens = self.execute(&batch);
        let mut finished = Vec::new();
        for (&id, &token) in tokens.sequence_ids.iter().zip(&tokens.token_ids) {
            let Some(life) = self.lives.get_mut(&id) else { continue };
            life.drawn.push(token);
            if token < END_TOKENS || life.drawn.len() as u32 == life.max_tokens {
                finished.push(id);
            }
        }
        self.scheduler.commit(batch.ticket, &tokens, &finished).unwrap();
        for id in finished {
            let life = self.lives.remove(&id).unwrap();
            assert_eq!(life.drawn, drawn_alone(&life, &self.config), "company changed sequence {id}");
            self.finished.insert(id, life.drawn);
        }
    }

    /// What the device does: in order, in place, reading what it needs through the row's own block table.
    fn execute(&mut self, batch: &Batch) -> SampledTokens {
        let size = self.config.block_size;
        let mut sampled = SampledTokens::default();
        let mut token = 0;
        for (index, row) in batch.rows.iter().enumerate() {
            let newest = self.device_tokens.entry(row.sequence_id).or_default();
            let positions = row.start..row.start + row.length;
            let mut values = Vec::new();
            for position in positions.clone() {
                values.push(match batch.token_ids[token] {
                    -1 => u64::from(newest[&position]),
                    id => id as u64,
                });
                token += 1;
            }
            // What one that has ended computes is dropped.
            let whole = self.lives.get(&row.sequence_id).map_or(&[][..], |life| &life.whole);
            let shape = Shape { prompt_length: row.prompt_length, whole, block_size: size };
            for (group, memory) in self.memory.iter_mut().enumerate() {
                let table = table_of(batch, group, index);
                let at = |position: u32, value: Option<u64>| {
                    let block = table[(position / size) as usize] as usize;
                    let value_there = &mut memory[block * size as usize + (position % size) as usize];
                    *value_there = value.unwrap_or(*value_there);
                    *value_there
                };
                let window = self.config.groups[group].window;
                compute(positions.clone(), &mut values, window, shape, at);
            }
            if row.samples {
                let id = draw(values[values.len() - 1], row.output_index);
                newest.insert(row.start + row.length, id);
                sampled.sequence_ids.push(row.sequence_id);
                sampled.token_ids.push(id);
                sampled.logprobs.push(None);
            }
        }
        sampled
    }

    fn abandon(&mut self, index: usize) {
        let batch = self.in_flight.remove(index).unwrap();
        self.scheduler.abandon(batch.ticket).unwrap();
        for (memory, slots) in self.memory.iter_mut().zip(batch.slots.chunks(batch.token_ids.len())) {
            slots.iter().for_each(|&slot| memory[slot as usize] = mix(&[batch.ticket, slot as u64]));
        }
        for row in &batch.rows {
            self.lives.remove(&row.sequence_id);
            // What later steps compute of it is dropped, but a device needs some token to go on.
            let newest = self.device_tokens.entry(row.sequence_id).or_default();
            newest.insert(row.start + row.length, 0);
        }
    }

    /// Runs until all have ended: finitely many steps, after which nothing is left behind.
    fn drain(&mut self, depth: usize) {
        let mut steps = 0;
        while self.scheduler.has_work() {
            self.apply(&Op::schedule(), depth);
            if self.in_flight.len() == depth || self.lives.is_empty() || steps % 3 == 0 {
                self.apply(&Op::Commit, depth);
            }
            steps += 1;
            assert!(steps < 20_000, "no end in sight");
        }
        let stats = self.scheduler.stats();
        assert_eq!((stats.waiting, stats.running), (0, 0));
        assert_eq!(stats.free_blocks, stats.total_blocks, "every block comes back");
    }
}

fn table_of(batch: &Batch, group: usize, row: usize) -> &[i64] {
    let first = (group * batch.rows.len() + row) * batch.block_table_width;
    &batch.block_tables[first..][..batch.block_table_width]
}

fn run(config: &SchedulerConfig, script: &[Op], depth: usize) -> World {
    let mut world = World::new(config.clone());
    for op in script {
        world.apply(op, depth);
    }
    world.drain(depth);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn each_sequence_draws_what_it_would_draw_alone(
        config in config(), script in vec(op(), 1..120), depth in 1..4usize
    ) {
        run(&config, &script, depth);
    }

    #[test]
    fn the_same_script_gives_the_same_batches(config in config(), script in vec(op(), 1..60), depth in 1..4usize) {
        prop_assert_eq!(run(&config, &script, depth).trace, run(&config, &script, depth).trace);
    }
}

/// The properties above are worth what their scripts reach: preemption, hits and garbage must all be common.
#[test]
fn scripts_reach_preemptions_and_prefix_hits() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut preempting, mut hitting, mut finishing) = (0, 0, 0);
    for case in 0..400 {
        let (config, script) = (config(), vec(op(), 1..120)).new_tree(&mut runner).unwrap().current();
        let world = run(&config, &script, 1 + case % 3);
        preempting += u32::from(world.scheduler.stats().preemptions > 0);
        hitting += u32::from(world.scheduler.stats().prefix_hits > 0);
        finishing += u32::from(world.finished.len() > 3);
    }
    assert!(preempting > 20 && hitting > 40 && finishing > 60, "{preempting}, {hitting}, {finishing} of 400");
}
