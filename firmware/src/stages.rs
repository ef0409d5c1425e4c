//! Boot as a list: names, order and progress codes of the stages.
//!
//! Surprising fact: the order in this list is not what keeps the stages in order. Each takes what an earlier one returned,
//! so the compiler does; the list is for the log, the BMC and the tests that compare it.
#![forbid(unsafe_code)]

use core::fmt;

use isa::timebase::{self, Ticks};

macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal;)+) => {
        /// A part of boot.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Stage {
            /// All stages in the order they run.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The byte that tells the BMC how far boot has come.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// The name in the log.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

stages! {
    /// Our vectors are in place, this thread has its registers; log lines reach the memory console and the UART.
    Console = 0x10, "console";
    /// The device tree is checked and read.
    Tree = 0x20, "tree";
    /// Processor and chips are known by their tables.
    Chips = 0x30, "chips";
    /// Every range of memory has an owner.
    Memory = 0x40, "memory";
    /// All threads are accounted for: one runs, the others are parked.
    Threads = 0x50, "threads";
    /// The chips' time of day runs, this core's time base is set from it; the other cores' follow before they get work.
    Time = 0x58, "time";
    /// Clock and BMC answer, or are known to be absent.
    Devices = 0x60, "devices";
    /// How the payload will run.
    Mode = 0x70, "mode";
    /// Kernel and initrd are checked.
    Payload = 0x80, "payload";
}

/// Runs one stage, logs its name and time, and gives back what it made.
///
/// # Errors
/// The stage's own error, with its name: where it becomes fatal is the caller's one place.
pub fn run<T, E>(
    stage: Stage,
    progress: impl FnOnce(u8),
    body: impl FnOnce() -> Result<T, E>,
) -> Result<T, Failed<E>> {
    let began = timebase::now();
    progress(stage.code());
    match body() {
        Ok(made) => {
            log::info!(
                "stage {} done in {}",
                stage.name(),
                Milliseconds(timebase::now().since(began))
            );
            Ok(made)
        }
        Err(error) => Err(Failed { stage, error }),
    }
}

/// A stage could not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed<E> {
    /// Which.
    pub stage: Stage,
    /// Why.
    pub error: E,
}

impl<E: fmt::Display> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "boot stopped at stage {}: {}",
            self.stage.name(),
            self.error
        )
    }
}

/// A length of time for people: milliseconds with three places.
struct Milliseconds(Ticks);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.to_us();
        write!(f, "{}.{:03} ms", us / 1000, us % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_rise_and_names_differ() {
        assert!(Stage::ALL.is_sorted_by(|a, b| a.code() < b.code()));
        assert!(
            Stage::ALL
                .iter()
                .all(|a| Stage::ALL.iter().filter(|b| a.name() == b.name()).count() == 1)
        );
    }

    /// The boots of Linux compare the order in the log with the same file.
    #[test]
    fn the_list_is_the_golden_one() {
        let golden = include_str!("../../tests/golden/boot-stages.txt");
        assert!(
            golden
                .lines()
                .eq(Stage::ALL.iter().map(|stage| stage.name()))
        );
    }

    #[test]
    fn a_failure_carries_the_stage() {
        let mut codes = Vec::new();
        let failed = run(
            Stage::Memory,
            |code| codes.push(code),
            || Err::<(), _>("too small"),
        )
        .unwrap_err();
        assert_eq!(
            failed.to_string(),
            "boot stopped at stage memory: too small"
        );
        assert_eq!(
            run(Stage::Mode, |code| codes.push(code), || Ok::<_, &str>(7)),
            Ok(7)
        );
        assert_eq!(codes, [0x40, 0x70]);
    }

    #[test]
    fn times_have_three_places() {
        assert_eq!(
            Milliseconds(Ticks::from_us(12_003)).to_string(),
            "12.003 ms"
        );
    }
}
