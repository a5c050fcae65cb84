//! Files that options name, read to a bound.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

/// The most that an inventory or a list of images may have, in bytes: that of 200,000 servers and more.
pub const MOST: u64 = 1 << 30;

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// What a list is called in the output.
pub fn name(file: &Path) -> String {
    if is_stdin(file) { "standard input".into() } else { file.display().to_string() }
}

/// Refuses `-` where it is given more than once.
pub fn check_stdin(inventory: &[PathBuf], images: &[PathBuf]) -> Result<()> {
    if inventory.iter().chain(images).filter(|file| is_stdin(file)).count() > 1 {
        bail!("standard input (-) can be read only once: put the other list in a file");
    }
    Ok(())
}

/// Reads a list that an option names, a file or standard input.
pub fn read_list(option: &str, file: &Path) -> Result<Vec<u8>> {
    if is_stdin(file) {
        read_bounded(std::io::stdin().lock(), 0, MOST)
    } else {
        read_file(fs_err::File::open(file).map_err(|error| unreadable(option, error))?, MOST)
    }
    .with_context(|| format!("{option} {}", name(file)))
}

pub fn unreadable(option: &str, error: std::io::Error) -> anyhow::Error {
    anyhow!("{option}: {:#}: name a file that this user may read", anyhow::Error::from(error))
}

pub fn read_file(opened: fs_err::File, most: u64) -> Result<Vec<u8>> {
    let metadata = opened.metadata()?;
    if metadata.is_dir() {
        bail!("is a directory: name a file");
    }
    read_bounded(opened, metadata.len(), most)
}

/// Reads all of it, `likely` so many bytes: these at once, for a list that grows is read in steps, and on NFS each waits.
fn read_bounded(mut opened: impl Read, likely: u64, most: u64) -> Result<Vec<u8>> {
    let mut text = vec![0; usize::try_from(likely.min(most))?];
    let read = opened.read(&mut text)?;
    text.truncate(read);
    opened.take(most + 1 - read as u64).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        bail!("is larger than {most} bytes: check that it is the right file");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_is_read_once() {
        let (stdin, file) = ([PathBuf::from("-")], [PathBuf::from("./-")]);
        assert!(check_stdin(&stdin, &file).is_ok());
        assert!(check_stdin(&stdin, &stdin).is_err());
        assert!(check_stdin(&[stdin.clone(), stdin.clone()].concat(), &[]).is_err());
    }
}
