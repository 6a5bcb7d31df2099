//! Tickets that go back to a Central that was restored from a backup (SPEC 10.5): some at a time, each until it is
//! answered, and all of them once for each generation.

use std::collections::VecDeque;

use proto::link::v1::{SignedDocument, TicketHeld, up};

use super::{TripCommand, Trips};
use crate::notification::Notification;

/// Tickets on their way at once.
const AT_ONCE: usize = 16;

/// The tickets that Central has not answered yet.
#[derive(Debug, Default)]
pub(super) struct HandBack {
    generation: u32,
    sent: Vec<SignedDocument>,
    waiting: VecDeque<SignedDocument>,
    refused: usize,
}

impl Trips {
    pub(super) fn hand_tickets_back(&mut self, generation: u32, tickets: Vec<SignedDocument>) {
        if self.hand_back.generation == generation && !self.hand_back.sent.is_empty() {
            // Under way already; what was not answered is repeated by the link.
            return;
        }
        self.hand_back = HandBack { generation, waiting: tickets.into(), ..HandBack::default() };
        self.hand_back_more();
    }

    /// Central has this ticket, or refused it for the reason in `words`.
    pub(super) fn ticket_handed_back(&mut self, held: &TicketHeld, words: Option<String>) {
        let Some(ticket) = &held.ticket else { return };
        self.hand_back.sent.retain(|sent| sent != ticket);
        if let Some(words) = words {
            self.hand_back.refused += 1;
            let text = format!("Central did not take a ticket back: {words}");
            self.commands.push_back(TripCommand::Notify(Notification::Hint { text }));
        }
        self.hand_back_more();
    }

    fn hand_back_more(&mut self) {
        while self.hand_back.sent.len() < AT_ONCE
            && let Some(ticket) = self.hand_back.waiting.pop_front()
        {
            self.hand_back.sent.push(ticket.clone());
            self.commands.push_back(TripCommand::Send(up::Body::TicketHeld(TicketHeld { ticket: Some(ticket) })));
        }
        if self.hand_back.sent.is_empty() && self.hand_back.generation > 0 {
            self.commands.push_back(TripCommand::SaveHandedBack(self.hand_back.generation));
        }
    }
}
