//! The queue, the scheduler and steps in flight, whatever order their threads run in.
//!
//! Clients submit and cancel, an executor computes, and an engine does what `loop.py` does between them; shuttle runs them in
//! thousands of orders. In each, every sequence that was not cancelled draws all of its tokens and no others, no step
//! touches a block that was given away, and at the end every block is back.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{HashMap, HashSet};

use ecocore::batch::Batch;
use ecocore::sampled::SampledTokens;
use ecocore::scheduler::{Owner, Scheduler, SchedulerConfig};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::thread;

const CLIENTS: u64 = 2;
const SEQUENCES_EACH: u64 = 3;
const MAX_TOKENS: u32 = 4;

enum Message {
    Submit {
        id: u64,
        key: u64,
    },
    Cancel(u64),
    /// One client has nothing more to say.
    Done,
}

/// A pool in which not all have room at once, so that sequences give way.
fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: 2,
        max_sequences: 3,
        reserved_sequences: 1,
        max_batch_tokens: 6,
        ..SchedulerConfig::new(8)
    }
}

/// The token that a sequence draws at an index; 0 ends it as an end token does, 1 as a stop string does: one step later.
fn draw(id: u64, index: u32) -> u32 {
    (id as u32 * 7 + index * 5) % 6
}

/// What a sequence draws alone.
fn drawn_alone(id: u64) -> Vec<u32> {
    let tokens: Vec<u32> = (0..MAX_TOKENS).map(|index| draw(id, index)).collect();
    let end = tokens.iter().position(|&token| token < 2).map_or(tokens.len(), |last| last + 1);
    tokens[..end].to_vec()
}

fn client(number: u64, inbox: &Sender<Message>) {
    for own in 0..SEQUENCES_EACH {
        let id = number * SEQUENCES_EACH + own;
        inbox.send(Message::Submit { id, key: number + 1 }).unwrap();
        if own == 1 {
            inbox.send(Message::Cancel(id)).unwrap();
        }
    }
    inbox.send(Message::Done).unwrap();
}

fn execute(launched: &Receiver<Batch>, computed: &Sender<(Batch, SampledTokens)>) {
    while let Ok(batch) = launched.recv() {
        let rows = batch.sampled_rows();
        let (sequence_ids, token_ids): (Vec<u64>, Vec<u32>) =
            rows.map(|row| (row.sequence_id, draw(row.sequence_id, row.output_index))).unzip();
        let tokens = SampledTokens { sequence_ids, token_ids, ..SampledTokens::default() };
        computed.send((batch, tokens)).unwrap();
    }
}

/// What `StepLoop` is between the two.
struct Engine {
    scheduler: Scheduler,
    inbox: Receiver<Message>,
    launch: Sender<Batch>,
    computed: Receiver<(Batch, SampledTokens)>,
    depth: usize,
    in_flight: Vec<HashSet<i64>>,
    open: HashMap<u64, Vec<u32>>,
    clients: u64,
    ended: HashMap<u64, Vec<u32>>,
}

impl Engine {
    fn run(mut self) -> HashMap<u64, Vec<u32>> {
        loop {
            let idle = self.in_flight.is_empty() && !self.scheduler.has_work();
            if idle && self.clients == 0 {
                break;
            }
            self.take_inbox(idle);
            self.step();
        }
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.free_blocks), (0, 0, stats.total_blocks));
        self.ended
    }

    fn take_inbox(&mut self, wait: bool) {
        let first = if wait { self.inbox.recv().ok() } else { None };
        let rest = std::iter::from_fn(|| self.inbox.try_recv().ok());
        for message in first.into_iter().chain(rest).collect::<Vec<_>>() {
            match message {
                Message::Submit { id, key } => {
                    let owner = Owner { key, ..Owner::default() };
                    self.scheduler.submit(id, vec![id as u32; 3], MAX_TOKENS as usize, owner).unwrap();
                    self.open.insert(id, Vec::new());
                }
                Message::Cancel(id) => {
                    self.scheduler.cancel(id);
                    self.open.remove(&id);
                }
                Message::Done => self.clients -= 1,
            }
            self.scheduler.check_integrity().unwrap();
        }
    }

    fn step(&mut self) {
        self.launch();
        if self.in_flight.is_empty() {
            return;
        }
        let (batch, tokens) = self.computed.recv().unwrap();
        self.in_flight.remove(0);
        let drawn = || tokens.sequence_ids.iter().copied().zip(tokens.token_ids.iter().copied());
        let at_end = drawn().filter(|&(_, token)| token == 0).map(|(id, _)| id).collect::<Vec<_>>();
        self.scheduler.commit(batch.ticket, &tokens, &at_end).unwrap();
        self.take_inbox(false);
        self.launch();
        for (id, token) in drawn() {
            let Some(told) = self.open.get_mut(&id) else { continue };
            told.push(token);
            if token < 2 || told.len() as u32 == MAX_TOKENS {
                let told = self.open.remove(&id).unwrap();
                self.ended.insert(id, told);
                self.scheduler.cancel(id);
            }
        }
        self.scheduler.check_integrity().unwrap();
    }

    fn launch(&mut self) {
        while self.in_flight.len() < self.depth {
            let Some(batch) = self.scheduler.schedule() else { return };
            let size = i64::from(batch.block_size);
            let written: HashSet<i64> = batch.slots.iter().map(|slot| slot / size).collect();
            let mut owner: HashMap<i64, u64> = HashMap::new();
            for (row, table) in batch.rows.iter().zip(batch.block_tables.chunks(batch.block_table_width)) {
                for &block in table.iter().filter(|block| written.contains(block)) {
                    assert_eq!(*owner.entry(block).or_insert(row.sequence_id), row.sequence_id);
                }
            }
            self.in_flight.push(written);
            self.launch.send(batch).unwrap();
        }
    }
}

fn live(depth: usize) {
    let (inbox, messages) = channel();
    let (launch, launched) = channel();
    let (done, computed) = channel();
    let clients = (0..CLIENTS).map(|number| {
        let inbox = inbox.clone();
        thread::spawn(move || client(number, &inbox))
    });
    let clients: Vec<_> = clients.collect();
    let executor = thread::spawn(move || execute(&launched, &done));
    let engine = Engine {
        scheduler: Scheduler::new(config()).unwrap(),
        inbox: messages,
        launch,
        computed,
        depth,
        in_flight: Vec::new(),
        open: HashMap::new(),
        clients: CLIENTS,
        ended: HashMap::new(),
    };
    let ended = engine.run();
    for thread in clients.into_iter().chain([executor]) {
        thread.join().unwrap();
    }
    for id in 0..CLIENTS * SEQUENCES_EACH {
        match ended.get(&id) {
            Some(told) => assert_eq!(*told, drawn_alone(id), "sequence {id}"),
            None => assert_eq!(id % SEQUENCES_EACH, 1, "sequence {id} was not cancelled and has not ended"),
        }
    }
}

#[test]
fn every_order_of_threads_ends_every_sequence_and_frees_every_block() {
    for depth in [1, 2] {
        shuttle::check_random(move || live(depth), 1500);
    }
}

/// Orders in which few changes of thread come at the worst places.
#[test]
fn orders_with_few_switches_do_too() {
    for depth in [1, 2] {
        shuttle::check_pct(move || live(depth), 1500, 3);
    }
}
