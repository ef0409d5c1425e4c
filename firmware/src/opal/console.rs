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

    /// Nothing: the UART's interrupt reaches no one yet, and the tree says so by naming none; the kernel polls.
    fn set_interrupts(&self, _input: bool, _output: bool) {}
}
