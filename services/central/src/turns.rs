//! Turns: the inputs of one core are decided one at a time, and the next waits until what the decision before it changes
//! is durable. Charging points and drivers take their turns by it.
//!
//! Guarantees: each speaker has a lane of its own, so that none keeps another out; one turn is in flight; a decision that
//! the store refuses is decided again, at most [`TRIES`] times; what Registry reports is never given up, but tried again
//! after [`RETRY`]; what waits behind a turn that the store has not answered within [`DEADLINE`] is refused in words, and
//! not carried out later (SPEC 9.0). Pure.

mod mailbox;

use std::time::{Duration, Instant};

use mesh::clock::Now;

use self::mailbox::Mailbox;
use crate::settings::CentralSettings;

/// How long what the store did not take waits until it is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// How long the store may take for a turn before what waits behind it is refused.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often an input is decided before it is given up.
const TRIES: u8 = 4;

/// Who is behind an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// Registry: always finds room, and is never given up.
    Registry,
    /// What the store was asked for: always finds room.
    Store,
    Operator,
    Driver,
    /// The charging point or the driver itself.
    Own,
    /// The passing of time: says nothing itself, so one input at a time is enough and may be lost.
    Time,
}

/// What decides. Its decisions change nothing until they are applied.
pub(crate) trait Core {
    type Input;
    type Decision;
    /// Why the store did not take a decision.
    type Refusal;

    fn speaker(input: &Self::Input) -> Speaker;
    /// Inputs of that speaker that may wait.
    fn room(speaker: Speaker) -> usize;
    fn decide(&self, input: &Self::Input, settings: &CentralSettings, now: Now) -> Self::Decision;
    /// What to do instead, since the store did not take what was decided, or the input cannot wait.
    fn refused(
        &self,
        input: &Self::Input,
        refusal: &Self::Refusal,
        settings: &CentralSettings,
        now: Now,
    ) -> Self::Decision;
    /// Nothing can be made durable now, and why.
    fn unavailable(why: String) -> Self::Refusal;
    /// Whether something must be durable before the decision counts.
    fn is_durable(decision: &Self::Decision) -> bool;
}

/// A decision, and what it was made of.
pub(crate) struct DecidedInput<C: Core> {
    pub(crate) input: C::Input,
    pub(crate) decision: C::Decision,
    tries: u8,
}

enum TurnState<C: Core> {
    /// The store has it since then.
    Turn(Box<DecidedInput<C>>, Instant),
    /// What is durable is read again; nothing can be decided meanwhile.
    Reload,
}

pub(crate) struct Turns<C: Core> {
    mailbox: Mailbox<C::Input>,
    in_flight: Option<TurnState<C>>,
    /// What the store did not take and is never given up, and when it is tried again.
    retries: Vec<C::Input>,
    retry_at: Option<Instant>,
    /// The core's own inputs wait for something that the store was asked for.
    pub(crate) own_waits: bool,
}

impl<C: Core> Default for Turns<C> {
    fn default() -> Self {
        let mailbox = Mailbox::default();
        Self { mailbox, in_flight: None, retries: Vec::new(), retry_at: None, own_waits: false }
    }
}

impl<C: Core> Turns<C> {
    /// Room for all inputs of one message, or for none: then its last input speaks for all, and is handed back to be
    /// refused.
    pub(crate) fn offer(&mut self, inputs: Vec<C::Input>, now: Now) -> Result<(), (C::Input, C::Refusal)> {
        let overdue = self.is_overdue(now.mono);
        let Some(speaker) = inputs.last().map(C::speaker) else { return Ok(()) };
        let may_wait = !overdue || matches!(speaker, Speaker::Registry | Speaker::Store | Speaker::Time);
        let why = if may_wait { "too much waits for its turn here already".to_owned() } else { no_answer() };
        let room = if may_wait { C::room(speaker) } else { 0 };
        self.mailbox.push(speaker, inputs, room).map_err(|input| (input, C::unavailable(why)))
    }

    /// The next decision, unless one is in flight. To be carried out, or handed back to [`begin`](Self::begin).
    pub(crate) fn next(&mut self, core: &C, settings: &CentralSettings, now: Now) -> Option<DecidedInput<C>> {
        if self.in_flight.is_some() {
            return None;
        }
        let input = self.mailbox.pop(self.own_waits, C::speaker)?;
        let decision = core.decide(&input, settings, now);
        Some(DecidedInput { input, decision, tries: 1 })
    }

    /// The store has the decision's changes now.
    pub(crate) fn begin(&mut self, decided: DecidedInput<C>, now: Now) {
        self.in_flight = Some(TurnState::Turn(Box::new(decided), now.mono));
    }

    /// The store has answered.
    pub(crate) fn end(&mut self) -> Option<DecidedInput<C>> {
        match self.in_flight.take() {
            Some(TurnState::Turn(decided, _)) => Some(*decided),
            other => {
                self.in_flight = other;
                None
            }
        }
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Nothing is decided until [`reloaded`](Self::reloaded): what is durable is read again.
    pub(crate) fn reload(&mut self) {
        self.in_flight = Some(TurnState::Reload);
    }

    pub(crate) fn reloaded(&mut self) {
        self.in_flight = None;
    }

    /// What is decided instead of what the store refused; none where that is given up, or tried again later.
    pub(crate) fn again(
        &mut self,
        core: &C,
        (input, tries): (C::Input, u8),
        refusal: &C::Refusal,
        (settings, now): (&CentralSettings, Now),
    ) -> Option<DecidedInput<C>> {
        if C::speaker(&input) == Speaker::Registry {
            self.retries.push(input);
            self.retry_at = Some(now.mono + RETRY);
            return None;
        }
        let decision = core.refused(&input, refusal, settings, now);
        (tries < TRIES || !C::is_durable(&decision)).then_some(DecidedInput { input, decision, tries: tries + 1 })
    }

    /// An input that finds no room, or has waited in vain: what is decided of that, if it changes nothing.
    pub(crate) fn turned_away(
        &mut self,
        core: &C,
        input: C::Input,
        refusal: &C::Refusal,
        at: (&CentralSettings, Now),
    ) -> Option<DecidedInput<C>> {
        self.again(core, (input, TRIES), refusal, at)
    }

    /// Time has passed: what is to be tried again waits for its turn, and what has waited too long is handed back.
    pub(crate) fn timer_fired(&mut self, now: Now) -> Vec<C::Input> {
        if self.retry_at.is_some_and(|at| at <= now.mono) {
            self.retry_at = None;
            for input in std::mem::take(&mut self.retries) {
                // Registry always finds room.
                drop(self.mailbox.push(Speaker::Registry, vec![input], usize::MAX));
            }
        }
        if self.is_overdue(now.mono) { self.mailbox.drain(C::speaker) } else { Vec::new() }
    }

    /// When [`timer_fired`](Self::timer_fired) has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let waits = !self.mailbox.is_empty();
        self.retry_at.into_iter().chain(self.deadline().filter(|_| waits)).min()
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.in_flight {
            Some(TurnState::Turn(_, since)) => Some(*since + DEADLINE),
            Some(TurnState::Reload) | None => None,
        }
    }

    fn is_overdue(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }
}

impl<C: Core> DecidedInput<C> {
    /// The input, and how often it has been decided.
    pub(crate) fn into_parts(self) -> ((C::Input, u8), C::Decision) {
        ((self.input, self.tries), self.decision)
    }
}

/// Why an input that waits behind a turn that hangs is refused.
pub(crate) fn no_answer() -> String {
    format!("the database has not answered within {} s", DEADLINE.as_secs())
}

#[cfg(test)]
mod tests;
