//! Bounds on compiling: takes a job, gives its result, or an error when it takes too long.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;

/// How long a caller waits for a grammar.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
/// Grammars that compile at a time. A job past its deadline ends at its own step limits, and counts until then.
const MAX_RUNNING: usize = 4;
/// llguidance follows references and the fields of an object by recursion. Only pages in use cost memory.
const STACK_BYTES: usize = 256 << 20;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Runs `job` on a thread with a deep stack. `name`: the parameter to blame if that takes too long.
pub(super) fn within_deadline<T: Send + 'static>(
    name: &str,
    job: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let deadline = Instant::now() + DEADLINE;
    let place = Place::wait(deadline)?;
    let (send, receive) = sync_channel(1);
    let run = move || {
        // Nobody receives after the deadline.
        let _ = send.send(job());
        drop(place);
    };
    let started = thread::Builder::new().name("ecocore-grammar".into()).stack_size(STACK_BYTES).spawn(run);
    started.map_err(|error| Error::Internal(format!("no thread to compile a grammar on: {error}")))?;
    match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            let seconds = DEADLINE.as_secs();
            Err(Error::schema(name, format!("takes longer than {seconds} s to compile; simplify the schema")))
        }
        Err(RecvTimeoutError::Disconnected) => Err(Error::schema(name, "cannot be compiled")),
    }
}

/// The right to compile.
struct Place;

impl Place {
    fn wait(deadline: Instant) -> Result<Self, Error> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= MAX_RUNNING {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::QueueFull { limit: MAX_RUNNING });
            }
            running = ENDED.wait_timeout(running, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *running += 1;
        Ok(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}
