//! The host-wide counters of nested guests, as L1 printed them: `NIDUS-L1-COUNTERS when=W heap=N heap_max=N ...`.

use std::collections::BTreeMap;

/// The size of the root of a shadow tree: 13 bits of index, 8 bytes each.
const ROOT: u64 = 8 << 13;
/// The size of any other directory, and of a table of 4 KiB leaves.
const TABLE: u64 = 8 << 9;
/// What the firmware sets aside for each guest, so that a fault can always be resolved: two directories and a table of
/// 4 KiB leaves, and a table of 64 KiB leaves (papr-services/src/nested/shadow/reserve.rs).
const RESERVE: u64 = 3 * TABLE + (8 << 5);

/// One reading: the value of each counter by its name.
pub type Reading = BTreeMap<String, u64>;

/// Returns the readings of one kind, in order.
pub fn readings(lines: &[String], when: &str) -> Vec<Reading> {
    let wanted = format!("NIDUS-L1-COUNTERS when={when} ");
    let values = |text: &str| -> Reading {
        text.split_whitespace()
            .filter_map(|word| word.split_once('='))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    };
    lines
        .iter()
        .filter_map(|line| line.split_once(&wanted))
        .map(|(_, rest)| values(rest))
        .collect()
}

/// Checks that L2s cost memory while they run, within the quota, and nothing afterwards.
pub fn come_and_go(lines: &[String]) -> Result<(), String> {
    let (before, during, after) = (
        readings(lines, "before"),
        readings(lines, "during"),
        readings(lines, "after"),
    );
    if before.is_empty() || before.len() != during.len() || before.len() != after.len() {
        return Err(format!(
            "{}, {} and {} readings",
            before.len(),
            during.len(),
            after.len()
        ));
    }
    for ((before, during), after) in before.iter().zip(&during).zip(&after) {
        for name in ["heap", "pgtable"] {
            let [b, d, a] = [before, during, after].map(|reading| reading.get(name).copied());
            let most = during.get(&format!("{name}_max")).copied();
            match (b, d, a, most) {
                (Some(b), Some(d), Some(a), Some(most)) if b < d && a == b && d <= most => {}
                _ => {
                    return Err(format!(
                        "{name}: {b:?} before, {d:?} of {most:?} during, {a:?} after"
                    ));
                }
            }
        }
        for name in ["heap_max", "pgtable_max"] {
            if before.get(name) != after.get(name)
                || before.get(name).is_none_or(|&value| value == 0)
            {
                return Err(format!(
                    "{name}: {:?} before, {:?} after",
                    before.get(name),
                    after.get(name)
                ));
            }
        }
    }
    Ok(())
}

/// Checks that the tables of the L2s were too few: some were taken back.
pub fn too_few_tables(lines: &[String]) -> Result<(), String> {
    let reclaimed = |when| -> Option<u64> {
        let reading = readings(lines, when).into_iter().next()?;
        reading.get("reclaim").copied()
    };
    match (reclaimed("before"), reclaimed("after")) {
        (Some(before), Some(after)) if before < after => Ok(()),
        (before, after) => Err(format!(
            "bytes of tables that were taken back: {before:?} before, {after:?} after"
        )),
    }
}

/// Checks that a kernel which came after one with L2s finds nothing of them and has L2s of its own, which come and go.
pub fn begin_with_nothing(lines: &[String]) -> Result<(), String> {
    come_and_go(lines)?;
    let used = |reading: &Reading| ["heap", "pgtable"].map(|name| reading.get(name).copied());
    match readings(lines, "before").iter().map(used).next() {
        Some([Some(0), Some(0)]) => Ok(()),
        other => Err(format!("before: {other:?} bytes of heap and tables")),
    }
}

/// Checks that a kernel which came after one with L2s finds nothing of them.
pub fn nothing_left(lines: &[String]) -> Result<(), String> {
    match readings(lines, "left").as_slice() {
        [reading] => {
            let value = |name: &str| reading.get(name).copied();
            let limits = ["heap_max", "pgtable_max"].map(value);
            let used = ["heap", "pgtable"].map(value);
            if used == [Some(0); 2] && limits.iter().all(|limit| limit.is_some_and(|v| v > 0)) {
                Ok(())
            } else {
                Err(format!(
                    "left: {used:?} bytes of heap and tables of {limits:?}"
                ))
            }
        }
        other => Err(format!("{} readings of what is left", other.len())),
    }
}

/// Checks that the shadow tree has directories only, so that every leaf in it is of 2 MiB or more.
pub fn large_leaves_only(lines: &[String]) -> Result<(), String> {
    let most = ROOT + RESERVE + 3 * TABLE;
    match readings(lines, "during")
        .first()
        .and_then(|reading| reading.get("pgtable").copied())
    {
        Some(bytes) if (ROOT..=most).contains(&bytes) => Ok(()),
        bytes => Err(format!(
            "{bytes:?} bytes of tables: directories alone have from {ROOT} to {most}"
        )),
    }
}

/// Checks that there are many tables of small leaves: the other side of [`large_leaves_only`].
pub fn many_small_leaves(lines: &[String]) -> Result<(), String> {
    match readings(lines, "during")
        .first()
        .and_then(|reading| reading.get("pgtable").copied())
    {
        Some(bytes) if bytes > ROOT + RESERVE + 8 * TABLE => Ok(()),
        bytes => Err(format!(
            "{bytes:?} bytes of tables are too few for small leaves"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(during: u64, after: u64) -> Vec<String> {
        let line = |when, heap, tables| {
            format!(
                "x NIDUS-L1-COUNTERS when={when} heap={heap} heap_max=100 pgtable={tables} pgtable_max=900000 reclaim=0"
            )
        };
        vec![
            line("before", 0, 0),
            "noise".to_owned(),
            line("during", 8, during),
            line("after", after, 0),
        ]
    }

    #[test]
    fn what_was_taken_must_come_back() {
        assert_eq!(come_and_go(&lines(70_000, 0)), Ok(()));
        assert!(come_and_go(&lines(70_000, 8)).is_err_and(|text| text.starts_with("heap")));
        assert!(come_and_go(&lines(0, 0)).is_err());
        assert!(come_and_go(&lines(900_001, 0)).is_err());
        assert!(come_and_go(&[]).is_err());
        assert!(come_and_go(&lines(70_000, 0)[..3]).is_err());
        let absent: Vec<_> = lines(1, 0)
            .iter()
            .map(|line| line.replace("heap=", "absent "))
            .collect();
        assert!(come_and_go(&absent).is_err());
    }

    #[test]
    fn a_kernel_that_follows_begins_with_nothing() {
        assert_eq!(begin_with_nothing(&lines(70_000, 0)), Ok(()));
        let mut some = lines(70_000, 4);
        assert!(begin_with_nothing(&some).is_err());
        some[0] = some[0].replace("heap=0", "heap=4");
        assert_eq!(come_and_go(&some), Ok(()));
        assert!(begin_with_nothing(&some).is_err_and(|text| text.starts_with("before")));
    }

    #[test]
    fn what_is_taken_back_or_left_is_seen() {
        assert!(too_few_tables(&lines(1, 0)).is_err());
        assert!(too_few_tables(&[]).is_err());
        let mut pressed = lines(1, 0);
        pressed[3] = pressed[3].replace("reclaim=0", "reclaim=4096");
        assert_eq!(too_few_tables(&pressed), Ok(()));

        let left = |heap| {
            format!(
                "NIDUS-L1-COUNTERS when=left heap={heap} heap_max=9 pgtable=0 pgtable_max=9 reclaim=0"
            )
        };
        assert_eq!(nothing_left(&[left(0)]), Ok(()));
        assert!(nothing_left(&[left(8)]).is_err());
        assert!(nothing_left(&[left(0).replace("_max=9", "_max=0")]).is_err());
        assert!(nothing_left(&["NIDUS-L1-COUNTERS when=left absent".to_owned()]).is_err());
        assert!(nothing_left(&[]).is_err());
    }

    #[test]
    fn the_size_of_the_tables_tells_the_size_of_the_leaves() {
        assert_eq!(
            large_leaves_only(&lines(ROOT + RESERVE + 2 * TABLE, 0)),
            Ok(())
        );
        assert!(large_leaves_only(&lines(ROOT + RESERVE + 4 * TABLE, 0)).is_err());
        assert!(large_leaves_only(&lines(0, 0)).is_err());
        assert_eq!(
            many_small_leaves(&lines(ROOT + RESERVE + 9 * TABLE, 0)),
            Ok(())
        );
        assert!(many_small_leaves(&lines(ROOT + 2 * TABLE, 0)).is_err());
    }
}
