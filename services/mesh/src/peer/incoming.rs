//! What Central says: whether it can be read, from which epoch it comes, and what it says of the time.

use std::time::Instant;

use prost::Message as _;
use proto::link::v1::{Down, down};

use super::LinkNo;
use crate::skew::{ClockReader, SkewSettings};

#[derive(Debug)]
pub(super) struct CentralSignals {
    pub(super) highest_epoch: u64,
    pub(super) unintelligible: u64,
    pub(super) cannot_read: bool,
    pub(super) is_not_read: bool,
    /// Of Central's clock.
    pub(super) clock: ClockReader,
    /// The link that this is about.
    pub(super) link: Option<LinkNo>,
}

impl CentralSignals {
    pub(super) fn new(clock: SkewSettings, highest_epoch: u64) -> Self {
        let clock = ClockReader::new(clock);
        Self { highest_epoch, unintelligible: 0, cannot_read: false, is_not_read: false, clock, link: None }
    }

    pub(super) fn begin_link(&mut self, link: Option<LinkNo>, has_key: bool, now: Instant) {
        self.link = link;
        if link.is_some() {
            (self.cannot_read, self.is_not_read) = (false, false);
        }
        // A link without a key carries no question.
        if has_key {
            self.clock.begin(now);
        } else {
            self.clock.pause();
        }
    }

    pub(super) fn count_unintelligible(&mut self) {
        self.unintelligible += 1;
        self.cannot_read = true;
    }

    pub(super) fn opened(&mut self, bytes: &[u8]) -> Option<Down> {
        let down = Down::decode(bytes).ok()?;
        self.cannot_read = false;
        Some(down)
    }

    pub(super) fn is_new_epoch(&mut self, epoch: u64) -> bool {
        let is_new = epoch > self.highest_epoch;
        self.highest_epoch = self.highest_epoch.max(epoch);
        is_new
    }

    /// Orders and views are an owner's, and one of an older epoch owns no longer (SPEC 4.9); keys and authentication
    /// come before there is an owner.
    pub(super) fn is_fenced(&self, body: &down::Body, epoch: u64) -> bool {
        use down::Body::{
            Answer, Ask, AuthStatus, ChargingPoints, Clock, ConfirmRequest, HandBackTickets, History, KeyGrant,
            Release, Running, Settled, Step, Stop, Supply, Ticket, Unsupported, View,
        };
        let is_an_owners = match body {
            View(_) | Ask(_) | Supply(_) | Release(_) | Stop(_) | Settled(_) => true,
            Answer(_) | KeyGrant(_) | AuthStatus(_) | Unsupported(_) | Step(_) | Running(_) | Ticket(_)
            | ChargingPoints(_) | Clock(_) | History(_) | ConfirmRequest(_) | HandBackTickets(_) => false,
        };
        let is_fenced = is_an_owners && epoch < self.highest_epoch;
        if is_fenced {
            tracing::warn!(epoch, highest = self.highest_epoch, "ignored a message of an older epoch");
        }
        is_fenced
    }
}
