//! A line of progress on stderr, for a person who waits.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::evidence::Progress;

/// How long a pass may take without a word.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the line is drawn.
const INTERVAL: Duration = Duration::from_millis(100);

/// Does `work`, and shows how far it has come where stderr is a terminal and the work takes a while; the line is gone
/// when the work is done.
pub fn shown<T>(quiet: bool, work: impl FnOnce(&Progress) -> T) -> T {
    let progress = Progress::default();
    if quiet || !io::stderr().is_terminal() {
        return work(&progress);
    }
    let (done, is_done) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| draw(&progress, is_done));
        let result = work(&progress);
        drop(done);
        result
    })
}

/// Draws until the other end of the channel is dropped.
fn draw(progress: &Progress, is_done: Receiver<()>) {
    let waits = |time| is_done.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    if !waits(PATIENCE) {
        return;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "nova-imagecache: read {human_pos} of {human_len} files and directories {wide_bar} {elapsed}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_elapsed(PATIENCE);
    loop {
        bar.set_length(progress.total.load(Ordering::Relaxed) as u64);
        bar.set_position(progress.done.load(Ordering::Relaxed) as u64);
        bar.tick();
        if !waits(INTERVAL) {
            break;
        }
    }
    bar.finish_and_clear();
}
