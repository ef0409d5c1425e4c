//! The machine's UART as the kernel's console.
#![forbid(unsafe_code)]

use opal_calls::console::Port;

use crate::machine::Machine;

/// The UART. Nothing here waits: while another thread has it, it is as if there were no room.
pub(super) struct UartPort(pub(super) &'static Machine);

impl Port for UartPort {
    fn send(&self, byte: u8) -> bool {
        self.0.try_send(byte)
    }

    fn receive(&self) -> Option<u8> {
        self.0.try_receive()
    }

    fn set_interrupts(&self, input: bool, output: bool) {
        self.0.set_console_interrupts(input, output);
    }
}
