//! Pages of long lists: a token says where the next one begins, so that rows that come meanwhile shift nothing.

use crate::StoreError;

/// Which page, and how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// 0: 1,000. At most 10,000.
    pub size: u32,
    /// Empty: the first page; otherwise `Page::next` of the one before.
    pub token: String,
}

/// Some rows, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Empty: there is no more.
    pub next: String,
}

/// The last row of a page, by the columns it was ordered by: a number, then texts that make it unique.
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
        let number = number.parse().map_err(|_| StoreError::Rejected("the page token is not one of ours".into()))?;
        Ok(Some(Cursor { number, text: text.to_owned() }))
    }

    /// `rows` were asked for with one more than the limit, which tells whether there is another page.
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
