//! LPC's serial interrupts: 17 levels that share four lines to the PSI host bridge (reference/hardware.md 3.2, 3.3).
//!
//! Owns the routing and the controller's interrupt mask once [`Lpc::start_interrupts`] has run. An interrupt that the
//! firmware serves and one that the kernel serves must not share a line: each masks the line for the other.
//! The surprising fact: serial interrupts end by themselves when their device is served; only the controller's own
//! errors are cleared here.

use super::{
    IRQMASK, IRQSTAT, Lpc, Opb, OutOfRange, ROUTE_0, ROUTE_1, Status, host_controller, opb_master,
};
use crate::mmio::{Mmio, Reg};

const IRQSER_CTRL: Reg<Opb> = host_controller(0x30);
/// Enabled, start frames of 4 clocks, latched levels clear themselves.
const ENABLE_AUTO_CLEAR: u32 = 0x8080_0000;

const OPB_STATUS: Reg<Opb> = opb_master(0x50);
const OPB_MASK: Reg<Opb> = opb_master(0x54);
const OPB_POLARITY: Reg<Opb> = opb_master(0x58);
/// The LPC controller among the OPB master's interrupts.
const OPB_LPC: u32 = 0x800;

/// Serial interrupts.
pub const SERIAL_INTERRUPTS: u8 = 17;

/// A serial interrupt, 0 to 16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SerialIrq(u8);

impl SerialIrq {
    /// Of the UART on all boards.
    pub const UART: Self = Self(4);
    /// Of the BT interface to the BMC.
    pub const BT: Self = Self(10);

    /// Serial interrupt `n`.
    ///
    /// # Errors
    /// [`OutOfRange`] from 17 on.
    pub const fn new(n: u8) -> Result<Self, OutOfRange> {
        if n < SERIAL_INTERRUPTS {
            Ok(Self(n))
        } else {
            Err(OutOfRange)
        }
    }

    /// Which one it is.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its bit in a [`SerialIrqs`].
    const fn bit(self) -> u32 {
        0x8000_0000 >> self.0
    }

    /// The route register with its line, and where in it.
    const fn route(self) -> (Reg<Opb>, u32) {
        match self.0.checked_sub(14) {
            Some(n) => (ROUTE_0, 22 - 2 * n as u32),
            None => (ROUTE_1, 26 - 2 * self.0 as u32),
        }
    }
}

/// A set of serial interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SerialIrqs(u32);

impl SerialIrqs {
    /// None of them.
    pub const NONE: Self = Self(0);
    const ALL: u32 = 0xffff_8000;

    /// This and another.
    #[must_use]
    pub const fn with(self, irq: SerialIrq) -> Self {
        Self(self.0 | irq.bit())
    }

    /// Whether it is in.
    #[must_use]
    pub const fn has(self, irq: SerialIrq) -> bool {
        self.0 & irq.bit() != 0
    }

    /// What both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl<M: Mmio<Opb>> Lpc<M> {
    /// Routes a serial interrupt to line `line & 3`.
    pub fn route(&self, irq: SerialIrq, line: u8) {
        let _controller = self.controller.lock();
        let (register, shift) = irq.route();
        let others = self.mmio.read32(register) & !(3 << shift);
        self.mmio
            .write32(register, others | u32::from(line & 3) << shift);
    }

    /// Lets the serial interrupts of `used` and the controller's errors through to the PSI host bridge, which must be up.
    pub fn start_interrupts(&self, used: SerialIrqs) {
        let _controller = self.controller.lock();
        self.mmio.write32(IRQSTAT, base_errors());
        self.mmio.write32(IRQMASK, base_errors() | used.0);
        self.mmio.write32(OPB_POLARITY, 0);
        self.mmio.write32(OPB_MASK, OPB_LPC);
        self.mmio.write32(IRQSER_CTRL, ENABLE_AUTO_CLEAR);
    }

    /// The serial interrupts that are raised now.
    pub fn raised(&self) -> SerialIrqs {
        SerialIrqs(self.mmio.read32(IRQSTAT) & SerialIrqs::ALL)
    }

    /// Serves the controller's own interrupt ([`PsiSource::Lpc`](crate::psi::PsiSource::Lpc)): the errors it has
    /// latched, with the address of the last one; clears them.
    pub fn serve_errors(&self) -> Option<(Status, u32)> {
        let pending = self.mmio.read32(OPB_STATUS);
        let errors = (pending & OPB_LPC != 0)
            .then(|| self.take_errors())
            .flatten();
        // After its cause, or it would be latched again.
        self.mmio.write32(OPB_STATUS, pending);
        errors
    }
}

const fn base_errors() -> u32 {
    Status::all().bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{Expect, Step};

    const HC: u64 = 0xc001_2000;
    const OPBM: u64 = 0xc001_0000;

    #[test]
    fn every_interrupt_has_two_bits_of_route() {
        let mut places = std::collections::BTreeSet::new();
        for n in 0..17 {
            let (register, shift) = SerialIrq::new(n).unwrap().route();
            assert!(places.insert((register.offset(), shift)) && shift.is_multiple_of(2));
        }
        assert_eq!(SerialIrq::new(0).unwrap().route().1, 26);
        assert_eq!(SerialIrq::new(13).unwrap().route().1, 0);
        assert_eq!(SerialIrq::new(14).unwrap().route().1, 22);
        assert_eq!(SerialIrq::new(17), Err(OutOfRange));
    }

    #[test]
    fn a_route_leaves_the_others_alone() {
        let lpc = Lpc::new(Expect::new([
            Step::Get32(OPBM + 0xc, 0xffff_ffff),
            // Interrupt 4 at bits 18 and 19.
            Step::Put32(OPBM + 0xc, 0xfff7_ffff),
            Step::Get32(OPBM + 0x8, 0),
            Step::Put32(OPBM + 0x8, 3 << 18),
        ]));
        lpc.route(SerialIrq::UART, 1);
        lpc.route(SerialIrq::new(16).unwrap(), 7);
    }

    #[test]
    fn interrupts_are_enabled_last() {
        let lpc = Lpc::new(Expect::new([
            Step::Put32(HC + 0x38, 0x4fc),
            Step::Put32(HC + 0x34, 0x0820_04fc),
            Step::Put32(OPBM + 0x58, 0),
            Step::Put32(OPBM + 0x54, 0x800),
            Step::Put32(HC + 0x30, 0x8080_0000),
            Step::Get32(HC + 0x38, 0x0800_0040),
        ]));
        let used = SerialIrqs::NONE.with(SerialIrq::UART).with(SerialIrq::BT);
        lpc.start_interrupts(used);
        let raised = lpc.raised();
        assert!(raised.has(SerialIrq::UART) && !raised.has(SerialIrq::BT));
        assert_eq!(
            raised.and(SerialIrqs::NONE.with(SerialIrq::BT)),
            SerialIrqs::NONE
        );
    }

    #[test]
    fn the_cause_is_cleared_before_its_latch() {
        let lpc = Lpc::new(Expect::new([
            Step::Get32(OPBM + 0x50, 0x801),
            Step::Get32(HC + 0x38, 0x40),
            Step::Get32(HC + 0x40, 0xd001_0080),
            Step::Put32(HC + 0x38, 0x40),
            Step::Put32(OPBM + 0x50, 0x801),
            // Not ours.
            Step::Get32(OPBM + 0x50, 1),
            Step::Put32(OPBM + 0x50, 1),
        ]));
        assert_eq!(lpc.serve_errors(), Some((Status::NO_RESPONSE, 0xd001_0080)));
        assert_eq!(lpc.serve_errors(), None);
    }
}
