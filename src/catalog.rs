//! Which image a cache file belongs to, and whether it could be downloaded again.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;

use crate::cache_name::{CacheName, Kind};
use crate::images::{Image, Images, by_fingerprint};
use crate::inventory::Inventory;

/// The images that the list of images or the inventory tells of.
#[derive(Debug, Default)]
pub struct Catalog<'a> {
    list: Option<&'a Images>,
    /// By fingerprint: those that only the inventory tells of.
    of_inventory: HashMap<String, Image>,
}

impl<'a> Catalog<'a> {
    pub fn new(list: Option<&'a Images>, inventory: Option<&Inventory>) -> Self {
        // In order, for two ids may be the same in lower case.
        let mut by_id: BTreeMap<&str, Image> = BTreeMap::new();
        for row in inventory.iter().flat_map(|it| &it.instances).flat_map(|it| &it.rows) {
            let images =
                [(&row.image_ref, &row.image_name), (&row.kernel_id, &None), (&row.ramdisk_id, &None)];
            for (id, name) in images.into_iter().filter_map(|(id, name)| Some((id.as_deref()?, name))) {
                let image =
                    by_id.entry(id).or_insert_with(|| Image { id: id.to_owned(), name: None, status: None });
                if image.name.is_none() {
                    image.name = name.as_deref().map(str::to_owned);
                }
            }
        }
        Self { list, of_inventory: by_fingerprint(by_id.into_values().collect()) }
    }

    /// The image that a file belongs to.
    pub fn image(&self, name: &OsStr) -> Option<&Image> {
        self.by_fingerprint(CacheName::parse(name).fingerprint?)
    }

    pub fn by_fingerprint(&self, fingerprint: &str) -> Option<&Image> {
        let listed = self.list.and_then(|it| it.by_fingerprint.get(fingerprint));
        listed.or_else(|| self.of_inventory.get(fingerprint))
    }

    /// Whether nova could fetch or make a file again from its image; `None` where no complete list tells.
    pub fn downloadable(&self, name: &OsStr, kind: Kind) -> Option<bool> {
        let fingerprint = CacheName::parse(name).fingerprint.filter(|_| kind != Kind::Other)?;
        let list = self.list?;
        match list.by_fingerprint.get(fingerprint) {
            Some(image) => image.status.as_deref().map(|it| it == "active"),
            None => list.is_complete.then_some(false),
        }
    }
}
