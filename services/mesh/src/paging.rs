//! Pages of long lists: how many are answered at most, and where the next page begins.
//!
//! A token is good for the list and the filter that it came with and for nothing else: it carries a check sum over both,
//! so one that is foreign or broken is refused and never read as the first page.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use prost::{Message, Name};
use proto::{central::v1 as central, registry::v1 as registry, weather::v1 as weather};
use ring::digest::{SHA256, digest};
use tonic::Status;

use crate::field_checks::FieldChecks;

/// How many are answered where the caller leaves it open.
pub const USUAL_SIZE: u32 = 1_000;
pub const LARGEST_SIZE: u32 = 10_000;
/// Of the items of a page, encoded: within gRPC's usual limit of 4 MiB a message.
const PAGE_BYTES: usize = 3 * 1024 * 1024;
/// Of the check sum in a token.
const SUM_BYTES: usize = 8;

/// A request for one page of a list.
pub trait ListRequest: Message + Name {
    /// Takes page size and token out, so that the filter alone is left.
    fn take_page(&mut self) -> (u32, String);
}

macro_rules! list_requests {
    ($($request:ty),* $(,)?) => {
        $(impl ListRequest for $request {
            fn take_page(&mut self) -> (u32, String) {
                (std::mem::take(&mut self.page_size), std::mem::take(&mut self.page_token))
            }
        })*
    };
}

list_requests!(
    central::ListAuditRequest,
    central::ListChargingPointsRequest,
    central::ListConditionsRequest,
    central::ListOrdersRequest,
    central::ListSessionsRequest,
    central::ListTicketsRequest,
    central::StatisticsRequest,
    registry::ListIdentitiesRequest,
    registry::ListOperatorsRequest,
    registry::ListTokensRequest,
    weather::ListCitiesRequest,
);

/// The page that is asked for.
#[derive(Clone, Debug, Default)]
pub struct AskedPage {
    /// How many items at most, at least 1.
    size: u32,
    /// The place in the list after which the page begins; empty: it is the first page.
    cursor: String,
    /// The list and its filter.
    list: Vec<u8>,
}

impl AskedPage {
    /// Takes page size and token out of `request` and checks them.
    pub fn of<R: ListRequest>(request: &mut R, checks: &mut FieldChecks) -> Self {
        let (size, token) = request.take_page();
        if size > LARGEST_SIZE {
            checks.wrong("page_size", format!("{size} is more than {LARGEST_SIZE}"));
        }
        let list = [R::full_name().as_bytes(), b"\0", &request.encode_to_vec()].concat();
        let size = if size == 0 { USUAL_SIZE } else { size.min(LARGEST_SIZE) };
        let mut page = Self { size, cursor: String::new(), list };
        if !token.is_empty() {
            match page.cursor_of(&token) {
                Some(cursor) => page.cursor = cursor,
                None => checks.wrong("page_token", "it is not from a page of this list with this filter"),
            }
        }
        page
    }

    /// The place after which the page begins; nothing: at the first item.
    pub fn after(&self) -> Option<&str> {
        Some(self.cursor.as_str()).filter(|cursor| !cursor.is_empty())
    }

    /// Reads a page: `read` gets how many items at most and the cursor, and answers the items and the cursor of the next
    /// page, empty where there is none. A page of too many bytes is read again with as many items as fit.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn read<M, F, A>(&self, read: F) -> Result<(Vec<M>, String), Status>
    where
        M: Message,
        F: Fn(u32, String) -> A,
        A: Future<Output = Result<(Vec<M>, String), Status>>,
    {
        let (mut items, mut next) = read(self.size, self.cursor.clone()).await?;
        let fits = fitting(&items);
        if fits < items.len() {
            (items, next) = read(u32::try_from(fits).unwrap_or(self.size), self.cursor.clone()).await?;
        }
        Ok((items, self.token(&next)))
    }

    /// Cuts a page off `items`, each with its place in the list, of which all before the page are left out already.
    pub fn cut<M: Message>(&self, items: impl Iterator<Item = (String, M)>) -> (Vec<M>, String) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let (mut page, mut bytes, mut last) = (Vec::new(), 0_usize, String::new());
        for (place, item) in items {
            bytes = bytes.saturating_add(bytes_of(&item));
            // What comes after the page is never gathered, however large it is.
            if page.len() >= size || (bytes > PAGE_BYTES && !page.is_empty()) {
                return (page, self.token(&last));
            }
            page.push(item);
            last = place;
        }
        (page, String::new())
    }

    /// Empty where there is no next page.
    fn token(&self, cursor: &str) -> String {
        if cursor.is_empty() {
            return String::new();
        }
        BASE64_URL_SAFE_NO_PAD.encode([&self.sum(cursor.as_bytes()), cursor.as_bytes()].concat())
    }

    fn cursor_of(&self, token: &str) -> Option<String> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (sum, cursor) = bytes.split_at_checked(SUM_BYTES)?;
        let is_ours = !cursor.is_empty() && sum == self.sum(cursor);
        String::from_utf8(cursor.to_vec()).ok().filter(|_| is_ours)
    }

    fn sum(&self, cursor: &[u8]) -> [u8; SUM_BYTES] {
        let parts = [&self.list, cursor].map(|part| [&part.len().to_be_bytes(), part].concat());
        let digest = digest(&SHA256, &parts.concat());
        let mut sum = [0; SUM_BYTES];
        sum.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        sum
    }
}

/// How many of these a page can hold: at least one, since a single item is within the limit.
fn fitting<M: Message>(items: &[M]) -> usize {
    let mut bytes = 0_usize;
    let fits = items.iter().take_while(|item| {
        bytes = bytes.saturating_add(bytes_of(*item));
        bytes <= PAGE_BYTES
    });
    fits.count().max(1).min(items.len())
}

/// Of an item in its page.
fn bytes_of<M: Message>(item: &M) -> usize {
    item.encoded_len().saturating_add(8)
}

#[cfg(test)]
mod tests {
    use central::{ChargingPoint, ListChargingPointsRequest, ListOrdersRequest};

    use super::*;

    fn asked<R: ListRequest + Clone>(request: &R) -> Result<AskedPage, Status> {
        let (mut request, mut checks) = (request.clone(), FieldChecks::default());
        let page = AskedPage::of(&mut request, &mut checks);
        checks.finish().map(|()| page)
    }

    fn point(n: usize, bytes: usize) -> (String, ChargingPoint) {
        let id = format!("CP{n:05}");
        (id.clone(), ChargingPoint { id, detail: "x".repeat(bytes), ..ChargingPoint::default() })
    }

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let mut request = ListChargingPointsRequest { page_size: 2, ..Default::default() };
        let mut seen = Vec::new();
        loop {
            let page = asked(&request).unwrap();
            let all =
                (0..5).map(|n| point(n, 0)).filter(|(id, _)| page.after().is_none_or(|after| id.as_str() > after));
            let (points, next) = page.cut(all);
            seen.push(points.len());
            if next.is_empty() {
                break;
            }
            request.page_token = next;
        }
        assert_eq!(seen, [2, 2, 1]);
    }

    #[test]
    fn a_token_of_another_list_or_filter_or_a_broken_one_is_refused_spec_7_3() {
        let request = ListChargingPointsRequest { city: "Elche".into(), page_size: 1, ..Default::default() };
        let token = asked(&request).unwrap().token("CP-1");
        let with = |page_token: &str| ListChargingPointsRequest { page_token: page_token.into(), ..request.clone() };
        assert_eq!(asked(&with(&token)).unwrap().after(), Some("CP-1"));
        let larger = ListChargingPointsRequest { page_size: 7, ..with(&token) };
        assert!(asked(&larger).is_ok(), "the size may change from page to page");
        let other_filter = ListChargingPointsRequest { city: "Alicante".into(), ..with(&token) };
        let other_list = ListOrdersRequest { page_token: token.clone(), ..Default::default() };
        let broken = [format!("{token}A"), token[1..].to_owned(), "x".to_owned(), "CP-1".to_owned(), "?".to_owned()];
        let refused = broken.iter().map(|token| asked(&with(token)).err());
        for status in refused.chain([asked(&other_filter).err(), asked(&other_list).err()]) {
            let status = status.unwrap();
            assert!(
                status.code() == tonic::Code::InvalidArgument && status.message().contains("page_token"),
                "{status}"
            );
        }
    }

    #[test]
    fn a_page_size_has_a_bound_spec_7_3() {
        let of = |page_size| asked(&ListOrdersRequest { page_size, ..Default::default() }).map(|page| page.size);
        assert_eq!((of(0).unwrap(), of(1).unwrap(), of(LARGEST_SIZE).unwrap()), (USUAL_SIZE, 1, LARGEST_SIZE));
        assert!(of(LARGEST_SIZE + 1).unwrap_err().message().contains("page_size"));
    }

    #[test]
    fn a_page_is_within_the_limit_of_a_message() {
        let page = asked(&ListChargingPointsRequest { page_size: LARGEST_SIZE, ..Default::default() }).unwrap();
        let (points, next) = page.cut((0..5_000).map(|n| point(n, 1_000)));
        let bytes: usize = points.iter().map(Message::encoded_len).sum();
        assert!(bytes <= PAGE_BYTES && points.len() > 2_900, "{} points of {bytes} bytes", points.len());
        let last = points.last().unwrap().id.clone();
        let following = ListChargingPointsRequest { page_token: next, ..Default::default() };
        assert_eq!(asked(&following).unwrap().after(), Some(last.as_str()));
        assert_eq!(page.cut([point(0, 2 * PAGE_BYTES)].into_iter()).0.len(), 1);
    }

    #[tokio::test]
    async fn a_page_that_is_read_is_read_again_where_it_is_too_large() {
        let page = asked(&ListChargingPointsRequest::default()).unwrap();
        let read = async |size: u32, _: String| {
            let points: Vec<_> = (0..size as usize).map(|n| point(n, 10_000).1).collect();
            let next = points.last().map(|point| point.id.clone()).unwrap_or_default();
            Ok((points, next))
        };
        let (points, next) = page.read(read).await.unwrap();
        assert!(points.len() < 320, "{}", points.len());
        assert_eq!(page.cursor_of(&next), points.last().map(|point| point.id.clone()));
    }
}
