//! Prints both chips side by side: `tests/golden/chips.txt` is the reviewable difference between them.
//!
//! After a wanted change: `NIDUS_BLESS=1 cargo test -p platform-p11`.

use nest::chip::{Chip, Machine};
use platform_p10::P10;
use platform_p11::P11;

/// One line per field, `path = value`.
fn lines(chip: &Chip, machines: &[Machine]) -> Vec<(String, String)> {
    let Chip {
        generation,
        pvr_family,
        logical_pvr,
        names,
        map,
        threads_per_small_core,
        timebase_hz,
        mmu,
        core,
        errata,
    } = chip;
    let mut lines = vec![
        ("generation".to_owned(), (*generation).to_owned()),
        ("pvr_family".to_owned(), format!("{pvr_family:#x}")),
        ("logical_pvr".to_owned(), format!("{logical_pvr:#x}")),
        (
            "threads_per_small_core".to_owned(),
            threads_per_small_core.to_string(),
        ),
        ("timebase_hz".to_owned(), timebase_hz.to_string()),
    ];
    // The derived forms print every field, so a new field cannot be forgotten.
    for (part, text) in [
        ("names", format!("{names:#?}")),
        ("map", format!("{map:#x?}")),
        ("mmu", format!("{mmu:#x?}")),
        ("core", format!("{core:#x?}")),
    ] {
        for line in text.lines() {
            if let Some((field, value)) = line.trim().trim_end_matches(',').split_once(": ") {
                lines.push((format!("{part}.{field}"), value.to_owned()));
            } else if line.trim().starts_with("0x") {
                lines.push((
                    format!("{part} …"),
                    line.trim().trim_end_matches(',').to_owned(),
                ));
            }
        }
    }
    for erratum in *errata {
        lines.push((
            format!("erratum {}", erratum.name()),
            erratum.why().to_owned(),
        ));
    }
    for (n, machine) in machines.iter().enumerate() {
        let Machine {
            name,
            compatible,
            is_emulated,
        } = machine;
        let kind = if *is_emulated { "emulated" } else { "board" };
        lines.push((
            format!("machine {n}"),
            format!("{name}, {kind}: {}", compatible.join(" ")),
        ));
    }
    lines
}

fn side_by_side() -> String {
    let left = lines(&P10, platform_p10::MACHINES);
    let mut right = lines(&P11, platform_p11::MACHINES);
    let mut page = String::from("# field | POWER10 | Power11 (= means the same)\n");
    for (field, value) in left {
        let position = right.iter().position(|(other, _)| *other == field);
        let other = position.map(|at| right.remove(at).1);
        let other = match &other {
            Some(same) if *same == value => "=",
            Some(different) => different,
            None => "-",
        };
        page += &format!("{field} | {value} | {other}\n");
    }
    for (field, value) in right {
        page += &format!("{field} | - | {value}\n");
    }
    page
}

#[test]
fn the_difference_between_the_chips_is_as_reviewed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/chips.txt");
    let now = side_by_side();
    if std::env::var_os("NIDUS_BLESS").is_some() {
        std::fs::write(path, &now).expect("golden is writable");
    }
    let golden = std::fs::read_to_string(path).expect("golden exists");
    assert_eq!(golden, now, "review the difference, then bless it");
}

#[test]
fn each_processor_version_is_one_chip() {
    let chips = [&P10, &P11];
    let which = |pvr| {
        chips
            .iter()
            .find(|chip| chip.is(isa::spr::Pvr(pvr)))
            .map(|chip| chip.generation)
    };
    assert_eq!(which(0x0080_1200), Some("P10 generation processor"));
    assert_eq!(which(0x0082_1200), Some("Power11 generation processor"));
    assert_eq!(which(0x004e_1202), None);
}
