//! Tickets that a linked driver may not have on disk yet (SPEC 3.9): some are sent, the next when the driver has
//! acknowledged those, and all that is due again every so often, since a disk may be full and a message lost.
//!
//! Guarantees: what is billed once the loop knows his link is told to him or read; the store is asked for a driver one
//! question at a time, and never while nothing is due to him.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use proto::{
    DriverId,
    link::v1::{Ticket, down},
};
use store::{StoreError, central::TicketRow};

use super::{Completion, EventLoop};

/// Tickets sent to a driver before any of them is acknowledged: half of what a driver keeps unanswered.
const AT_ONCE: usize = 32;

/// Tickets, and what was said about them later.
pub(super) type DueTickets = Result<Vec<Ticket>, StoreError>;

/// What the loop knows of it; nothing of a driver who is away, or to whom nothing is due.
#[derive(Debug, Default)]
pub(super) struct TicketDelivery {
    owed: HashMap<DriverId, UnacknowledgedTickets>,
    /// When the store is asked again.
    again: BTreeSet<(Instant, DriverId)>,
}

#[derive(Debug, Default)]
struct UnacknowledgedTickets {
    /// Sent, and not acknowledged.
    sent: BTreeSet<String>,
    /// More is due than was sent.
    more: bool,
    state: QueryState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum QueryState {
    /// The store is asked.
    #[default]
    Asked,
    /// The store is asked, and again after that: another link has come meanwhile.
    AskedAnew,
    Until(Instant),
}

impl TicketDelivery {
    /// Whether the store is to be asked now.
    fn ask(&mut self, driver: &DriverId) -> bool {
        let Some(owed) = self.owed.get_mut(driver) else {
            self.owed.insert(driver.clone(), UnacknowledgedTickets::default());
            return true;
        };
        match owed.state {
            QueryState::Asked | QueryState::AskedAnew => {
                owed.state = QueryState::AskedAnew;
                false
            }
            QueryState::Until(at) => {
                self.again.remove(&(at, driver.clone()));
                *owed = UnacknowledgedTickets::default();
                true
            }
        }
    }

    /// `session`'s ticket was sent as it was billed.
    pub(super) fn sent(&mut self, driver: &DriverId, session: &str, again_at: Instant) {
        let owed = self.owed.entry(driver.clone()).or_insert_with(|| {
            self.again.insert((again_at, driver.clone()));
            UnacknowledgedTickets { state: QueryState::Until(again_at), ..UnacknowledgedTickets::default() }
        });
        if owed.sent.len() < AT_ONCE {
            owed.sent.insert(session.to_owned());
        } else {
            owed.more = true;
        }
    }

    /// What the store said was sent, as far as there was room. Whether it is to be asked again at once.
    fn answered(&mut self, driver: &DriverId, sent: Vec<String>, more: bool, again_at: Instant) -> bool {
        let Some(owed) = self.owed.get_mut(driver) else { return false };
        if let QueryState::Until(at) = owed.state {
            // An answer for the link before this one came late.
            self.again.remove(&(at, driver.clone()));
        }
        let anew = owed.state == QueryState::AskedAnew;
        owed.sent.extend(sent);
        owed.more |= more;
        if !anew && owed.sent.is_empty() && !owed.more {
            self.owed.remove(driver);
        } else {
            owed.state = QueryState::Until(again_at);
            self.again.insert((again_at, driver.clone()));
        }
        anew
    }

    /// `session`'s ticket is on the driver's disk. True: the store is to be asked for more.
    fn acknowledged(&mut self, driver: &DriverId, session: &str) -> bool {
        let Some(owed) = self.owed.get_mut(driver) else { return false };
        let last = owed.sent.remove(session) && owed.sent.is_empty();
        match owed.state {
            QueryState::Until(_) if last && owed.more => return true,
            QueryState::Until(_) if last => self.left(driver),
            QueryState::Until(_) | QueryState::Asked | QueryState::AskedAnew => {}
        }
        false
    }

    /// The driver has no link any more. The store is asked again when the next one comes.
    pub(super) fn left(&mut self, driver: &DriverId) {
        if let Some(UnacknowledgedTickets { state: QueryState::Until(at), .. }) = self.owed.remove(driver) {
            self.again.remove(&(at, driver.clone()));
        }
    }

    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again.first().map(|(at, _)| *at)
    }

    fn rung(&self, now: Instant) -> Vec<DriverId> {
        self.again.iter().take_while(|(at, _)| *at <= now).map(|(_, driver)| driver.clone()).collect()
    }
}

impl EventLoop {
    /// Not before the loop knows his link: a bill in between would be told to nobody.
    pub(super) fn read_due_tickets(&mut self, driver: &DriverId) {
        if !self.tickets.ask(driver) {
            return;
        }
        let (store, driver) = (self.shared.store.clone(), driver.clone());
        self.turns.push(Box::pin(async move {
            let of = driver.to_string();
            let read = move |conn: &mut store::Conn| {
                // One more than is sent says whether there are more.
                let due = TicketRow::due(conn, &of, AT_ONCE as i64 + 1)?;
                TicketRow::tickets(conn, &due)
            };
            let read = store.look_up("due tickets", read).await;
            Completion::Tickets(driver, Box::new(read))
        }));
    }

    pub(super) fn due_tickets_read(&mut self, driver: &DriverId, read: DueTickets) {
        let now = self.now().mono;
        let link = self.drivers.get(driver).and_then(|holder| holder.link);
        let Some(send_queue) = link.and_then(|link| self.links.get(&link)).map(|linked| linked.send_queue.clone())
        else {
            return self.tickets.left(driver);
        };
        let (sent, more, again_at) = match read {
            Ok(due) => {
                // A link without room for them is sent them later, and is not closed for it.
                let sent = |ticket: &&Ticket| {
                    send_queue.try_send(super::publish::encoded(0, down::Body::Ticket((*ticket).clone()))).is_ok()
                };
                let sent = due.iter().take(AT_ONCE).take_while(sent).map(|ticket| ticket.session_id.clone());
                let sent: Vec<_> = sent.collect();
                let more = sent.len() < due.len();
                (sent, more, now + self.shared.settings.tickets_again)
            }
            Err(error) => {
                // That the database is away is said once, by health.
                tracing::debug!(driver.id = %driver, %error, "his due tickets could not be read");
                (Vec::new(), true, now + self.shared.settings.tickets_again)
            }
        };
        if self.tickets.answered(driver, sent, more, again_at) {
            self.read_due_tickets(driver);
        }
    }

    pub(super) fn ticket_received(&mut self, driver: &DriverId, session: &str) {
        if self.tickets.acknowledged(driver, session) {
            self.read_due_tickets(driver);
        }
    }

    pub(super) fn ring_tickets(&mut self, now: Instant) {
        for driver in self.tickets.rung(now) {
            self.read_due_tickets(&driver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn ada() -> DriverId {
        "ada".parse().unwrap()
    }

    fn sessions(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("s{n}")).collect()
    }

    #[test]
    fn the_next_tickets_follow_when_those_before_are_acknowledged_and_not_sooner_spec_3_9() {
        let mut due = TicketDelivery::default();
        assert!(due.ask(&ada()));
        assert!(!due.answered(&ada(), sessions(3), true, at(10).mono));
        assert!(!due.acknowledged(&ada(), "s0") && !due.acknowledged(&ada(), "s0") && !due.acknowledged(&ada(), "s1"));
        assert!(due.acknowledged(&ada(), "s2") && due.ask(&ada()));
        assert!(!due.answered(&ada(), sessions(1), false, at(11).mono));
        assert!(!due.acknowledged(&ada(), "s0"));
        assert!(due.owed.is_empty() && due.again.is_empty(), "nothing is due: nothing is asked");
    }

    #[test]
    fn what_is_not_acknowledged_is_asked_for_again_and_again_spec_9() {
        let mut due = TicketDelivery::default();
        due.sent(&ada(), "s0", at(10).mono);
        for second in [10, 20, 30] {
            assert_eq!((due.again_at(), due.rung(at(second - 1).mono)), (Some(at(second).mono), Vec::new()));
            assert_eq!(due.rung(at(second).mono), [ada()]);
            assert!(due.ask(&ada()) && due.again_at().is_none());
            assert!(!due.answered(&ada(), sessions(1), false, at(second + 10).mono));
        }
        due.left(&ada());
        assert!(due.owed.is_empty() && due.again.is_empty());
    }

    #[test]
    fn an_answer_for_an_older_link_leaves_nothing_behind() {
        let mut due = TicketDelivery::default();
        assert!(due.ask(&ada()));
        due.left(&ada());
        assert!(due.ask(&ada()));
        assert!(!due.answered(&ada(), sessions(1), false, at(10).mono));
        assert!(!due.answered(&ada(), sessions(1), false, at(11).mono));
        assert_eq!(due.again.len(), 1);
        due.left(&ada());
        assert!(due.again.is_empty() && !due.answered(&ada(), sessions(1), false, at(12).mono));
    }

    #[test]
    fn a_link_that_comes_while_the_store_is_asked_makes_it_be_asked_again_spec_9() {
        let mut due = TicketDelivery::default();
        assert!(due.ask(&ada()) && !due.ask(&ada()));
        due.sent(&ada(), "s7", at(1).mono);
        assert!(due.answered(&ada(), Vec::new(), false, at(10).mono) && due.ask(&ada()));
        assert!(!due.answered(&ada(), Vec::new(), false, at(10).mono));
        assert!(due.owed.is_empty() && due.again.is_empty());
    }
}
