//! Two runs beside each other: which figures moved. The surprise: what is compared is the text of the two JSON files, so
//! that a run of another version, with other rows, can be compared too.

use std::fmt::Write as _;

/// A part of the old value by which a figure may move without a word.
const STILL: f64 = 0.01;

/// A figure as a line of the file has it.
struct Entry {
    name: String,
    values: [Option<f64>; 2],
}

/// A line for each figure, Nidus's own or a peer's, that moved by a per cent or more, and a count.
pub(super) fn report(old: &str, new: &str) -> String {
    let (old, new) = (entries(old), entries(new));
    let mut text = String::new();
    let (mut same, mut moved) = (0, 0);
    for entry in &new {
        let Some(before) = old.iter().find(|before| before.name == entry.name) else {
            let _ = writeln!(text, "new: {}", entry.name);
            continue;
        };
        let both = before.values.iter().zip(entry.values);
        for (who, (before, now)) in ["Nidus", "its peer"].iter().zip(both) {
            let (Some(before), Some(now)) = (*before, now) else {
                continue;
            };
            if (now - before).abs() < STILL * before.abs() || now.total_cmp(&before).is_eq() {
                same += 1;
                continue;
            }
            moved += 1;
            let part = 100.0 * (now - before) / before;
            let _ = writeln!(
                text,
                "moved: {}, {who}: {before:.3} -> {now:.3} ({part:+.1} %)",
                entry.name
            );
        }
    }
    for before in &old {
        if !new.iter().any(|entry| entry.name == before.name) {
            let _ = writeln!(text, "gone or not measured: {}", before.name);
        }
    }
    let _ = write!(text, "{same} figures within 1 %, {moved} not");
    text
}

fn entries(json: &str) -> Vec<Entry> {
    json.lines().filter_map(entry).collect()
}

/// A line of [`super::figure::json`].
fn entry(line: &str) -> Option<Entry> {
    let after = |key: &str| Some(line.split_once(&format!("\"{key}\": "))?.1);
    let name = after("name")?.strip_prefix('"')?.split_once('"')?.0;
    let number = |key| after(key)?.split([',', '}']).next()?.parse().ok();
    Some(Entry {
        name: name.to_owned(),
        values: [number("nidus"), number("peer")],
    })
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Figure, json};
    use super::*;

    #[test]
    fn what_moved_is_named_and_what_did_not_is_counted() {
        let of = |ours, peer| Figure::new("hcall", "instructions", ours).beside("KVM", peer);
        let alone = |name| Figure::new(name, "bytes", 0.0);
        let old = json(&[of(100.0, 200.0), alone("gone"), alone("kept")]);
        let new = json(&[of(100.9, 203.0), alone("kept"), alone("more")]);
        assert_eq!(
            report(&old, &new),
            "moved: hcall, its peer: 200.000 -> 203.000 (+1.5 %)\nnew: more\ngone or not measured: gone\n\
             2 figures within 1 %, 1 not"
        );
        assert_eq!(report("[]", "[]"), "0 figures within 1 %, 0 not");
    }
}
