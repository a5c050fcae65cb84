//! Which files an operator means by `FILE` and `IMAGE_ID`, on the command line and for `--keep`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cache_name::{CacheName, Kind, SET_ASIDE, cache_file_name, set_aside_name};
use crate::catalog::Catalog;
use crate::inventory::spellings;

/// The fewest hex digits that stand for a name.
const SHORTEST_PREFIX: usize = 8;

/// Files by name, and all files of some images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    names: BTreeSet<OsString>,
    fingerprints: BTreeSet<String>,
}

/// What there is to choose from.
pub struct Known<'a> {
    pub cache_dir: PathBuf,
    /// Files of the cache, and missing ones.
    pub names: BTreeSet<&'a OsStr>,
    pub catalog: &'a Catalog<'a>,
    /// For `--keep`: then a name that has gone keeps what begins with it, rather than nothing.
    pub is_to_keep: bool,
}

impl Selection {
    pub fn contains(&self, name: &OsStr) -> bool {
        self.names.contains(name)
            || CacheName::parse(name).fingerprint.is_some_and(|it| self.fingerprints.contains(it))
    }

    /// Reads what the operator wrote. What nothing knows comes back second.
    ///
    /// # Errors
    /// Where a prefix stands for files of several images.
    pub fn resolve(words: &[OsString], known: &Known<'_>) -> Result<(Self, Vec<String>)> {
        let mut selection = Self::default();
        let mut unknown = Vec::new();
        for word in words {
            if !selection.add(word, known)? {
                unknown.push(word.display().to_string());
            }
        }
        Ok((selection, unknown))
    }

    /// Adds what a word means; `false` where nothing knows it. A file that is set aside, or was put back just now, is
    /// known by both names.
    fn add(&mut self, word: &OsStr, known: &Known<'_>) -> Result<bool> {
        let path = Path::new(word);
        let name = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if parent == known.cache_dir => name,
            _ => word,
        };
        let name = match CacheName::parse(name) {
            CacheName { kind: Kind::SetAside, of, .. } => OsStr::new(of),
            _ => name,
        };
        let aside = set_aside_name(name);
        // What is whole is no start of other names.
        let has_gone = || {
            let name = CacheName::parse(name);
            !known.is_to_keep
                && name.kind == Kind::Original
                && name.fingerprint.is_some_and(|it| known.has_files(it))
        };
        if known.names.contains(name) || known.names.contains(aside.as_os_str()) || has_gone() {
            let mut info = name.to_owned();
            info.push(".info");
            self.names.extend([set_aside_name(&info), aside, info, name.to_owned()]);
            return Ok(true);
        }
        if let Some(id) = word.to_str().filter(|it| !it.is_empty() && known.has_image(it)) {
            self.fingerprints.extend(spellings(id).map(|it| cache_file_name(&it)));
            return Ok(true);
        }
        let images = known.images_of_prefix(name);
        if let [_, _, ..] = images.keys().collect::<Vec<_>>()[..] {
            bail!("{}: matches files of {} images: give more digits", word.display(), images.len());
        }
        let is_known = !images.is_empty();
        self.names.extend(images.into_values().flatten().map(OsStr::to_owned));
        Ok(is_known)
    }
}

impl<'a> Known<'a> {
    pub fn has_image(&self, id: &str) -> bool {
        spellings(id).any(|id| {
            let fingerprint = &*cache_file_name(&id);
            self.catalog.by_fingerprint(fingerprint).is_some() || self.has_files(fingerprint)
        })
    }

    fn has_files(&self, fingerprint: &str) -> bool {
        self.names.iter().any(|it| CacheName::parse(it).fingerprint == Some(fingerprint))
    }

    /// The names that begin with these hex digits, by the image that they belong to.
    fn images_of_prefix(&self, prefix: &OsStr) -> BTreeMap<&'a str, Vec<&'a OsStr>> {
        let mut images: BTreeMap<&str, Vec<&OsStr>> = BTreeMap::new();
        let digits = prefix.as_bytes();
        if digits.len() >= SHORTEST_PREFIX && digits.iter().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
        {
            let is_meant = |name: &&&OsStr| {
                let name = name.as_bytes();
                name.strip_prefix(SET_ASIDE.as_bytes()).unwrap_or(name).starts_with(digits)
            };
            for name in self.names.iter().filter(is_meant) {
                if let Some(fingerprint) = CacheName::parse(name).fingerprint {
                    images.entry(fingerprint).or_default().push(name);
                }
            }
        }
        images
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{Image, Images};

    const A: &str = "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"; // SHA-1 of "a"
    const NEAR_A: &str = "86f7e437ffffffffffffffffffffffffffffffff";
    const B: &str = "e9d71f5ee7c92d6dc9e92ffdad17b8bd49418f98"; // SHA-1 of "b"

    #[test]
    fn a_whole_name_means_no_other_file_where_it_has_gone() {
        let (copy, part) = (format!("{B}_5"), format!("{B}.part"));
        let catalog = &Catalog::default();
        let names = [&*copy, &*part].map(OsStr::new).into();
        let mut known = Known { cache_dir: "/i/_base".into(), names, catalog, is_to_keep: true };
        let kept = Selection::resolve(&[B.into()], &known).unwrap().0;
        assert!(kept.contains(OsStr::new(&copy)) && kept.contains(OsStr::new(&part)));
        known.is_to_keep = false;
        let resolve = |word: &str| Selection::resolve(&[word.into()], &known).unwrap();
        let (selection, unknown) = resolve(B);
        assert!(unknown.is_empty() && selection.contains(OsStr::new(B)));
        assert!(!selection.contains(OsStr::new(&copy)) && !selection.contains(OsStr::new(&part)));
        assert!(resolve(&B[..39]).0.contains(OsStr::new(&copy)));
    }

    #[test]
    fn a_word_is_a_name_a_path_an_image_or_the_start_of_a_name() {
        let copy = format!("{B}_5");
        let files = [A, NEAR_A, B, copy.as_str(), "swap_5"];
        let listed = Image { id: "c".into(), name: None, status: None };
        let images = Images { by_fingerprint: [(cache_file_name("c"), listed)].into(), ..Images::default() };
        let known = Known {
            cache_dir: "/i/_base".into(),
            names: files.iter().map(OsStr::new).collect(),
            catalog: &Catalog::new(Some(&images), None),
            is_to_keep: false,
        };
        for (word, expected) in [
            (B, Some(vec![B])),
            ("b", Some(vec![B, &copy])),
            (&copy, Some(vec![&copy])),
            ("/i/_base/swap_5", Some(vec!["swap_5"])),
            ("/elsewhere/swap_5", None),
            ("e9d71f5e", Some(vec![B, &copy])),
            ("/i/_base/e9d71f5e", Some(vec![B, &copy])),
            ("e9d71f5", None),
            ("E9D71F5E", None),
            ("86f7e437fa", Some(vec![A])),
            ("c", Some(vec![])),
            ("d", None),
            ("", None),
        ] {
            let (selection, unknown) = Selection::resolve(&[word.into()], &known).unwrap();
            let chosen: Vec<_> = files.into_iter().filter(|it| selection.contains(OsStr::new(it))).collect();
            assert_eq!(unknown.is_empty().then_some(chosen), expected, "{word}");
        }
        let error = Selection::resolve(&["86f7e437".into()], &known).unwrap_err().to_string();
        assert!(error.contains("files of 2 images"), "{error}");
    }

    #[test]
    fn a_name_means_the_same_file_set_aside_too() {
        let aside = [A, NEAR_A].map(|it| set_aside_name(OsStr::new(it)));
        let names = aside.iter().map(|it| it.as_os_str()).collect();
        let known =
            Known { cache_dir: "/i/_base".into(), names, catalog: &Catalog::default(), is_to_keep: false };
        let [a, near_a] = &aside;
        let path = Path::new("/i/_base").join(A).into_os_string();
        for word in [A.into(), path, "86f7e437fa".into(), "a".into(), a.clone()] {
            let (selection, unknown) = Selection::resolve(std::slice::from_ref(&word), &known).unwrap();
            assert_eq!(
                (unknown.len(), selection.contains(a), selection.contains(near_a)),
                (0, true, false),
                "{word:?}"
            );
        }
        assert!(Selection::resolve(&["86f7e437".into()], &known).is_err());
        // The other way round, as for the prune that has put it back.
        let known = Known {
            cache_dir: "/i/_base".into(),
            names: [OsStr::new(A)].into(),
            catalog: &Catalog::default(),
            is_to_keep: false,
        };
        let (selection, unknown) = Selection::resolve(std::slice::from_ref(a), &known).unwrap();
        assert!(unknown.is_empty() && selection.contains(OsStr::new(A)));
    }

    #[test]
    fn an_id_in_capitals_means_the_files_of_its_lower_case_too() {
        // That of "a".
        let known = Known {
            cache_dir: "/i/_base".into(),
            names: [OsStr::new(A)].into(),
            catalog: &Catalog::default(),
            is_to_keep: false,
        };
        let (selection, unknown) = Selection::resolve(&["A".into()], &known).unwrap();
        assert!(unknown.is_empty() && selection.contains(OsStr::new(A)));
    }

    #[test]
    fn a_name_means_its_info_file_too() {
        let names = BTreeSet::from([OsStr::new(A)]);
        let known =
            Known { cache_dir: "/i/_base".into(), names, catalog: &Catalog::default(), is_to_keep: false };
        let (selection, _) = Selection::resolve(&[A.into()], &known).unwrap();
        assert!(selection.contains(OsStr::new(&format!("{A}.info"))));
        assert!(!selection.contains(OsStr::new(&format!("{A}_5"))));
    }
}
