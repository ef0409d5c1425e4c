//! The calls of the interrupt controller: sources, queues, virtual processors, in good order and in bad.

use opal_calls::calls::token as t;

use crate::call::{call, code};
use crate::mem::layout::{BUFFER, PAGE, SCRATCH};
use crate::mem::{self, read_be32, read_be64, read8, write_be64};
use crate::report::{case, holds, skip};
use crate::start::Machine;

const fn at(n: u64) -> u64 {
    SCRATCH + 64 * n
}
const ANY_CHIP: u64 = 0xffff_ffff;
const MASKED: u64 = 0xff;

pub(super) fn run(machine: &Machine) {
    if machine.on_skiboot {
        skip(
            "xive/reset-unknown-mode",
            "skiboot takes whatever bits it does not know",
        );
    } else {
        case(
            "xive/reset-unknown-mode",
            call(t::OPAL_XIVE_RESET, [6]),
            code::PARAMETER,
        );
    }
    case("xive/reset", call(t::OPAL_XIVE_RESET, [1]), code::SUCCESS);
    sources(machine);
    queues(machine);
    processors(machine);
    blocks(machine);
    other(machine);
    case(
        "xive/reset-again",
        call(t::OPAL_XIVE_RESET, [0]),
        code::SUCCESS,
    );
    // All that was allocated is forgotten.
    case(
        "xive/reset-for-the-next",
        call(t::OPAL_XIVE_RESET, [1]),
        code::SUCCESS,
    );
}

fn sources(machine: &Machine) {
    let me = machine.threads[0];
    let first = call(t::OPAL_XIVE_ALLOCATE_IRQ, [0]);
    let second = call(t::OPAL_XIVE_ALLOCATE_IRQ, [ANY_CHIP]);
    holds("xive/allocate", first >= 0x10);
    holds("xive/allocate-another", second >= 0x10 && second != first);
    let girq = first.cast_unsigned();
    let info = |args: [u64; 5]| {
        call(
            t::OPAL_XIVE_GET_IRQ_INFO,
            [girq, args[0], args[1], args[2], args[3], args[4]],
        )
    };
    case(
        "xive/info",
        info([at(0), at(1), at(2), at(3), at(4)]),
        code::SUCCESS,
    );
    let (eoi, trigger) = (read_be64(at(1)), read_be64(at(2)));
    // Two pages of 64 KiB.
    case("xive/info-shift", u64::from(read_be32(at(3))), 17);
    case("xive/info-chip", u64::from(read_be32(at(4))), 0);
    case("xive/info-not-level", read_be64(at(0)) & 4, 0);
    holds(
        "xive/info-pages",
        eoi.is_multiple_of(0x1_0000) && eoi >> 40 != 0,
    );
    holds(
        "xive/info-trigger-page",
        trigger.is_multiple_of(0x1_0000) && trigger != 0,
    );
    // All but the flags may be left out.
    case(
        "xive/info-flags-only",
        info([at(0), 0, 0, 0, 0]),
        code::SUCCESS,
    );
    if machine.on_skiboot {
        skip("xive/info-nothing", "skiboot lets address 0 through");
    } else {
        case("xive/info-nothing", info([0; 5]), code::PARAMETER);
    }

    let get = || call(t::OPAL_XIVE_GET_IRQ_CONFIG, [girq, at(0), at(1), at(2)]);
    let set = |vp, priority, lirq| call(t::OPAL_XIVE_SET_IRQ_CONFIG, [girq, vp, priority, lirq]);
    case("xive/route", set(me, 6, 0x77), code::SUCCESS);
    case("xive/routed", get(), code::SUCCESS);
    if machine.on_skiboot {
        skip(
            "xive/routed-to-this-thread",
            "skiboot answers 0, which may be it",
        );
    } else {
        holds("xive/routed-to-this-thread", read_be64(at(0)) == me);
    }
    case("xive/routed-priority", u64::from(read8(at(1))), 6);
    case("xive/routed-number", u64::from(read_be32(at(2))), 0x77);
    case("xive/mask", set(me, MASKED, 0x77), code::SUCCESS);
    case("xive/masked", get(), code::SUCCESS);
    case("xive/masked-priority", u64::from(read8(at(1))), MASKED);
    case("xive/route-priority-8", set(me, 8, 0x77), code::PARAMETER);
    case("xive/route-to-nobody", set(0x5a5, 6, 0x77), code::PARAMETER);

    case(
        "xive/free",
        call(t::OPAL_XIVE_FREE_IRQ, [girq]),
        code::SUCCESS,
    );
    case(
        "xive/free-twice",
        call(t::OPAL_XIVE_FREE_IRQ, [girq]),
        code::PARAMETER,
    );
    let got = call(t::OPAL_XIVE_FREE_IRQ, [second.cast_unsigned()]);
    case("xive/free-the-other", got, code::SUCCESS);
    case(
        "xive/free-none",
        call(t::OPAL_XIVE_FREE_IRQ, [1]),
        code::PARAMETER,
    );
    case(
        "xive/allocate-elsewhere",
        call(t::OPAL_XIVE_ALLOCATE_IRQ, [99]),
        code::PARAMETER,
    );
}

fn queues(machine: &Machine) {
    let me = machine.threads[0];
    let set = |priority, page, size, flags| {
        call(
            t::OPAL_XIVE_SET_QUEUE_INFO,
            [me, priority, page, size, flags],
        )
    };
    let get = |priority| {
        call(
            t::OPAL_XIVE_GET_QUEUE_INFO,
            [me, priority, at(0), at(1), at(2), at(3), at(4)],
        )
    };
    case("xive/queue", set(6, PAGE, 16, 3), code::SUCCESS);
    case("xive/queue-get", get(6), code::SUCCESS);
    case("xive/queue-page", read_be64(at(0)), PAGE);
    case("xive/queue-size", read_be64(at(1)), 16);
    case("xive/queue-flags", read_be64(at(4)), 3);
    holds(
        "xive/queue-eoi-page",
        read_be64(at(2)).is_multiple_of(0x1_0000),
    );
    // Bit 28 marks an escalation.
    holds("xive/queue-escalation", read_be32(at(3)) & 1 << 28 != 0);
    let state = |toggle, index| call(t::OPAL_XIVE_SET_QUEUE_STATE, [me, 6, toggle, index]);
    let position = || call(t::OPAL_XIVE_GET_QUEUE_STATE, [me, 6, at(0), at(1)]);
    case("xive/queue-position", position(), code::SUCCESS);
    case("xive/queue-begins", u64::from(read_be32(at(1))), 0);
    case("xive/queue-move", state(0, 5), code::SUCCESS);
    case("xive/queue-moved", position(), code::SUCCESS);
    case("xive/queue-toggle", u64::from(read_be32(at(0))), 0);
    case("xive/queue-index", u64::from(read_be32(at(1))), 5);
    for size in [1, 11, 13, 20, 32, 64, u64::MAX] {
        let got = set(6, PAGE, size, 1);
        case(
            format_args!("xive/queue-of-size-{size}"),
            got,
            code::PARAMETER,
        );
    }
    if machine.on_skiboot {
        skip(
            "xive/queue-unaligned",
            "skiboot gives the page to the hardware as it is",
        );
        skip("xive/queue-flags-unknown", "skiboot ignores them");
        skip(
            "xive/queue-into-the-firmware",
            "skiboot would be overwritten",
        );
    } else {
        case(
            "xive/queue-unaligned",
            set(6, PAGE + 0x1000, 16, 1),
            code::PARAMETER,
        );
        case(
            "xive/queue-flags-unknown",
            set(6, PAGE, 16, 0x11),
            code::PARAMETER,
        );
        // 16 MiB that begin before the firmware and end in it.
        let below = machine.opal[0] & !0xff_ffff;
        case(
            "xive/queue-into-the-firmware",
            set(6, below, 24, 1),
            code::PARAMETER,
        );
    }
    case(
        "xive/queue-priority-8",
        set(8, PAGE, 16, 1),
        code::PARAMETER,
    );
    case("xive/queue-get-priority-8", get(8), code::PARAMETER);
    case("xive/queue-off", set(6, 0, 0, 0), code::SUCCESS);
    case("xive/queue-off-get", get(6), code::SUCCESS);
    case("xive/queue-off-flags", read_be64(at(4)) & 1, 0);
}

fn processors(machine: &Machine) {
    let me = machine.threads[0];
    let get = || call(t::OPAL_XIVE_GET_VP_INFO, [me, at(0), at(1), at(2), at(3)]);
    let set = |flags, report| call(t::OPAL_XIVE_SET_VP_INFO, [me, flags, report]);
    case("xive/vp-on", set(1, 0), code::SUCCESS);
    case("xive/vp-get", get(), code::SUCCESS);
    // On, and the hardware saves and restores it.
    case("xive/vp-flags", read_be64(at(0)), 5);
    holds("xive/vp-cam", read_be64(at(1)) != 0);
    // A thread's number is its PIR, which begins with its chip.
    case("xive/vp-chip", u64::from(read_be32(at(3))), me >> 8);
    case("xive/vp-report", set(1, BUFFER), code::SUCCESS);
    case("xive/vp-report-get", get(), code::SUCCESS);
    case("xive/vp-report-is", read_be64(at(2)), BUFFER);
    case(
        "xive/vp-report-unaligned",
        set(1, BUFFER + 8),
        code::PARAMETER,
    );
    if machine.on_skiboot {
        skip("xive/vp-flags-unknown", "skiboot ignores them");
    } else {
        case("xive/vp-flags-unknown", set(0x11, 0), code::PARAMETER);
    }
    case(
        "xive/vp-state",
        call(t::OPAL_XIVE_GET_VP_STATE, [me, at(0)]),
        code::SUCCESS,
    );
    case("xive/vp-off", set(0, 0), code::SUCCESS);
    case("xive/vp-off-get", get(), code::SUCCESS);
    case("xive/vp-off-flags", read_be64(at(0)) & 1, 0);
}

fn blocks(machine: &Machine) {
    let block = call(t::OPAL_XIVE_ALLOCATE_VP_BLOCK, [4]);
    holds("xive/block", block > 0);
    let first = block.cast_unsigned();
    case("xive/block-is-virtual", first >> 30, 1);
    let other = call(t::OPAL_XIVE_ALLOCATE_VP_BLOCK, [4]);
    holds("xive/block-another", other > 0 && other != block);
    let free = |vp| call(t::OPAL_XIVE_FREE_VP_BLOCK, [vp]);
    let enable = |on| call(t::OPAL_XIVE_SET_VP_INFO, [first + 3, on, 0]);
    case("xive/block-use-one", enable(1), code::SUCCESS);
    case("xive/block-free-in-use", free(first), code::FREE_ACTIVE);
    case("xive/block-use-none", enable(0), code::SUCCESS);
    if machine.on_skiboot {
        skip("xive/block-free-the-middle", "skiboot frees what it finds");
    } else {
        case(
            "xive/block-free-the-middle",
            free(first + 1),
            code::PARAMETER,
        );
    }
    case("xive/block-free", free(first), code::SUCCESS);
    if machine.on_skiboot {
        skip("xive/block-free-twice", "skiboot does not come back");
    } else {
        case("xive/block-free-twice", free(first), code::PARAMETER);
    }
    case(
        "xive/block-free-the-other",
        free(other.cast_unsigned()),
        code::SUCCESS,
    );
    case(
        "xive/block-free-a-thread",
        free(machine.threads[0]),
        code::PARAMETER,
    );
    for order in [40, 0xffff_ffff] {
        if machine.on_skiboot {
            skip(
                format_args!("xive/block-of-order-{order}"),
                "skiboot shifts by it",
            );
        } else {
            let got = call(t::OPAL_XIVE_ALLOCATE_VP_BLOCK, [order]);
            case(
                format_args!("xive/block-of-order-{order}"),
                got,
                code::RESOURCE,
            );
        }
    }
}

fn other(machine: &Machine) {
    let me = machine.threads[0];
    let girq = call(t::OPAL_XIVE_ALLOCATE_IRQ, [0]).cast_unsigned();
    call(t::OPAL_XIVE_SET_IRQ_CONFIG, [girq, me, 6, 0x77]);
    for kind in [0, 1, 2, 3] {
        let got = call(t::OPAL_XIVE_SYNC, [kind, girq]);
        case(format_args!("xive/sync-{kind}"), got, code::SUCCESS);
    }
    call(t::OPAL_XIVE_FREE_IRQ, [girq]);
    for kind in 0..5 {
        if machine.on_skiboot {
            skip(
                format_args!("xive/dump-{kind}"),
                "skiboot dumps to its own log",
            );
            continue;
        }
        let got = call(t::OPAL_XIVE_DUMP, [kind, me]);
        case(format_args!("xive/dump-{kind}"), got, code::SUCCESS);
    }
    case(
        "xive/dump-99",
        call(t::OPAL_XIVE_DUMP, [99, me]),
        code::PARAMETER,
    );
    write_be64(at(0), 0);
    for (name, page) in [("unaligned", PAGE + 0x1000), ("odd", PAGE + 1)] {
        if machine.on_skiboot {
            skip(
                format_args!("xive/donate-{name}"),
                "skiboot would keep the page",
            );
            continue;
        }
        let got = call(t::OPAL_XIVE_DONATE_PAGE, [0, page]);
        case(format_args!("xive/donate-{name}"), got, code::PARAMETER);
    }
    mem::fill(PAGE, 0x1_0000, 0);
}
