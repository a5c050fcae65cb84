//! Storage that takes its time: libraries for `LD_PRELOAD`, compiled where a test wants them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the benchmark's library into a directory.
pub fn library(directory: &Path) -> PathBuf {
    compiled("tests/bench/slow.c", &directory.join("slow.so"))
}

/// Compiles a file of the repository into this library.
pub fn compiled(source: &str, library: &Path) -> PathBuf {
    let compiled = Command::new("cc")
        .args(["-O2", "-fPIC", "-shared", "-o"])
        .arg(library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .arg("-ldl")
        .status()
        .expect("cannot run cc: install gcc");
    assert!(compiled.success(), "cc {source}: {compiled}");
    library.to_owned()
}
