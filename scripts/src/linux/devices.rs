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
    // The rest of these lines is the kernel's: which frequencies there are, and how it says that nobody answered.
    for (start, rest) in [
        ("NIDUS-L1-POWER cap=50 frequencies=", "000"),
        ("NIDUS-L1-I2C led=0x5a other=", "No such device"),
    ] {
        let said = |line: &String| {
            line.split_once(start)
                .is_some_and(|(_, end)| end.contains(rest))
        };
        if !lines.iter().any(said) {
            return Err(format!("no line '{start}' with '{rest}'"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_to_answer() {
        let all = [
            "NIDUS-L1-BMC device=32 ipmi=2.0\r",
            "NIDUS-L1-POWER cap=50 frequencies=3800000 3000000\r",
            "NIDUS-L1-I2C led=0x5a other=i2cget: read failed: No such device or address\r",
            "NIDUS-L1-BMC-INTERRUPTS\r",
        ]
        .map(str::to_owned);
        assert_eq!(answer(&all), Ok(()));
        for missing in 0..all.len() {
            let mut some = all.to_vec();
            some.remove(missing);
            assert!(answer(&some).is_err(), "without {}", all[missing]);
        }
        let silent = all.map(|line| line.replace("3800000 3000000", ""));
        assert!(answer(&silent).is_err(), "no frequency");
    }
}
