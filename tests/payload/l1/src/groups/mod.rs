//! The groups of cases, one file each, in the order they run.

mod bench;
mod bench_growth;
mod bench_nested;
mod bench_threads;
mod bench_v1;
mod fuzz;
mod hcalls;
mod hcalls_processor;
mod interrupts;
mod invalidate;
mod isolation;
mod kick;
mod levels;
mod nested_args;
mod nested_buffers;
mod nested_entry;
mod nested_forms;
mod nested_registers;
mod nested_run;
mod nested_state;
mod nested_switch;
mod nested_translated;
mod nested_values;
mod race;
mod rtas;
mod shadow;
mod shadow_rights;
mod shadow_size;
mod xive;
mod xive_arguments;
mod xive_console;
mod xive_threads;

use papr_services::table::TABLE;

use crate::hcall::called;
use crate::report;
use crate::say;
use crate::start::Machine;

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

/// Every group. `isolation` is first: it looks at what the entry left.
const GROUPS: &[Group] = &[
    group("isolation", isolation::run),
    group("hcall", hcalls::run),
    group("rtas", rtas::run),
    group("interrupts", interrupts::run),
    group("xive", xive::run),
    group("nested-args", nested_args::run),
    group("nested-buffers", nested_buffers::run),
    group("nested-values", nested_values::run),
    group("nested-state", nested_state::run),
    group("nested-run", nested_run::run),
    group("nested-entry", nested_entry::run),
    group("nested-forms", nested_forms::run),
    group("nested-registers", nested_registers::run),
    group("nested-switch", nested_switch::run),
    group("nested-translated", nested_translated::run),
    group("shadow", shadow::run),
    group("shadow-rights", shadow_rights::run),
    group("shadow-size", shadow_size::run),
    group("invalidate", invalidate::run),
    group("levels", levels::run),
    group("fuzz", fuzz::run),
    // These need threads.
    Group {
        name: "kick",
        by_default: false,
        run: kick::run,
    },
    Group {
        name: "race",
        by_default: false,
        run: race::run,
    },
    Group {
        name: "bench",
        by_default: false,
        run: bench::run,
    },
    Group {
        name: "bench-threads",
        by_default: false,
        run: bench_threads::run,
    },
    Group {
        name: "bench-v1",
        by_default: false,
        run: bench_v1::run,
    },
];

/// Runs what `group=` in the arguments names, else the default ones.
pub(crate) fn run(machine: &Machine, args: &str) {
    let wanted = args
        .split_whitespace()
        .find_map(|w| w.strip_prefix("group="));
    for name in wanted.into_iter().flat_map(|w| w.split(',')) {
        report::holds(
            format_args!("payload/group-{name}-exists"),
            name == "all" || GROUPS.iter().any(|g| g.name == name),
        );
    }
    for group in GROUPS {
        let chosen = wanted.map_or(group.by_default, |w| {
            w.split(',')
                .any(|n| n == group.name || n == "all" && group.by_default)
        });
        if chosen {
            say!("group {}", group.name);
            (group.run)(machine);
        }
    }
    if wanted.is_none_or(|w| w == "all") {
        coverage();
    }
}

/// Every number of the table was called by some case.
fn coverage() {
    for row in TABLE {
        report::holds(format_args!("coverage/{}", row.name), called(row.number));
    }
}
