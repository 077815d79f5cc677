//! Layers with a window and layers without: who keeps which blocks, and how far a prefix is found.

use super::*;

#[test]
fn blocks_behind_the_window_come_back_while_a_sequence_runs() {
    let window =
        |config: &mut SchedulerConfig| (config.groups[0].window, config.max_batch_tokens) = (Some(6), 8);
    let mut scheduler = scheduler(8, window);
    // 200 positions would need 50 blocks. Its window and two chunks, which may end within a block, need 7.
    scheduler.submit(1, prompt(100), 100, b"").unwrap();
    let mut most_held = 0;
    while scheduler.has_work() {
        let batch = next(&mut scheduler);
        most_held = most_held.max(8 - scheduler.stats().free_blocks);
        commit(&mut scheduler, &batch, &[]);
    }
    assert_eq!((most_held, scheduler.stats().free_blocks), (4, 8));
}

#[test]
fn a_prefix_is_found_if_what_its_window_shows_is_there() {
    let window =
        |config: &mut SchedulerConfig| (config.groups[0].window, config.max_batch_tokens) = (Some(6), 8);
    let mut scheduler = scheduler(8, window);
    scheduler.submit(1, prompt(21), 1, b"").unwrap();
    while scheduler.has_work() {
        step(&mut scheduler);
    }
    // A sequence that nobody asks for takes the blocks that were given back first: the beginning of the prompt.
    scheduler.submit(2, prompt(11), 1, b"another").unwrap();
    step(&mut scheduler);
    step(&mut scheduler);
    scheduler.submit(3, prompt(21), 1, b"").unwrap();
    let batch = next(&mut scheduler);
    assert_eq!(rows(&batch), [(3, 20..21, true)]);
    assert_eq!(batch.block_tables[..3], [-1, -1, -1]);
    assert!(batch.block_tables[3..].iter().all(|&block| block >= 0));
}

/// Layers that keep everything, in `full` blocks, and layers with a window of 6, in `sliding` ones.
fn two_groups(full: u32, sliding: u32) -> Scheduler {
    scheduler(full, |config| {
        config.groups.push(GroupConfig { num_blocks: sliding, window: Some(6) });
        config.max_batch_tokens = 8;
    })
}

/// Blocks that are held of layers that keep everything, and of those with a window.
fn held(scheduler: &Scheduler) -> (usize, usize) {
    let stats = scheduler.stats();
    let windowed = stats.windowed_total_blocks - stats.windowed_free_blocks;
    (stats.total_blocks - stats.free_blocks - windowed, windowed)
}

#[test]
fn only_layers_that_keep_everything_grow_with_a_sequence() {
    let mut scheduler = two_groups(50, 7);
    scheduler.submit(1, prompt(100), 100, b"").unwrap();
    let mut most = (0, 0);
    while scheduler.has_work() {
        let batch = next(&mut scheduler);
        let (full, sliding) = held(&scheduler);
        most = (most.0.max(full), most.1.max(sliding));
        commit(&mut scheduler, &batch, &[]);
    }
    assert_eq!((most, held(&scheduler)), ((50, 4), (0, 0)));
}

#[test]
fn a_batch_has_slots_and_tables_of_each_group() {
    let mut scheduler = two_groups(8, 8);
    scheduler.submit(1, prompt(3), 1, b"a").unwrap();
    step(&mut scheduler); // blocks are given out in order, so the groups differ from here on
    scheduler.submit(2, prompt(23), 1, b"b").unwrap();
    step(&mut scheduler);
    step(&mut scheduler);
    let batch = next(&mut scheduler);
    assert_eq!(rows(&batch), [(2, 16..23, true)]);
    assert_eq!((batch.num_groups, batch.block_table_width), (2, 6));
    let (full, sliding) = batch.block_tables.split_at(6);
    assert!(full.iter().all(|&block| block >= 0));
    assert_eq!(sliding[..2], [-1, -1]); // position 16 sees 11 and what follows
    assert!(sliding[2..].iter().all(|&block| block >= 0));
    for (slots, table) in batch.slots.chunks(7).zip([full, sliding]) {
        assert!(slots.iter().zip(16..23).all(|(&slot, at)| slot == table[at / 4] * 4 + at as i64 % 4));
    }
}

#[test]
fn a_prefix_is_found_as_far_as_every_group_has_it() {
    let mut scheduler = two_groups(32, 8);
    scheduler.submit(1, prompt(21), 1, b"").unwrap();
    while scheduler.has_work() {
        step(&mut scheduler);
    }
    // Two blocks of what the window shows of the whole are enough.
    scheduler.submit(2, prompt(21), 1, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(2, 20..21, true)]);
    // All sliding blocks but the two that were touched last are taken by another; full ones are left in plenty.
    scheduler.submit(3, prompt(23), 1, b"another").unwrap();
    while scheduler.has_work() {
        step(&mut scheduler);
    }
    scheduler.submit(4, prompt(13), 1, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(4, 0..8, false)]); // its window would show blocks 1 and 2
    let batch = next(&mut scheduler);
    commit(&mut scheduler, &batch, &[]);
    scheduler.submit(5, prompt(13), 1, b"").unwrap();
    assert_eq!(step(&mut scheduler), [(5, 12..13, true)]);
}

#[test]
fn what_cannot_be_cut_must_have_room_beside_its_window() {
    let mut scheduler = two_groups(64, 9);
    scheduler.submit(1, prompt(10), 20, b"another").unwrap();
    scheduler.submit(2, prompt(40), 1, b"").unwrap();
    scheduler.keep_whole(2, std::iter::once(9..29).collect()).unwrap(); // 8..32 are six blocks, behind two of its window
    let mut ends = vec![];
    while scheduler.has_work() {
        ends.extend(step(&mut scheduler).into_iter().filter(|row| row.0 == 2).map(|(_, row, _)| row.end));
    }
    assert_eq!(ends, [8, 9, 32, 40]);

    scheduler.submit(3, prompt(60), 1, b"").unwrap();
    let refused = scheduler.keep_whole(3, vec![1..2, 9..38]); // 9..40 are 31 positions, 7 of its window, and begin in a block
    assert_eq!(refused, Err(Error::ContextLengthExceeded { needed: 61, available: 36 }));
    assert!(!scheduler.has_work());
}

#[test]
fn spans_side_by_side_need_no_more_room_than_the_longest() {
    let mut scheduler = two_groups(64, 9);
    scheduler.submit(1, prompt(100), 1, b"").unwrap();
    let spans: Vec<_> = (0..6).map(|index| 3 + 15 * index..17 + 15 * index).collect();
    scheduler.keep_whole(1, spans.clone()).unwrap();
    let (mut longest, mut most_held) = (0, 0);
    while scheduler.has_work() {
        let limits = StepLimits { prompt_tokens: 4, ..Default::default() };
        let batch = scheduler.schedule_within(limits).unwrap();
        longest = batch.rows.iter().map(|row| row.length).max().unwrap().max(longest);
        most_held = most_held.max(held(&scheduler).1);
        commit(&mut scheduler, &batch, &[]);
    }
    // A span and the rest of its block, behind two blocks of the window.
    assert!(longest <= 14 + 3, "{longest}");
    assert!(most_held <= 8, "{most_held}");
}

#[test]
fn a_prefix_may_end_within_what_cannot_be_cut() {
    let mut scheduler = two_groups(32, 8);
    for id in 1..=2 {
        scheduler.submit(id, prompt(15), 1, b"").unwrap();
        scheduler.keep_whole(id, std::iter::once(5..15).collect()).unwrap();
        scheduler.show(id, vec![Shown { start: 5, digest: b"cat".to_vec() }]);
        if id == 1 {
            assert_eq!(step(&mut scheduler), [(1, 0..5, false)]);
        }
        let batch = next(&mut scheduler);
        let start = if id == 1 { 5 } else { 12 };
        assert_eq!(rows(&batch), [(id, start..15, true)]);
        // Position 12 sees 7 and what follows.
        let unseen = batch.block_tables[4..].iter().filter(|&&block| block < 0).count();
        assert_eq!(unseen, usize::from(id == 2));
        commit(&mut scheduler, &batch, &[]);
    }
}

#[test]
fn who_finds_no_room_keeps_nobody_from_the_only_step() {
    let mut scheduler = scheduler(9, |config| {
        config.groups.push(GroupConfig { num_blocks: 6, window: Some(8) });
        (config.block_size, config.max_batch_tokens, config.prefix_caching) = (3, 1, false);
    });
    scheduler.submit(1, prompt(10), 1, of(1)).unwrap();
    scheduler.submit(2, prompt(4), 1, of(1)).unwrap();
    step(&mut scheduler);
    step(&mut scheduler);
    let batch = scheduler.schedule_within(StepLimits { held: &[1], ..Default::default() }).unwrap();
    commit(&mut scheduler, &batch, &[]);
    assert_eq!(step(&mut scheduler), [(1, 6..9, false)]);
    // There was a block for the third until the other two took their next ones.
    scheduler.submit(3, prompt(1), 1, of(3)).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 9..10, true), (2, 3..4, true)]);
    assert!(scheduler.stats().blocked);
    assert_eq!(step(&mut scheduler)[0], (3, 0..1, true));
}
