//! The rules one by one; tests/scheduler.rs checks them all at once against a naive model.

mod groups;

use std::ops::Range;

use super::*;
use crate::batch::BatchRow;
use crate::scheduler::Shown;

fn scheduler(num_blocks: u32, change: impl FnOnce(&mut SchedulerConfig)) -> Scheduler {
    let mut config = SchedulerConfig { block_size: 4, ..SchedulerConfig::new(num_blocks) };
    change(&mut config);
    Scheduler::new(config).unwrap()
}

fn prompt(length: u32) -> Vec<u32> {
    (100..100 + length).collect()
}

/// The rows of a step, each as (sequence, positions, whether it samples).
fn rows(batch: &Batch) -> Vec<(u64, Range<u32>, bool)> {
    let row = |row: &BatchRow| (row.sequence_id, row.start..row.start + row.length, row.samples);
    batch.rows.iter().map(row).collect()
}

fn next(scheduler: &mut Scheduler) -> Batch {
    let batch = scheduler.schedule().expect("there is a step");
    scheduler.check_integrity().unwrap();
    batch
}

/// Commits a step in which each row draws token 7.
fn commit(scheduler: &mut Scheduler, batch: &Batch, finished: &[u64]) {
    let sequence_ids: Vec<u64> = batch.sampled_rows().map(|row| row.sequence_id).collect();
    let token_ids = vec![7; sequence_ids.len()];
    let tokens = SampledTokens { sequence_ids, token_ids, logprobs: vec![], failed: vec![], scores: vec![] };
    scheduler.commit(batch.ticket, &tokens, finished).unwrap();
    scheduler.check_integrity().unwrap();
}

/// Schedules and commits one step, and tells its rows.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, Range<u32>, bool)> {
    let batch = next(scheduler);
    commit(scheduler, &batch, &[]);
    rows(&batch)
}

#[test]
fn decodes_go_first_and_prompts_share_what_is_left() {
    let mut scheduler = scheduler(32, |config| config.max_batch_tokens = 16);
    scheduler.submit(1, prompt(3), 9, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(1, 0..3, true)]);

    scheduler.submit(2, prompt(9), 9, b"b").unwrap();
    scheduler.submit(3, prompt(9), 9, b"c").unwrap();
    scheduler.submit(4, prompt(2), 9, b"d").unwrap();

    // 1 + 9 leaves 6: a cell of the third prompt; 2 are left, but the third is not done and goes before the fourth.
    assert_eq!(step(&mut scheduler), [(1, 3..4, true), (2, 0..9, true), (3, 0..4, false)]);
    assert_eq!(step(&mut scheduler), [(1, 4..5, true), (2, 9..10, true), (3, 4..9, true), (4, 0..2, true)]);
}

#[test]
fn a_budget_below_a_block_makes_progress() {
    let mut scheduler = scheduler(8, |config| config.max_batch_tokens = 1);
    scheduler.submit(1, prompt(6), 3, b"").unwrap();
    scheduler.submit(2, prompt(2), 3, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(1, 0..4, false)]);
    assert_eq!(step(&mut scheduler), [(1, 4..6, true), (2, 0..2, true)]);
    assert_eq!(step(&mut scheduler), [(1, 6..7, true)]); // one decode row is the budget
    assert_eq!(step(&mut scheduler), [(1, 7..8, true)]); // the last of three draws
    assert_eq!(step(&mut scheduler), [(2, 2..3, true)]);
}

#[test]
fn the_last_of_max_tokens_ends_a_sequence_by_itself() {
    let mut scheduler = scheduler(8, |_| ());
    scheduler.submit(1, prompt(4), 2, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(1, 0..4, true)]);
    assert_eq!(step(&mut scheduler), [(1, 4..5, true)]);
    assert!(!scheduler.has_work());
    assert_eq!(scheduler.stats().free_blocks, 8);
}

#[test]
fn a_second_prompt_finds_the_blocks_of_the_first_but_never_all_of_it() {
    let mut scheduler = scheduler(16, |_| ());
    scheduler.submit(1, prompt(8), 1, b"").unwrap();
    step(&mut scheduler);

    scheduler.submit(2, prompt(8), 1, b"").unwrap();
    scheduler.submit(3, prompt(9), 1, b"").unwrap();
    scheduler.submit(4, prompt(9), 1, b"somebody else").unwrap();
    assert_eq!(step(&mut scheduler), [(2, 4..8, true), (3, 8..9, true), (4, 0..9, true)]);

    let stats = scheduler.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (8 + 8 + 9 + 9, 4 + 8));
}

#[test]
fn a_prompt_with_another_image_finds_all_blocks_before_it() {
    let mut scheduler = scheduler(64, |_| ());
    let ask = |scheduler: &mut Scheduler, id: u64, shown: &[(u32, &[u8])]| {
        let before = scheduler.stats().prefix_hits;
        scheduler.submit(id, prompt(21), 1, b"").unwrap();
        let shown = shown.iter().map(|&(start, digest)| Shown { start, digest: digest.to_vec() });
        scheduler.show(id, shown.collect());
        step(scheduler);
        scheduler.stats().prefix_hits - before
    };
    for (id, shown, expected) in [
        (1, &[] as &[(u32, &[u8])], 0),
        (2, &[(13, b"cat")], 12), // begins in the fourth block
        (3, &[(13, b"dog")], 12),
        (4, &[(13, b"cat")], 20),
        (5, &[(13, b"cat"), (17, b"dog")], 16), // the conversation goes on with another
        (6, &[(16, b"cat")], 16),
        (7, &[(13, b"dog"), (17, b"dog")], 16),
        (8, &[(1, b"cat")], 0),
        (9, &[(20, b"cat")], 20), // in the block that is never found whole
    ] {
        assert_eq!(ask(&mut scheduler, id, shown), expected, "prompt {id}");
    }
}

#[test]
fn a_prefix_is_offered_only_once_its_step_is_committed() {
    let mut scheduler = scheduler(16, |_| ());
    scheduler.submit(1, prompt(9), 1, b"").unwrap();
    let first = next(&mut scheduler);
    scheduler.submit(2, prompt(9), 1, b"").unwrap();
    let second = next(&mut scheduler);
    assert_eq!(rows(&second), [(2, 0..9, true)]);

    commit(&mut scheduler, &first, &[]);
    scheduler.submit(3, prompt(9), 1, b"").unwrap();
    let third = next(&mut scheduler);
    assert_eq!(rows(&third), [(3, 8..9, true)]);
    assert_eq!(third.rows[0].cached_tokens, 8);
}

#[test]
fn blocks_with_drawn_tokens_are_never_shared() {
    let mut scheduler = scheduler(16, |_| ());
    scheduler.submit(1, prompt(6), 8, b"").unwrap();
    for _ in 0..8 {
        step(&mut scheduler);
    }
    assert!(!scheduler.has_work());
    let mut again = prompt(6);
    again.extend([7; 8]);
    scheduler.submit(2, again, 1, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(2, 4..14, true)]);
}

#[test]
fn the_prefix_freed_longest_ago_is_evicted_first_and_from_its_end() {
    let mut scheduler = scheduler(4, |_| ());
    for (id, salt) in [(1, b"a"), (2, b"b")] {
        scheduler.submit(id, prompt(7), 1, salt).unwrap(); // one full block and a part
        step(&mut scheduler);
    }
    scheduler.submit(3, prompt(11), 1, b"c").unwrap(); // two blank blocks, then the first prefix
    step(&mut scheduler);
    assert_eq!(scheduler.stats().cached_blocks, 3);

    for (id, salt, hit) in [(4, b"b", 4), (5, b"a", 0)] {
        scheduler.submit(id, prompt(7), 2, salt).unwrap();
        let batch = next(&mut scheduler);
        commit(&mut scheduler, &batch, &[]);
        assert_eq!(batch.rows[0].cached_tokens, hit);
        scheduler.cancel(id);
    }
}

#[test]
fn a_preempted_sequence_computes_its_tokens_again_and_draws_none_twice() {
    let mut scheduler = scheduler(4, |config| config.prefix_caching = false);
    scheduler.submit(1, prompt(3), 9, b"").unwrap();
    scheduler.submit(2, prompt(5), 9, b"").unwrap();
    for _ in 0..5 {
        step(&mut scheduler);
    }
    // Both hold 2 blocks, which hold 8 positions: the second sequence needs a third first, then the first one.
    assert_eq!(step(&mut scheduler), [(1, 7..8, true)]);
    let mut others = Vec::new();
    while scheduler.stats().waiting == 0 || scheduler.sequences.find(1).is_some() {
        others.extend(step(&mut scheduler));
    }
    assert_eq!(others, [(1, 8..9, true), (1, 9..10, true), (1, 10..11, true)]);
    assert_eq!(scheduler.stats().preemptions, 1);

    assert_eq!(step(&mut scheduler), [(2, 0..5, false)]); // the prompt, alone in its row, draws nothing
    let batch = next(&mut scheduler);
    assert_eq!(rows(&batch), [(2, 5..9, true)]); // four drawn tokens at once
    assert_eq!((batch.token_ids[3], batch.rows[0].output_index), (7, 4));
}

#[test]
fn a_sequence_without_a_block_stops_later_ones_so_that_one_gives_way() {
    let mut scheduler = scheduler(4, |config| config.prefix_caching = false);
    scheduler.submit(1, prompt(4), 9, b"").unwrap();
    scheduler.submit(2, prompt(9), 3, b"").unwrap();
    let prefill = next(&mut scheduler);
    assert_eq!(scheduler.stats().free_blocks, 0);

    // The first sequence needs a block. The second has one, but a step in flight, so it can neither give way nor go on.
    assert_eq!(scheduler.schedule(), None);
    commit(&mut scheduler, &prefill, &[]);
    let decode = next(&mut scheduler);
    assert_eq!(rows(&decode), [(1, 4..5, true)]);
    assert_eq!(scheduler.stats().preemptions, 1);
}

#[test]
fn a_step_in_flight_keeps_its_blocks_from_others() {
    let mut scheduler = scheduler(2, |_| ());
    scheduler.submit(1, prompt(5), 3, b"").unwrap();
    let first = next(&mut scheduler);
    let second = next(&mut scheduler);
    assert_eq!((rows(&second), second.token_ids[0]), (vec![(1, 5..6, true)], -1));

    assert!(scheduler.cancel(1) && !scheduler.cancel(1));
    scheduler.submit(2, prompt(5), 3, b"").unwrap();
    assert_eq!(scheduler.submit(1, prompt(5), 3, b""), Err(Error::parameter("sequence_id", "1 is in use")));
    assert_eq!(scheduler.schedule(), None);
    commit(&mut scheduler, &first, &[1]);
    assert_eq!(scheduler.schedule(), None);
    commit(&mut scheduler, &second, &[]);
    assert_eq!(rows(&next(&mut scheduler)), [(2, 0..5, true)]);
    scheduler.submit(1, prompt(5), 3, b"").unwrap();
}

#[test]
fn an_abandoned_step_ends_its_sequences_and_leaves_no_prefix() {
    let mut scheduler = scheduler(8, |config| config.max_batch_tokens = 4);
    scheduler.submit(1, prompt(9), 3, b"").unwrap();
    let first = next(&mut scheduler);
    let second = next(&mut scheduler);
    scheduler.abandon(first.ticket).unwrap();
    assert_eq!(scheduler.stats().free_blocks, 5);
    commit(&mut scheduler, &second, &[]);

    assert_eq!((scheduler.has_work(), scheduler.stats().free_blocks), (false, 8));
    scheduler.submit(2, prompt(9), 3, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(2, 0..4, false)]);
    assert!(matches!(scheduler.abandon(first.ticket), Err(Error::Internal(_))));
}

#[test]
fn a_commit_out_of_turn_or_with_foreign_tokens_changes_nothing() {
    let mut scheduler = scheduler(8, |_| ());
    let of = |sequence_ids: &[u64]| SampledTokens {
        sequence_ids: sequence_ids.to_vec(),
        token_ids: vec![7; sequence_ids.len()],
        logprobs: vec![],
        failed: vec![],
        scores: vec![],
    };
    assert!(matches!(scheduler.commit(0, &of(&[]), &[]), Err(Error::Internal(_))));
    scheduler.submit(1, prompt(4), 9, b"").unwrap();
    let (first, second) = (next(&mut scheduler), next(&mut scheduler));

    for (ticket, tokens) in [(second.ticket, of(&[1])), (first.ticket, of(&[2])), (first.ticket, of(&[]))] {
        assert!(matches!(scheduler.commit(ticket, &tokens, &[]), Err(Error::Internal(_))));
    }
    commit(&mut scheduler, &first, &[]);
    commit(&mut scheduler, &second, &[]);
}

#[test]
fn what_can_never_run_is_refused() {
    let mut scheduler = scheduler(2, |config| config.max_waiting = 1);
    assert_eq!(
        scheduler.submit(1, prompt(5), 4, b""),
        Err(Error::ContextLengthExceeded { needed: 9, available: 8 })
    );
    assert!(matches!(
        scheduler.submit(1, prompt(5), usize::MAX, b""),
        Err(Error::ContextLengthExceeded { .. })
    ));
    assert!(matches!(scheduler.submit(1, vec![], 4, b""), Err(Error::InvalidParameter { .. })));
    assert!(matches!(scheduler.submit(1, prompt(5), 0, b""), Err(Error::InvalidParameter { .. })));
    scheduler.submit(1, prompt(5), 3, b"").unwrap();
    assert_eq!(scheduler.submit(2, prompt(5), 3, b""), Err(Error::QueueFull { limit: 1 }));
    assert_eq!(step(&mut scheduler), [(1, 0..5, true)]);
    scheduler.submit(2, prompt(5), 3, b"").unwrap();
}

#[test]
fn a_pool_of_nothing_is_refused() {
    let fault = |change: fn(&mut SchedulerConfig)| {
        let mut config = SchedulerConfig::new(8);
        change(&mut config);
        match Scheduler::new(config) {
            Err(Error::InvalidParameter { name, .. }) => name,
            _ => panic!("a broken configuration was accepted"),
        }
    };
    assert_eq!(fault(|config| config.groups.clear()), "groups");
    assert_eq!(fault(|config| config.groups[0].num_blocks = 0), "num_blocks");
    assert_eq!(fault(|config| config.groups[0].window = Some(0)), "window");
    assert_eq!(fault(|config| config.block_size = 0), "block_size");
    assert_eq!(fault(|config| config.block_size = 1 << 31), "num_blocks");
    assert_eq!(fault(|config| config.max_sequences = 0), "max_sequences");
    assert_eq!(fault(|config| config.reserved_sequences = 64), "reserved_sequences");
    assert_eq!(fault(|config| config.max_batch_tokens = 0), "max_batch_tokens");
    assert_eq!(fault(|config| config.max_waiting = 0), "max_waiting");
}

// --- whose turn it is -----------------------------------------------------------------------------------------

fn of(key: u64) -> Owner<'static> {
    Owner { key, ..Owner::default() }
}

/// Nothing is shared, and a step has little room.
fn alone_and_narrow() -> Scheduler {
    scheduler(64, |config| (config.max_batch_tokens, config.prefix_caching) = (8, false))
}

#[test]
fn a_key_that_asks_for_little_is_admitted_before_what_another_has_waiting() {
    let mut scheduler = alone_and_narrow();
    for id in 0..4 {
        scheduler.submit(id, prompt(8), 9, of(1)).unwrap();
    }
    assert_eq!(step(&mut scheduler), [(0, 0..8, true)]);
    scheduler.submit(10, prompt(8), 9, of(2)).unwrap();
    assert_eq!(step(&mut scheduler)[1..], [(10, 0..4, false)]);
}

#[test]
fn a_long_prompt_of_another_key_does_not_keep_a_short_one_waiting() {
    let mut scheduler = alone_and_narrow();
    scheduler.submit(1, prompt(100), 9, of(1)).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 0..8, false)]);
    scheduler.submit(2, prompt(5), 9, of(2)).unwrap();
    assert_eq!(step(&mut scheduler), [(2, 0..5, true)]);
    assert_eq!(step(&mut scheduler), [(2, 5..6, true), (1, 8..12, false)]);
}

#[test]
fn who_runs_several_gives_way_to_who_runs_none() {
    let mut scheduler = scheduler(64, |config| config.max_sequences = 2);
    scheduler.submit(1, prompt(3), 20, of(1)).unwrap();
    scheduler.submit(2, prompt(3), 20, of(1)).unwrap();
    step(&mut scheduler);
    scheduler.submit(3, prompt(3), 4, of(2)).unwrap();

    assert_eq!(step(&mut scheduler), [(1, 3..4, true), (3, 0..3, true)]);
    assert_eq!(scheduler.stats().preemptions, 1);
    // Two keys run one each: nobody gives way to a third one that had as much.
    scheduler.submit(4, prompt(3), 4, of(3)).unwrap();
    step(&mut scheduler);
    assert_eq!(scheduler.stats().preemptions, 1);
}

#[test]
fn places_are_kept_for_keys_that_run_nothing() {
    let mut scheduler = scheduler(64, |config| (config.max_sequences, config.reserved_sequences) = (3, 1));
    for id in 1..=3 {
        scheduler.submit(id, prompt(3), 20, of(1)).unwrap();
    }
    step(&mut scheduler);
    assert_eq!((scheduler.stats().running, scheduler.stats().waiting), (2, 1));
    scheduler.submit(9, prompt(3), 4, of(2)).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 3..4, true), (2, 3..4, true), (9, 0..3, true)]);
    assert_eq!(scheduler.stats().preemptions, 0);
}

#[test]
fn with_steps_in_flight_who_gives_way_first_pauses() {
    let mut scheduler = scheduler(64, |config| config.max_sequences = 2);
    scheduler.submit(1, prompt(3), 20, of(1)).unwrap();
    scheduler.submit(2, prompt(3), 20, of(1)).unwrap();
    let first = next(&mut scheduler);
    scheduler.submit(3, prompt(3), 4, of(2)).unwrap();
    let second = next(&mut scheduler);
    assert_eq!(rows(&second), [(1, 3..4, true)]); // the second sequence pauses
    commit(&mut scheduler, &first, &[]);
    let third = next(&mut scheduler);
    assert_eq!(rows(&third), [(1, 4..5, true), (3, 0..3, true)]);
}

#[test]
fn a_lower_priority_waits_and_gives_its_blocks_first() {
    let mut scheduler = scheduler(4, |config| config.prefix_caching = false);
    let later = Owner { priority: 5, ..Owner::default() };
    scheduler.submit(1, prompt(7), 5, later).unwrap();
    scheduler.submit(2, prompt(7), 5, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(2, 0..7, true), (1, 0..7, true)]);
    step(&mut scheduler);
    assert_eq!(step(&mut scheduler), [(2, 8..9, true)]); // it needs a third block, and takes one of the earlier sequence's
    assert_eq!(scheduler.stats().preemptions, 1);
}

#[test]
fn one_that_is_held_back_is_left_out_of_that_step_only() {
    let mut scheduler = scheduler(64, |_| ());
    scheduler.submit(1, prompt(3), 20, b"").unwrap();
    scheduler.submit(2, prompt(3), 20, b"").unwrap();
    step(&mut scheduler);
    let limits = StepLimits { held: &[1, 99], ..StepLimits::default() };
    let batch = scheduler.schedule_within(limits).unwrap();
    assert_eq!(rows(&batch), [(2, 3..4, true)]);
    commit(&mut scheduler, &batch, &[]);
    assert_eq!(scheduler.schedule_within(StepLimits { held: &[1, 2], ..StepLimits::default() }), None);
    assert_eq!(step(&mut scheduler), [(1, 3..4, true), (2, 4..5, true)]);
}

#[test]
fn beside_decode_rows_a_step_reads_no_more_of_prompts_than_it_may_but_at_least_a_block() {
    let mut scheduler = scheduler(64, |_| ());
    scheduler.submit(1, prompt(3), 20, b"a").unwrap();
    step(&mut scheduler);
    scheduler.submit(2, prompt(30), 20, b"b").unwrap();
    for (prompt_tokens, read) in [(9, 0..8), (0, 8..12), (u32::MAX, 12..30)] {
        let batch = scheduler.schedule_within(StepLimits { prompt_tokens, held: &[] }).unwrap();
        assert_eq!(rows(&batch)[1], (2, read.clone(), read.end == 30));
        commit(&mut scheduler, &batch, &[]);
    }
    // Nobody waits for a step of prompts alone.
    scheduler.cancel(1);
    scheduler.cancel(2);
    scheduler.submit(3, prompt(30), 20, b"c").unwrap();
    let batch = scheduler.schedule_within(StepLimits { prompt_tokens: 0, held: &[] }).unwrap();
    assert_eq!(rows(&batch), [(3, 0..30, true)]);
}

#[test]
fn nobody_gives_way_in_vain() {
    let mut scheduler = scheduler(8, |config| config.prefix_caching = false);
    scheduler.submit(1, prompt(16), 4, of(3)).unwrap(); // four blocks, of a key that runs only this
    scheduler.submit(2, prompt(4), 4, of(1)).unwrap();
    scheduler.submit(3, prompt(4), 4, of(1)).unwrap();
    step(&mut scheduler);
    scheduler.submit(4, prompt(28), 2, of(2)).unwrap(); // needs seven; four are out of reach
    step(&mut scheduler);
    assert_eq!((scheduler.stats().preemptions, scheduler.stats().blocked), (0, true));
}

// --- windows --------------------------------------------------------------------------------------------------
