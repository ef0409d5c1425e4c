//! The level of the processor as Linux tells it, in the partition and in its guests: `cpu-version` in the tree, the
//! first line of `/proc/cpuinfo`, the model that `lscpu` names, and the platform in the auxiliary vector of a program,
//! which selects its libraries.
//!
//! The lines are `NIDUS-L1-CPU id=0 version=V platform=P cpuinfo=TEXT` and `NIDUS-L1-LSCPU id=0 TEXT`, and the same with
//! L2. The surprise: cpuinfo
//! also has the processor's own version, which no firmware can hide; it is on another line.

/// What is said at a level.
struct Said {
    /// The level, as `nidus.compat=` and `max-cpu-compat=` have it.
    level: &'static str,
    version: &'static str,
    platform: &'static str,
    cpuinfo: &'static str,
}

const TABLE: [Said; 3] = [
    Said {
        level: "power9",
        version: "0f000005",
        platform: "power9",
        cpuinfo: "POWER9 (architected), altivec supported",
    },
    Said {
        level: "power10",
        version: "0f000006",
        platform: "power10",
        cpuinfo: "POWER10 (architected), altivec supported",
    },
    Said {
        level: "power11",
        version: "0f000007",
        platform: "power11",
        cpuinfo: "Power11 (architected), altivec supported",
    },
];

/// Checks that the partition and its guests, in the order of their ids, all say that they are at these levels. A guest
/// that must not have come up has the level `refused`.
pub fn agree(lines: &[String], partition: &str, guests: &[&str]) -> Result<(), String> {
    one(lines, "L1", 0, partition)?;
    for (id, level) in (1..).zip(guests) {
        one(lines, "L2", id, level)?;
    }
    Ok(())
}

/// Checks that in OPAL mode the level is what `cpu-version` says, and the kernel still has the whole Power11 processor.
pub fn only_the_tree_is_at_power10(lines: &[String]) -> Result<(), String> {
    let want =
        "NIDUS-L1-CPU id=0 version=0f000006 platform=power11 cpuinfo=Power11, altivec supported";
    match lines.iter().find(|line| line.contains("NIDUS-L1-CPU ")) {
        Some(line) if line.trim_end().ends_with(want) => Ok(()),
        line => Err(format!("{line:?} instead of {want}")),
    }
}

fn one(lines: &[String], who: &str, id: u32, level: &str) -> Result<(), String> {
    let said = |what: &str| -> Vec<&str> {
        let start = format!("NIDUS-{who}-{what} id={id} ");
        let rest = |line| Some(str::split_once(line, &start)?.1.trim_end());
        lines
            .iter()
            .filter_map(|line| rest(line.as_str()))
            .collect()
    };
    let got = (said("CPU"), said("LSCPU"));
    let row = TABLE.iter().find(|row| row.level == level);
    let want = row.map_or_else(Vec::new, |row| {
        let Said {
            version,
            platform,
            cpuinfo,
            ..
        } = row;
        vec![format!(
            "version={version} platform={platform} cpuinfo={cpuinfo}"
        )]
    });
    let model: Vec<_> = row.iter().map(|row| row.cpuinfo).collect();
    if (row.is_some() || level == "refused") && got.0 == want && got.1 == model {
        Ok(())
    } else {
        Err(format!("{who} {id}: {got:?} instead of {want:?} {model:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(l2: &str) -> Vec<String> {
        let l1 = "NIDUS-L1-CPU id=0 version=0f000006 platform=power10 cpuinfo=POWER10 (architected), altivec supported";
        vec![
            l1.to_owned(),
            "NIDUS-L1-LSCPU id=0 POWER10 (architected), altivec supported".to_owned(),
            format!("L2.1| NIDUS-L2-CPU id=1 {l2}\r"),
            "L2.1| NIDUS-L2-LSCPU id=1 POWER9 (architected), altivec supported".to_owned(),
        ]
    }

    #[test]
    fn in_opal_mode_only_the_tree_has_the_level() {
        let line = "x NIDUS-L1-CPU id=0 version=0f000006 platform=power11 cpuinfo=Power11, altivec supported\r";
        let check = |line: String| only_the_tree_is_at_power10(&[line]);
        assert_eq!(check(line.to_owned()), Ok(()));
        assert!(check(line.replace("0f000006", "00821200")).is_err());
        assert!(check(line.replace("Power11,", "POWER10 (architected),")).is_err());
        assert!(only_the_tree_is_at_power10(&[]).is_err());
    }

    #[test]
    fn all_words_must_be_those_of_the_level() {
        let power9 =
            "version=0f000005 platform=power9 cpuinfo=POWER9 (architected), altivec supported";
        assert_eq!(agree(&lines(power9), "power10", &["power9"]), Ok(()));
        assert!(agree(&lines(power9), "power11", &["power9"]).is_err());
        assert!(agree(&lines(power9), "power10", &["power10"]).is_err());
        assert!(agree(&lines(power9), "power10", &["refused"]).is_err());
        assert!(agree(&lines(power9), "power10", &["power9", "power9"]).is_err());
        assert_eq!(
            agree(&lines(power9), "power10", &["power9", "refused"]),
            Ok(())
        );
        assert!(agree(&lines(power9)[..3], "power10", &["power9"]).is_err());
        assert!(agree(&lines(power9)[..2], "power10", &["refused"]).is_ok());
        assert!(agree(&lines(power9), "power10", &["nonsense"]).is_err());
        for wrong in [
            power9.replace("POWER9", "POWER10"),
            power9.replace("platform=power9", "platform=power10"),
            power9.replace("0f000005", "0f000006"),
            power9.replace("0f000005", ""),
        ] {
            assert!(agree(&lines(&wrong), "power10", &["power9"]).is_err());
        }
    }
}
