//! Cases: one line each, counted. A case is `group/name` with what came and what should have come.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::say;

/// How a program writes, and what it calls the codes of its calls.
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    /// Writes text.
    pub write: fn(&str),
    /// The name of a code, if it has one.
    pub code_name: fn(i64) -> Option<&'static str>,
    /// Whether a case that passed shows its answer too (`ok: ANSWER`), for a comparison.
    pub shows_answers: bool,
}

static SINK: spin::Once<Sink> = spin::Once::new();

/// Says how to write. What is reported before is lost.
pub fn init(sink: Sink) {
    SINK.call_once(|| sink);
}

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);
static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// A line collected before it is written, so that it costs as few calls as possible.
#[derive(Debug)]
pub struct Line {
    bytes: [u8; 240],
    used: usize,
}

impl Line {
    /// An empty line.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: [0; 240],
            used: 0,
        }
    }

    /// Writes it with a newline.
    pub fn flush(mut self) {
        let _ = self.write_str("\r\n");
        let text = core::str::from_utf8(self.bytes.get(..self.used).unwrap_or(&[]));
        if let Some(sink) = SINK.get() {
            (sink.write)(text.unwrap_or("(not text)\r\n"));
        }
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(slot) = self.bytes.get_mut(self.used) {
                *slot = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

/// Values that a case compares: printed as a code when small, else in hexadecimal.
pub trait Shown: PartialEq + Copy {
    /// Writes the value.
    fn show(self, to: &mut Line);
}

impl Shown for i64 {
    fn show(self, to: &mut Line) {
        let name = SINK.get().and_then(|sink| (sink.code_name)(self));
        let _ = match name {
            Some(name) => write!(to, "{self} ({name})"),
            None => write!(to, "{self}"),
        };
    }
}

impl Shown for u64 {
    fn show(self, to: &mut Line) {
        let _ = write!(to, "{self:#x}");
    }
}

impl Shown for bool {
    fn show(self, to: &mut Line) {
        let _ = write!(to, "{self}");
    }
}

/// One case: `got` must equal `want`.
pub fn case<T: Shown>(name: impl fmt::Display, got: T, want: T) -> bool {
    one_of(name, got, &[want])
}

/// One case: `got` must be in `want` (where the contract leaves a choice).
pub fn one_of<T: Shown>(name: impl fmt::Display, got: T, want: &[T]) -> bool {
    if want.contains(&got) {
        PASSED.fetch_add(1, Ordering::Relaxed);
        if SINK.get().is_some_and(|sink| sink.shows_answers) {
            let mut line = Line::new();
            let _ = write!(line, "case {name} ok: ");
            got.show(&mut line);
            line.flush();
        } else {
            say!("case {name} ok");
        }
        return true;
    }
    FAILED.fetch_add(1, Ordering::Relaxed);
    let mut line = Line::new();
    let _ = write!(line, "case {name} FAILED: got ");
    got.show(&mut line);
    let _ = line.write_str(", want ");
    for (i, value) in want.iter().enumerate() {
        if i > 0 {
            let _ = line.write_str(" or ");
        }
        value.show(&mut line);
    }
    line.flush();
    false
}

/// One case: a statement that must hold.
pub fn holds(name: impl fmt::Display, statement: bool) -> bool {
    case(name, statement, true)
}

/// A case that cannot be tried here, with the reason; it is counted apart.
pub fn skip(name: impl fmt::Display, why: &str) {
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    say!("case {name} skipped: {why}");
}

/// Counts a failure that has its own message (panic, unexpected interrupt).
pub fn failure() {
    FAILED.fetch_add(1, Ordering::Relaxed);
}

/// The last line.
pub fn summary() {
    let (passed, failed) = (
        PASSED.load(Ordering::Relaxed),
        FAILED.load(Ordering::Relaxed),
    );
    let skipped = SKIPPED.load(Ordering::Relaxed);
    if skipped > 0 {
        say!("cases: {skipped} skipped");
    }
    say!("cases: {passed} passed, {failed} failed");
}
