//! SIGINT, SIGTERM and SIGHUP end a prune in order; a second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::flag;

const SIGNALS: [(i32, &str); 3] =
    [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM"), (libc::SIGHUP, "SIGHUP")];

/// Which signal has come, if any.
#[derive(Clone, Debug)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// In this thread and those that it makes from here on, a line of progress cannot stop a run in the background either,
    /// whatever the terminal is set to (`stty tostop`): files may be aside.
    pub fn register() -> Result<Self> {
        SigSet::from(Signal::SIGTTOU).thread_block().context("cannot block SIGTTOU")?;
        let received = Arc::new(AtomicUsize::new(0));
        let is_second = Arc::new(AtomicBool::new(false));
        for (signal, name) in SIGNALS {
            // nohup has it ignored, and so it stays.
            if is_ignored(signal) {
                continue;
            }
            let cannot = || format!("cannot handle {name}");
            // In this order: the first signal sets the flag that the second one finds.
            flag::register_conditional_default(signal, Arc::clone(&is_second)).with_context(cannot)?;
            flag::register(signal, Arc::clone(&is_second)).with_context(cannot)?;
            flag::register_usize(signal, Arc::clone(&received), signal.unsigned_abs() as usize)
                .with_context(cannot)?;
        }
        Ok(Self(received))
    }

    /// The name of the signal that asked this run to end.
    pub fn received(&self) -> Option<&'static str> {
        let received = self.0.load(Ordering::Relaxed);
        SIGNALS.iter().find(|(signal, _)| signal.unsigned_abs() as usize == received).map(|(_, name)| *name)
    }
}

/// Beyond the limit of a file's size a write is an error like any other, not the end of the process.
pub fn ignore_file_size_limit() {
    // If that fails, the limit ends the process as it would without this.
    flag::register(libc::SIGXFSZ, Arc::default()).ok();
}

fn is_ignored(signal: i32) -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).is_some_and(|it| it >> (signal - 1) & 1 == 1)
}
