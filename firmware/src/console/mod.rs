//! Where the firmware's lines go: the memory console always, the UART from the console stage on.
//!
//! Owns the back end of the `log` crate. Each line carries seconds of the time base, thread and module. Surprising fact:
//! a line is formatted into a buffer of fixed size first, so logging never allocates and lines of several threads never
//! mix; a line that is too long loses its end.
#![forbid(unsafe_code)]

pub mod limit;
pub mod memory;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Once;

use self::memory::MemoryConsole;

/// Something that takes bytes at once, from any thread: the UART.
pub trait Sink: Sync {
    /// Writes all of `bytes`, waiting for room but not for ever.
    fn write(&self, bytes: &[u8]);
    /// Writes `bytes` from an exception or a panic: whoever holds a lock may never give it back.
    fn write_emergency(&self, bytes: &[u8]);
}

/// The back end: one for the machine.
pub struct Console {
    memory: Once<MemoryConsole>,
    sink: Once<&'static dyn Sink>,
}

static CONSOLE: Console = Console {
    memory: Once::new(),
    sink: Once::new(),
};

/// Least important level that reaches the UART when nobody says; the memory console has everything down to debug.
const UART_LEVEL: LevelFilter = LevelFilter::Info;
/// The levels for UART and memory console as numbers of [`LevelFilter`].
static LEVELS: [AtomicUsize; 2] = [
    AtomicUsize::new(UART_LEVEL as usize),
    AtomicUsize::new(LevelFilter::Debug as usize),
];

/// Sends lines to the memory console from now on.
pub fn start(memory: impl FnOnce() -> MemoryConsole) {
    CONSOLE.memory.call_once(memory);
    // Fails only when a logger is set already, that is when this is called twice.
    let _ = log::set_logger(&CONSOLE);
    log::set_max_level(LevelFilter::Debug);
}

/// Sends lines to `sink` too from now on.
pub fn add_sink(sink: &'static dyn Sink) {
    CONSOLE.sink.call_once(|| sink);
}

/// Sets the least important levels that reach the UART and the memory console; without one it stays as it is.
pub fn set_levels(uart: Option<LevelFilter>, memory: Option<LevelFilter>) {
    for (level, wanted) in LEVELS.iter().zip([uart, memory]) {
        if let Some(wanted) = wanted {
            level.store(wanted as usize, Ordering::Relaxed);
        }
    }
    let most = LEVELS
        .iter()
        .map(|level| level.load(Ordering::Relaxed))
        .max();
    let names_it = |filter: &LevelFilter| Some(*filter as usize) == most;
    log::set_max_level(
        LevelFilter::iter()
            .find(names_it)
            .unwrap_or(LevelFilter::Debug),
    );
}

/// Writes from an exception or a panic: no lock is waited for.
pub fn emergency(text: fmt::Arguments<'_>) {
    struct Out;
    impl Write for Out {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for piece in text.split_inclusive('\n') {
                let line = piece.strip_suffix('\n');
                for bytes in [
                    line.unwrap_or(piece).as_bytes(),
                    if line.is_some() { b"\r\n" } else { b"" },
                ] {
                    if let Some(memory) = CONSOLE.memory.get() {
                        memory.write(bytes);
                    }
                    if let Some(sink) = CONSOLE.sink.get() {
                        sink.write_emergency(bytes);
                    }
                }
            }
            Ok(())
        }
    }
    let _ = Out.write_fmt(text); // Out never fails, and a Display that does has printed what it could
}

/// Writes a line as the `log` macros do, for code that may have interrupted the holder of a lock: none is waited for.
pub fn insist(level: Level, target: &str, text: fmt::Arguments<'_>) {
    let record = Record::builder()
        .level(level)
        .target(target)
        .args(text)
        .build();
    CONSOLE.put(&record, |sink, bytes| sink.write_emergency(bytes));
}

impl Console {
    /// Composes a line, and hands it to the memory console and, when it is important enough, to `write`.
    fn put(&self, record: &Record<'_>, write: impl FnOnce(&dyn Sink, &[u8])) {
        let mut line = Line::default();
        let stamp = Stamp {
            us: isa::timebase::now().to_us(),
            pir: crate::thread::pir(),
        };
        let _ = compose(&mut line, stamp, record); // a full line is cut, which is no error
        let bytes = line.finish();
        let [uart, kept] = LEVELS
            .each_ref()
            .map(|level| record.level() as usize <= level.load(Ordering::Relaxed));
        if kept && let Some(memory) = self.memory.get() {
            memory.write(bytes);
        }
        if uart && let Some(sink) = self.sink.get() {
            write(*sink, bytes);
        }
    }
}

impl Log for Console {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.put(record, |sink, bytes| sink.write(bytes));
    }

    fn flush(&self) {}
}

struct Stamp {
    us: u64,
    pir: u32,
}

fn compose(line: &mut Line, stamp: Stamp, record: &Record<'_>) -> fmt::Result {
    let module = record.target().rsplit("::").next().unwrap_or_default();
    let mark = match record.level() {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info | Level::Debug | Level::Trace => "",
    };
    let (seconds, us) = (stamp.us / 1_000_000, stamp.us % 1_000_000);
    write!(
        line,
        "[{seconds:5}.{us:06} {:04x} {module}] {mark}{}",
        stamp.pir,
        record.args()
    )
}

/// A line in the making.
struct Line {
    bytes: [u8; Self::SIZE],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; Self::SIZE],
            len: 0,
        }
    }
}

impl Line {
    const SIZE: usize = 512;

    /// The line with its end.
    fn finish(&mut self) -> &[u8] {
        self.len = self.len.min(Self::SIZE - 2);
        if let Some(end) = self.bytes.get_mut(self.len..self.len + 2) {
            end.copy_from_slice(b"\r\n");
        }
        self.bytes.get(..self.len + 2).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let count = room.len().min(text.len());
        for (place, byte) in room.iter_mut().zip(text.bytes()) {
            // Text may come from a tree or a guest: a control character must not move the cursor.
            *place = if byte.is_ascii_control() { b'?' } else { byte };
        }
        self.len += count;
        if count == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: Level, text: fmt::Arguments<'_>) -> Vec<u8> {
        let record = Record::builder()
            .level(level)
            .target("firmware::memory")
            .args(text)
            .build();
        let mut line = Line::default();
        let _ = compose(
            &mut line,
            Stamp {
                us: 1_002_003,
                pir: 0x104,
            },
            &record,
        );
        line.finish().to_vec()
    }

    #[test]
    fn a_line_says_when_where_and_what() {
        let text = line(Level::Info, format_args!("{} regions", 3));
        assert_eq!(text, b"[    1.002003 0104 memory] 3 regions\r\n");
        let text = line(Level::Warn, format_args!("odd"));
        assert!(text.ends_with(b"warning: odd\r\n"));
    }

    #[test]
    fn a_long_line_is_cut_and_control_characters_are_not_passed_on() {
        let text = line(Level::Info, format_args!("{}", "x".repeat(1000)));
        assert_eq!(text.len(), Line::SIZE);
        assert!(text.ends_with(b"x\r\n"));
        assert!(line(Level::Info, format_args!("a\x1b[2Jb")).ends_with(b"a?[2Jb\r\n"));
    }
}
