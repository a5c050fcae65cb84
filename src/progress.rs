//! A line of progress on stderr, for a person who waits.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a pass may take without a line.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the line is drawn.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a pass is doing.
#[derive(Clone, Copy)]
pub enum Phase {
    Cache,
    Disks,
    BackingFiles,
    Locks,
    Waiting,
}

/// What is shown in each phase, and whether items are counted.
const PHASES: [(&str, bool); 5] = [
    ("reading the cache", true),
    ("reading directories and disks", true),
    ("following backing files", true),
    ("waiting for nova's locks", false),
    ("files are set aside, waiting", false),
];

/// How far a pass has come.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicUsize,
    done: AtomicUsize,
    total: AtomicUsize,
    is_shown: AtomicBool,
}

impl Progress {
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::Relaxed);
    }

    /// So many items more are to be done.
    pub fn expect(&self, items: usize) {
        self.total.fetch_add(items, Ordering::Relaxed);
    }

    pub fn advance(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Does `work`, and shows how far it has come where stderr is a terminal and the work takes a while; the line is
    /// gone when the work is done. Work within other work that is shown has no line of its own.
    pub fn shown<T>(&self, quiet: bool, work: impl FnOnce() -> T) -> T {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
        if quiet || !io::stderr().is_terminal() || self.is_shown.swap(true, Ordering::Relaxed) {
            return work();
        }
        let (done, is_done) = channel::<()>();
        thread::scope(|scope| {
            // Without a thread there is no line, but all the work.
            thread::Builder::new().spawn_scoped(scope, || self.draw(is_done)).ok();
            let result = work();
            drop(done);
            self.is_shown.store(false, Ordering::Relaxed);
            result
        })
    }

    pub fn is_shown(&self) -> bool {
        self.is_shown.load(Ordering::Relaxed)
    }

    fn text(&self) -> String {
        let (text, is_counted) = PHASES[self.phase.load(Ordering::Relaxed)];
        let total = self.total.load(Ordering::Relaxed) as u64;
        if !is_counted || total == 0 {
            return text.to_owned();
        }
        let done = self.done.load(Ordering::Relaxed) as u64;
        format!("{text}: {} of {}", HumanCount(done), HumanCount(total))
    }

    /// Draws until the other end of the channel is dropped.
    fn draw(&self, is_done: Receiver<()>) {
        let waits = |time| is_done.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
        if !waits(PATIENCE) {
            return;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("nova-imagecache: {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_elapsed(PATIENCE);
        loop {
            bar.set_message(self.text());
            bar.tick();
            if !waits(INTERVAL) {
                break;
            }
        }
        bar.finish_and_clear();
    }
}
