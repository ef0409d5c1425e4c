//! The part of the table that is about KVM in hypervisor state: in OPAL mode the firmware is no hypervisor, but serves one.
//!
//! Surprising fact: a host with pages of 4 KiB cannot map the interrupt pages of a guest, so that its QEMU plays the controller
//! and nothing of the real one is tried.

use super::{Case, Check, Work};
use crate::boot::{Choice, Mode};

/// A host of each chip with a guest that uses the interrupt controller, and one whose guest cannot.
pub(super) fn cases() -> Vec<Case> {
    let case = |name, choice, checks: Vec<Check>| Case {
        name,
        work: Work::Boot(choice, checks),
    };
    let small_pages = Choice {
        l2: 1,
        ..Choice::new(Mode::Opal)
    };
    vec![
        case("opal-kvm", host("powernv10"), vec![guests_are_woken]),
        case("opal-kvm-p11", host("powernv11"), vec![guests_are_woken]),
        case("opal-kvm-4k", small_pages, vec![]),
    ]
}

/// A KVM host in hypervisor state, and a guest of two threads that can send each other doorbells. It has pages of
/// 64 KiB, and so the guest those of the interrupt controller.
fn host(machine: &str) -> Choice {
    Choice {
        machine: machine.to_owned(),
        smp: "2".to_owned(),
        kernel: "7.2-64k".to_owned(),
        l2: 1,
        l2_smp: "2,threads=2".to_owned(),
        ..Choice::new(Mode::Opal)
    }
}

/// The guest slept and was woken by the interrupt controller, and the host's threads rang each other.
fn guests_are_woken(lines: &[String]) -> Result<(), String> {
    let told = lines
        .iter()
        .find_map(|line| line.strip_prefix("NIDUS-L1-HOST "));
    let told = told.ok_or("the host does not tell its interrupts")?;
    let count = |name: &str| {
        let value = told
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name));
        value
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap_or(0)
    };
    for name in ["escalations=", "doorbells="] {
        if count(name) == 0 {
            return Err(format!("{name} is not counted: {told}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_escalations_is_noticed() {
        let told = |line: &str| guests_are_woken(&[line.to_owned()]);
        assert_eq!(told("NIDUS-L1-HOST escalations=12 doorbells=3"), Ok(()));
        assert!(told("NIDUS-L1-HOST escalations=0 doorbells=3").is_err());
        assert!(told("NIDUS-L1-HOST escalations=12 doorbells=0").is_err());
        assert!(told("NIDUS-L1-HOST").is_err() && told("").is_err());
    }
}
