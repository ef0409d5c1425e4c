//! How the machine stops: through the BMC when there is one, else by asking the service processor for attention.
//!
//! Surprising fact: none of these returns, and none is silent: if power does not go away in time, a line says so. Nor does
//! any wait for a lock without an end, because a kernel reboots from a machine check in the middle of another call too.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "attn and HID0 are machine instructions")
)]

use core::fmt;

use log::Level;
use nest::lpc::IoSpace;

use crate::machine::{Devices, PowerAction};
use crate::{console, stack};

/// Turns the machine off, or restarts it; without a BMC, or if it does not obey, stops for attention.
pub fn power<L: IoSpace>(machine: &Devices<L>, action: PowerAction) -> ! {
    let verb = match action {
        PowerAction::Off => "power off",
        PowerAction::Reset => "reboot",
    };
    stack::report(|level, text| say(machine, level, text));
    say(machine, Level::Info, format_args!("{verb}"));
    let error = machine.power(action);
    say(
        machine,
        Level::Error,
        format_args!(
            "cannot {verb}: {error}; the machine stays stopped here, switch it off by hand"
        ),
    );
    attention()
}

/// Stops for attention because of an error that the payload reports.
pub fn platform_error<L: IoSpace>(machine: &Devices<L>, reason: &[u8]) -> ! {
    say(
        machine,
        Level::Error,
        format_args!(
            "the kernel reports a platform error: {}; the machine stays stopped here",
            reason.escape_ascii()
        ),
    );
    attention()
}

/// Writes a line, behind what was written before, and lets it leave.
fn say<L: IoSpace>(machine: &Devices<L>, level: Level, text: fmt::Arguments<'_>) {
    machine.drain_console();
    console::insist(level, module_path!(), text);
    machine.drain_console();
}

/// Stops this thread for the service processor's attention (`attn`), for ever.
pub fn attention() -> ! {
    #[cfg(target_os = "none")]
    {
        use isa::spr::{Hid0, mfspr, mtspr};
        const ATTENTION: u64 = isa::ppc_bit(3);
        const FLUSH: u64 = isa::ppc_bit(2);
        let hid0 = mfspr::<Hid0>().0 | ATTENTION;
        // The instruction cache holds decoded instructions: it must forget that `attn` was illegal.
        for value in [hid0 & !FLUSH, hid0 | FLUSH, hid0 & !FLUSH] {
            isa::barrier::sync();
            // SAFETY: only enables `attn` and flushes the instruction cache.
            unsafe { mtspr(Hid0(value)) };
            isa::barrier::isync();
        }
        // SAFETY: stops the thread; what follows runs only where the service processor lets it go on.
        unsafe { core::arch::asm!(".long 0x200", options(nostack)) };
    }
    park_for_ever()
}

/// Waits at the lowest priority, for ever.
pub fn park_for_ever() -> ! {
    loop {
        isa::priority::very_low();
    }
}
