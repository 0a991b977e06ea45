//! Which of a backup's manifests it is.

use std::fmt;
use std::str::FromStr;

/// The generation of a manifest. The highest one counts; of two with the same number, which two writers made at once
/// out of the same one and which say the same, that with the greater random part.
///
/// Written as eight decimal digits; from the second on followed by `-` and sixteen random hexadecimal ones, so that no
/// writer can take the name of another's. The first one needs none: its backup's label is random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation {
    number: u32,
    nonce: Option<u64>,
}

/// Eight digits.
const LAST: u32 = 99_999_999;

impl Generation {
    /// That of a backup's first manifest.
    pub const FIRST: Self = Self { number: 1, nonce: None };

    /// A new name for the one after this; `None` where numbers end.
    pub(crate) fn next(self) -> Option<Self> {
        (self.number < LAST).then(|| Self { number: self.number + 1, nonce: Some(rand::random()) })
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nonce {
            None => write!(f, "{:08}", self.number),
            Some(nonce) => write!(f, "{:08}-{nonce:016x}", self.number),
        }
    }
}

impl FromStr for Generation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, nonce) = match text.split_once('-') {
            None => (text, None),
            Some((number, nonce)) => (number, Some(u64::from_str_radix(nonce, 16).map_err(|_| ())?)),
        };
        let read = Self { number: number.parse().map_err(|_| ())?, nonce };
        (read.to_string() == text).then_some(read).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_higher_than_the_one_before_and_nobody_elses() {
        let (second, other) = (Generation::FIRST.next().unwrap(), Generation::FIRST.next().unwrap());
        assert!(Generation::FIRST < second && second < other.next().unwrap());
        assert_ne!(second, other);
        assert_eq!(Generation { number: LAST, nonce: Some(1) }.next(), None);
    }

    #[test]
    fn is_written_in_one_way() {
        for generation in [Generation::FIRST, Generation { number: 12, nonce: Some(255) }] {
            assert_eq!(generation.to_string().parse(), Ok(generation));
        }
        for text in
            ["", "1", "+0000001", "00000002-", "00000002-FF", "00000002-00000000000000FF", "00000001-x"]
        {
            assert_eq!(text.parse::<Generation>(), Err(()), "{text}");
        }
    }
}
