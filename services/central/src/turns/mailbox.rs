//! What waits for a turn: one lane for each speaker. Pure.

use std::collections::VecDeque;

use super::Speaker;

#[derive(Debug)]
pub(super) struct Mailbox<I> {
    /// Of Registry, operators, and what the store was asked for: before all others.
    first: VecDeque<I>,
    operators: usize,
    drivers: VecDeque<I>,
    own: VecDeque<I>,
    /// One of `own` says that time has passed.
    time_waits: bool,
    own_is_next: bool,
}

impl<I> Default for Mailbox<I> {
    fn default() -> Self {
        let (first, drivers, own) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { first, operators: 0, drivers, own, time_waits: false, own_is_next: false }
    }
}

impl<I> Mailbox<I> {
    /// All of `inputs`, which are of one speaker with so much room, or none: then the last of them comes back.
    pub(super) fn push(&mut self, speaker: Speaker, mut inputs: Vec<I>, room: usize) -> Result<(), I> {
        let taken = match speaker {
            Speaker::Registry | Speaker::Store => 0,
            Speaker::Time if self.time_waits => return Ok(()),
            Speaker::Time => 0,
            Speaker::Operator => self.operators,
            Speaker::Driver => self.drivers.len(),
            Speaker::Own => self.own.len(),
        };
        if taken.saturating_add(inputs.len()) > room {
            return inputs.pop().map_or(Ok(()), Err);
        }
        match speaker {
            Speaker::Registry | Speaker::Store => self.first.extend(inputs),
            Speaker::Operator => {
                self.operators += inputs.len();
                self.first.extend(inputs);
            }
            Speaker::Driver => self.drivers.extend(inputs),
            Speaker::Own => self.own.extend(inputs),
            Speaker::Time => {
                self.time_waits = true;
                self.own.extend(inputs);
            }
        }
        Ok(())
    }

    /// The next to have its turn; nothing of the core's own while that waits. Drivers and the core itself take turns.
    pub(super) fn pop(&mut self, own_waits: bool, speaker: impl Fn(&I) -> Speaker) -> Option<I> {
        if let Some(input) = self.first.pop_front() {
            self.operators -= usize::from(speaker(&input) == Speaker::Operator);
            return Some(input);
        }
        let is_own = !own_waits && !self.own.is_empty() && (self.own_is_next || self.drivers.is_empty());
        self.own_is_next = !is_own;
        let next = if is_own { self.own.pop_front() } else { self.drivers.pop_front() };
        self.time_waits &= next.as_ref().is_none_or(|input| speaker(input) != Speaker::Time);
        next
    }

    /// Takes out all whose askers wait for an answer.
    pub(super) fn drain(&mut self, speaker: impl Fn(&I) -> Speaker) -> Vec<I> {
        let mut asked = Vec::new();
        for lane in [&mut self.first, &mut self.drivers, &mut self.own] {
            let is_asked = |input: &I| matches!(speaker(input), Speaker::Operator | Speaker::Driver | Speaker::Own);
            let (taken, kept): (VecDeque<I>, _) = std::mem::take(lane).into_iter().partition(is_asked);
            *lane = kept;
            asked.extend(taken);
        }
        self.operators = 0;
        asked
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_empty(&self) -> bool {
        self.operators == 0 && self.drivers.is_empty() && self.own.len() == usize::from(self.time_waits)
    }
}
