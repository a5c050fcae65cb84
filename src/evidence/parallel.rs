//! Many calls under way at once. Not for the processor's sake: on slow storage each call waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::filesystem::is_network;
use crate::layout::Layout;
use crate::progress::Progress;

/// How many calls are under way at once on a local filesystem, and on a network filesystem.
const CALLS_IN_FLIGHT: (usize, usize) = (16, 64);

/// Fewer items than this for each thread are not worth one.
const ITEMS_A_THREAD: usize = 4;

/// The most items that a thread takes at once.
const MOST_AT_ONCE: usize = 16;

/// How many calls may be under way, and how far they have come.
pub struct Workers<'a> {
    most: usize,
    pub progress: &'a Progress,
}

impl<'a> Workers<'a> {
    pub fn new(layout: &Layout, progress: &'a Progress) -> Self {
        let (local, network) = CALLS_IN_FLIGHT;
        Self { most: if is_network(&layout.instances_path) { network } else { local }, progress }
    }

    /// Applies `work` to every item, several at once; the results are in the order of the items.
    ///
    /// Where no thread can be made, this one does the work alone.
    pub fn map<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
        self.progress.expect(items.len());
        let threads = self.most.min(items.len() / ITEMS_A_THREAD).max(1);
        let at_once = (items.len() / threads / 8).clamp(1, MOST_AT_ONCE);
        let parts: Vec<&[T]> = items.chunks(at_once).collect();
        let next = AtomicUsize::new(0);
        let work = |item| {
            let result = work(item);
            self.progress.advance();
            result
        };
        let next_part = || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            Some((index, parts.get(index)?.iter().map(work).collect::<Vec<R>>()))
        };
        let worker = || std::iter::from_fn(next_part).collect::<Vec<_>>();
        let mut results = thread::scope(|scope| {
            let others: Vec<_> =
                (1..threads).map_while(|_| thread::Builder::new().spawn_scoped(scope, worker).ok()).collect();
            let mut results = worker();
            for other in others {
                // A panic of a worker is passed on, not hidden.
                results.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            results
        });
        results.sort_unstable_by_key(|(index, _)| *index);
        results.into_iter().flat_map(|(_, part)| part).collect()
    }
}
