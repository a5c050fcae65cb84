//! Lists that the API gives in pages.

/// A page, which says of the next one no more than after which row it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    ids: Vec<Box<str>>,
    /// The marker in the link to the next page, empty where the link has none.
    next: Option<Box<str>>,
}

impl Page {
    /// From the address of the next page, where there is one, and the ids of this page's rows.
    pub(crate) fn new(next: Option<&str>, ids: Vec<Box<str>>) -> Self {
        let marker = |href: &str| {
            let (_, query) = href.split_once('?')?;
            query.split('&').find_map(|pair| pair.strip_prefix("marker=")).map(Box::from)
        };
        Self { next: next.map(|href| marker(href).unwrap_or_default()), ids }
    }
}

/// The pages after which another must follow that was not given, by name, each with the reason.
///
/// A page does not say after which row it begins, so files alone cannot show whether every page between the first and
/// the last is there. A page that ends a list and does not hold the row after which it must begin counts as the rest.
pub(crate) fn unfinished<'a>(
    pages: impl Iterator<Item = (&'a str, Option<&'a Page>)>,
) -> Vec<(&'a str, String)> {
    let pages: Vec<_> = pages.filter_map(|(name, page)| Some((name, page?))).collect();
    let mut unfinished = Vec::new();
    for (name, page) in &pages {
        let Some(marker) = &page.next else { continue };
        if page.ids.last() != Some(marker) {
            let why = "has a next page that does not begin after its last row: create it again".to_owned();
            unfinished.push((*name, why));
        } else if !pages.iter().any(|(_, it)| it.next.is_none() && !it.ids.contains(marker)) {
            let why = format!("has a next page, after {marker}, that was not given: give all pages");
            unfinished.push((*name, why));
        }
    }
    unfinished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_with_a_next_link_needs_the_rest_of_its_list() {
        let page = |name: &'static str, ids: &[&str], next: Option<&str>| {
            (name, Page::new(next, ids.iter().map(|id| Box::from(*id)).collect()))
        };
        let first = || page("first", &["a", "b"], Some("/p?limit=2&marker=b"));
        let second = || page("second", &["c", "d"], Some("?marker=d"));
        let last = || page("last", &["e"], None);
        for (pages, expected) in [
            (vec![last()], &[][..]),
            (vec![first()], &["first"]),
            (vec![first(), first()], &["first", "first"]),
            (vec![first(), second()], &["first", "second"]),
            (vec![first(), second(), last()], &[]),
            (vec![last(), second(), first()], &[]),
            (vec![first(), page("empty", &[], None)], &[]),
            (vec![first(), page("same", &["a", "b"], None)], &["first"]),
            (vec![page("joined", &["b", "a"], Some("?marker=b")), last()], &["joined"]),
            (vec![page("no marker", &["a"], Some("p?limit=1")), last()], &["no marker"]),
            (vec![page("no query", &["a"], Some("marker=a")), last()], &["no query"]),
            (vec![page("no address", &["a"], Some("")), last()], &["no address"]),
        ] {
            let unfinished = unfinished(pages.iter().map(|(name, page)| (*name, Some(page))));
            assert_eq!(unfinished.iter().map(|(name, _)| *name).collect::<Vec<_>>(), expected);
        }
    }
}
