//! What the H_INT_* calls say to bad arguments, and what they know before anything is set up. A part of the group `xive`.

use papr_services::table::number as nr;

use super::hcalls::{FUNCTION, OUTSIDE, P2, P3, P4, P5, PARAMETER};
use crate::exploitation::{Controller, PRIORITY, QUEUE, esb};
use crate::hcall::hcall;
use crate::mem::layout::BUFFER;
use crate::report::case;
use crate::start::Machine;

/// What H_INT_* say to bad arguments.
pub(super) fn run(machine: &Machine, controller: &Controller) {
    let me = machine.server;
    let [lisn, count] = controller.lisns;
    let (bad_lisn, bad_server) = (lisn + count, 0x7fff);
    let cases: &[(&str, u64, [u64; 5], i64)] = &[
        (
            "info-flags",
            nr::H_INT_GET_SOURCE_INFO,
            [1, lisn, 0, 0, 0],
            PARAMETER,
        ),
        (
            "info-lisn",
            nr::H_INT_GET_SOURCE_INFO,
            [0, bad_lisn, 0, 0, 0],
            P2,
        ),
        (
            "info-lisn-huge",
            nr::H_INT_GET_SOURCE_INFO,
            [0, u64::MAX, 0, 0, 0],
            P2,
        ),
        (
            "route-flags",
            nr::H_INT_SET_SOURCE_CONFIG,
            [4, lisn, me, 6, 0],
            PARAMETER,
        ),
        (
            "route-lisn",
            nr::H_INT_SET_SOURCE_CONFIG,
            [0, bad_lisn, me, 6, 0],
            P2,
        ),
        (
            "route-target",
            nr::H_INT_SET_SOURCE_CONFIG,
            [0, lisn, bad_server, 6, 0],
            P3,
        ),
        (
            "route-priority",
            nr::H_INT_SET_SOURCE_CONFIG,
            [0, lisn, me, 7, 0],
            P4,
        ),
        (
            "route-priority-huge",
            nr::H_INT_SET_SOURCE_CONFIG,
            [0, lisn, me, 0x1_0006, 0],
            P4,
        ),
        (
            "route-eisn",
            nr::H_INT_SET_SOURCE_CONFIG,
            [2, lisn, me, 6, 1 << 31],
            P5,
        ),
        (
            "routed-flags",
            nr::H_INT_GET_SOURCE_CONFIG,
            [1, lisn, 0, 0, 0],
            PARAMETER,
        ),
        (
            "routed-lisn",
            nr::H_INT_GET_SOURCE_CONFIG,
            [0, bad_lisn, 0, 0, 0],
            P2,
        ),
        (
            "queue-info-flags",
            nr::H_INT_GET_QUEUE_INFO,
            [1, me, 6, 0, 0],
            PARAMETER,
        ),
        (
            "queue-info-target",
            nr::H_INT_GET_QUEUE_INFO,
            [0, bad_server, 6, 0, 0],
            P2,
        ),
        (
            "queue-info-priority",
            nr::H_INT_GET_QUEUE_INFO,
            [0, me, 7, 0, 0],
            P3,
        ),
        (
            "queue-flags",
            nr::H_INT_SET_QUEUE_CONFIG,
            [2, me, 6, QUEUE, 16],
            PARAMETER,
        ),
        (
            "queue-target",
            nr::H_INT_SET_QUEUE_CONFIG,
            [1, bad_server, 6, QUEUE, 16],
            P2,
        ),
        (
            "queue-priority",
            nr::H_INT_SET_QUEUE_CONFIG,
            [1, me, 7, QUEUE, 16],
            P3,
        ),
        (
            "queue-misaligned",
            nr::H_INT_SET_QUEUE_CONFIG,
            [1, me, 6, QUEUE + 0x1000, 16],
            P4,
        ),
        (
            "queue-outside",
            nr::H_INT_SET_QUEUE_CONFIG,
            [1, me, 6, OUTSIDE, 16],
            P4,
        ),
        (
            "queue-behind",
            nr::H_INT_SET_QUEUE_CONFIG,
            [1, me, 6, machine.memory, 12],
            P4,
        ),
        (
            "queue-in-pages",
            nr::H_INT_SET_QUEUE_CONFIG,
            [1, me, 6, controller.os, 16],
            P4,
        ),
        (
            "queue-size",
            nr::H_INT_SET_QUEUE_CONFIG,
            [1, me, 6, QUEUE, 17],
            P5,
        ),
        (
            "queue-size-huge",
            nr::H_INT_SET_QUEUE_CONFIG,
            [1, me, 6, QUEUE, 1 << 32 | 16],
            P5,
        ),
        (
            "queued-flags",
            nr::H_INT_GET_QUEUE_CONFIG,
            [2, me, 6, 0, 0],
            PARAMETER,
        ),
        (
            "queued-target",
            nr::H_INT_GET_QUEUE_CONFIG,
            [0, bad_server, 6, 0, 0],
            P2,
        ),
        (
            "queued-priority",
            nr::H_INT_GET_QUEUE_CONFIG,
            [0, me, 0xff, 0, 0],
            P3,
        ),
        (
            "report-flags",
            nr::H_INT_SET_OS_REPORTING_LINE,
            [1, BUFFER, 0, 0, 0],
            PARAMETER,
        ),
        (
            "report-misaligned",
            nr::H_INT_SET_OS_REPORTING_LINE,
            [0, BUFFER + 128, 0, 0, 0],
            P2,
        ),
        (
            "report-outside",
            nr::H_INT_SET_OS_REPORTING_LINE,
            [0, OUTSIDE, 0, 0, 0],
            P2,
        ),
        (
            "reports-flags",
            nr::H_INT_GET_OS_REPORTING_LINE,
            [1, me, 0, 0, 0],
            PARAMETER,
        ),
        (
            "reports-target",
            nr::H_INT_GET_OS_REPORTING_LINE,
            [0, bad_server, 0, 0, 0],
            P2,
        ),
        (
            "esb-flags",
            nr::H_INT_ESB,
            [2, lisn, esb::GET, 0, 0],
            PARAMETER,
        ),
        ("esb-lisn", nr::H_INT_ESB, [0, bad_lisn, esb::GET, 0, 0], P2),
        ("esb-offset", nr::H_INT_ESB, [0, lisn, 0x1_0000, 0, 0], P3),
        (
            "esb-offset-odd",
            nr::H_INT_ESB,
            [0, lisn, esb::GET + 4, 0, 0],
            P3,
        ),
        ("sync-flags", nr::H_INT_SYNC, [1, lisn, 0, 0, 0], PARAMETER),
        ("sync-lisn", nr::H_INT_SYNC, [0, bad_lisn, 0, 0, 0], P2),
        ("reset-flags", nr::H_INT_RESET, [1, 0, 0, 0, 0], PARAMETER),
        ("no-xics", nr::H_XIRR, [0, 0, 0, 0, 0], FUNCTION),
    ];
    for (name, number, args, want) in cases {
        case(
            format_args!("xive/{name}"),
            hcall(*number, *args).code(),
            *want,
        );
    }
    let config = hcall(nr::H_INT_GET_SOURCE_CONFIG, [0, lisn]);
    case("xive/routed-at-first", config.code(), 0);
    case("xive/masked-at-first", config.r(5), 0xff);
    let info = hcall(nr::H_INT_GET_SOURCE_INFO, [0, lisn]);
    case("xive/info-shift", info.r(7), 16);
    case("xive/info-flags-known", info.r(4) & !1, 0);
    if let Some(console) = machine.console_source {
        let code = hcall(nr::H_INT_GET_SOURCE_INFO, [0, console.into()]).code();
        case("xive/console-info", code, 0);
    }
    let page = hcall(nr::H_INT_GET_QUEUE_INFO, [0, me, PRIORITY]);
    case("xive/queue-info", page.code(), 0);
    case("xive/queue-info-shift", page.r(5), 16);
}
