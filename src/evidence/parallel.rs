//! Many calls under way at once. Not for the processor's sake: on slow storage each call waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::progress::Progress;

/// Fewer items than this for each thread are not worth one.
const ITEMS_A_THREAD: usize = 4;

/// How many calls may be under way, and how far they have come.
pub struct Workers<'a> {
    pub most: usize,
    pub progress: &'a Progress,
}

impl Workers<'_> {
    /// Applies `work` to every item, several at once; the results are in the order of the items.
    ///
    /// Where no thread can be made, this one does the work alone.
    pub fn map<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
        self.progress.expect(items.len());
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut results = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(index) else { return results };
                results.push((index, work(item)));
                self.progress.advance();
            }
        };
        let threads = self.most.min(items.len() / ITEMS_A_THREAD).max(1);
        let mut results: Vec<(usize, R)> = thread::scope(|scope| {
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
        results.into_iter().map(|(_, result)| result).collect()
    }
}
