//! Each completion is loaded by its real shell, on a terminal of its own, and completes what is typed there.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::common::tool;

/// How long a shell may take to answer; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn bash_completes_subcommands_options_and_values() {
    let file = path("nova-imagecache.bash");
    completes(Shell::start("bash --norc --noprofile -i", "bash"), &format!("{PRINT} source {file}"));
}

#[test]
fn zsh_completes_subcommands_options_and_values() {
    // As a packaged completion is found: by its directory.
    let directory = path("");
    let setup = format!("{PRINT} fpath=({directory} $fpath); autoload -U compinit; compinit -u -D");
    completes(Shell::start("zsh -f -i", "zsh"), &setup);
}

#[test]
fn fish_completes_subcommands_options_and_values() {
    let file = path("nova-imagecache.fish");
    let print = "function nova-imagecache; printf '<%s>' $argv; echo; end;";
    completes(Shell::start("fish --no-config -i", "fish"), &format!("{print} source {file}"));
}

/// In the place of the command, shows what the shell hands over.
const PRINT: &str = "nova-imagecache() { printf '<%s>' \"$@\"; echo; };";

fn path(file: &str) -> String {
    format!("'{}/completions/{file}'", env!("CARGO_MANIFEST_DIR"))
}

fn completes(mut shell: Shell, setup: &str) {
    // In two parts, so that the echo of what is typed is not taken for the answer.
    shell.type_in(&format!("{setup}; printf '%s%s\\n' REA DY\n"));
    shell.wait_for("READY");
    for (typed, completed) in [
        ("nova-imagecache expl\t\n", "<explain>"),
        ("nova-imagecache prune --dry\t\n", "<prune><--dry-run>"),
        ("nova-imagecache scan --format js\t\n", "<scan><--format><json>"),
        ("nova-imagecache prune --until\t\n", "<prune><--until-free>"),
    ] {
        shell.type_in(typed);
        shell.wait_for(completed);
    }
}

struct Shell {
    script: Child,
    output: Receiver<Vec<u8>>,
}

impl Shell {
    /// A shell on a terminal that script(1) makes.
    fn start(command: &str, package: &str) -> Self {
        tool(command.split(' ').next().unwrap(), package);
        let mut script = Command::new(tool("script", "bsdutils"))
            .args(["-q", "-c", command, "/dev/null"])
            .env_clear()
            .env("TERM", "xterm")
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", std::env::temp_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = script.stdout.take().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                // The test may have its answer already.
                sender.send(buffer[..length].to_owned()).ok();
            }
        });
        Self { script, output }
    }

    fn type_in(&mut self, text: &str) {
        self.script.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let left = until.saturating_duration_since(Instant::now());
            let more = self.output.recv_timeout(left);
            seen.extend(more.unwrap_or_else(|_| panic!("no {text} in: {}", String::from_utf8_lossy(&seen))));
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Its terminal goes with script, and the shell with that.
        drop(self.script.kill());
        drop(self.script.wait());
    }
}
