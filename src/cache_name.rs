//! Image id to cache file name, and cache file name to kind.
//!
//! The rules are those of `ImageCacheManager._scan_base_images`, `_store_swap_image` and `_store_ephemeral_image` in
//! nova/virt/libvirt/imagecache.py, narrowed where nova takes any 40 characters for a fingerprint.

use std::ffi::{OsStr, OsString};

use sha1::{Digest as _, Sha1};

use crate::words::words;

/// The name of the cache file of an image: the SHA-1 of its id in lower-case hex (nova's `get_cache_fname`).
pub fn cache_file_name(image_id: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    Sha1::digest(image_id.as_bytes())
        .iter()
        .flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// What the name of a file begins with while prune looks again whether anything needs it.
///
/// nova can take such a name for nothing of its own: it has more than 40 characters, and no `_` as the 41st.
pub const SET_ASIDE: &str = ".nova-imagecache.set-aside-while-looking-again.";

/// The name that a cache file has while it is set aside.
pub fn set_aside_name(name: &OsStr) -> OsString {
    let mut aside = OsString::from(SET_ASIDE);
    aside.push(name);
    aside
}

words! {
    /// What a file of the cache directory is, by its name.
    pub enum Kind {
        /// An image as it was fetched.
        Original = "original",
        /// A copy of an image grown to the disk size of a flavor.
        Resized = "resized",
        /// A copy as nova made them before Folsom (`_sm`).
        Small = "small",
        /// A swap disk, shared by all instances with that much swap.
        Swap = "swap",
        /// An ephemeral disk, shared by all instances with that much of it.
        Ephemeral = "ephemeral",
        /// The `.info` file that nova kept beside a cache file before Newton.
        Info = "info",
        /// A download or a conversion that broke off.
        Partial = "partial",
        /// What a prune that was killed had set aside.
        SetAside = "set_aside",
        /// Anything else, directories and special files among it: never touched.
        Other = "other",
    }
}

/// A file name of the cache directory, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheName<'a> {
    pub kind: Kind,
    /// Of the image that the file belongs to.
    pub fingerprint: Option<&'a str>,
    /// The file that an `.info` belongs to, that a partial would have become, or that is set aside; else itself.
    pub of: &'a str,
    /// The size of a swap file in MiB or of an ephemeral one in GiB; else empty.
    pub size: &'a str,
}

impl<'a> CacheName<'a> {
    /// Takes a name apart. What is not UTF-8 is `Other`.
    pub fn parse(name: &'a OsStr) -> Self {
        Self::parse_str(name.to_str().unwrap_or_default())
    }

    fn parse_str(name: &'a str) -> Self {
        if let Some(image) = Self::parse_image(name) {
            return image;
        }
        let other = Self { kind: Kind::Other, fingerprint: None, of: name, size: "" };
        if let Some(size) = name.strip_prefix("swap_").filter(|it| is_number(it)) {
            return Self { kind: Kind::Swap, size, ..other };
        }
        if let Some((size, hash)) = name.strip_prefix("ephemeral_").and_then(|rest| rest.split_once('_'))
            && is_number(size)
            && hash.chars().count() == 7
            && !hash.contains('_')
        {
            return Self { kind: Kind::Ephemeral, size, ..other };
        }
        if let Some(of) = name.strip_prefix(SET_ASIDE) {
            let own = Self::parse_str(of);
            let is_ours = !matches!(own.kind, Kind::SetAside | Kind::Other);
            return if is_ours { Self { kind: Kind::SetAside, of, ..own } } else { other };
        }
        for (suffix, kind) in [(".info", Kind::Info), (".part", Kind::Partial), (".converted", Kind::Partial)]
        {
            if let Some(image) = name.strip_suffix(suffix).and_then(Self::parse_image) {
                return Self { kind, ..image };
            }
        }
        other
    }

    fn parse_image(name: &'a str) -> Option<Self> {
        let (fingerprint, rest) = name.split_at_checked(40)?;
        // Lower case only: nova writes no other, and a name that it did not write is not ours to remove.
        if !fingerprint.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let kind = match rest.strip_prefix('_') {
            None if rest.is_empty() => Kind::Original,
            Some("sm") => Kind::Small,
            Some(bytes) if is_number(bytes) => Kind::Resized,
            _ => return None,
        };
        Some(Self { kind, fingerprint: Some(fingerprint), of: name, size: "" })
    }
}

/// With at most the digits of 2^64: nova gives no larger size, and a file whose name is too long cannot be set aside.
fn is_number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "17d1b00b81642842e514494a78e804e9a511637c";

    #[test]
    fn a_known_image_id_gives_the_file_name_that_nova_gives() {
        assert_eq!(
            cache_file_name("fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0"),
            "0d5e6b61602d758984b3bf038267614d6016eb2a"
        );
        assert_eq!(cache_file_name("1"), "356a192b7913b04c54574d18c28d46e6395428ab");
    }

    #[test]
    fn a_name_has_the_kind_that_its_form_says() {
        for (name, kind) in [
            (HEX.to_owned(), Kind::Original),
            (format!("{HEX}_10737418240"), Kind::Resized),
            (format!("{HEX}_0"), Kind::Resized),
            (format!("{HEX}_{}", u64::MAX), Kind::Resized),
            (format!("{HEX}_sm"), Kind::Small),
            (format!("{HEX}.info"), Kind::Info),
            (format!("{HEX}_5368709120.info"), Kind::Info),
            (format!("{HEX}_sm.info"), Kind::Info),
            (format!("{HEX}.part"), Kind::Partial),
            (format!("{HEX}_5.converted"), Kind::Partial),
            ("swap_1000".into(), Kind::Swap),
            ("ephemeral_20_40d1d2c".into(), Kind::Ephemeral),
            ("ephemeral_20_äöüßäöü".into(), Kind::Ephemeral),
            (format!("{SET_ASIDE}{HEX}"), Kind::SetAside),
            (format!("{SET_ASIDE}{HEX}_5.info"), Kind::SetAside),
            (format!("{SET_ASIDE}ephemeral_20_40d1d2c"), Kind::SetAside),
            // Not quite.
            (format!("{SET_ASIDE}x"), Kind::Other),
            (format!("{SET_ASIDE}{SET_ASIDE}{HEX}"), Kind::Other),
            (SET_ASIDE.into(), Kind::Other),
            (String::new(), Kind::Other),
            ("00000001".into(), Kind::Other),
            ("swap_".into(), Kind::Other),
            ("swap_abc".into(), Kind::Other),
            ("swap_-1".into(), Kind::Other),
            ("123_swap".into(), Kind::Other),
            ("swap_129_".into(), Kind::Other),
            ("swap_٣".into(), Kind::Other),
            ("ephemeral_0_20_None".into(), Kind::Other),
            ("ephemeral_20_40d1d2".into(), Kind::Other),
            ("ephemeral_20_40d1d2cc".into(), Kind::Other),
            ("ephemeral_20_40d_d2c".into(), Kind::Other),
            ("ephemeral__40d1d2c".into(), Kind::Other),
            (HEX.to_uppercase(), Kind::Other),
            (format!("{HEX}a"), Kind::Other),
            (HEX[1..].to_owned(), Kind::Other),
            (format!("{HEX}_"), Kind::Other),
            (format!("{HEX}_small"), Kind::Other),
            (format!("{HEX}_10G"), Kind::Other),
            (format!("{HEX}_{}0", u64::MAX), Kind::Other),
            (format!("{HEX}.sha1"), Kind::Other),
            (format!("{HEX}.info.info"), Kind::Other),
            (format!("{HEX}.info.part"), Kind::Other),
            (format!("{HEX}\n"), Kind::Other),
            ("swap_5.info".into(), Kind::Other),
            (format!("{}é{}", &HEX[..39], "f"), Kind::Other),
        ] {
            assert_eq!(CacheName::parse(OsStr::new(&name)).kind, kind, "{name:?}");
        }
    }

    #[test]
    fn sidecars_and_copies_have_the_fingerprint_of_their_image() {
        for name in [HEX.to_owned(), format!("{HEX}_5"), format!("{HEX}_sm.info"), format!("{HEX}.part")] {
            assert_eq!(CacheName::parse(OsStr::new(&name)).fingerprint, Some(HEX), "{name}");
        }
        assert_eq!(CacheName::parse(OsStr::new("swap_5")).fingerprint, None);
    }
}
