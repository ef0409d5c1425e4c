//! A limit for lines that a guest can cause.
//!
//! Surprising fact: nothing is lost silently; the first line of the next second says how many were left out.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use isa::timebase::Ticks;

/// Lines that one place in the code may write per second.
const LINES: u32 = 8;

/// The limit of one place in the code.
#[derive(Debug, Default)]
pub struct Limit {
    /// When the current second began.
    began: AtomicU64,
    /// Lines asked for in it.
    lines: AtomicU32,
}

impl Limit {
    /// A limit that nothing has been counted on.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            began: AtomicU64::new(0),
            lines: AtomicU32::new(0),
        }
    }

    /// Whether a line may be written now; if so, how many were left out since the last that could.
    pub fn ask(&self, now: Ticks) -> Option<u32> {
        let began = self.began.load(Ordering::Relaxed);
        if now.0.wrapping_sub(began) >= isa::timebase::FREQUENCY
            && self
                .began
                .compare_exchange(began, now.0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            return Some(self.lines.swap(1, Ordering::Relaxed).saturating_sub(LINES));
        }
        (self.lines.fetch_add(1, Ordering::Relaxed) < LINES).then_some(0)
    }
}

/// Logs a line that a guest can cause: `limited!(warn, "format", arguments)`. At most eight per second and place.
#[macro_export]
macro_rules! limited {
    ($level:ident, $($text:tt)+) => {{
        static LIMIT: $crate::console::limit::Limit = $crate::console::limit::Limit::new();
        if let Some(left_out) = LIMIT.ask(::isa::timebase::now()) {
            if left_out > 0 {
                ::log::$level!("{left_out} lines like the next were left out");
            }
            ::log::$level!($($text)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limit = Limit::new();
        let second = isa::timebase::FREQUENCY;
        let allowed = (0..100)
            .filter(|n| limit.ask(Ticks(second + n)).is_some())
            .count();
        assert_eq!(allowed, LINES as usize);
        assert_eq!(limit.ask(Ticks(2 * second + 1)), Some(92));
        assert_eq!(limit.ask(Ticks(2 * second + 2)), Some(0));
    }

    #[test]
    fn slow_lines_all_pass() {
        let limit = Limit::new();
        assert!((1..50).all(|n| limit.ask(Ticks(n * isa::timebase::FREQUENCY)) == Some(0)));
    }
}
