//! Fuzz targets: each takes bytes as somebody hostile would have left them, and asserts what has to hold whatever they are.
//!
//! libFuzzer drives them (`src/bin/fuzz.rs`); without it they are plain functions, which the tests here call too. The
//! surprise: check sums are made right for some inputs, or no input would get past them.

mod flash;
mod hiomap;
mod nvram;

/// Takes an input; panics if something does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 5] = [
    ("ffs", flash::ffs),
    ("container", flash::container),
    ("xz", flash::xz),
    ("nvram", nvram::nvram),
    ("hiomap", hiomap::hiomap),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name)?;
    Some(target)
}

/// An input that is read from the front; behind its end there are zeroes.
#[derive(Clone, Copy, Debug)]
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let count = N.min(self.0.len());
        let (now, rest) = self.0.split_at(count);
        taken[..count].copy_from_slice(now);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        u32::from_le_bytes(self.take()) as usize % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets_are_found_by_name() {
        assert!(target("ffs").is_some());
        assert!(target("").is_none());
    }

    #[test]
    fn what_is_behind_the_end_is_zero() {
        let mut bytes = Bytes(&[1, 2, 3]);
        assert_eq!(bytes.byte(), 1);
        assert_eq!(bytes.take(), [2, 3, 0, 0]);
        assert!(bytes.is_empty());
        assert_eq!(bytes.below(7), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_target_takes_any_bytes(data in prop::collection::vec(any::<u8>(), 0..600)) {
            for (_, target) in TARGETS {
                target(&data);
            }
        }
    }
}
