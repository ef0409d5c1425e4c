//! IPMI: the requests that this firmware makes of the BMC, and what the BMC tells it.
//!
//! Owns message forms and command numbers (IPMI 2.0, section numbers at the commands; reference/hardware.md 10.2), not
//! the way to the BMC: that is a [`Transport`] ([`crate::bt::Bt`], later KCS). The BMC is another computer and may be
//! wrong: every response is checked for its length. The surprising fact: chassis control "1" is power *up*, so the OPAL
//! power-down request byte must never be passed through.

use core::fmt;

use crate::rtc::DateTime;

/// Most data bytes of a request or response: the 64-byte FIFO of BT less length, netfn, sequence, command and code.
pub const DATA_MAX: usize = 59;

/// A request to the BMC.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Function, 6 bits, even.
    pub netfn: u8,
    /// Logical unit, 2 bits; 0 but for a kernel's own requests.
    pub lun: u8,
    /// Command.
    pub command: u8,
    /// What follows the command, at most [`DATA_MAX`] bytes.
    pub data: &'a [u8],
}

/// The BMC's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Completion code, 0 for success.
    pub completion: u8,
    bytes: [u8; DATA_MAX],
    len: usize,
}

impl Response {
    /// A response with these data; `None` when they are too many.
    #[must_use]
    pub fn new(completion: u8, data: &[u8]) -> Option<Self> {
        let mut bytes = [0; DATA_MAX];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        Some(Self {
            completion,
            bytes,
            len: data.len(),
        })
    }

    /// What follows the completion code.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Why a request has no good answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpmiError {
    /// The interface stayed busy: the request was not sent.
    Busy,
    /// No answer came.
    Timeout,
    /// The request, or its answer, has more data than the interface takes.
    TooLong,
    /// The answer is not one: wrong length or form.
    Malformed,
    /// The BMC refused, with this completion code.
    Refused(u8),
}

impl fmt::Display for IpmiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("interface busy"),
            Self::Timeout => f.write_str("no answer"),
            Self::TooLong => f.write_str("message too long"),
            Self::Malformed => f.write_str("malformed answer"),
            Self::Refused(code) => write!(f, "refused with code {code:#04x}"),
        }
    }
}

/// A way to the BMC: one request at a time.
pub trait Transport {
    /// Sends a request and waits for its response, whatever its completion code.
    ///
    /// # Errors
    /// As [`IpmiError`] says; the next request may be tried.
    fn transact(&mut self, request: &Request<'_>) -> Result<Response, IpmiError>;

    /// Whether the BMC has something to say: then [`next_event`] is worth calling.
    fn wants_attention(&mut self) -> bool;
}

impl<T: Transport + ?Sized> Transport for &mut T {
    fn transact(&mut self, request: &Request<'_>) -> Result<Response, IpmiError> {
        (**self).transact(request)
    }
    fn wants_attention(&mut self) -> bool {
        (**self).wants_attention()
    }
}

const CHASSIS: u8 = 0x00;
const APP: u8 = 0x06;
const STORAGE: u8 = 0x0a;
/// The function of the BMC vendor's own commands, as it stands in an OEM SEL record.
const OEM: u8 = 0x3a;

/// Makes a request and takes only success.
fn call(
    bmc: &mut impl Transport,
    netfn: u8,
    command: u8,
    data: &[u8],
) -> Result<Response, IpmiError> {
    let response = bmc.transact(&Request {
        netfn,
        lun: 0,
        command,
        data,
    })?;
    match response.completion {
        0 => Ok(response),
        code => Err(IpmiError::Refused(code)),
    }
}

/// The first `N` bytes of an answer; more may follow.
fn leading<const N: usize>(response: &Response) -> Result<[u8; N], IpmiError> {
    response
        .data()
        .first_chunk()
        .copied()
        .ok_or(IpmiError::Malformed)
}

/// Who the BMC is (Get Device ID, 20.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceId {
    /// Model, the vendor's own numbering.
    pub device: u8,
    /// Firmware version: major, and minor in BCD.
    pub firmware: (u8, u8),
    /// IANA enterprise number, 20 bits.
    pub manufacturer: u32,
    /// Product, the manufacturer's own numbering.
    pub product: u16,
}

/// Asks the BMC who it is. The cheapest proof that somebody is there.
///
/// # Errors
/// As [`IpmiError`] says.
pub fn device_id(bmc: &mut impl Transport) -> Result<DeviceId, IpmiError> {
    let response = call(bmc, APP, 0x01, &[])?;
    let [device, _, major, minor, _, _, m0, m1, m2, p0, p1] = leading(&response)?;
    Ok(DeviceId {
        device,
        firmware: (major & 0x7f, minor),
        manufacturer: u32::from_le_bytes([m0, m1, m2 & 0xf, 0]),
        product: u16::from_le_bytes([p0, p1]),
    })
}

/// What the chassis can be told (Chassis Control, 28.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ChassisControl {
    /// Off at once.
    PowerDown = 0,
    /// Off, then on again.
    PowerCycle = 2,
    /// Reset.
    HardReset = 3,
}

/// Tells the chassis what to do. Success means that the BMC accepted; the machine goes a little later.
///
/// # Errors
/// As [`IpmiError`] says.
pub fn chassis_control(bmc: &mut impl Transport, what: ChassisControl) -> Result<(), IpmiError> {
    call(bmc, CHASSIS, 0x02, &[what as u8]).map(drop)
}

/// Switches the machine off.
///
/// # Errors
/// As [`IpmiError`] says.
pub fn power_off(bmc: &mut impl Transport) -> Result<(), IpmiError> {
    chassis_control(bmc, ChassisControl::PowerDown)
}

/// Restarts the machine: by a reset, by a power cycle where the BMC has none.
///
/// # Errors
/// Of the power cycle.
pub fn reboot(bmc: &mut impl Transport) -> Result<(), IpmiError> {
    match chassis_control(bmc, ChassisControl::HardReset) {
        Err(IpmiError::Refused(_)) => chassis_control(bmc, ChassisControl::PowerCycle),
        other => other,
    }
}

/// The BMC's date and time (Get SEL Time, 31.10); `None` while its clock was never set (up to 0x20000000 it counts from
/// its own start, and all ones is "unspecified": 37.1).
///
/// # Errors
/// As [`IpmiError`] says.
pub fn sel_time(bmc: &mut impl Transport) -> Result<Option<DateTime>, IpmiError> {
    let response = call(bmc, STORAGE, 0x48, &[])?;
    let seconds = u32::from_le_bytes(leading(&response)?);
    if seconds <= 0x2000_0000 || seconds == u32::MAX {
        return Ok(None);
    }
    Ok(DateTime::from_unix(seconds.into()))
}

/// Sets the BMC's date and time (Set SEL Time, 31.11).
///
/// QEMU's simulator applies the difference with the wrong sign: setting its clock ahead puts it as far behind.
///
/// # Errors
/// [`IpmiError::TooLong`] for a date that 32 bits do not reach; else as [`IpmiError`] says.
pub fn set_sel_time(bmc: &mut impl Transport, to: &DateTime) -> Result<(), IpmiError> {
    let seconds = to.to_unix().and_then(|seconds| u32::try_from(seconds).ok());
    let seconds = seconds.ok_or(IpmiError::TooLong)?;
    call(bmc, STORAGE, 0x49, &seconds.to_le_bytes()).map(drop)
}

/// Asks for events: message queue and event buffer with their interrupts (Get and Set BMC Global Enables, 22.1, 22.2).
///
/// # Errors
/// As [`IpmiError`] says.
pub fn enable_events(bmc: &mut impl Transport) -> Result<(), IpmiError> {
    const QUEUE_INTERRUPT: u8 = 1;
    const BUFFER_INTERRUPT: u8 = 2;
    const EVENT_BUFFER: u8 = 4;
    let [old] = leading(&call(bmc, APP, 0x2f, &[])?)?;
    let new = old | QUEUE_INTERRUPT | BUFFER_INTERRUPT | EVENT_BUFFER;
    call(bmc, APP, 0x2e, &[new]).map(drop)
}

/// What the BMC has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The machine shall shut down in order.
    SoftPowerOff,
    /// The machine shall restart in order.
    SoftReboot,
    /// Another command of the vendor, with its data.
    Oem {
        /// Command, for example 0x0f for the flash's state.
        command: u8,
        /// Its data.
        data: [u8; 4],
    },
    /// Something that is not for the firmware; it was taken off the queue.
    Other,
}

/// Takes the next event, or `None` when there is no more (Get Message Flags 22.4, Read Event Message Buffer 22.8, Get
/// Message 22.6). A caller in a loop bounds the number of its turns: a broken BMC can claim to have one more for ever.
///
/// # Errors
/// As [`IpmiError`] says.
pub fn next_event(bmc: &mut impl Transport) -> Result<Option<Event>, IpmiError> {
    const MESSAGE: u8 = 1;
    const EVENT: u8 = 2;
    let [flags] = leading(&call(bmc, APP, 0x31, &[])?)?;
    if flags & EVENT != 0 {
        let response = call(bmc, APP, 0x35, &[])?;
        let record: [u8; 16] = leading(&response)?;
        return Ok(Some(parse_record(&record)));
    }
    if flags & MESSAGE != 0 {
        call(bmc, APP, 0x33, &[])?;
        return Ok(Some(Event::Other));
    }
    if flags != 0 {
        // What is left (watchdog pre-timeout, OEM bits) would keep asking for attention: Clear Message Flags, 22.3.
        call(bmc, APP, 0x30, &[flags])?;
    }
    Ok(None)
}

/// Reads a 16-byte event record. Only the vendor's records mean something here (reference/hardware.md 10.2).
#[must_use]
pub fn parse_record(record: &[u8; 16]) -> Event {
    const POWER: u8 = 0x04;
    match *record {
        [0x55, 0x55, 0xc0, _, _, _, _, _, _, _, OEM, POWER, 0, ..] => Event::SoftPowerOff,
        [0x55, 0x55, 0xc0, _, _, _, _, _, _, _, OEM, POWER, 1, ..] => Event::SoftReboot,
        [
            0x55,
            0x55,
            0xc0,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            OEM,
            command,
            d0,
            d1,
            d2,
            d3,
        ] => Event::Oem {
            command,
            data: [d0, d1, d2, d3],
        },
        _ => Event::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A BMC that answers a list of expected requests.
    struct Bmc(VecDeque<(Vec<u8>, Result<Response, IpmiError>)>);

    impl Transport for Bmc {
        fn transact(&mut self, request: &Request<'_>) -> Result<Response, IpmiError> {
            let mut sent = vec![request.netfn, request.command];
            sent.extend(request.data);
            let (expected, answer) = self.0.pop_front().expect("no more requests");
            assert_eq!(sent, expected);
            answer
        }
        fn wants_attention(&mut self) -> bool {
            !self.0.is_empty()
        }
    }

    impl Drop for Bmc {
        fn drop(&mut self) {
            assert!(
                std::thread::panicking() || self.0.is_empty(),
                "requests left: {:?}",
                self.0
            );
        }
    }

    fn answers(code: u8, data: &[u8]) -> Result<Response, IpmiError> {
        Ok(Response::new(code, data).expect("short"))
    }

    fn bmc<const N: usize>(dialogue: [(&[u8], Result<Response, IpmiError>); N]) -> Bmc {
        Bmc(dialogue
            .into_iter()
            .map(|(request, answer)| (request.to_vec(), answer))
            .collect())
    }

    #[test]
    fn device_id_is_decoded() {
        let data = [0x20, 0, 0x82, 0x15, 2, 0xbf, 0xcf, 0xc2, 0x10, 0x34, 0x12];
        let id = device_id(&mut bmc([(&[6, 1], answers(0, &data))]));
        assert_eq!(
            id,
            Ok(DeviceId {
                device: 0x20,
                firmware: (2, 0x15),
                manufacturer: 0xc2cf,
                product: 0x1234
            })
        );
    }

    #[test]
    fn short_answers_are_malformed() {
        assert_eq!(
            device_id(&mut bmc([(&[6, 1], answers(0, &[0; 10]))])),
            Err(IpmiError::Malformed)
        );
        assert_eq!(
            sel_time(&mut bmc([(&[0xa, 0x48], answers(0, &[0; 3]))])),
            Err(IpmiError::Malformed)
        );
        let flags_then_short = bmc([
            (&[6, 0x31], answers(0, &[2])),
            (&[6, 0x35], answers(0, &[0; 15])),
        ]);
        assert_eq!(
            next_event(&mut { flags_then_short }),
            Err(IpmiError::Malformed)
        );
    }

    #[test]
    fn power_off_and_reboot_are_chassis_commands() {
        assert_eq!(power_off(&mut bmc([(&[0, 2, 0], answers(0, &[]))])), Ok(()));
        assert_eq!(reboot(&mut bmc([(&[0, 2, 3], answers(0, &[]))])), Ok(()));
        let no_reset = [
            (&[0, 2, 3][..], answers(0xd5, &[])),
            (&[0, 2, 2], answers(0, &[])),
        ];
        assert_eq!(reboot(&mut bmc(no_reset)), Ok(()));
        let refuses = [(&[0, 2, 0][..], answers(0xd4, &[]))];
        assert_eq!(power_off(&mut bmc(refuses)), Err(IpmiError::Refused(0xd4)));
    }

    #[test]
    fn sel_time_is_unix_time_once_it_was_set() {
        let ask = |seconds: u32| {
            sel_time(&mut bmc([(
                &[0xa, 0x48],
                answers(0, &seconds.to_le_bytes()),
            )]))
        };
        assert_eq!(ask(77), Ok(None));
        assert_eq!(ask(u32::MAX), Ok(None));
        let date = DateTime::from_unix(1_795_269_959).expect("date");
        assert_eq!(ask(1_795_269_959), Ok(Some(date)));
        let set = [0xa, 0x49, 0x47, 0xa5, 0x01, 0x6b];
        assert_eq!(
            set_sel_time(&mut bmc([(&set, answers(0, &[]))]), &date),
            Ok(())
        );
        let late = DateTime { year: 2200, ..date };
        assert_eq!(set_sel_time(&mut bmc([]), &late), Err(IpmiError::TooLong));
    }

    #[test]
    fn enabling_events_keeps_what_was_enabled() {
        let dialogue = [
            (&[6, 0x2f][..], answers(0, &[8])),
            (&[6, 0x2e, 0xf], answers(0, &[])),
        ];
        assert_eq!(enable_events(&mut bmc(dialogue)), Ok(()));
    }

    #[test]
    fn events_are_taken_until_there_is_none() {
        let mut record = [0; 16];
        record[..3].copy_from_slice(&[0x55, 0x55, 0xc0]);
        record[10..13].copy_from_slice(&[0x3a, 4, 0]);
        let mut bmc = bmc([
            (&[6, 0x31], answers(0, &[3])),
            (&[6, 0x35], answers(0, &record)),
            (&[6, 0x31], answers(0, &[1])),
            (&[6, 0x33], answers(0, &[0x2c; 20])),
            (&[6, 0x31], answers(0, &[8])),
            (&[6, 0x30, 8], answers(0, &[])),
        ]);
        assert_eq!(next_event(&mut bmc), Ok(Some(Event::SoftPowerOff)));
        assert_eq!(next_event(&mut bmc), Ok(Some(Event::Other)));
        assert_eq!(next_event(&mut bmc), Ok(None));
    }

    #[test]
    fn records_are_told_apart() {
        let record = |tail: [u8; 6]| {
            let mut record = [0x55, 0x55, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            record[10..].copy_from_slice(&tail);
            record
        };
        assert_eq!(
            parse_record(&record([0x3a, 4, 1, 0xff, 0xff, 0xff])),
            Event::SoftReboot
        );
        let flash = Event::Oem {
            command: 0xf,
            data: [0x81, 0, 0, 0],
        };
        assert_eq!(parse_record(&record([0x3a, 0xf, 0x81, 0, 0, 0])), flash);
        let odd = Event::Oem {
            command: 4,
            data: [9, 0, 0, 0],
        };
        assert_eq!(parse_record(&record([0x3a, 4, 9, 0, 0, 0])), odd);
        assert_eq!(parse_record(&record([0x2c, 4, 0, 0, 0, 0])), Event::Other);
        assert_eq!(parse_record(&[2; 16]), Event::Other);
    }

    #[test]
    fn a_response_has_a_limit() {
        assert!(Response::new(0, &[0; DATA_MAX]).is_some());
        assert!(Response::new(0, &[0; DATA_MAX + 1]).is_none());
    }
}
