//! Calls that need no interrupt controller and no second thread: console, events, clock, NVRAM, SCOM, LPC, processors.

use opal_calls::calls::token as t;
use opal_calls::error::OpalError;

use crate::asm::{reset_time_base, time_base_is_valid};
use crate::call::{call, code};
use crate::mem::layout::{BUFFER, SCRATCH};
use crate::mem::{self, equals, read_be32, read_be64, read8, write_be64};
use crate::report::{case, holds, one_of, skip};
use crate::start::Machine;
use crate::thread::{PATIENCE, secondary_address, wait};

const P: u64 = SCRATCH;
const Q: u64 = SCRATCH + 64;

pub(super) fn run(machine: &Machine) {
    console(machine);
    events(machine);
    clock(machine);
    nvram(machine);
    scom(machine);
    super::lpc::run();
    ipmi(machine);
    nest_mmu(machine);
    tree(machine);
    power_limits();
    maintenance();
    processors(machine);
    power(machine);
}

fn console(machine: &Machine) {
    // Everything that is reported went through OPAL_CONSOLE_WRITE already.
    write_be64(P, 0);
    case(
        "console/write-nothing",
        call(t::OPAL_CONSOLE_WRITE, [0, P, Q]),
        code::SUCCESS,
    );
    case("console/write-nothing-taken", read_be64(P), 0);
    if machine.on_skiboot {
        skip("console/write-*", "skiboot reads whatever is there");
        skip("console/read-*", "skiboot writes whatever is there");
    } else {
        // The end of the buffer wraps, or is where no memory is.
        for (name, len) in [("wraps", u64::MAX - 4), ("outside", machine.memory_end)] {
            write_be64(P, len);
            let got = call(t::OPAL_CONSOLE_WRITE, [0, P, Q]);
            case(format_args!("console/write-{name}"), got, code::PARAMETER);
            write_be64(P, len);
            let got = call(t::OPAL_CONSOLE_READ, [0, P, Q]);
            case(format_args!("console/read-{name}"), got, code::PARAMETER);
        }
    }
    write_be64(P, 64);
    mem::fill(Q, 64, 0xaa);
    case(
        "console/read",
        call(t::OPAL_CONSOLE_READ, [0, P, Q]),
        code::SUCCESS,
    );
    case("console/read-nothing-there", read_be64(P), 0);
    case("console/read-leaves-the-buffer", u64::from(read8(Q)), 0xaa);
    let drained = wait(PATIENCE, || {
        call(t::OPAL_CONSOLE_FLUSH, [0]) == code::SUCCESS
    });
    holds("console/flush-drains", drained);
    write_be64(P, 0);
    let got = call(t::OPAL_CONSOLE_WRITE_BUFFER_SPACE, [0, P]);
    case("console/space", got, code::SUCCESS);
    holds("console/space-when-empty", read_be64(P) >= 0x400);
}

fn events(machine: &Machine) {
    case(
        "events/poll-without-output",
        call(t::OPAL_POLL_EVENTS, [0]),
        code::SUCCESS,
    );
    write_be64(P, u64::MAX);
    case("events/poll", call(t::OPAL_POLL_EVENTS, [P]), code::SUCCESS);
    case("events/none-pending", read_be64(P), 0);
    write_be64(P, u64::MAX);
    let got = call(t::OPAL_HANDLE_INTERRUPT, [machine.isn, P]);
    case("events/handle-interrupt", got, code::SUCCESS);
    case("events/none-after-it", read_be64(P), 0);
    for size in [0, 71] {
        let got = call(t::OPAL_GET_MSG, [BUFFER, size]);
        case(
            format_args!("events/message-in-{size}-bytes"),
            got,
            code::PARAMETER,
        );
        let got = call(t::OPAL_CHECK_ASYNC_COMPLETION, [BUFFER, size, 1]);
        case(
            format_args!("events/completion-in-{size}-bytes"),
            got,
            code::PARAMETER,
        );
    }
    mem::fill(BUFFER, 72, 0xaa);
    let got = call(t::OPAL_GET_MSG, [BUFFER, 72]);
    case("events/no-message", got, code::RESOURCE);
    case(
        "events/no-message-leaves-the-buffer",
        read_be64(BUFFER),
        0xaaaa_aaaa_aaaa_aaaa,
    );
    let got = call(t::OPAL_CHECK_ASYNC_COMPLETION, [BUFFER, 72, 1]);
    case("events/no-completion", got, code::BUSY);
    case(
        "events/sync-host-reboot",
        call(t::OPAL_SYNC_HOST_REBOOT, []),
        code::SUCCESS,
    );
}

/// Repeats a call while it asks for that, for half a minute: what it waits for may be played by a busy host.
pub(super) fn patiently(mut made: impl FnMut() -> i64) -> i64 {
    let mut code = code::BUSY_EVENT;
    wait(30_000, || {
        code = made();
        if code == code::BUSY_EVENT {
            call(t::OPAL_POLL_EVENTS, [0]);
        }
        code != code::BUSY_EVENT
    });
    code
}

fn clock(machine: &Machine) {
    let read = || patiently(|| call(t::OPAL_RTC_READ, [P, Q]));
    case("clock/read", read(), code::SUCCESS);
    let (date, time) = (read_be32(P), read_be64(Q));
    let is_bcd = |value: u64| (0..16).all(|digit| value >> (4 * digit) & 0xf < 10);
    holds(
        "clock/date-is-bcd",
        is_bcd(date.into()) && date >> 24 == 0x20,
    );
    holds("clock/time-is-bcd", is_bcd(time) && time >> 56 < 0x24);
    case("clock/nothing-below-the-seconds", time & 0xff_ffff, 0);
    // 12:34 on a leap day.
    let set = patiently(|| call(t::OPAL_RTC_WRITE, [0x2028_0229, 0x1234_0000_0000_0000]));
    case("clock/write", set, code::SUCCESS);
    case("clock/read-again", read(), code::SUCCESS);
    holds("clock/the-date-was-set", read_be32(P) == 0x2028_0229);
    holds("clock/the-time-was-set", read_be64(Q) >> 48 == 0x1234);
    if machine.on_skiboot {
        skip("clock/wrong-*", "skiboot hands them to the clock");
    } else {
        for (name, date, time) in [
            ("month", 0x2026_1301, 0),
            ("day", 0x2026_0230, 0),
            ("digit", 0x2026_0a01, 0),
            ("hour", 0x2026_0101, 0x2400_0000_0000_0000),
            ("minute", 0x2026_0101, 0x0060_0000_0000_0000),
        ] {
            let got = patiently(|| call(t::OPAL_RTC_WRITE, [date, time]));
            case(format_args!("clock/wrong-{name}"), got, code::PARAMETER);
        }
    }
    patiently(|| call(t::OPAL_RTC_WRITE, [date.into(), time]));
}

fn nvram(machine: &Machine) {
    let size = machine.nvram;
    holds("nvram/in-the-tree", size >= 0x1000);
    let got = call(t::OPAL_READ_NVRAM, [BUFFER, 16, 0]);
    case("nvram/read", got, code::SUCCESS);
    if got != code::SUCCESS {
        skip(
            "nvram/*",
            "there is no flash from which skiboot could load it",
        );
        return;
    }
    mem::copy(BUFFER, b"written by the payload");
    let got = call(t::OPAL_WRITE_NVRAM, [BUFFER, 22, size - 22]);
    case("nvram/write-the-end", got, code::SUCCESS);
    mem::fill(BUFFER, 64, 0);
    let got = call(t::OPAL_READ_NVRAM, [BUFFER, 22, size - 22]);
    case("nvram/read-the-end", got, code::SUCCESS);
    holds("nvram/holds-it", equals(BUFFER, b"written by the payload"));
    for (name, bytes, offset) in [
        ("beyond", 22, size - 21),
        ("far", 1, size),
        ("wraps", 16, u64::MAX - 7),
        ("long", u64::MAX, 8),
    ] {
        let got = call(t::OPAL_READ_NVRAM, [BUFFER, bytes, offset]);
        case(format_args!("nvram/read-{name}"), got, code::PARAMETER);
        let got = call(t::OPAL_WRITE_NVRAM, [BUFFER, bytes, offset]);
        case(format_args!("nvram/write-{name}"), got, code::PARAMETER);
    }
    case(
        "nvram/read-nothing",
        call(t::OPAL_READ_NVRAM, [BUFFER, 0, 0]),
        code::SUCCESS,
    );
}

fn scom(machine: &Machine) {
    const CHIP_ID: u64 = 0xf000f;
    case(
        "scom/read",
        call(t::OPAL_XSCOM_READ, [0, CHIP_ID, P]),
        code::SUCCESS,
    );
    // The type byte of POWER10; QEMU's Power11 has the same.
    case("scom/chip-type", read_be64(P) >> 44 & 0xff, 0xda);
    if machine.on_skiboot {
        skip("scom/*", "skiboot takes long to recover from a bad address");
        return;
    }
    write_be64(P, 0x55);
    let got = call(t::OPAL_XSCOM_READ, [0, 0x7fff_fff0, P]);
    one_of("scom/no-such-register", got, &[code::HARDWARE, -26]);
    case("scom/a-failure-writes-nothing", read_be64(P), 0x55);
    let got = call(t::OPAL_XSCOM_WRITE, [0, 0x7fff_fff0, 0]);
    one_of("scom/write-to-no-register", got, &[code::HARDWARE, -26]);
    for (name, address) in [("wide", 1 << 32), ("indirect", 1 << 63)] {
        let want = if name == "wide" {
            code::PARAMETER
        } else {
            code::UNSUPPORTED
        };
        let got = call(t::OPAL_XSCOM_READ, [0, address, P]);
        case(format_args!("scom/address-{name}"), got, want);
    }
    let got = call(t::OPAL_XSCOM_WRITE, [0, CHIP_ID, 0]);
    one_of("scom/write", got, &[code::SUCCESS]);
}

/// Messages to the BMC: QEMU's answers Get Device ID.
fn ipmi(machine: &Machine) {
    const EMPTY: i64 = OpalError::OPAL_EMPTY.code();
    // Version of the form, function 6 and unit 0, command.
    const GET_DEVICE_ID: [u8; 3] = [1, 6 << 2, 1];
    let send = |bytes: &[u8], len| {
        mem::copy(P, bytes);
        call(t::OPAL_IPMI_SEND, [0, P, len])
    };
    let receive = |room| {
        mem::fill(BUFFER, 64, 0);
        mem::write8(BUFFER, 1);
        write_be64(Q, room);
        call(t::OPAL_IPMI_RECV, [0, BUFFER, Q])
    };
    let answered = |room| {
        let mut got = EMPTY;
        wait(PATIENCE, || {
            call(t::OPAL_POLL_EVENTS, [0]);
            got = receive(room);
            got != EMPTY
        });
        got
    };
    case("ipmi/nothing-there", receive(64), EMPTY);
    case("ipmi/send", send(&GET_DEVICE_ID, 3), code::SUCCESS);
    case("ipmi/answer", answered(64), code::SUCCESS);
    holds("ipmi/answer-length", read_be64(Q) > 4);
    holds("ipmi/answer-is-to-it", equals(BUFFER, &[1, 7 << 2, 1, 0]));
    case("ipmi/nothing-more", receive(64), EMPTY);
    case(
        "ipmi/send-for-a-small-buffer",
        send(&GET_DEVICE_ID, 3),
        code::SUCCESS,
    );
    case("ipmi/small-buffer", answered(4), code::RESOURCE);
    case("ipmi/small-buffer-lost-it", receive(64), EMPTY);
    if machine.on_skiboot {
        skip("ipmi/wrong-*", "skiboot looks at the length only");
        return;
    }
    for (name, bytes, len, want) in [
        ("version", [2, 6 << 2, 1], 3, code::UNSUPPORTED),
        ("function", [1, 7 << 2, 1], 3, code::PARAMETER),
        ("length-short", GET_DEVICE_ID, 2, code::PARAMETER),
        ("length-none", GET_DEVICE_ID, 0, code::PARAMETER),
        ("length-long", GET_DEVICE_ID, 0x1000, code::PARAMETER),
        ("length-wraps", GET_DEVICE_ID, u64::MAX, code::PARAMETER),
    ] {
        case(format_args!("ipmi/wrong-{name}"), send(&bytes, len), want);
    }
}

fn tree(machine: &Machine) {
    let get = |buffer, len| call(t::OPAL_GET_DEVICE_TREE, [machine.phandle, buffer, len]);
    let size = get(0, 0);
    holds("tree/size", size > 40);
    let size = size.cast_unsigned();
    mem::fill(BUFFER, 64, 0xaa);
    case(
        "tree/short-buffer",
        get(BUFFER, size - 1),
        OpalError::OPAL_NO_MEM.code(),
    );
    holds(
        "tree/short-buffer-untouched",
        read_be32(BUFFER) == 0xaaaa_aaaa,
    );
    case("tree/whole", get(BUFFER, size), code::SUCCESS);
    case("tree/magic", u64::from(read_be32(BUFFER)), 0xd00d_feed);
    holds(
        "tree/says-its-size",
        u64::from(read_be32(BUFFER + 4)) <= size,
    );
    case("tree/no-length", get(BUFFER, 0), code::PARAMETER);
}

/// What the on-chip controller keeps. QEMU's answers no command, so nothing is changed.
fn power_limits() {
    const CAPS: [&str; 4] = ["min", "max", "current", "hard-min"];
    let mut watts = [0; 4];
    for ((handle, name), watts) in (0..).zip(CAPS).zip(&mut watts) {
        let got = call(t::OPAL_GET_POWERCAP, [handle, 1, P]);
        case(format_args!("limits/cap-{name}"), got, code::SUCCESS);
        *watts = u64::from(read_be32(P));
    }
    let [min, max, current, hard_min] = watts;
    holds("limits/caps-in-order", hard_min <= min && min <= max);
    let set = |handle, value| call(t::OPAL_SET_POWERCAP, [handle, 1, value]);
    case("limits/cap-as-it-is", set(2, current), code::SUCCESS);
    case(
        "limits/cap-beyond-the-most",
        set(2, max + 1),
        code::PARAMETER,
    );
    case("limits/cap-of-many-bits", set(2, 0x1_0000), code::PARAMETER);
    case(
        "limits/most-cannot-be-set",
        set(1, current),
        code::UNSUPPORTED,
    );
    let got = call(t::OPAL_GET_POWER_SHIFT_RATIO, [0, 1, P]);
    case("limits/ratio", got, code::SUCCESS);
    let percent = u64::from(read_be32(P));
    holds("limits/ratio-is-a-percentage", percent <= 100);
    let set = |value| call(t::OPAL_SET_POWER_SHIFT_RATIO, [0, 1, value]);
    case("limits/ratio-as-it-is", set(percent), code::SUCCESS);
    case("limits/ratio-too-large", set(101), code::PARAMETER);
}

/// No such interrupt ever comes in QEMU: there is nothing to serve.
fn maintenance() {
    case("hmi/nothing", call(t::OPAL_HANDLE_HMI, []), code::SUCCESS);
    write_be64(P, u64::MAX);
    case(
        "hmi/nothing-to-tell",
        call(t::OPAL_HANDLE_HMI2, [P]),
        code::SUCCESS,
    );
    case("hmi/nothing-told", read_be64(P), 0);
    case(
        "hmi/no-message",
        call(t::OPAL_GET_MSG, [BUFFER, 72]),
        code::RESOURCE,
    );
}

fn nest_mmu(machine: &Machine) {
    if !machine.has_nest_mmu {
        return;
    }
    let got = call(t::OPAL_NMMU_SET_PTCR, [u64::MAX, 0]);
    case("nest-mmu/all-chips", got, code::SUCCESS);
    let got = call(t::OPAL_NMMU_SET_PTCR, [0, 0]);
    case("nest-mmu/one-chip", got, code::SUCCESS);
    let got = call(t::OPAL_NMMU_SET_PTCR, [99, 0]);
    case("nest-mmu/no-such-chip", got, code::UNSUPPORTED);
}

fn processors(machine: &Machine) {
    let me = machine.threads[0];
    mem::write8(P, 0xaa);
    case(
        "processors/query",
        call(t::OPAL_QUERY_CPU_STATUS, [me, P]),
        code::SUCCESS,
    );
    case("processors/this-one-is-started", u64::from(read8(P)), 1);
    for (n, &pir) in (1..).zip(&machine.threads[1..machine.thread_count]) {
        let got = call(t::OPAL_QUERY_CPU_STATUS, [pir, P]);
        case(format_args!("processors/query-{n}"), got, code::SUCCESS);
        case(
            format_args!("processors/thread-{n}-waits"),
            u64::from(read8(P)),
            0,
        );
    }
    let got = call(t::OPAL_START_CPU, [me, secondary_address()]);
    case("processors/start-this-one", got, code::WRONG_STATE);
    if machine.on_skiboot {
        skip(
            "processors/start-at-an-odd-address",
            "skiboot would go there",
        );
    } else if machine.thread_count > 1 {
        let got = call(
            t::OPAL_START_CPU,
            [machine.threads[1], secondary_address() + 2],
        );
        case("processors/start-at-an-odd-address", got, code::PARAMETER);
    }
    for flags in [2, 4, 8, 0xe] {
        let got = call(t::OPAL_REINIT_CPUS, [flags]);
        case(
            format_args!("processors/reinit-{flags:#x}"),
            got,
            code::SUCCESS,
        );
    }
    for flags in [0x20, 1 << 63] {
        let got = call(t::OPAL_REINIT_CPUS, [flags]);
        case(
            format_args!("processors/reinit-{flags:#x}"),
            got,
            code::UNSUPPORTED,
        );
    }
    let got = call(t::OPAL_REINIT_CPUS, [3]);
    case("processors/reinit-both-orders", got, code::PARAMETER);
    // Whatever the last one did.
    call(t::OPAL_REINIT_CPUS, [2]);
    case(
        "processors/resync-timebase",
        call(t::OPAL_RESYNC_TIMEBASE, []),
        code::SUCCESS,
    );
    if machine.on_skiboot {
        for what in [
            "timebase-is-valid",
            "timebase-is-reset",
            "resync-invalid-timebase",
            "timebase-is-valid-again",
        ] {
            skip(
                format_args!("processors/{what}"),
                "skiboot does nothing where no idle state stops it",
            );
        }
    } else {
        holds("processors/timebase-is-valid", time_base_is_valid());
        reset_time_base();
        holds("processors/timebase-is-reset", !time_base_is_valid());
        let got = call(t::OPAL_RESYNC_TIMEBASE, []);
        case("processors/resync-invalid-timebase", got, code::SUCCESS);
        holds("processors/timebase-is-valid-again", time_base_is_valid());
    }
}

/// What does not end the machine; that is in the group `reboot`, and at the end of every run.
fn power(machine: &Machine) {
    if machine.on_skiboot {
        skip("power/unknown-request", "skiboot hands it to the BMC");
    } else {
        let got = call(t::OPAL_CEC_POWER_DOWN, [7]);
        case("power/unknown-request", got, code::PARAMETER);
    }
    if machine.on_skiboot {
        skip(
            "power/unknown-reboot",
            "skiboot refuses it, but keeps all other threads out from then on",
        );
    } else {
        let got = call(t::OPAL_CEC_REBOOT2, [99, 0]);
        case("power/unknown-reboot", got, code::UNSUPPORTED);
    }
}
