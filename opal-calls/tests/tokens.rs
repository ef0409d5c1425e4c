//! `TOKENS.md`, the page of all calls, made of the table and of the dispatcher's arms, so that it cannot go stale.
//!
//! After a wanted change: `NIDUS_BLESS=1 cargo test -p opal-calls --test tokens`.

use std::fmt::Write as _;
use std::path::PathBuf;

use opal_calls::calls::TABLE;
use opal_calls::table::{Facility, Row, State};

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The dispatcher.
const DISPATCH: &str = "firmware/src/opal/serve.rs";

/// Who does the work when an arm says this; the dispatcher itself when it says none of them.
const WHERE: [(&str, &str); 19] = [
    ("self.console", "opal-calls/src/console.rs"),
    ("self.messages", "opal-calls/src/messages.rs"),
    ("self.host_sync", "opal-calls/src/host_sync.rs"),
    ("self.reboot", "firmware/src/opal/reboot.rs"),
    ("self.quiesce", "opal-calls/src/quiesce.rs"),
    ("self.xive", "opal-calls/src/xive.rs"),
    ("ipmi.", "opal-calls/src/ipmi.rs"),
    ("Power::", "opal-calls/src/power.rs"),
    ("self.power", "opal-calls/src/power.rs"),
    ("self.i2c", "opal-calls/src/i2c.rs"),
    ("hmi::", "opal-calls/src/hmi.rs"),
    ("device_tree::", "opal-calls/src/device_tree.rs"),
    ("nest_mmu::", "opal-calls/src/nest_mmu.rs"),
    ("calls::is_served", "opal-calls/src/calls.rs"),
    ("self.threads", "firmware/src/opal/threads.rs"),
    ("self.nvram", "firmware/src/opal/nvram.rs"),
    ("give_up_stack", "firmware/src/opal/entry.rs"),
    ("self.lpc_", "firmware/src/opal/buses.rs"),
    ("stop::power", "firmware/src/stop.rs"),
];

/// The arm of a call: all up to the next one.
fn arm<'a>(dispatch: &'a str, row: &Row) -> Option<&'a str> {
    let (_, after) = dispatch.split_once(&format!("Call::{} {{", row.name))?;
    Some(after.split("Call::OPAL_").next().unwrap_or(after))
}

fn place(dispatch: &str, row: &Row) -> &'static str {
    let arm = arm(dispatch, row).unwrap_or_else(|| panic!("{} has no arm", row.name));
    WHERE
        .iter()
        .filter_map(|(word, file)| Some((arm.find(word)?, *file)))
        .min()
        .map_or(DISPATCH, |(_, file)| file)
}

fn needs(row: &Row) -> String {
    match row.needs {
        Facility::Always => String::new(),
        other => format!("{other:?}"),
    }
}

fn page() -> String {
    let dispatch = std::fs::read_to_string(repository().join(DISPATCH)).expect("a dispatcher");
    let count = |of| TABLE.iter().filter(|row| row.state == of).count();
    let mut page = String::from(
        "# OPAL calls\n\nMade of the table in `src/calls.rs` by `tests/tokens.rs`; do not edit.\n\n",
    );
    let never = TABLE
        .iter()
        .filter(|row| row.state == State::Absent && !row.needs.can_exist())
        .count();
    let _ = write!(
        page,
        "{} of {} numbers are served where the machine has what they need. {} could be and are not; {never} are for\n\
         machines that POWER10 and Power11 are not, and {} mean nothing. OPAL_CHECK_TOKEN says 1 for those that are\n\
         served on this machine and 0 for all others.\n\n\
         | # | Name | Arguments | State | Needs | Does | Where |\n|---|---|---|---|---|---|---|\n",
        count(State::Served),
        TABLE.len(),
        count(State::Absent) - never,
        count(State::Unused),
    );
    for row in TABLE {
        let arguments: Vec<String> = row
            .args
            .iter()
            .map(|arg| format!("{}: {}", arg.name, arg.ty))
            .collect();
        let state = match row.state {
            State::Served if row.flags.reentrant => "served, may nest",
            State::Served => "served",
            State::Absent if row.needs.can_exist() => "not served",
            State::Absent => "never",
            State::Unused => "no call",
        };
        let place = match row.state {
            State::Served => format!("`{}`", place(&dispatch, row)),
            State::Absent | State::Unused => String::new(),
        };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {state} | {} | {} | {place} |",
            row.token,
            row.name.trim_start_matches("OPAL_"),
            arguments.join(", "),
            needs(row),
            row.doc.trim(),
        );
    }
    page
}

#[test]
fn the_page_of_calls_is_up_to_date() {
    let path = repository().join("opal-calls/TOKENS.md");
    let now = page();
    if std::env::var_os("NIDUS_BLESS").is_some() {
        std::fs::write(&path, &now).expect("the page is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("the page exists");
    for (old, new) in golden.lines().zip(now.lines()) {
        assert_eq!(old, new, "review the difference, then bless it");
    }
    assert!(golden == now, "review the difference, then bless it");
}

#[test]
fn the_places_exist() {
    for (_, file) in WHERE {
        assert!(repository().join(file).exists(), "{file}");
    }
}
