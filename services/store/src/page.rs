//! Pages of long lists. The token names the last row of a page, so that rows that are added meanwhile do not shift the
//! next page.

use crate::StoreError;

/// Which page, and its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// 0: 1,000. At most 10,000.
    pub size: u32,
    /// Empty: the first page. Otherwise `Page::next` of the page before.
    pub token: String,
}

/// A page of rows, and the token of the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Empty: this is the last page.
    pub next: String,
}

/// The last row of a page by the columns of its order: a number, then a text that makes it unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) number: i64,
    pub(crate) text: String,
}

impl PageRequest {
    pub(crate) fn limit(&self) -> i64 {
        match self.size {
            0 => 1000,
            size => i64::from(size.min(10_000)),
        }
    }

    pub(crate) fn cursor(&self) -> Result<Option<Cursor>, StoreError> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let (number, text) = self.token.split_once('~').unwrap_or((&self.token, ""));
        let number = number.parse().map_err(|_| StoreError::Rejected("the page token is not valid".into()))?;
        Ok(Some(Cursor { number, text: text.to_owned() }))
    }

    /// Cuts `rows`, which were queried with one row more than the limit, to a page.
    pub(crate) fn cut<T>(&self, mut rows: Vec<T>, cursor: impl Fn(&T) -> Cursor) -> Page<T> {
        let limit = usize::try_from(self.limit()).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if more => {
                let Cursor { number, text } = cursor(last);
                format!("{number}~{text}")
            }
            _ => String::new(),
        };
        Page { rows, next }
    }
}
