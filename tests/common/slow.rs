//! Storage that takes its time: the benchmark's library for `LD_PRELOAD`, compiled where a test wants it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the library into a directory.
pub fn library(directory: &Path) -> PathBuf {
    let library = directory.join("slow.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/slow.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-fPIC", "-shared", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .expect("cannot run cc: install gcc");
    assert!(compiled.success(), "cc {}: {compiled}", source.display());
    library
}
