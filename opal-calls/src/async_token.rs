//! Operations that end after their call: the kernel names each with a token, and one message tells it the outcome.
//!
//! Owns the slots: an operation takes one when it starts and gives it back when the kernel fetched the outcome, so a
//! completion always has room and a kernel that never fetches holds up only itself. No lock here; [`crate::messages`]
//! has it.
//!
//! The surprising fact: after a kexec the next kernel counts its tokens from 0 again while operations of the last
//! one may still run. A [`Ticket`] therefore names a generation, and an outcome for an older one is dropped.

use arrayvec::ArrayVec;

use crate::args::AsyncToken;
use crate::error::{Answer, OpalError, to_r3};

/// Operations that can be under way or unfetched at once (`opal-msg-async-num`).
pub const ASYNC_TOKENS: usize = 16;

/// Most values that follow token and return code in a completion.
pub const MAX_EXTRA: usize = 6;

/// An operation under way. It must be completed or cancelled, or its slot is lost until the next kernel.
#[must_use = "the kernel waits for the outcome"]
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    slot: usize,
    generation: u64,
}

/// The outcome of an operation: the parameters of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What the kernel calls it.
    pub token: AsyncToken,
    /// How it ended.
    pub answer: Answer,
    /// What else there is to say; depends on the call.
    pub extra: ArrayVec<u64, MAX_EXTRA>,
}

impl Completion {
    /// As words of a message.
    #[must_use]
    pub fn words(&self) -> ArrayVec<u64, 8> {
        [self.token.0, to_r3(self.answer)]
            .into_iter()
            .chain(self.extra.iter().copied())
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Slot {
    Free,
    Running {
        token: AsyncToken,
        generation: u64,
    },
    /// `order` counts completions, so that they are fetched as they came.
    Done {
        completion: Completion,
        order: u64,
    },
}

impl Slot {
    fn token(&self) -> Option<AsyncToken> {
        match self {
            Self::Free => None,
            Self::Running { token, .. } => Some(*token),
            Self::Done { completion, .. } => Some(completion.token),
        }
    }
}

/// All operations.
#[derive(Debug)]
pub struct AsyncTokens {
    slots: [Slot; ASYNC_TOKENS],
    /// Raised with every operation: also what makes a ticket unique.
    generation: u64,
    completed: u64,
}

impl AsyncTokens {
    /// No operation.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { Slot::Free }; ASYNC_TOKENS],
            generation: 0,
            completed: 0,
        }
    }

    /// Starts an operation.
    ///
    /// # Errors
    /// OPAL_PARAMETER when one of that token is under way or unfetched; OPAL_BUSY when there are too many.
    pub fn begin(&mut self, token: AsyncToken) -> Result<Ticket, OpalError> {
        if self.slots.iter().any(|slot| slot.token() == Some(token)) {
            return Err(OpalError::OPAL_PARAMETER);
        }
        let (index, slot) = self
            .slots
            .iter_mut()
            .enumerate()
            .find(|(_, slot)| matches!(slot, Slot::Free))
            .ok_or(OpalError::OPAL_BUSY)?;
        self.generation = self.generation.wrapping_add(1);
        *slot = Slot::Running {
            token,
            generation: self.generation,
        };
        Ok(Ticket {
            slot: index,
            generation: self.generation,
        })
    }

    fn running(&mut self, ticket: &Ticket) -> Option<(&mut Slot, AsyncToken)> {
        let slot = self.slots.get_mut(ticket.slot)?;
        match *slot {
            Slot::Running { token, generation } if generation == ticket.generation => {
                Some((slot, token))
            }
            Slot::Running { .. } | Slot::Free | Slot::Done { .. } => None,
        }
    }

    /// Ends an operation; values beyond [`MAX_EXTRA`] are left out. Says whether anyone waits for it.
    pub fn complete(&mut self, ticket: &Ticket, answer: Answer, extra: &[u64]) -> bool {
        let order = self.completed;
        let Some((slot, token)) = self.running(ticket) else {
            return false;
        };
        let extra = extra.iter().copied().take(MAX_EXTRA).collect();
        *slot = Slot::Done {
            completion: Completion {
                token,
                answer,
                extra,
            },
            order,
        };
        self.completed = self.completed.wrapping_add(1);
        true
    }

    /// Forgets an operation whose call will answer at once after all.
    pub fn cancel(&mut self, ticket: &Ticket) {
        if let Some((slot, _)) = self.running(ticket) {
            *slot = Slot::Free;
        }
    }

    /// Takes the oldest outcome, or that of one token.
    pub fn fetch(&mut self, only: Option<AsyncToken>) -> Option<Completion> {
        let slot = self
            .slots
            .iter_mut()
            .filter_map(|slot| match slot {
                Slot::Done { completion, order }
                    if only.is_none_or(|token| token == completion.token) =>
                {
                    Some((*order, slot))
                }
                Slot::Done { .. } | Slot::Free | Slot::Running { .. } => None,
            })
            .min_by_key(|(order, _)| *order)
            .map(|(_, slot)| slot)?;
        match core::mem::replace(slot, Slot::Free) {
            Slot::Done { completion, .. } => Some(completion),
            Slot::Free | Slot::Running { .. } => None,
        }
    }

    /// Outcomes that were not fetched yet.
    #[must_use]
    pub fn unfetched(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| matches!(slot, Slot::Done { .. }))
            .count()
    }

    /// Operations under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| matches!(slot, Slot::Running { .. }))
            .count()
    }

    /// Forgets everything: another kernel starts.
    pub fn forget(&mut self) {
        self.slots.fill(Slot::Free);
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of the test's own"
)]
mod tests {
    use proptest::prelude::*;

    use super::{ASYNC_TOKENS, AsyncTokens};
    use crate::args::AsyncToken;
    use crate::error::{OpalError, SUCCESS};

    #[test]
    fn a_slot_is_held_until_the_outcome_is_fetched() {
        let mut tokens = AsyncTokens::new();
        let mut tickets: std::vec::Vec<_> = (0..ASYNC_TOKENS as u64)
            .map(|n| tokens.begin(AsyncToken(n)).unwrap())
            .collect();
        assert_eq!(tokens.begin(AsyncToken(99)), Err(OpalError::OPAL_BUSY));
        assert!(tokens.complete(&tickets.remove(3), SUCCESS, &[]));
        assert_eq!(tokens.begin(AsyncToken(99)), Err(OpalError::OPAL_BUSY));
        assert_eq!(tokens.begin(AsyncToken(3)), Err(OpalError::OPAL_PARAMETER));
        assert_eq!(tokens.fetch(None).unwrap().token, AsyncToken(3));
        assert!(tokens.begin(AsyncToken(99)).is_ok());
    }

    #[test]
    fn a_completion_says_token_code_and_the_rest() {
        let mut tokens = AsyncTokens::new();
        let ticket = tokens.begin(AsyncToken(5)).unwrap();
        assert!(tokens.complete(
            &ticket,
            Err(OpalError::OPAL_HARDWARE),
            &[1, 2, 3, 4, 5, 6, 7]
        ));
        let words = tokens.fetch(None).unwrap().words();
        assert_eq!(
            words[..],
            [5, 0_u64.wrapping_sub(6), 1, 2, 3, 4, 5, 6],
            "a message has 8 words"
        );
        assert!(
            !tokens.complete(&ticket, SUCCESS, &[]),
            "only the first outcome counts"
        );
        assert_eq!(tokens.fetch(None), None);
    }

    #[test]
    fn an_outcome_for_an_earlier_kernel_is_dropped() {
        let mut tokens = AsyncTokens::new();
        let old = tokens.begin(AsyncToken(0)).unwrap();
        tokens.forget();
        let new = tokens.begin(AsyncToken(0)).unwrap();
        assert!(!tokens.complete(&old, SUCCESS, &[]));
        tokens.cancel(&old);
        assert_eq!(tokens.under_way(), 1);
        tokens.cancel(&new);
        assert_eq!(tokens.under_way(), 0);
    }

    #[test]
    fn one_token_can_be_asked_for() {
        let mut tokens = AsyncTokens::new();
        for n in [7, 8] {
            let ticket = tokens.begin(AsyncToken(n)).unwrap();
            assert!(tokens.complete(&ticket, SUCCESS, &[]));
        }
        assert_eq!(tokens.fetch(Some(AsyncToken(9))), None);
        assert_eq!(
            tokens.fetch(Some(AsyncToken(8))).unwrap().token,
            AsyncToken(8)
        );
        assert_eq!(tokens.unfetched(), 1);
    }

    proptest! {
        /// Against a plain model: outcomes come in the order of completion, each once.
        #[test]
        fn outcomes_come_in_order(steps in prop::collection::vec((0_u8..3, 0_u64..20), 0..200)) {
            let mut tokens = AsyncTokens::new();
            let mut running = std::vec::Vec::new();
            let mut done = std::collections::VecDeque::new();
            for (step, n) in steps {
                match step {
                    0 => {
                        let known = running.iter().any(|(t, _)| *t == n) || done.contains(&n);
                        let full = running.len() + done.len() == ASYNC_TOKENS;
                        match tokens.begin(AsyncToken(n)) {
                            Ok(ticket) => {
                                prop_assert!(!known && !full);
                                running.push((n, ticket));
                            }
                            Err(OpalError::OPAL_PARAMETER) => prop_assert!(known),
                            Err(error) => {
                                prop_assert_eq!(error, OpalError::OPAL_BUSY);
                                prop_assert!(full && !known);
                            }
                        }
                    }
                    1 if !running.is_empty() => {
                        let (token, ticket) = running.remove(n as usize % running.len());
                        prop_assert!(tokens.complete(&ticket, SUCCESS, &[]));
                        done.push_back(token);
                    }
                    _ => {
                        let got = tokens.fetch(None).map(|completion| completion.token.0);
                        prop_assert_eq!(got, done.pop_front());
                    }
                }
                prop_assert_eq!(tokens.unfetched(), done.len());
                prop_assert_eq!(tokens.under_way(), running.len());
            }
        }
    }
}
