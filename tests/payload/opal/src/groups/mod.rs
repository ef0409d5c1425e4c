//! The groups of cases, one file each, in the order they run.

mod abi;
mod arguments;
mod bench;
mod entry;
mod fast_reboot;
mod flash;
mod lpc;
mod nvram;
mod reboot;
mod reentry;
mod services;
mod threads;
mod tokens;
mod xive;

use opal_calls::calls::{TABLE, token};

use crate::call::{called, quietly};
use crate::start::Machine;
use crate::{report, say};

/// A group: its name, and whether it runs when bootargs name none.
struct Group {
    name: &'static str,
    by_default: bool,
    run: fn(&Machine),
}

const fn group(name: &'static str, run: fn(&Machine)) -> Group {
    Group {
        name,
        by_default: true,
        run,
    }
}

/// Every group. `entry` is first: it looks at what the entry left.
const GROUPS: &[Group] = &[
    group("entry", entry::run),
    group("tokens", tokens::run),
    group("arguments", arguments::run),
    group("services", services::run),
    group("flash", flash::run),
    group("xive", xive::run),
    group("abi", abi::run),
    group("threads", threads::run),
    // Exact under a clock that counts instructions only.
    Group {
        name: "reentry",
        by_default: false,
        run: reentry::run,
    },
    Group {
        name: "reboot",
        by_default: false,
        run: reboot::run,
    },
    Group {
        name: "fast-reboot",
        by_default: false,
        run: fast_reboot::run,
    },
    Group {
        name: "bench",
        by_default: false,
        run: bench::run,
    },
    Group {
        name: "nvram",
        by_default: false,
        run: nvram::run,
    },
];

/// Runs what `group=` in the arguments names, else the default ones.
pub(crate) fn run(machine: &Machine, args: &str) {
    let wanted = args
        .split_whitespace()
        .find_map(|w| w.strip_prefix("group="));
    for name in wanted.into_iter().flat_map(|w| w.split(',')) {
        if !GROUPS.iter().any(|g| g.name == name) {
            report::holds(format_args!("payload/group-{name}-exists"), false);
        }
    }
    for group in GROUPS {
        let chosen = wanted.map_or(group.by_default, |w| w.split(',').any(|n| n == group.name));
        if chosen {
            say!("group {}", group.name);
            (group.run)(machine);
        }
    }
    if wanted.is_none() {
        coverage(machine);
    }
}

/// Calls whose cases are in a boot of their own: the group `reboot`.
const ELSEWHERE: [u64; 1] = [token::OPAL_CEC_REBOOT];

/// Every call that the firmware serves has cases of its own.
fn coverage(machine: &Machine) {
    for row in TABLE {
        let is_served = quietly(token::OPAL_CHECK_TOKEN, [row.token]) == 1;
        let ends_elsewhere = ELSEWHERE.contains(&row.token);
        // What skiboot serves beyond the rows of our table is not ours to try.
        if is_served && !machine.on_skiboot && !ends_elsewhere {
            report::holds(format_args!("coverage/{}", row.name), called(row.token));
        }
    }
}
