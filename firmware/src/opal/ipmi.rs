//! The kernel's way to the BMC: the interface that the firmware itself uses, and the node that tells of it.
//!
//! Surprising fact: the firmware's own requests go between the kernel's; the interface keeps the answers apart. But a kernel that
//! drives the flash itself takes the firmware's window, so its requests for that are noticed.
#![forbid(unsafe_code)]

use nest::bt::Asker;
use nest::hiomap;
use nest::ipmi::{Event, IpmiError, Request, parse_record};
use opal_calls::events::EventSet;
use opal_calls::ipmi::{Bmc, BmcError, INTERFACE, MAX_DATA, Message, Wish};
use papr_services::tree::Node;

use crate::machine::Machine;

/// The BMC behind the machine's interface.
pub struct BmcPort(pub &'static Machine);

const fn error(error: IpmiError) -> BmcError {
    match error {
        IpmiError::Busy => BmcError::Busy,
        IpmiError::Timeout => BmcError::Timeout,
        IpmiError::TooLong => BmcError::TooLong,
        // A refusal is an answer, with its code; it does not come this way.
        IpmiError::Malformed | IpmiError::Refused(_) => BmcError::Malformed,
    }
}

impl Bmc for BmcPort {
    const MAX_REQUEST: usize = nest::ipmi::DATA_MAX;

    fn begin(&self, request: &Message) -> Result<(), BmcError> {
        if hiomap::is_of_protocol(request.netfn, request.command) {
            // Before it is sent: what the firmware's driver asks after it has to come after this.
            self.0.flash_told().disturb();
        }
        let request = Request {
            netfn: request.netfn,
            lun: request.lun,
            command: request.command,
            data: &request.data,
        };
        self.0.bmc_begin(Asker::Kernel, &request).map_err(error)
    }

    fn poll(&self) -> Option<Result<arrayvec::ArrayVec<u8, MAX_DATA>, BmcError>> {
        Some(match self.0.bmc_poll(Asker::Kernel)? {
            Ok(response) => Ok(core::iter::once(response.completion)
                .chain(response.data().iter().copied())
                .take(MAX_DATA)
                .collect()),
            Err(why) => Err(error(why)),
        })
    }

    fn wants_attention(&self) -> bool {
        self.0.bmc_wants_attention()
    }

    fn wish(&self, record: &[u8; 16]) -> Option<Wish> {
        match parse_record(record) {
            Event::SoftPowerOff => Some(Wish::Off),
            Event::SoftReboot => Some(Wish::Reboot),
            Event::Oem {
                command: hiomap::EVENT_COMMAND,
                data: [state, ..],
            } => {
                self.0.flash_told().tell(state);
                None
            }
            Event::Oem { .. } | Event::Other => None,
        }
    }
}

/// Adds `/ibm,opal/ipmi`, whose interrupt is `event`.
pub fn describe(root: &mut Node, event: EventSet) {
    root.node("ibm,opal", |opal| {
        let parent = opal.child("event").and_then(|node| node.cell("phandle"));
        opal.node("ipmi", |node| {
            node.set("compatible", "ibm,opal-ipmi")
                .set("ibm,ipmi-interface-id", INTERFACE)
                .set("interrupts", event.0.trailing_zeros());
            if let Some(parent) = parent {
                node.set("interrupt-parent", parent);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interrupt_is_the_number_of_the_event() {
        let mut root = Node::default();
        root.node("ibm,opal", |opal| {
            opal.node("event", |node| {
                node.set("phandle", 9_u32);
            });
        });
        describe(&mut root, EventSet(1 << 63));
        let node = root.child("ibm,opal").and_then(|opal| opal.child("ipmi"));
        let cell = |name| node.and_then(|node| node.cell(name));
        assert_eq!(cell("interrupts"), Some(63));
        assert_eq!(cell("interrupt-parent"), Some(9));
        assert_eq!(cell("ibm,ipmi-interface-id"), Some(0));
    }
}
