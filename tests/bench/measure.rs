//! Whole processes and what they take.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// The C programs of the benchmark, compiled.
pub struct Tools {
    pub floor: PathBuf,
    pub slow: PathBuf,
    run: PathBuf,
    /// What every command is run under, from the environment variable `BENCH_UNDER`: `chrt -r 1` on a busy machine.
    pub under: Vec<String>,
}

impl Tools {
    pub fn compile(into: &Path) -> Result<Self> {
        let compile = |source: &str, name: &str, flags: &[&str]| -> Result<PathBuf> {
            let program = into.join(name);
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench").join(source);
            let status = Command::new("cc")
                .args(["-O2", "-Wall", "-Wextra", "-o"])
                .args([program.as_os_str(), source.as_os_str()])
                .args(flags)
                .status()
                .context("cannot run cc: install gcc")?;
            if !status.success() {
                bail!("cc {}: {status}", source.display());
            }
            Ok(program)
        };
        let under = std::env::var("BENCH_UNDER").unwrap_or_default();
        Ok(Self {
            under: under.split_whitespace().map(str::to_owned).collect(),
            floor: compile("floor.c", "floor", &[])?,
            slow: compile("slow.c", "slow.so", &["-fPIC", "-shared", "-ldl"])?,
            run: compile("run.c", "run", &[])?,
        })
    }

    /// Runs a command once.
    pub fn run(&self, command: &Argv) -> Result<Run> {
        let mut run = Command::new(&self.run);
        run.args(&self.under);
        for (name, value) in &command.environment {
            // By env, so that what is preloaded is preloaded into the command alone.
            if run.get_args().len() == self.under.len() {
                run.arg("env");
            }
            let mut pair = OsString::from(name);
            pair.push("=");
            pair.push(value);
            run.arg(pair);
        }
        let output = run.args(&command.argv).output()?;
        let numbers: Vec<u64> = String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context("run's output")?;
        let [wall, cpu, peak_kib, status] = numbers[..] else { bail!("{:?}: did not run", command.argv) };
        if status != 0 {
            bail!(
                "{:?}: exit status {status}: {}",
                command.argv,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(Run { wall: Duration::from_nanos(wall), cpu: Duration::from_micros(cpu), peak_kib })
    }

    /// Runs every command once to warm up and then `times` more, taking turns, so that a busy moment of the machine
    /// hits all of them.
    pub fn take_turns(&self, commands: &[Argv], times: usize) -> Result<Vec<Runs>> {
        let mut all: Vec<Vec<Run>> = vec![Vec::new(); commands.len()];
        for turn in 0..=times {
            for (command, runs) in commands.iter().zip(&mut all) {
                let run = self.run(command)?;
                if turn > 0 {
                    runs.push(run);
                }
            }
        }
        Ok(all.into_iter().map(Runs::new).collect())
    }
}

/// A command line.
#[derive(Clone)]
pub struct Argv {
    argv: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

impl Argv {
    pub fn new<S: AsRef<OsStr>>(argv: &[S]) -> Self {
        Self { argv: argv.iter().map(|it| it.as_ref().to_owned()).collect(), environment: Vec::new() }
    }

    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }
}

/// What one run took.
#[derive(Clone, Copy)]
pub struct Run {
    pub wall: Duration,
    pub cpu: Duration,
    /// The most memory that was resident at once, in KiB.
    pub peak_kib: u64,
}

/// What several runs of the same command took.
pub struct Runs {
    pub median: Duration,
    pub best: Duration,
    pub cpu: Duration,
    /// Of the largest.
    pub peak_kib: u64,
}

impl Runs {
    fn new(mut runs: Vec<Run>) -> Self {
        runs.sort_by_key(|it| it.wall);
        let middle = runs.get(runs.len() / 2).copied();
        Self {
            median: middle.map_or(Duration::ZERO, |it| it.wall),
            best: runs.first().map_or(Duration::ZERO, |it| it.wall),
            cpu: middle.map_or(Duration::ZERO, |it| it.cpu),
            peak_kib: runs.iter().map(|it| it.peak_kib).max().unwrap_or(0),
        }
    }
}
