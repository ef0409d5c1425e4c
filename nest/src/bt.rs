//! BT, the block transfer interface to the BMC, at LPC IO 0xe4 (IPMI 2.0 section 11; reference/hardware.md 10.1). Polled.
//!
//! Owns the handshake and the framing: length, netfn, sequence, command. Everything the BMC sends is checked: a response
//! of another request is dropped, one that is too long or too short is refused. There is one request at a time on the bus;
//! one that nobody waits for ([`Bt::begin`]) is ended before the next is sent, and its answer kept for its [`Asker`]. The
//! surprising fact: writing 1 to H_BUSY toggles it, so it is looked at before it is written.

use isa::timebase::Deadline;

use crate::ipmi::{DATA_MAX, IpmiError, Request, Response, Transport};
use crate::lpc::IoSpace;

/// Where BT is on all boards and in QEMU.
pub const BT_PORT: u16 = 0xe4;

// Registers, from the base port.
const CONTROL: u16 = 0;
const FIFO: u16 = 1;
const INTERRUPT: u16 = 2;

const BMC_BUSY: u8 = 0x80;
/// Toggles when written.
const HOST_BUSY: u8 = 0x40;
/// The BMC has something to say.
const ATTENTION: u8 = 0x10;
/// A response is there. Cleared by writing 1.
const RESPONSE: u8 = 0x08;
/// Write 1: a request is there. Reads as 1 until the BMC has seen it.
const REQUEST: u8 = 0x04;
const CLEAR_READ: u8 = 0x02;
const CLEAR_WRITE: u8 = 0x01;

/// In INTERRUPT: responses and attention interrupt.
const ENABLED: u8 = 0x01;
/// In INTERRUPT: one is pending; written as 1 it is withdrawn.
const PENDING: u8 = 0x02;

/// What precedes the data of a response, the length byte not counted: netfn, sequence, command, completion code.
const RESPONSE_HEADER: usize = 4;
/// What precedes the data of a request: netfn, sequence, command.
const REQUEST_HEADER: u8 = 3;

/// The BMC may take this long to accept or to answer a request.
const PATIENCE_MS: u64 = 3000;
const ATTEMPTS: u32 = 2;

/// No BT interface answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absent;

impl core::fmt::Display for Absent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no BT interface answers")
    }
}

/// Who begins a request and asks for its answer later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// The queue of the kernel's requests.
    Kernel,
    /// The driver of the flash.
    Flash,
}

/// The interface.
#[derive(Debug)]
pub struct Bt<B> {
    bus: B,
    base: u16,
    sequence: u8,
    /// The request that was begun and has no answer yet.
    begun: Option<Begun>,
    /// For each [`Asker`] the answer to what it began, not yet asked for.
    answers: [Option<Result<Response, IpmiError>>; 2],
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
struct Begun {
    asker: Asker,
    pending: Pending,
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Netfn and unit, sequence and command of its response.
    expected: [u8; 3],
    deadline: Deadline,
}

impl Pending {
    fn new(request: &Request<'_>, sequence: u8) -> Self {
        let function = (request.netfn | 1) << 2 | request.lun & 3;
        Self {
            expected: [function, sequence, request.command],
            deadline: Deadline::after_ms(PATIENCE_MS),
        }
    }
}

/// Serves the interrupt of the interface at [`BT_PORT`]: withdraws it if it is pending. Before responses are looked for, or
/// one that comes meanwhile would not interrupt.
pub fn serve_interrupt(bus: &impl IoSpace) {
    if bus.inb(BT_PORT + INTERRUPT) & PENDING != 0 {
        bus.outb(BT_PORT + INTERRUPT, PENDING | ENABLED);
    }
}

/// Lets the interface at [`BT_PORT`] interrupt. For one that [`Bt::start`] found.
pub fn enable_interrupt(bus: &impl IoSpace) {
    bus.outb(BT_PORT + INTERRUPT, ENABLED);
}

impl<B: IoSpace> Bt<B> {
    /// Finds the interface and makes it quiet: no interrupt, not busy, no old response.
    ///
    /// # Errors
    /// [`Absent`] when nothing answers: the machine has no BMC, or not this interface.
    pub fn start(bus: B) -> Result<Self, Absent> {
        Self::start_at(bus, BT_PORT)
    }

    /// The same for an interface at port `base`.
    ///
    /// # Errors
    /// [`Absent`] when nothing answers.
    pub fn start_at(bus: B, base: u16) -> Result<Self, Absent> {
        match bus.probe(base + CONTROL) {
            None | Some(0xff) => return Err(Absent),
            Some(_) => {}
        }
        Ok(Self::take_over(bus, base))
    }

    /// The interface at port `base`, which is known to be there, from whoever used it so far and will not go on: what it
    /// left half done is dropped. Asks nothing that an interrupted access to the bus could be in the way of.
    pub fn take_over(bus: B, base: u16) -> Self {
        bus.outb(base + INTERRUPT, PENDING);
        let bt = Self {
            bus,
            base,
            sequence: 0,
            begun: None,
            answers: [None; 2],
        };
        bt.drain();
        bt.set_host_busy(false);
        bt
    }

    fn control(&self) -> u8 {
        self.bus.inb(self.base + CONTROL)
    }

    fn command(&self, bits: u8) {
        self.bus.outb(self.base + CONTROL, bits);
    }

    fn set_host_busy(&self, busy: bool) {
        if (self.control() & HOST_BUSY != 0) != busy {
            self.command(HOST_BUSY);
        }
    }

    /// Drops a response that nobody waits for.
    fn drain(&self) {
        if self.control() & RESPONSE != 0 {
            self.command(RESPONSE);
            self.command(CLEAR_READ);
        }
    }

    /// Whether the BMC takes a request.
    fn is_ready(&self) -> bool {
        self.control() & (BMC_BUSY | REQUEST) == 0
    }

    fn send(&self, request: &Request<'_>, sequence: u8) -> Result<(), IpmiError> {
        check_length(request)?;
        Deadline::after_ms(PATIENCE_MS)
            .wait_for(|| self.is_ready().then_some(()))
            .ok_or(IpmiError::Busy)?;
        self.put(request, sequence)
    }

    /// Writes a request to the BMC, which is ready.
    fn put(&self, request: &Request<'_>, sequence: u8) -> Result<(), IpmiError> {
        let length = check_length(request)?;
        self.drain();
        self.command(CLEAR_WRITE);
        for byte in [
            REQUEST_HEADER + length,
            request.netfn << 2 | request.lun & 3,
            sequence,
            request.command,
        ] {
            self.bus.outb(self.base + FIFO, byte);
        }
        for byte in request.data {
            self.bus.outb(self.base + FIFO, *byte);
        }
        self.command(REQUEST);
        Ok(())
    }

    /// Sends a request and does not wait: [`Bt::poll`] has the answer when there is one. An earlier one that was not asked for
    /// is dropped.
    ///
    /// # Errors
    /// [`IpmiError::Busy`]: the BMC does not take one now, or is at another. [`IpmiError::TooLong`].
    pub fn begin(&mut self, asker: Asker, request: &Request<'_>) -> Result<(), IpmiError> {
        check_length(request)?;
        if self.begun.is_some() || !self.is_ready() {
            return Err(IpmiError::Busy);
        }
        self.answers[asker as usize] = None;
        self.sequence = self.sequence.wrapping_add(1);
        self.put(request, self.sequence)?;
        let pending = Pending::new(request, self.sequence);
        self.begun = Some(Begun { asker, pending });
        Ok(())
    }

    /// The answer to the request that was begun, once; [`IpmiError::Timeout`] when it does not come in time.
    pub fn poll(&mut self, asker: Asker) -> Option<Result<Response, IpmiError>> {
        self.look();
        self.answers[asker as usize].take()
    }

    /// Looks for the answer to the request that was begun.
    fn look(&mut self) {
        let Some(Begun { asker, pending }) = self.begun else {
            return;
        };
        // Before the look: whoever was held up in between has waited long enough, but not in vain.
        let late = pending.deadline.has_passed();
        let mut answer = None;
        if self.control() & RESPONSE != 0 {
            answer = match self.take() {
                Ok((header, response)) if header == pending.expected => Some(Ok(response)),
                // An answer to a request that was given up: ours is still to come.
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            };
        }
        if late && answer.is_none() {
            answer = Some(Err(IpmiError::Timeout));
        }
        if answer.is_some() {
            self.begun = None;
            self.answers[asker as usize] = answer;
        }
    }

    /// Waits until the request that was begun has its answer.
    fn settle(&mut self) {
        let Some(Begun { asker, pending }) = self.begun else {
            return;
        };
        let ended = pending.deadline.wait_for(|| {
            self.look();
            self.begun.is_none().then_some(())
        });
        if ended.is_none() {
            // The time base stands still, so its deadline never passes.
            self.begun = None;
            self.answers[asker as usize] = Some(Err(IpmiError::Timeout));
        }
    }

    /// Waits for the response to the request just sent.
    fn receive(&self, request: &Request<'_>, sequence: u8) -> Result<Response, IpmiError> {
        let Pending { expected, deadline } = Pending::new(request, sequence);
        loop {
            deadline
                .wait_for(|| (self.control() & RESPONSE != 0).then_some(()))
                .ok_or(IpmiError::Timeout)?;
            match self.take() {
                Ok((header, response)) if header == expected => return Ok(response),
                // An answer to a request that was given up: ours is still to come.
                Ok(_) => {}
                Err(error) => return Err(error),
            }
            if deadline.has_passed() {
                return Err(IpmiError::Timeout);
            }
        }
    }

    /// Reads the response that is there: netfn, sequence and command, and the rest.
    fn take(&self) -> Result<([u8; 3], Response), IpmiError> {
        self.set_host_busy(true);
        self.command(RESPONSE);
        self.command(CLEAR_READ);
        let taken = self.take_from_fifo();
        self.set_host_busy(false);
        taken
    }

    fn take_from_fifo(&self) -> Result<([u8; 3], Response), IpmiError> {
        let next = || self.bus.inb(self.base + FIFO);
        let length = usize::from(next());
        let data_length = length.checked_sub(RESPONSE_HEADER);
        let data_length = data_length.ok_or(IpmiError::Malformed)?;
        if data_length > DATA_MAX {
            return Err(IpmiError::TooLong);
        }
        let header = [next(), next(), next()];
        let completion = next();
        let mut data = [0; DATA_MAX];
        let data = data.get_mut(..data_length).ok_or(IpmiError::Malformed)?;
        data.fill_with(next);
        Ok((
            header,
            Response::new(completion, data).ok_or(IpmiError::Malformed)?,
        ))
    }
}

fn check_length(request: &Request<'_>) -> Result<u8, IpmiError> {
    let length = u8::try_from(request.data.len()).map_err(|_| IpmiError::TooLong)?;
    if request.data.len() > DATA_MAX {
        return Err(IpmiError::TooLong);
    }
    Ok(length)
}

impl<B: IoSpace> Transport for Bt<B> {
    fn transact(&mut self, request: &Request<'_>) -> Result<Response, IpmiError> {
        self.settle();
        for _ in 0..ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            self.send(request, sequence)?;
            match self.receive(request, sequence) {
                Err(IpmiError::Timeout) => {}
                other => return other,
            }
        }
        Err(IpmiError::Timeout)
    }

    fn wants_attention(&mut self) -> bool {
        self.control() & ATTENTION != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Step::{self, In, Out, Probe};
    use crate::fakes::{Expect, Step::Pass};
    use isa::timebase::{self, Ticks};

    const CTRL: u16 = 0xe4;
    const DATA: u16 = 0xe5;
    const KERNEL: Asker = Asker::Kernel;
    const GET_DEVICE_ID: Request<'static> = Request {
        netfn: 6,
        lun: 0,
        command: 1,
        data: &[],
    };

    fn started(script: impl IntoIterator<Item = Step>) -> Bt<Expect> {
        let bus = Expect::new([Probe(CTRL, Some(0)), Out(0xe6, 2), In(CTRL, 0), In(CTRL, 0)]);
        bus.then(script);
        Bt::start(bus).expect("present")
    }

    fn sending(message: &[u8]) -> Vec<Step> {
        let mut script = vec![In(CTRL, 0), In(CTRL, 0), Out(CTRL, CLEAR_WRITE)];
        script.extend(message.iter().map(|byte| Out(DATA, *byte)));
        script.push(Out(CTRL, REQUEST));
        script
    }

    fn receiving(message: &[u8]) -> Vec<Step> {
        let mut script = vec![
            In(CTRL, RESPONSE),
            In(CTRL, RESPONSE),
            Out(CTRL, HOST_BUSY),
            Out(CTRL, RESPONSE),
            Out(CTRL, CLEAR_READ),
        ];
        script.extend(message.iter().map(|byte| In(DATA, *byte)));
        script.extend([In(CTRL, HOST_BUSY), Out(CTRL, HOST_BUSY)]);
        script
    }

    #[test]
    fn an_absent_interface_is_found_out() {
        for answer in [None, Some(0xff)] {
            assert_eq!(
                Bt::start(Expect::new([Probe(CTRL, answer)])).err(),
                Some(Absent)
            );
        }
    }

    #[test]
    fn starting_drops_what_an_earlier_firmware_left() {
        let bus = Expect::new([
            Probe(CTRL, Some(0x48)),
            Out(0xe6, 2),
            In(CTRL, 0x48),
            Out(CTRL, RESPONSE),
            Out(CTRL, CLEAR_READ),
            In(CTRL, HOST_BUSY),
            Out(CTRL, HOST_BUSY),
        ]);
        assert!(Bt::start(bus).is_ok());
    }

    #[test]
    fn an_interface_is_taken_over_without_asking_whether_it_is_there() {
        let bus = Expect::new([Out(0xe6, 2), In(CTRL, HOST_BUSY), In(CTRL, HOST_BUSY)]);
        bus.then([Out(CTRL, HOST_BUSY)]);
        Bt::take_over(bus, CTRL);
    }

    #[test]
    fn a_request_and_its_response() {
        let mut script = sending(&[4, 0, 1, 2, 3]);
        script.extend([In(CTRL, BMC_BUSY), In(CTRL, BMC_BUSY)]);
        script.extend(receiving(&[6, 4, 1, 2, 0, 0xaa, 0xbb]));
        let request = Request {
            netfn: 0,
            lun: 0,
            command: 2,
            data: &[3],
        };
        let response = started(script).transact(&request);
        assert_eq!(response.expect("answered").data(), [0xaa, 0xbb]);
    }

    #[test]
    fn a_completion_code_is_handed_on() {
        let mut script = sending(&[3, 0x18, 1, 1]);
        script.extend(receiving(&[4, 0x1c, 1, 1, 0xc1]));
        let response = started(script).transact(&GET_DEVICE_ID).expect("answered");
        assert_eq!((response.completion, response.data()), (0xc1, &[][..]));
    }

    #[test]
    fn a_stale_response_is_dropped_before_and_after_sending() {
        let mut script = vec![
            In(CTRL, 0),
            In(CTRL, RESPONSE),
            Out(CTRL, RESPONSE),
            Out(CTRL, CLEAR_READ),
        ];
        script.extend(sending(&[3, 0x18, 1, 1]).into_iter().skip(2));
        script.extend(receiving(&[4, 0x1c, 0, 1, 0]));
        script.extend(receiving(&[4, 0x1c, 1, 1, 0]));
        assert!(started(script).transact(&GET_DEVICE_ID).is_ok());
    }

    #[test]
    fn a_response_of_impossible_length_is_refused() {
        let (short, long) = (IpmiError::Malformed, IpmiError::TooLong);
        for (length, error) in [(0, short), (3, short), (64, long), (255, long)] {
            let mut script = sending(&[3, 0x18, 1, 1]);
            script.extend(receiving(&[length]));
            assert_eq!(
                started(script).transact(&GET_DEVICE_ID),
                Err(error),
                "{length}"
            );
        }
    }

    #[test]
    fn the_longest_response_is_taken() {
        let mut script = sending(&[3, 0x18, 1, 1]);
        let mut message = vec![63, 0x1c, 1, 1, 0];
        message.extend([7; DATA_MAX]);
        script.extend(receiving(&message));
        let response = started(script).transact(&GET_DEVICE_ID).expect("answered");
        assert_eq!(response.data(), [7; DATA_MAX]);
    }

    #[test]
    fn a_request_that_does_not_fit_is_not_sent() {
        for data in [&[0; DATA_MAX + 1][..], &[0; 300]] {
            let request = Request {
                data,
                ..GET_DEVICE_ID
            };
            assert_eq!(started([]).transact(&request), Err(IpmiError::TooLong));
        }
    }

    #[test]
    fn a_silent_bmc_is_asked_twice_with_another_sequence() {
        timebase::fake::set_step(Ticks::from_ms(1));
        let late = || {
            [
                In(CTRL, BMC_BUSY),
                Pass(Ticks::from_s(4)),
                In(CTRL, 0),
                In(CTRL, 0),
            ]
        };
        let mut script = sending(&[3, 0x18, 1, 1]);
        script.extend(late());
        script.extend(sending(&[3, 0x18, 2, 1]));
        script.extend(late());
        assert_eq!(
            started(script).transact(&GET_DEVICE_ID),
            Err(IpmiError::Timeout)
        );
    }

    #[test]
    fn a_busy_bmc_is_not_talked_over() {
        timebase::fake::set_step(Ticks::from_s(2));
        let script = [In(CTRL, BMC_BUSY), In(CTRL, REQUEST), In(CTRL, BMC_BUSY)];
        let mut bt = started([]);
        bt.bus.then(script.into_iter().take(2));
        assert_eq!(bt.transact(&GET_DEVICE_ID), Err(IpmiError::Busy));
    }

    #[test]
    fn stale_responses_without_end_do_not_hang_us() {
        timebase::fake::set_step(Ticks::from_ms(1100));
        let mut script = vec![];
        for sequence in [1, 2] {
            script.extend(sending(&[3, 0x18, sequence, 1]));
            script.extend(receiving(&[4, 0x1c, 99, 1, 0]));
            script.extend(receiving(&[4, 0x1c, 99, 1, 0]));
        }
        assert_eq!(
            started(script).transact(&GET_DEVICE_ID),
            Err(IpmiError::Timeout)
        );
    }

    #[test]
    fn attention_is_seen() {
        let mut bt = started([In(CTRL, ATTENTION), In(CTRL, 0)]);
        assert!(bt.wants_attention());
        assert!(!bt.wants_attention());
    }

    #[test]
    fn a_request_can_be_begun_and_asked_for_later() {
        let mut script = sending(&[3, 0x18, 1, 1]);
        script.push(In(CTRL, BMC_BUSY));
        script.extend(receiving(&[5, 0x1c, 1, 1, 0, 7]));
        script.push(In(CTRL, BMC_BUSY));
        script.extend(sending(&[3, 0x18, 2, 1]));
        script.push(In(CTRL, 0));
        let mut bt = started(script);
        assert_eq!(bt.poll(KERNEL), None, "nothing was begun");
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Ok(()));
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Err(IpmiError::Busy));
        assert_eq!(bt.poll(KERNEL), None);
        let answer = bt.poll(KERNEL).expect("it came").expect("it is good");
        assert_eq!(answer.data(), [7]);
        assert_eq!(
            bt.begin(KERNEL, &GET_DEVICE_ID),
            Err(IpmiError::Busy),
            "the BMC is"
        );
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Ok(()));
        assert_eq!(bt.poll(KERNEL), None);
    }

    #[test]
    fn a_request_that_was_begun_is_ended_before_the_next_is_sent() {
        let mut script = sending(&[3, 0x18, 1, 1]);
        script.push(In(CTRL, BMC_BUSY));
        script.extend(receiving(&[4, 0x1c, 1, 1, 0xc1]));
        script.extend(sending(&[3, 0x18, 2, 1]));
        script.extend(receiving(&[4, 0x1c, 2, 1, 0]));
        let mut bt = started(script);
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Ok(()));
        assert_eq!(bt.transact(&GET_DEVICE_ID).map(|r| r.completion), Ok(0));
        let first = bt.poll(KERNEL).expect("it was kept");
        assert_eq!(first.map(|response| response.completion), Ok(0xc1));
    }

    #[test]
    fn a_request_that_was_begun_ends_although_the_time_base_stands_still() {
        struct Silent;
        impl IoSpace for Silent {
            fn inb(&self, _: u16) -> u8 {
                0
            }
            fn outb(&self, _: u16, _: u8) {}
            fn probe(&self, _: u16) -> Option<u8> {
                Some(0)
            }
        }
        timebase::fake::set_step(Ticks(0));
        let mut bt = Bt::start(Silent).expect("present");
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Ok(()));
        assert_eq!(bt.transact(&GET_DEVICE_ID), Err(IpmiError::Timeout));
        assert_eq!(bt.poll(KERNEL), Some(Err(IpmiError::Timeout)));
    }

    #[test]
    fn each_asker_gets_its_own_answer() {
        let mut script = sending(&[3, 0x18, 1, 1]);
        script.extend(receiving(&[5, 0x1c, 1, 1, 0, 7]));
        script.extend(sending(&[3, 0x18, 2, 1]));
        script.extend(receiving(&[5, 0x1c, 2, 1, 0, 8]));
        script.extend(sending(&[3, 0x18, 3, 1]));
        script.push(In(CTRL, 0));
        let mut bt = started(script);
        assert_eq!(bt.begin(Asker::Flash, &GET_DEVICE_ID), Ok(()));
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Err(IpmiError::Busy));
        assert_eq!(bt.poll(KERNEL), None, "it is not the kernel's");
        // The flash has not asked for it yet, and need not before others go on.
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Ok(()));
        let data = |answer: Option<Result<Response, IpmiError>>| {
            answer.map(|answer| answer.map(|answer| answer.data().to_vec()))
        };
        assert_eq!(data(bt.poll(Asker::Flash)), Some(Ok([7].into())));
        assert_eq!(data(bt.answers[KERNEL as usize]), Some(Ok([8].into())));
        // One that was given up is not taken for the answer to the next.
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Ok(()));
        assert_eq!(bt.poll(KERNEL), None);
    }

    #[test]
    fn wrong_late_and_missing_answers_end_a_request_that_was_begun() {
        timebase::fake::set_step(Ticks::from_ms(1));
        // An answer of another request, then none for longer than we wait.
        let mut script = sending(&[3, 0x18, 1, 1]);
        script.extend(receiving(&[4, 0x1c, 99, 1, 0]));
        script.extend([Pass(Ticks::from_s(4)), In(CTRL, 0), In(CTRL, 0)]);
        // One that is too long.
        script.extend(sending(&[3, 0x18, 2, 1]));
        script.extend(receiving(&[200]));
        let mut bt = started(script);
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Ok(()));
        assert_eq!([bt.poll(KERNEL), bt.poll(KERNEL)], [None, None]);
        assert_eq!(bt.poll(KERNEL), Some(Err(IpmiError::Timeout)));
        assert_eq!(bt.begin(KERNEL, &GET_DEVICE_ID), Ok(()));
        assert_eq!(bt.poll(KERNEL), Some(Err(IpmiError::TooLong)));
    }

    #[test]
    fn interrupts_are_withdrawn_only_when_pending() {
        let bus = Expect::new([In(0xe6, ENABLED), In(0xe6, 3), Out(0xe6, 3), Out(0xe6, 1)]);
        serve_interrupt(&bus);
        serve_interrupt(&bus);
        enable_interrupt(&bus);
    }
}
