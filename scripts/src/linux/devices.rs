//! What a kernel in OPAL mode says of the devices that the firmware serves: `nidus_do=devices` of the first process.
//!
//! The surprise: these are the kernel's own drivers, so a wrong answer of the firmware shows as a device that is missing.

/// The kernel's own drivers found what is behind the firmware.
pub(super) fn answer(lines: &[String]) -> Result<(), String> {
    for wanted in ["NIDUS-L1-BMC device=32 ipmi=2.0", "NIDUS-L1-BMC-INTERRUPTS"] {
        if !lines.iter().any(|line| line.trim_end() == wanted) {
            return Err(format!("no line '{wanted}'"));
        }
    }
    Ok(())
}
