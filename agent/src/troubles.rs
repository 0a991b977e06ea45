//! The last things that went wrong: each once, with how often and when, and no more of them than anybody would read.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;

/// So many different ones are remembered.
const MOST: usize = 20;

/// Something that went wrong, perhaps again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// One or two sentences.
    pub message: String,
    /// When it was first seen, of those times that follow one another.
    pub first: Timestamp,
    /// When it was last seen.
    pub last: Timestamp,
    /// How many times.
    pub count: u64,
}

/// The last ones, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Troubles(VecDeque<Trouble>);

impl Troubles {
    /// Notes one. Returns whether it is another one than the last.
    pub fn note(&mut self, message: &str, now: Timestamp) -> bool {
        match self.0.back_mut() {
            Some(last) if last.message == message => {
                last.last = now;
                last.count += 1;
                false
            }
            _ => {
                if self.0.len() == MOST {
                    self.0.pop_front();
                }
                self.0.push_back(Trouble { message: message.to_owned(), first: now, last: now, count: 1 });
                true
            }
        }
    }

    /// The last one.
    pub fn last(&self) -> Option<&Trouble> {
        self.0.back()
    }

    /// All that are remembered, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Trouble> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_comes_again_is_counted_and_old_ones_go() {
        let mut troubles = Troubles::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(troubles.note("the store is away", at(1)));
        assert!(!troubles.note("the store is away", at(2)));
        let one = troubles.last().unwrap();
        assert_eq!((one.count, one.first, one.last), (2, at(1), at(2)));
        for number in 0..2 * MOST {
            assert!(troubles.note(&format!("{number}"), at(3)));
        }
        assert_eq!(troubles.all().count(), MOST);
    }
}
