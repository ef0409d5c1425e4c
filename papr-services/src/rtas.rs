//! Run-time abstraction services: one row per call; the tokens in the tree, decoding and the tests come from the
//! rows. A call that is not a row has no token, which is how a kernel learns that it is absent.
//!
//! The partition calls a five-instruction stub in its own memory ([`STUB`]), which makes the hypercall H_RTAS with
//! the address of an argument block: token, number of arguments, number of results, arguments, results, all
//! big-endian 32-bit cells (LoPAR 7.2).
//!
//! The surprising fact: both counts are the caller's, so they are held against the row's before anything is read or
//! written with them.

use arrayvec::ArrayVec;
use isa::addr::Gra;

use crate::error::{HCode, Outputs};
use crate::host::{DateTime, Host};
use crate::partition::{Partition, Stop};
use crate::serve::Next;

mod parameter;

/// The stub at `linux,rtas-entry`, big-endian code: `mr r4,r3; li r3,0xf000; sc 1; blr`.
pub const STUB: [u8; 20] = [
    0x7c, 0x64, 0x1b, 0x78, 0x3c, 0x60, 0x00, 0x00, 0x60, 0x63, 0xf0, 0x00, 0x44, 0x00, 0x00, 0x22,
    0x4e, 0x80, 0x00, 0x20,
];

/// Bytes of the partition's memory that hold the stub: `rtas-size`.
pub const PAGE_BYTES: u32 = 0x1000;

/// Longest error log that event calls would write: `rtas-error-log-max`.
pub const ERROR_LOG_BYTES: u32 = 0x800;

/// First token.
const TOKENS: u32 = 0x2000;

/// `display-character` as kernels call it before they have read the tree.
const EARLY_DISPLAY_CHARACTER: u32 = 0xa;

/// Most cells of arguments and results together.
const MOST_CELLS: usize = 16;

/// Bytes of the block before the arguments.
const HEADER: u64 = 12;

/// Makes an argument out of a cell.
trait FromCell {
    fn from_cell(cell: u32) -> Self;
}

impl FromCell for u32 {
    fn from_cell(cell: u32) -> Self {
        cell
    }
}

impl FromCell for Gra {
    fn from_cell(cell: u32) -> Self {
        Self(cell.into())
    }
}

/// One call as data.
#[derive(Debug)]
pub struct Row {
    /// Value of its property in `/rtas`, first cell of the block.
    pub token: u32,
    /// Name of its property in `/rtas`.
    pub name: &'static str,
    /// Names of the arguments.
    pub args: &'static [&'static str],
    /// Number of results, status included.
    pub results: usize,
    /// What it does.
    pub doc: &'static str,
}

macro_rules! rtas_calls {
    ($( $(#[doc = $doc:literal])* $number:literal $name:literal $C:ident ( $($arg:ident : $ty:ty),* ) -> $results:literal ; )*) => {
        /// A call with its arguments decoded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Call {
            $( $(#[doc = $doc])* $C { $( $arg: $ty ),* } ),*
        }

        impl Call {
            /// Decodes a call. `None`: no such token, or not with these numbers of arguments and results.
            fn decode(token: u32, args: &[u32], results: usize) -> Option<Self> {
                let number = match token {
                    EARLY_DISPLAY_CHARACTER => token_of("display-character")?,
                    _ => token,
                }
                .checked_sub(TOKENS)?;
                let mut cells = args.iter().copied();
                let call = match number {
                    $( $number if results == $results => Self::$C { $( $arg: FromCell::from_cell(cells.next()?) ),* }, )*
                    _ => return None,
                };
                cells.next().is_none().then_some(call)
            }
        }

        /// The table, in the order of the rows.
        pub const TABLE: &[Row] = &[ $( Row {
            token: TOKENS.saturating_add($number),
            name: $name, args: &[$(stringify!($arg)),*], results: $results, doc: concat!($($doc),*),
        } ),* ];
    };
}

rtas_calls! {
    /// Prints a character on the console.
    0 "display-character" DisplayCharacter(character: u32)                             -> 1;
    /// Reads the clock: year, month, day, hour, minute, second, nanosecond.
    1 "get-time-of-day" GetTimeOfDay()                                                 -> 8;
    /// Sets the clock.
    2 "set-time-of-day" SetTimeOfDay(year: u32, month: u32, day: u32, hour: u32, minute: u32, second: u32, nanosecond: u32) -> 1;
    /// Ends the partition.
    3 "power-off" PowerOff(mask_high: u32, mask_low: u32)                              -> 1;
    /// Ends the partition, as the uninterruptible power supply asks for it.
    4 "ibm,power-off-ups" PowerOffUps()                                                -> 1;
    /// Starts the partition again.
    5 "system-reboot" SystemReboot()                                                   -> 1;
    /// What a vCPU does: 0 stopped, 2 running.
    6 "query-cpu-stopped-state" QueryCpuStoppedState(cpu: u32)                         -> 2;
    /// Starts a stopped vCPU in real mode.
    7 "start-cpu" StartCpu(cpu: u32, entry: Gra, argument: u32)                        -> 1;
    /// Stops the calling vCPU.
    8 "stop-self" StopSelf()                                                           -> 1;
    /// Server and priority of an interrupt source.
    9 "ibm,get-xive" GetXive(source: u32)                                              -> 3;
    /// Sets server and priority of an interrupt source.
    10 "ibm,set-xive" SetXive(source: u32, server: u32, priority: u32)                 -> 1;
    /// Unmasks an interrupt source.
    11 "ibm,int-on" IntOn(source: u32)                                                 -> 1;
    /// Masks an interrupt source.
    12 "ibm,int-off" IntOff(source: u32)                                               -> 1;
    /// Looks for events of the platform.
    13 "event-scan" EventScan(mask: u32, critical: u32, buffer: Gra, len: u32)         -> 1;
    /// Looks for the event behind an interrupt.
    14 "check-exception" CheckException(vector: u32, information: u32, mask: u32, critical: u32, buffer: Gra, len: u32) -> 1;
    /// Reads a system parameter: length, then value.
    15 "ibm,get-system-parameter" GetSystemParameter(parameter: u32, buffer: Gra, len: u32) -> 1;
    /// Changes a system parameter.
    16 "ibm,set-system-parameter" SetSystemParameter(parameter: u32, buffer: Gra)      -> 1;
    /// Tells that the operating system is at its end, and why.
    17 "ibm,os-term" OsTerm(message: Gra)                                              -> 1;
}

/// A status that is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(i32);

impl Status {
    /// Nothing to report.
    const NONE: Self = Self(1);
    const HARDWARE: Self = Self(-1);
    const BUSY: Self = Self(-2);
    /// Parameter error; not supported.
    const PARAMETER: Self = Self(-3);
    const NOT_AUTHORISED: Self = Self(-9002);
    /// Parameter error of calls for which -3 means "not supported".
    const BAD_BUFFER: Self = Self(-9999);
}

impl From<crate::interrupt::Unknown> for Status {
    fn from(_: crate::interrupt::Unknown) -> Self {
        Self::PARAMETER
    }
}

/// Results after the status.
type Values = ArrayVec<u32, 7>;

fn values<const N: usize>(list: [u32; N]) -> Values {
    const { assert!(N <= 7) };
    list.into_iter().collect()
}

/// What a call leads to.
enum Outcome {
    Done(Result<Values, Status>),
    Stopped,
    Stop(Stop),
}

/// The token of a call by its name.
fn token_of(name: &str) -> Option<u32> {
    Some(TABLE.iter().find(|row| row.name == name)?.token)
}

/// The block's cells `[from, from + N)`.
fn cells<const N: usize>(
    partition: &Partition,
    block: Gra,
    from: u64,
    count: usize,
) -> Option<ArrayVec<u32, N>> {
    let mut at = block.checked_add(from)?;
    let mut list = ArrayVec::new();
    for _ in 0..count {
        let mut cell = [0; 4];
        partition.ram.read(at, &mut cell).ok()?;
        list.try_push(u32::from_be_bytes(cell)).ok()?;
        at = at.checked_add(4)?;
    }
    Some(list)
}

/// An argument block whose place and counts were checked.
struct Block {
    token: u32,
    args: ArrayVec<u32, MOST_CELLS>,
    /// Where the results go.
    results_at: Gra,
    results: usize,
}

impl Block {
    /// Copies the block's head and arguments out of the partition's memory, once.
    fn read(partition: &Partition, block: Gra) -> Option<Self> {
        let [token, nargs, nret] = cells::<3>(partition, block, 0, 3)?.into_inner().ok()?;
        let nargs = usize::try_from(nargs).ok().filter(|n| *n <= MOST_CELLS)?;
        let results = usize::try_from(nret).ok()?;
        let count = nargs.checked_add(results).filter(|n| *n <= MOST_CELLS)?;
        let bytes = u64::try_from(count)
            .ok()?
            .checked_mul(4)?
            .checked_add(HEADER)?;
        let end = block.checked_add(bytes)?;
        // RTAS runs with 32-bit addresses.
        if end.0 > 1 << 32 || !partition.ram.contains(block, bytes) {
            return None;
        }
        let args = cells(partition, block, HEADER, nargs)?;
        let skip = u64::try_from(nargs)
            .ok()?
            .checked_mul(4)?
            .checked_add(HEADER)?;
        Some(Self {
            token,
            args,
            results_at: block.checked_add(skip)?,
            results,
        })
    }

    /// Writes the status, and after success the other results.
    fn finish(&self, partition: &Partition, outcome: &Result<Values, Status>) {
        let (status, values) = match outcome {
            Ok(values) => (0, values.as_slice()),
            Err(status) => (status.0, [].as_slice()),
        };
        let list = core::iter::once(status.cast_unsigned()).chain(values.iter().copied());
        let mut at = self.results_at;
        for cell in list.take(self.results) {
            // Checked when the block was read; memory of a partition does not go away.
            let _ = partition.ram.write(at, &cell.to_be_bytes());
            at = at.checked_add(4).unwrap_or(at);
        }
    }
}

/// H_RTAS: serves the call whose argument block is at `block`.
pub(crate) fn call<H: Host>(block: Gra, id: u32, partition: &Partition, host: &H) -> Next {
    let Some(block) = Block::read(partition, block) else {
        return Next::Return(Err(HCode::H_PARAMETER.into()));
    };
    let Some(call) = Call::decode(block.token, &block.args, block.results) else {
        block.finish(partition, &Err(Status::PARAMETER));
        return Next::Return(Err(HCode::H_PARAMETER.into()));
    };
    match serve(call, id, partition, host) {
        Outcome::Done(outcome) => {
            block.finish(partition, &outcome);
            Next::Return(Ok(Outputs::NONE))
        }
        Outcome::Stopped => Next::Stopped,
        Outcome::Stop(stop) => Next::Stop(stop),
    }
}

/// Serves one call. A row of the table without an arm here does not compile.
fn serve<H: Host>(call: Call, id: u32, partition: &Partition, host: &H) -> Outcome {
    let xics = || partition.interrupts.xics().map_err(|_| Status::PARAMETER);
    let done = |risen: crate::interrupt::Risen| {
        partition.kick(risen, id, host);
        Values::new()
    };
    Outcome::Done(match call {
        Call::DisplayCharacter { character } => display_character(host, character),
        Call::GetTimeOfDay {} => get_time(host),
        Call::SetTimeOfDay {
            year,
            month,
            day,
            hour,
            minute,
            second,
            nanosecond: _,
        } => set_time(host, [year, month, day, hour, minute, second]),
        Call::PowerOff { .. } | Call::PowerOffUps {} => return Outcome::Stop(Stop::PowerOff),
        Call::SystemReboot {} => return Outcome::Stop(Stop::Reboot),
        Call::QueryCpuStoppedState { cpu } => partition
            .vcpu(cpu.into())
            .map(|vcpu| values([vcpu.run_state().stopped_state()]))
            .ok_or(Status::PARAMETER),
        Call::StartCpu {
            cpu,
            entry,
            argument,
        } => start_cpu(partition, host, cpu, entry, argument),
        Call::StopSelf {} => {
            if partition.stop_vcpu(id) {
                return Outcome::Stopped;
            }
            // The last one: nobody could start it again.
            Err(Status::HARDWARE)
        }
        Call::GetXive { source } => xics()
            .and_then(|xics| xics.xive(source).map_err(Status::from))
            .map(|(server, priority)| values([server, priority.into()])),
        Call::SetXive {
            source,
            server,
            priority,
        } => xics()
            .and_then(|xics| {
                xics.set_xive(source, server, priority)
                    .map_err(Status::from)
            })
            .map(done),
        Call::IntOn { source } => xics()
            .and_then(|xics| xics.unmask(source).map_err(Status::from))
            .map(done),
        Call::IntOff { source } => xics()
            .and_then(|xics| xics.mask(source).map_err(Status::from))
            .map(|()| Values::new()),
        // The platform has no events yet.
        Call::EventScan { .. } | Call::CheckException { .. } => Err(Status::NONE),
        Call::GetSystemParameter {
            parameter,
            buffer,
            len,
        } => parameter::get(partition, parameter, buffer, len),
        Call::SetSystemParameter { parameter, .. } => Err(parameter::set(parameter)),
        Call::OsTerm { message } => os_term(partition, message),
    })
}

fn display_character<H: Host>(host: &H, character: u32) -> Result<Values, Status> {
    let [.., byte] = character.to_be_bytes();
    match host.console_write(&[byte]) {
        0 => Err(Status::BUSY),
        _ => Ok(Values::new()),
    }
}

fn get_time<H: Host>(host: &H) -> Result<Values, Status> {
    let now = host.read_clock().map_err(|_| Status::HARDWARE)?;
    Ok(values([
        now.year.into(),
        now.month.into(),
        now.day.into(),
        now.hour.into(),
        now.minute.into(),
        now.second.into(),
        0,
    ]))
}

fn set_time<H: Host>(host: &H, cells: [u32; 6]) -> Result<Values, Status> {
    let time = date(cells).ok_or(Status::PARAMETER)?;
    host.set_clock(time).map_err(|_| Status::HARDWARE)?;
    Ok(Values::new())
}

/// A date that exists.
fn date([year, month, day, hour, minute, second]: [u32; 6]) -> Option<DateTime> {
    let small = |value: u32, most: u32| u8::try_from(value).ok().filter(|_| value <= most);
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    Some(DateTime {
        year: u16::try_from(year)
            .ok()
            .filter(|y| (1970..=9999).contains(y))?,
        month: small(month, 12)?,
        day: small(day, days).filter(|d| *d > 0)?,
        hour: small(hour, 23)?,
        minute: small(minute, 59)?,
        second: small(second, 59)?,
    })
}

fn start_cpu<H: Host>(
    partition: &Partition,
    host: &H,
    cpu: u32,
    entry: Gra,
    argument: u32,
) -> Result<Values, Status> {
    let vcpu = partition.vcpu(cpu.into()).ok_or(Status::PARAMETER)?;
    if !partition.ram.contains(entry, 4) {
        return Err(Status::PARAMETER);
    }
    if !partition.start_vcpu(vcpu, entry, argument.into()) {
        return Err(Status::HARDWARE);
    }
    host.kick(cpu);
    Ok(Values::new())
}

/// Longest message of a dying operating system that is reported.
const LAST_WORDS: usize = 128;
/// Messages that are reported: a kernel sends one, but nothing keeps a partition from calling for ever.
const MOST_LAST_WORDS: u32 = 8;

fn os_term(partition: &Partition, message: Gra) -> Result<Values, Status> {
    let mut text = [0; LAST_WORDS];
    let mut at = message;
    for place in &mut text {
        let mut byte = [0];
        partition
            .ram
            .read(at, &mut byte)
            .map_err(|_| Status::PARAMETER)?;
        let [byte] = byte;
        if byte == 0 {
            break;
        }
        // The log is for people: nothing that moves a terminal's cursor.
        *place = match byte {
            b' '..=b'~' => byte,
            _ => b'.',
        };
        at = at.checked_add(1).ok_or(Status::PARAMETER)?;
    }
    let text = core::str::from_utf8(&text)
        .unwrap_or("")
        .trim_end_matches('\0');
    if partition.count_last_words() < MOST_LAST_WORDS {
        log::error!(
            "partition {}: operating system ended: {text}",
            partition.lpid
        );
    }
    Ok(Values::new())
}

#[cfg(test)]
pub(crate) mod tests;
