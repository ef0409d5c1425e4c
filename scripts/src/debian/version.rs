//! Order of Debian package versions (Debian Policy 5.6.12).
//!
//! The surprise: `~` sorts before everything, even before the end, so `1.0~rc1` is older than `1.0`.

use std::cmp::Ordering;

/// Compares two versions of the form `[epoch:]upstream[-revision]`.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a_epoch, a_upstream, a_revision) = split(a);
    let (b_epoch, b_upstream, b_revision) = split(b);
    a_epoch
        .cmp(&b_epoch)
        .then_with(|| compare_part(a_upstream, b_upstream))
        .then_with(|| compare_part(a_revision, b_revision))
}

/// Returns the upstream part: neither epoch nor revision.
pub fn upstream(version: &str) -> &str {
    split(version).1
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    match rest.rsplit_once('-') {
        Some((upstream, revision)) => (epoch, upstream, revision),
        None => (epoch, rest, "0"),
    }
}

/// Compares alternating runs of non-digits (in modified ASCII order) and digits (as numbers).
fn compare_part(mut a: &str, mut b: &str) -> Ordering {
    loop {
        let (a_text, a_rest) = run(a, |c| !c.is_ascii_digit());
        let (b_text, b_rest) = run(b, |c| !c.is_ascii_digit());
        let order = compare_text(a_text, b_text);
        if order.is_ne() {
            return order;
        }
        let (a_digits, a_next) = run(a_rest, |c| c.is_ascii_digit());
        let (b_digits, b_next) = run(b_rest, |c| c.is_ascii_digit());
        let order = compare_number(a_digits, b_digits);
        if order.is_ne() {
            return order;
        }
        if a_next.is_empty() && b_next.is_empty() {
            return Ordering::Equal;
        }
        (a, b) = (a_next, b_next);
    }
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn compare_text(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.bytes(), b.bytes());
    loop {
        let (x, y) = (a.next(), b.next());
        let order = weight(x).cmp(&weight(y));
        if order.is_ne() || x.is_none() {
            return order;
        }
    }
}

/// `~` before the end, the end before letters, letters before all else.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(letter),
        Some(other) => i32::from(other) + 256,
    }
}

fn compare_number(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_policy_says() {
        let ascending = [
            "1.0~~",
            "1.0~~a",
            "1.0~",
            "1.0",
            "1.0-0+b1",
            "1.0-1~bpo13+1",
            "1.0-1",
            "1.0-1+b2",
            "1.0-1+b10",
            "1.0+dfsg-1",
            "1.0.1-1",
            "1.10-1",
            "6.12.107-1",
            "7.2.9-1",
            "7.2.11-1~bpo13+1",
            "7.2.11-1",
            "1:0.1-1",
            "2:0.0",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} against {b}");
            }
        }
    }

    #[test]
    fn leading_zeros_and_absent_revision_do_not_count() {
        assert_eq!(compare("1.02", "1.2"), Ordering::Equal);
        assert_eq!(compare("1.2", "1.2-0"), Ordering::Equal);
        assert_eq!(compare("0:1.2", "1.2"), Ordering::Equal);
    }

    #[test]
    fn upstream_is_without_epoch_and_revision() {
        assert_eq!(upstream("1:11.1.2+ds-3~bpo13+4"), "11.1.2+ds");
        assert_eq!(upstream("1.95.0+dfsg1-2~bpo13+1"), "1.95.0+dfsg1");
        assert_eq!(upstream("5"), "5");
    }
}
