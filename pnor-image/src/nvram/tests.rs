//! Tests of NVRAM: formatting, settings, and what survives damage.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// The size of the partition on boards.
const SIZE: usize = 0x90000;

fn formatted() -> Vec<u8> {
    let mut nvram = vec![0xff; SIZE];
    format(&mut nvram).expect("large enough");
    nvram
}

fn value<'a>(nvram: &'a [u8], id: Id, name: &str) -> Option<&'a [u8]> {
    Settings::of(nvram, id)?.get(name)
}

/// Both settings partitions in use, and one that only its owner knows.
fn used() -> Vec<u8> {
    let mut nvram = formatted();
    set(&mut nvram, FIRMWARE, "nidus,mode", Some(b"papr")).expect("room");
    set(&mut nvram, COMMON, "petitboot,timeout", Some(b"10")).expect("room");
    let free = partitions(&nvram).expect("sound")[2];
    let other = Partition {
        id: Id {
            signature: 0xa0,
            name: *b"lnx,oops-log",
        },
        length: 0x1000,
        ..free
    };
    assert!(write(&mut nvram, &other));
    nvram[other.at + 16..other.at + 0x1000].fill(0x55);
    let rest = Partition {
        at: other.at + 0x1000,
        length: free.length - 0x1000,
        ..free
    };
    assert!(write(&mut nvram, &rest));
    check(&nvram).expect("sound");
    nvram
}

#[test]
fn formatting_makes_what_skiboot_makes() {
    let nvram = formatted();
    let found = check(&nvram).expect("sound");
    let expected = [
        (FIRMWARE, 0, 0x1000),
        (COMMON, 0x1000, 0x10000),
        (FREE, 0x11000, SIZE - 0x11000),
    ];
    assert_eq!(
        found,
        expected.map(|(id, at, length)| Partition { id, at, length })
    );
    // Header of `common` by hand: the sum of 0x70, 0x10, 0x00 and the letters, with the carries added again.
    assert_eq!(
        &nvram[0x1000..0x1010],
        b"\x70\x0c\x10\x00common\0\0\0\0\0\0"
    );
    assert_eq!(std::format!("{FIRMWARE}"), "ibm,skiboot (0x51)");
}

#[test]
fn small_and_large_nvram() {
    let mut small = vec![0x33; 0x1100f];
    assert_eq!(format(&mut small), Err(TooSmall));
    assert_eq!(repair(&mut small), Err(TooSmall));
    assert!(small.iter().all(|&byte| byte == 0x33), "nothing is changed");
    let mut smallest = vec![0; 0x11010];
    format(&mut smallest).expect("fits");
    assert_eq!(check(&smallest).expect("sound").len(), 3);
    // One length field does not reach over 2 MiB.
    let mut large = vec![0; 2 << 20];
    format(&mut large).expect("fits");
    let found = check(&large).expect("sound");
    assert_eq!(
        found
            .iter()
            .map(|partition| partition.length)
            .sum::<usize>(),
        2 << 20
    );
    assert_eq!(found.len(), 4);
}

#[test]
fn settings_are_set_changed_and_removed() {
    let mut nvram = formatted();
    assert_eq!(value(&nvram, FIRMWARE, "fast-reset"), None);
    set(&mut nvram, FIRMWARE, "fast-reset", Some(b"1")).expect("room");
    set(&mut nvram, FIRMWARE, "nidus,mode", Some(b"papr")).expect("room");
    set(&mut nvram, FIRMWARE, "fast-reset", Some(b"a=b")).expect("room");
    assert_eq!(value(&nvram, FIRMWARE, "fast-reset"), Some(&b"a=b"[..]));
    assert_eq!(value(&nvram, FIRMWARE, "fast"), None);
    assert_eq!(value(&nvram, COMMON, "fast-reset"), None);
    set(&mut nvram, FIRMWARE, "fast-reset", None).expect("always");
    let all: Vec<_> = Settings::of(&nvram, FIRMWARE)
        .expect("there")
        .iter()
        .collect();
    assert_eq!(all, [(&b"nidus,mode"[..], &b"papr"[..])]);
    check(&nvram).expect("still sound");
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut nvram = formatted();
    set(&mut nvram, FIRMWARE, "a", Some(b"b")).expect("room");
    let before = nvram.clone();
    // Content 0xff0: "a=b\0", "x=", the value, its end, and the end of the list.
    let longest = vec![b'v'; 0xff0 - 4 - 2 - 2];
    for (name, value) in [
        ("x", [&longest[..], b"v"].concat()),
        ("", b"v".to_vec()),
        ("a=", b"v".to_vec()),
        ("a\0", b"v".to_vec()),
        ("x", b"v\0".to_vec()),
    ] {
        assert_eq!(
            set(&mut nvram, FIRMWARE, name, Some(&value)),
            Err(NoRoom),
            "{name}"
        );
    }
    assert_eq!(nvram, before);
    set(&mut nvram, FIRMWARE, "x", Some(&longest)).expect("just fits");
    assert_eq!(value(&nvram, FIRMWARE, "x"), Some(&longest[..]));
    assert_eq!(
        set(&mut nvram, FREE, "a", Some(b"b")),
        Ok(()),
        "any partition can hold settings"
    );
    assert_eq!(set(&mut [], FIRMWARE, "a", Some(b"b")), Err(NoRoom));
}

#[test]
fn the_first_of_two_settings_counts_and_a_string_without_end_does_not() {
    let mut nvram = formatted();
    nvram[16..29].copy_from_slice(b"a=1\0junk\0a=2\0");
    assert_eq!(value(&nvram, FIRMWARE, "a"), Some(&b"1"[..]));
    nvram[16..0x1000].fill(b'x');
    nvram[16..18].copy_from_slice(b"a=");
    assert_eq!(check(&nvram), Err(Damage::NoEnd));
    assert_eq!(value(&nvram, FIRMWARE, "a"), None);
    assert_eq!(
        repair(&mut nvram),
        Ok(Outcome::Repaired {
            kept: 2,
            dropped: 0
        })
    );
    check(&nvram).expect("sound");
}

#[test]
fn sound_nvram_is_left_alone_and_empty_nvram_is_formatted() {
    let mut nvram = used();
    let before = nvram.clone();
    assert_eq!(repair(&mut nvram), Ok(Outcome::Sound));
    assert_eq!(nvram, before);
    for blank in [0, 0xff] {
        let mut nvram = vec![blank; SIZE];
        assert_eq!(check(&nvram), Err(Damage::Empty));
        assert_eq!(repair(&mut nvram), Ok(Outcome::Formatted));
        assert_eq!(nvram, formatted());
    }
}

#[test]
fn damage_to_one_partition_leaves_the_others() {
    let oops = Id {
        signature: 0xa0,
        name: *b"lnx,oops-log",
    };
    let has_oops = |nvram: &[u8]| {
        partitions(nvram).expect("sound").iter().any(|partition| {
            partition.id == oops
                && partition
                    .content(nvram)
                    .is_some_and(|content| content.iter().all(|&byte| byte == 0x55))
        })
    };
    // The firmware's header: its settings are lost, all else is found again.
    let mut nvram = used();
    nvram[2] ^= 0xff;
    assert_eq!(check(&nvram), Err(Damage::CheckSum(0)));
    assert_eq!(
        repair(&mut nvram),
        Ok(Outcome::Repaired {
            kept: 2,
            dropped: 0
        })
    );
    check(&nvram).expect("sound");
    assert_eq!(value(&nvram, FIRMWARE, "nidus,mode"), None);
    assert_eq!(value(&nvram, COMMON, "petitboot,timeout"), Some(&b"10"[..]));
    assert!(has_oops(&nvram));
    // The operating system's header.
    let mut nvram = used();
    nvram[0x1001] ^= 1;
    assert_eq!(check(&nvram), Err(Damage::CheckSum(0x1000)));
    repair(&mut nvram).expect("large enough");
    assert_eq!(value(&nvram, FIRMWARE, "nidus,mode"), Some(&b"papr"[..]));
    assert_eq!(value(&nvram, COMMON, "petitboot,timeout"), None);
    assert!(has_oops(&nvram));
    // The one in front grew over everything.
    let mut nvram = used();
    let all = Partition {
        id: FIRMWARE,
        at: 0,
        length: SIZE,
    };
    assert!(write(&mut nvram, &all));
    assert_eq!(check(&nvram), Err(Damage::Missing(COMMON)));
    repair(&mut nvram).expect("large enough");
    check(&nvram).expect("sound");
    assert_eq!(value(&nvram, FIRMWARE, "nidus,mode"), Some(&b"papr"[..]));
    // Beyond the end.
    let mut nvram = used();
    let beyond = Partition {
        id: COMMON,
        at: 0x1000,
        length: SIZE,
    };
    assert!(write(&mut nvram, &beyond));
    assert_eq!(check(&nvram), Err(Damage::Length(0x1000)));
    repair(&mut nvram).expect("large enough");
    assert!(has_oops(&nvram));
}

/// How many mutated images a run tries: few, or as many as `NIDUS_CASES` says.
fn cases() -> ProptestConfig {
    let count = std::env::var("NIDUS_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(count.unwrap_or(150))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_damage_can_be_repaired_and_spares_what_it_did_not_touch(
        changes in prop::collection::vec((0usize..0x14000, any::<u8>()), 0..6),
        headers in prop::collection::vec((prop::sample::select(vec![0usize, 0x1000, 0x11000, 0x12000]), 0usize..16, any::<u8>()), 0..4),
        size in prop::sample::select(vec![SIZE, 0x20000, 0x14000, 0x13010, 0x13000]),
    ) {
        let mut nvram = used();
        nvram.truncate(size);
        let mut firmware_is_whole = true;
        for (at, value) in changes.into_iter().chain(headers.into_iter().map(|(at, byte, value)| (at + byte, value))) {
            if at < size && nvram[at] != value {
                nvram[at] = value;
                firmware_is_whole &= at >= 0x1000;
            }
        }
        repair(&mut nvram).expect("large enough");
        prop_assert!(check(&nvram).is_ok());
        prop_assert_eq!(nvram.len(), size);
        if firmware_is_whole {
            prop_assert_eq!(value(&nvram, FIRMWARE, "nidus,mode"), Some(&b"papr"[..]));
        }
        let once = nvram.clone();
        prop_assert_eq!(repair(&mut nvram), Ok(Outcome::Sound));
        prop_assert_eq!(nvram, once);
    }

    #[test]
    fn settings_never_disturb_each_other(
        pairs in prop::collection::vec(("[a-z,]{1,6}", "[ -~]{0,12}"), 0..20),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut nvram = formatted();
        nvram[0x1010..0x1010 + noise.len()].copy_from_slice(&noise);
        let mut expected = std::collections::BTreeMap::new();
        for (name, text) in pairs {
            set(&mut nvram, FIRMWARE, &name, Some(text.as_bytes())).expect("room");
            expected.insert(name, text);
        }
        for (name, text) in &expected {
            prop_assert_eq!(value(&nvram, FIRMWARE, name), Some(text.as_bytes()));
        }
        prop_assert_eq!(Settings::of(&nvram, FIRMWARE).expect("there").iter().count(), expected.len());
        prop_assert!(check(&nvram).is_ok());
        let _ = Settings::of(&nvram, COMMON).expect("there").iter().count();
    }
}
