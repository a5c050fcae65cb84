//! Lists that the API gives in pages.

/// What a page says of the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// There is none.
    Last,
    /// It begins after the row of this id; `None` where that is not this page's last row, so that the file does not
    /// hold a page as the API gave it.
    ContinuesAfter(Option<Box<str>>),
}

impl Page {
    /// From the link to the next page, where there is one, and the id of this page's last row.
    pub(crate) fn new(next: Option<&str>, last: Option<&str>) -> Self {
        let Some(href) = next else { return Self::Last };
        let query = href.split_once('?').map_or("", |(_, query)| query);
        let marker = query.split('&').find_map(|pair| pair.strip_prefix("marker="));
        Self::ContinuesAfter(marker.filter(|it| Some(*it) == last).map(Box::from))
    }
}

/// A page that was given, and the ids on it.
pub(crate) struct Given<'a> {
    pub name: &'a str,
    pub page: &'a Page,
    pub ids: Vec<&'a str>,
}

/// The pages after which another must follow that was not given, each with the reason.
///
/// A page does not say after which row it begins, so files alone cannot show whether every page between the first and
/// the last is there. A page that ends a list and does not hold the row after which it must begin counts as the rest.
pub(crate) fn unfinished(pages: &[Given<'_>]) -> Vec<(String, String)> {
    let mut unfinished = Vec::new();
    for Given { name, page, .. } in pages {
        let Page::ContinuesAfter(marker) = page else { continue };
        let why = match marker {
            None => "has a next page that does not begin after its last row: create it again".to_owned(),
            Some(id) if pages.iter().any(|it| *it.page == Page::Last && !it.ids.contains(&&**id)) => continue,
            Some(id) => format!("has a next page, after {id}, that was not given: give all pages"),
        };
        unfinished.push(((*name).to_owned(), why));
    }
    unfinished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_known_by_the_last_id() {
        for (next, expected) in [
            (None, Page::Last),
            (Some("p?limit=1&marker=a"), Page::ContinuesAfter(Some("a".into()))),
            (Some("p?marker=b"), Page::ContinuesAfter(None)),
            (Some("marker=a"), Page::ContinuesAfter(None)),
            (Some(""), Page::ContinuesAfter(None)),
        ] {
            assert_eq!(Page::new(next, Some("a")), expected, "{next:?}");
        }
    }

    #[test]
    fn a_page_with_a_next_link_needs_the_rest_of_its_list() {
        let after = |id: &str| Page::ContinuesAfter(Some(id.into()));
        let pages = [after("b"), after("d"), Page::Last, Page::ContinuesAfter(None)];
        let given = |name: &'static str, page: usize, ids: &[&'static str]| Given {
            name,
            page: &pages[page],
            ids: ids.to_vec(),
        };
        let first = || given("first", 0, &["a", "b"]);
        let second = || given("second", 1, &["c", "d"]);
        let last = || given("last", 2, &["e"]);
        for (given, expected) in [
            (vec![last()], &[][..]),
            (vec![first()], &["first"]),
            (vec![first(), first()], &["first", "first"]),
            (vec![first(), second()], &["first", "second"]),
            (vec![first(), second(), last()], &[]),
            (vec![last(), second(), first()], &[]),
            (vec![first(), given("empty", 2, &[])], &[]),
            (vec![first(), given("same", 2, &["a", "b"])], &["first"]),
            (vec![given("joined", 3, &["a", "b"]), last()], &["joined"]),
        ] {
            let names: Vec<_> = unfinished(&given).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, expected);
        }
    }
}
