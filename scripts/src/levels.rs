//! The level of the processor as Linux tells it, in the partition and in its guests: `cpu-version` in the tree, the
//! first line of `/proc/cpuinfo`, and the platform in the auxiliary vector of a program, which selects its libraries.
//!
//! The lines are `NIDUS-L1-CPU id=0 version=V platform=P cpuinfo=TEXT`, and the same with L2. The surprise: cpuinfo
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

fn one(lines: &[String], who: &str, id: u32, level: &str) -> Result<(), String> {
    let start = format!("NIDUS-{who}-CPU id={id} ");
    let said: Vec<&str> = lines
        .iter()
        .filter_map(|line| Some(line.split_once(&start)?.1.trim_end()))
        .collect();
    let want = TABLE.iter().find(|row| row.level == level).map(|row| {
        let Said {
            version,
            platform,
            cpuinfo,
            ..
        } = row;
        format!("version={version} platform={platform} cpuinfo={cpuinfo}")
    });
    match (want, said.as_slice()) {
        (None, []) if level == "refused" => Ok(()),
        (Some(want), [said]) if *said == want => Ok(()),
        (want, said) => Err(format!("{who} {id}: {said:?} instead of {want:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(l2: &str) -> Vec<String> {
        let l1 = "NIDUS-L1-CPU id=0 version=0f000006 platform=power10 cpuinfo=POWER10 (architected), altivec supported";
        vec![l1.to_owned(), format!("L2.1| NIDUS-L2-CPU id=1 {l2}\r")]
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
