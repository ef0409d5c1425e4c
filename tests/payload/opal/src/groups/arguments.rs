//! Every argument that is a pointer or an id, of every call that is served, made bad while the others are good. What
//! the arguments are comes from the firmware's table; what good ones look like is in [`good`].
//!
//! The surprising fact: a pointer that is not aligned is good, and so is one into the kernel's linear map: real mode
//! ignores the top four bits.

use opal_calls::args::Class;
use opal_calls::calls::{TABLE, token as t};
use opal_calls::error::OpalError;
use opal_calls::table::{Facility, Row, State};

use super::flash::completion;
use super::services::patiently;
use crate::call::{call, code};
use crate::mem;
use crate::mem::layout::{BUFFER, PAGE, SCRATCH};
use crate::report::{case, holds, skip};
use crate::start::Machine;

/// What good arguments need to exist.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    /// This thread.
    pub(super) server: u64,
    /// An interrupt that was allocated.
    pub(super) girq: u64,
    /// An interrupt of the firmware.
    pub(super) isn: u64,
    /// A node of the tree.
    pub(super) phandle: u64,
}

/// A call that should succeed.
struct Good {
    args: [u64; 8],
    /// Its answer; `None`: it is not made here, since it would do something.
    want: Option<i64>,
    /// What a bad id answers, a large one and a negative one.
    bad_id: [i64; 2],
    /// Arguments, by bit, whose pointer is one byte long.
    bytes: u8,
}

/// Good arguments, with an answer.
const fn good_call<const N: usize>(args: [u64; N], want: Option<i64>) -> Good {
    let mut all = [0; 8];
    let mut i = 0;
    while i < N {
        all[i] = args[i];
        i += 1;
    }
    Good {
        args: all,
        want,
        bad_id: [code::PARAMETER; 2],
        bytes: 0,
    }
}

impl Good {
    const fn bad_id(self, bad_id: [i64; 2]) -> Self {
        Self { bad_id, ..self }
    }

    const fn bytes(self, bytes: u8) -> Self {
        Self { bytes, ..self }
    }
}

/// The answer of a call that has only started something.
const ASYNC: i64 = OpalError::OPAL_ASYNC_COMPLETION.code();
/// The token of requests to the flash.
const FLASH: u64 = 77;

/// Outputs of a call, far enough from each other.
const fn at(n: u64) -> u64 {
    SCRATCH + 64 * n
}

/// Good arguments of a call; `None` when nobody has thought of any.
fn good(row: &Row, setup: Setup) -> Option<Good> {
    const OK: Option<i64> = Some(code::SUCCESS);
    const STARTS: Option<i64> = Some(ASYNC);
    /// A SCOM register that every chip has, and that nobody can write.
    const CHIP_ID: u64 = 0xf000f;
    /// The scratch register of the UART.
    const UART_SCRATCH: u64 = 0x3ff;
    let Setup {
        server,
        girq,
        isn,
        phandle,
    } = setup;
    let (p0, p1, p2, p3, p4) = (at(0), at(1), at(2), at(3), at(4));
    Some(match row.token {
        t::OPAL_TEST => good_call([0], Some(0xfeed_f00d)),
        t::OPAL_CONSOLE_WRITE | t::OPAL_CONSOLE_READ => good_call([0, p0, p1], OK).bytes(4),
        t::OPAL_CONSOLE_WRITE_BUFFER_SPACE => good_call([0, p0], OK),
        t::OPAL_CONSOLE_FLUSH => good_call([0], None),
        t::OPAL_RTC_READ => good_call([p0, p1], OK),
        t::OPAL_READ_NVRAM | t::OPAL_WRITE_NVRAM => good_call([p0, 16, 0x1f00], OK),
        t::OPAL_HANDLE_INTERRUPT => good_call([isn, p0], OK),
        t::OPAL_POLL_EVENTS => good_call([p0], OK),
        t::OPAL_START_CPU => good_call([server, BUFFER], None),
        t::OPAL_QUERY_CPU_STATUS => good_call([server, p0], OK).bytes(2),
        t::OPAL_XSCOM_READ => good_call([0, CHIP_ID, p0], OK),
        t::OPAL_XSCOM_WRITE => good_call([0, CHIP_ID, 0], None),
        t::OPAL_LPC_READ => good_call([0, 1, UART_SCRATCH, p0, 1], OK),
        t::OPAL_LPC_WRITE => good_call([0, 1, UART_SCRATCH, 0, 1], OK),
        t::OPAL_GET_MSG => good_call([BUFFER, 72], Some(code::RESOURCE)),
        t::OPAL_CHECK_ASYNC_COMPLETION => good_call([BUFFER, 72, 1], Some(code::BUSY)),
        t::OPAL_SIGNAL_SYSTEM_RESET => {
            good_call([server], None).bad_id([code::PARAMETER, code::CONSTRAINED])
        }
        t::OPAL_QUIESCE => good_call([1, server], None),
        t::OPAL_GET_POWERCAP | t::OPAL_GET_POWER_SHIFT_RATIO => {
            good_call([0, 1, p0], OK).bad_id([code::UNSUPPORTED; 2])
        }
        t::OPAL_SET_POWERCAP | t::OPAL_SET_POWER_SHIFT_RATIO => {
            good_call([0, 1, 0], None).bad_id([code::UNSUPPORTED; 2])
        }
        t::OPAL_SENSOR_READ | t::OPAL_SENSOR_READ_U64 => {
            good_call([0x00c0_0000, 1, p0], None).bad_id([code::UNSUPPORTED; 2])
        }
        t::OPAL_I2C_REQUEST => good_call([1, 1, p0], None),
        t::OPAL_FLASH_READ | t::OPAL_FLASH_WRITE => {
            good_call([0, 0x20_0000, p0, 16, FLASH], STARTS)
        }
        t::OPAL_FLASH_ERASE => good_call([0, 0x20_0000, 0x1_0000, FLASH], STARTS),
        t::OPAL_HANDLE_HMI2 => good_call([p0], OK),
        t::OPAL_GET_DEVICE_TREE => good_call([phandle, BUFFER, 0x4000], OK),
        t::OPAL_IPMI_SEND => good_call([0, p0, 3], None),
        t::OPAL_IPMI_RECV => good_call([0, p0, p1], None).bytes(2),
        t::OPAL_XIVE_GET_IRQ_INFO => good_call([girq, p0, p1, p2, p3, p4], OK),
        t::OPAL_XIVE_GET_IRQ_CONFIG => good_call([girq, p0, p1, p2], OK).bytes(4),
        t::OPAL_XIVE_SET_IRQ_CONFIG => good_call([girq, server, 0xff, 0], OK),
        t::OPAL_XIVE_GET_QUEUE_INFO => good_call([server, 6, p0, p1, p2, p3, p4], OK),
        t::OPAL_XIVE_SET_QUEUE_INFO => good_call([server, 6, PAGE, 16, 1], OK),
        t::OPAL_XIVE_DONATE_PAGE => good_call([0, PAGE], None),
        t::OPAL_XIVE_FREE_VP_BLOCK => good_call([server], None),
        t::OPAL_XIVE_GET_VP_INFO => good_call([server, p0, p1, p2, p3], OK),
        t::OPAL_XIVE_SET_VP_INFO => good_call([server, 1, 0], OK),
        t::OPAL_XIVE_ALLOCATE_IRQ => good_call([0], None),
        t::OPAL_XIVE_FREE_IRQ => good_call([girq], None),
        t::OPAL_XIVE_SYNC => good_call([3, girq], OK),
        t::OPAL_XIVE_DUMP => good_call([4, server], OK),
        t::OPAL_XIVE_GET_QUEUE_STATE => good_call([server, 6, p0, p1], OK),
        t::OPAL_XIVE_SET_QUEUE_STATE => good_call([server, 6, 1, 0], OK),
        t::OPAL_XIVE_GET_VP_STATE => good_call([server, p0], OK),
        _ => return None,
    })
}

/// Pointers that skiboot uses without a look, and ids that it takes for an index: it would stop the machine. Found by
/// trying.
const SKIBOOT_TRUSTS: [(u64, &str); 15] = [
    (t::OPAL_I2C_REQUEST, "request"),
    (t::OPAL_HANDLE_HMI2, "flags"),
    (t::OPAL_GET_DEVICE_TREE, "buf"),
    (t::OPAL_IPMI_SEND, "msg"),
    (t::OPAL_IPMI_RECV, "msg"),
    (t::OPAL_IPMI_RECV, "len"),
    // Refused, and in force nevertheless.
    (t::OPAL_QUIESCE, "target"),
    (t::OPAL_RTC_READ, "ymd"),
    (t::OPAL_RTC_READ, "hmsm"),
    (t::OPAL_CONSOLE_WRITE, "len"),
    (t::OPAL_CONSOLE_WRITE, "buf"),
    (t::OPAL_CONSOLE_READ, "len"),
    (t::OPAL_CONSOLE_WRITE_BUFFER_SPACE, "len"),
    (t::OPAL_XSCOM_READ, "value"),
    (t::OPAL_LPC_READ, "data"),
];

/// Whether skiboot looks at an argument before it uses it. The XIVE calls trust all pointers and processor numbers.
fn skiboot_looks_at(row: &Row, name: &str) -> bool {
    let is_xive = row.needs == Facility::Xive && name != "girq";
    !is_xive && !SKIBOOT_TRUSTS.contains(&(row.token, name))
}

pub(super) fn run(machine: &Machine) {
    let reset = call(t::OPAL_XIVE_RESET, [1]);
    case("arguments/xive-reset", reset, code::SUCCESS);
    let girq = call(t::OPAL_XIVE_ALLOCATE_IRQ, [0]);
    holds("arguments/interrupt", girq > 0);
    let setup = Setup {
        server: machine.threads[0],
        girq: girq.cast_unsigned(),
        isn: machine.isn,
        phandle: machine.phandle,
    };
    for row in TABLE.iter().filter(|row| row.state == State::Served) {
        let has_class = |class| row.args.iter().any(|arg| arg.class == class);
        // The reason of a reboot is looked at only when there is one.
        let is_tried = has_class(Class::Pointer) || has_class(Class::Id);
        if !is_tried || row.token == t::OPAL_CEC_REBOOT2 {
            continue;
        }
        if row.needs == Facility::Sensors && !machine.has_sensors {
            skip(format_args!("arguments/{}", row.name), "no sensors");
            continue;
        }
        match good(row, setup) {
            Some(good) => sweep(machine, row, &good),
            None => {
                holds(format_args!("arguments/{}-are-known", row.name), false);
            }
        }
    }
    let freed = call(t::OPAL_XIVE_FREE_IRQ, [girq.cast_unsigned()]);
    case("arguments/interrupt-freed", freed, code::SUCCESS);
}

/// Brings inputs in memory into a known state: a console call has one byte, a line end.
fn prepare(token: u64, args: &[u64; 8]) {
    mem::fill(SCRATCH, 0x400, 0);
    if token == t::OPAL_CONSOLE_WRITE || token == t::OPAL_CONSOLE_READ {
        let is_len = |len: &u64| len & !1 == at(0);
        let len = Some(args[1] & !(0xf << 60)).filter(is_len);
        mem::write_be64(len.unwrap_or(at(0)), 1);
        mem::fill(at(1), 2, b'\n');
    }
}

/// Makes a call until it is not busy any more: a clock may take its time. What it has started is waited for.
fn make(token: u64, args: [u64; 8]) -> i64 {
    let got = patiently(|| {
        prepare(token, &args);
        call(token, args)
    });
    if got == ASYNC && completion(FLASH) != code::SUCCESS {
        holds("arguments/the-flash-does-it", false);
    }
    got
}

fn sweep(machine: &Machine, row: &Row, good: &Good) {
    let made = |args| make(row.token, args);
    if let Some(want) = good.want {
        case(format_args!("good/{}", row.name), made(good.args), want);
    }
    for (index, arg) in row.args.iter().enumerate() {
        let with = |value| {
            let mut args = good.args;
            args[index] = value;
            args
        };
        match arg.class {
            // Any number will do: it comes back in a message.
            Class::Id if arg.ty == "AsyncToken" => {}
            Class::Id => {
                let kinds = [("large", 0x5a5a_5a5a), ("negative", u64::MAX - 15)];
                for ((kind, value), want) in kinds.into_iter().zip(good.bad_id) {
                    let name = format_args!("id/{}-{}-{kind}", row.name, arg.name);
                    if machine.on_skiboot && !skiboot_looks_at(row, arg.name) {
                        skip(name, "skiboot does not look at this number");
                    } else {
                        case(name, made(with(value)), want);
                    }
                }
            }
            Class::Pointer => pointer(machine, row, good, index),
            Class::Value => {}
        }
    }
}

fn pointer(machine: &Machine, row: &Row, good: &Good, index: usize) {
    let name = row.args[index].name;
    let one_byte = good.bytes & 1 << index != 0;
    let unchecked = !skiboot_looks_at(row, name);
    let fine = good.args[index];
    let firmware = machine.opal[0];
    let made = |value: u64| {
        let mut args = good.args;
        args[index] = value;
        make(row.token, args)
    };
    let bad = [
        ("outside", machine.memory_end + (1 << 42)),
        ("device", 0x0006_0300_0000_0000),
        ("nibble", fine | 4 << 60),
        ("wraps", u64::MAX - 3),
    ];
    for (kind, value) in bad {
        let name = format_args!("pointer/{}-{name}-{kind}", row.name);
        if machine.on_skiboot && unchecked {
            skip(name, "skiboot does not look at this pointer");
        } else {
            case(name, made(value), code::PARAMETER);
        }
    }
    let risky = [
        ("behind", machine.memory_end),
        ("firmware", firmware),
        ("straddles", firmware - 1),
    ];
    for (kind, value) in risky {
        let case_name = format_args!("pointer/{}-{name}-{kind}", row.name);
        if kind == "straddles" && one_byte {
            continue;
        }
        if machine.on_skiboot {
            skip(
                case_name,
                "skiboot lets it through, and stops or overwrites itself",
            );
            continue;
        }
        let before = [mem::peek(firmware - 8), mem::peek(firmware)];
        case(case_name, made(value), code::PARAMETER);
        if before != [mem::peek(firmware - 8), mem::peek(firmware)] {
            holds(
                format_args!("pointer/{}-{name}-{kind}-wrote-nothing", row.name),
                false,
            );
        }
    }
    if let Some(want) = good.want {
        case(
            format_args!("pointer/{}-{name}-linear-map", row.name),
            made(fine | 0xc << 60),
            want,
        );
        // Pages and report areas have an alignment of their own; groups of their calls try that.
        if fine != PAGE && fine != 0 {
            case(
                format_args!("pointer/{}-{name}-unaligned", row.name),
                made(fine + 1),
                want,
            );
        }
    }
}
