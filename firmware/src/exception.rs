//! Exceptions that the firmware itself takes: the register dump and the back-trace.
//!
//! Owns the frame that `entry/vectors.S` fills. Surprising fact: none of these is ever survived. The firmware runs with
//! interrupts off and translation off, so an exception of its own means a fault in it or in the machine.

use core::fmt;
use core::mem::offset_of;

/// Registers at the exception, as entry/vectors.S stores them.
#[repr(C)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// r0 to r31.
    pub gpr: [u64; 32],
    /// (H)SRR0: the instruction.
    pub pc: u64,
    /// (H)SRR1: MSR and the reason bits.
    pub msr: u64,
    /// Condition register.
    pub cr: u64,
    /// Link register.
    pub lr: u64,
    /// Count register.
    pub ctr: u64,
    /// Fixed-point exception register.
    pub xer: u64,
    /// Vector number; + 2 when it came by HSRR0/1.
    pub vector: u64,
    /// 1, or 2 when it happened while another was being reported.
    pub depth: u64,
}

/// Bytes kept for a frame: a multiple of the ABI's stack alignment.
pub const FRAME_SIZE: usize = size_of::<Frame>().next_multiple_of(16);
const _: () = assert!(offset_of!(Frame, gpr) == 0);

/// Registers that say why, read after the fact: they stay until the next exception.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cause {
    /// Data address register.
    pub dar: u64,
    /// Data storage interrupt status register.
    pub dsisr: u64,
    /// Hypervisor data address register.
    pub hdar: u64,
    /// Hypervisor data storage interrupt status register.
    pub hdsisr: u64,
    /// Hypervisor emulation instruction register.
    pub heir: u64,
    /// Processor id.
    pub pir: u64,
}

/// What the vector is called in the Power ISA.
#[must_use]
pub fn name(vector: u64) -> &'static str {
    match vector & !2 {
        0x100 => "system reset",
        0x200 => "machine check",
        0x300 => "data storage",
        0x380 => "data segment",
        0x400 => "instruction storage",
        0x480 => "instruction segment",
        0x500 => "external",
        0x600 => "alignment",
        0x700 => "program",
        0x800 => "floating-point unavailable",
        0x900 => "decrementer",
        0x980 => "hypervisor decrementer",
        0xa00 => "directed privileged doorbell",
        0xc00 => "system call",
        0xd00 => "trace",
        0xe00 => "hypervisor data storage",
        0xe20 => "hypervisor instruction storage",
        0xe40 => "hypervisor emulation assistance",
        0xe60 => "hypervisor maintenance",
        0xe80 => "directed hypervisor doorbell",
        0xea0 => "hypervisor virtualization",
        0xf00 => "performance monitor",
        0xf20 => "vector unavailable",
        0xf40 => "VSX unavailable",
        0xf60 => "facility unavailable",
        0xf80 => "hypervisor facility unavailable",
        0x1500 => "soft patch",
        _ => "unknown",
    }
}

/// A frame and its cause as the lines that a person reads.
#[derive(Debug)]
pub struct Dump<'a>(pub &'a Frame, pub Cause);

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(frame, cause) = self;
        let vector = frame.vector & !2;
        writeln!(
            f,
            "exception {vector:#x} ({}) in the firmware",
            name(vector)
        )?;
        writeln!(
            f,
            "pc  {:016x}  msr {:016x}  lr  {:016x}  ctr {:016x}",
            frame.pc, frame.msr, frame.lr, frame.ctr
        )?;
        writeln!(
            f,
            "cr  {:08x}  xer {:016x}  pir {:04x}",
            frame.cr, frame.xer, cause.pir
        )?;
        writeln!(
            f,
            "dar {:016x}  dsisr {:08x}  hdar {:016x}  hdsisr {:08x}  heir {:016x}",
            cause.dar, cause.dsisr, cause.hdar, cause.hdsisr, cause.heir
        )?;
        for (row, registers) in frame.gpr.chunks(4).enumerate() {
            write!(f, "r{:02}", row * 4)?;
            for value in registers {
                write!(f, " {value:016x}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Return addresses up the back chain, newest first.
///
/// A frame is taken only while it lies in `stack`, is aligned, and is above the one before, so that a broken chain ends
/// the walk instead of leading it. `read` gives the doubleword at an address inside `stack`.
pub fn back_trace(
    mut frame: u64,
    stack: &core::ops::Range<u64>,
    read: impl Fn(u64) -> u64,
) -> impl Iterator<Item = u64> {
    let inside = move |at: u64| {
        stack.contains(&at)
            && at.checked_add(24).is_some_and(|end| end <= stack.end)
            && at.is_multiple_of(8)
    };
    let mut left = 64;
    core::iter::from_fn(move || {
        if left == 0 || !inside(frame) {
            return None;
        }
        left -= 1;
        let next = read(frame);
        if next <= frame || !inside(next) {
            return None;
        }
        frame = next;
        let caller = read(next + 16); // the ABI saves LR in the caller's frame
        (caller != 0).then_some(caller) // the outermost frame has none: entry/head.S
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(words: &[(u64, u64)], start: u64) -> Vec<u64> {
        let read = |at| words.iter().find(|(a, _)| *a == at).map_or(0, |(_, v)| *v);
        back_trace(start, &(0x1000..0x2000), read).collect()
    }

    #[test]
    fn the_chain_is_followed_to_its_end() {
        let words = [
            (0x1000, 0x1100),
            (0x1100, 0x1200),
            (0x1110, 0xaaaa),
            (0x1200, 0),
            (0x1210, 0xbbbb),
        ];
        assert_eq!(walk(&words, 0x1000), [0xaaaa, 0xbbbb]);
        let words = [
            (0x1000, 0x1100),
            (0x1100, 0x1200),
            (0x1110, 0xaaaa),
            (0x1200, 0),
        ];
        assert_eq!(walk(&words, 0x1000), [0xaaaa]); // the outermost frame has no caller
    }

    #[test]
    fn a_broken_chain_ends_the_walk() {
        assert_eq!(walk(&[(0x1000, 0x1000)], 0x1000), []); // to itself
        assert_eq!(walk(&[(0x1100, 0x1000)], 0x1100), []); // downwards
        assert_eq!(walk(&[(0x1000, 0x9000)], 0x1000), []); // out of the stack
        assert_eq!(walk(&[(0x1000, 0x1104)], 0x1004), []); // not aligned
        assert_eq!(walk(&[(0x1000, 0x1ff0)], 0x1000), []); // its LR would be outside
        assert_eq!(walk(&[], u64::MAX - 7), []);
    }

    #[test]
    fn the_dump_names_the_exception_and_every_register() {
        let mut frame = Frame {
            vector: 0xe02,
            pc: 0x3000_1234,
            ..Frame::default()
        };
        for (n, r) in frame.gpr.iter_mut().enumerate() {
            *r = 0x100 + n as u64;
        }
        let text = Dump(
            &frame,
            Cause {
                hdar: 0xdead_beef,
                ..Cause::default()
            },
        )
        .to_string();
        assert!(
            text.starts_with("exception 0xe00 (hypervisor data storage) in the firmware\n"),
            "{text}"
        );
        assert!(text.contains("pc  0000000030001234"), "{text}");
        assert!(text.contains("hdar 00000000deadbeef"), "{text}");
        for n in 0..32 {
            assert!(
                text.contains(&format!("{:016x}", 0x100 + n)),
                "r{n} is missing"
            );
        }
    }
}
