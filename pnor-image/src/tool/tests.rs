//! Tests of the tool: images are built, changed, damaged and compared.

use std::borrow::ToOwned as _;
use std::string::{String, ToString as _};
use std::sync::LazyLock;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::build::{Form, image};
use super::diff;
use super::image::{Image, Part};
use super::layout::Layout;
use super::map;
use super::report::Report;
use crate::container::{Description, unsigned};
use crate::flash::OutOfRange;
use crate::nvram;
use crate::nvram::journal::{self, Blocks, Medium};

/// One MiB: a partition of each kind, and the table's copy at the end.
const SMALL: &str = "
size = \"1M\"
block = 0x1000
table = 0x1000
backup = \"end\"

[[partition]]
name = \"NVRAM\"
size = 0x20000
flags = [\"preserved\"]
content = \"nvram\"

[[partition]]
name = \"PAYLOAD\"
size = 0x10000
flags = [\"sha512-version\", \"read-only\"]

[[partition]]
name = \"HBB\"
size = 0x9000
flags = [\"ecc\", \"sha512-version\"]

[[partition]]
name = \"VERSION\"
size = 0x2000

[[partition]]
name = \"GUARD\"
size = 0x2000
flags = [\"ecc\", \"reprovision\"]
";

const PACKED: Form = Form {
    is_packed: true,
    is_raw: false,
    is_unsigned: false,
};

fn firmware() -> Vec<u8> {
    b"firmware ".repeat(3000)
}

fn build(set: &[(&str, &[u8], Form)]) -> anyhow::Result<Vec<u8>> {
    let layout = Layout::parse(SMALL).expect("holds together");
    let contents: Vec<(String, Vec<u8>, Form)> = set
        .iter()
        .map(|(name, file, form)| ((*name).to_owned(), file.to_vec(), *form))
        .collect();
    image(&layout, &contents)
}

fn filled() -> Image {
    let bytes = build(&[
        ("PAYLOAD", &firmware(), PACKED),
        ("HBB", b"base", Form::default()),
        ("VERSION", b"open-power-test\n\tnidus-1\n", Form::default()),
    ]);
    Image::new(bytes.expect("fits")).expect("has a table")
}

fn problems(image: &Image) -> Vec<String> {
    Report::of(image).problems()
}

/// Where a partition begins, as an index.
fn start(image: &Image, name: &str) -> usize {
    let entry = image.entry(name).expect("there");
    usize::try_from(image.found.table.extent(&entry).0).expect("small")
}

/// The image with one byte changed.
fn flipped(image: &Image, at: usize, bits: u8) -> Image {
    let mut bytes = image.bytes.clone();
    bytes[at] ^= bits;
    Image::new(bytes).expect("has a table")
}

#[test]
fn what_goes_in_comes_out() {
    let image = filled();
    assert_eq!(problems(&image), [""; 0]);
    assert_eq!(
        image.extract("PAYLOAD", Part::Payload).expect("good"),
        firmware()
    );
    assert_eq!(image.extract("HBB", Part::Payload).expect("good"), b"base");
    assert_eq!(
        image.extract("VERSION", Part::Content).expect("good"),
        b"open-power-test\n\tnidus-1\n"
    );
    assert_eq!(image.extract("HBB", Part::Raw).expect("good").len(), 0x9000);
    // The container with its payload, without code bytes: 4100 bytes, filled up to a multiple of 8.
    assert_eq!(
        image.extract("HBB", Part::Content).expect("good").len(),
        4104
    );
    let report = Report::of(&image);
    let of = |name: &str| {
        report
            .partitions
            .iter()
            .find(|partition| partition.name == name)
            .expect("there")
    };
    assert!(
        of("PAYLOAD")
            .content
            .starts_with("container \"PAYLOAD\" (signed with imprint keys), xz")
    );
    assert_eq!(of("HBB").ecc.as_deref(), Some("good"));
    assert_eq!(of("GUARD").content, "empty");
    assert_eq!(
        of("VERSION").version.as_deref(),
        Some("open-power-test\n\tnidus-1\n")
    );
    assert!(of("NVRAM").content.starts_with("NVRAM, 3 partitions"));
    assert!(report.text().contains("HBB"));
    let svg = map::svg(&report);
    assert!(svg.starts_with("<svg") && svg.contains(">PAYLOAD<") && svg.ends_with("</svg>\n"));
}

#[test]
fn the_same_input_gives_the_same_image() {
    assert_eq!(filled().bytes, filled().bytes);
}

#[test]
fn what_does_not_fit_or_belong_is_refused() {
    let message = |name: &str, file: &[u8]| {
        std::format!(
            "{:#}",
            build(&[(name, file, Form::default())]).expect_err("wrong")
        )
    };
    let large = vec![1; 0x10000];
    assert!(message("PAYLOAD", &large).contains("PAYLOAD has room for 0x10000 bytes, not 0x11000"));
    let large = vec![1; 0x8000];
    assert!(message("HBB", &large).contains("HBB has room for 0x8000 bytes of data"));
    assert!(message("NOBODY", b"").contains("no partition NOBODY"));
    let mut broken = unsigned(b"x", Description::default());
    broken[4096] ^= 1;
    assert!(message("PAYLOAD", &broken).contains("the payload's hash is wrong"));
}

#[test]
fn a_file_that_is_a_container_goes_in_as_it_is() {
    let made = unsigned(b"by others", Description::of("OTHER"));
    let image =
        Image::new(build(&[("PAYLOAD", &made, PACKED)]).expect("fits")).expect("has a table");
    assert_eq!(image.extract("PAYLOAD", Part::Content).expect("good"), made);
    assert!(
        Report::of(&image)
            .text()
            .contains("container \"OTHER\" (unsigned)")
    );
}

#[test]
fn replacing_keeps_both_tables_right() {
    let mut image = filled();
    let before = filled();
    image
        .replace("PAYLOAD", b"new", Form::default())
        .expect("fits");
    assert_eq!(
        image.extract("PAYLOAD", Part::Payload).expect("good"),
        b"new"
    );
    assert_eq!(
        image.extract("PAYLOAD", Part::Content).expect("good").len(),
        4099
    );
    assert_eq!(problems(&image), [""; 0]);
    assert_eq!(image.tables().len(), 2);
    for (at, table) in image.tables() {
        let own = table.get("part").expect("there");
        assert_eq!(table.extent(own).0, at);
        assert_eq!(table.get("PAYLOAD").expect("there").actual, 4099);
    }
    let lines = diff::lines(&before, &image);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("PAYLOAD: actual size") && lines[0].contains("content from"),
        "{lines:?}"
    );
    // All bytes of a partition with code bytes, as others made them.
    let raw = image.extract("HBB", Part::Raw).expect("there");
    let raw_form = Form {
        is_raw: true,
        ..Form::default()
    };
    image.replace("HBB", &raw, raw_form).expect("fits");
    assert_eq!(image.extract("HBB", Part::Payload).expect("good"), b"base");
    assert!(image.replace("HBB", &raw[1..], raw_form).is_err());
    assert!(image.replace("NOBODY", b"", PACKED).is_err());
}

#[test]
fn every_kind_of_damage_is_named() {
    let image = filled();
    let named = |image: &Image, text: &str| {
        let all = problems(image);
        assert!(
            all.iter().any(|line| line.contains(text)),
            "{text}: {all:?}"
        );
    };
    let payload = start(&image, "PAYLOAD");
    named(
        &flipped(&image, payload + 4096 + 100, 1),
        "PAYLOAD: container: the payload's hash is wrong",
    );
    named(
        &flipped(&image, payload, 1),
        "PAYLOAD: the partition's flags ask for a container",
    );
    named(
        &flipped(&image, payload + 0x1aa + 98 + 5, 1),
        "PAYLOAD: container: the signature of key A is wrong",
    );
    let code = start(&image, "HBB");
    let corrected = flipped(&image, code + 40, 0x10);
    assert_eq!(problems(&corrected), [""; 0]);
    assert!(Report::of(&corrected).text().contains("ECC corrected 1"));
    assert_eq!(
        corrected.extract("HBB", Part::Payload).expect("corrected"),
        b"base"
    );
    let hopeless = flipped(&image, code + 40, 0x11);
    named(
        &hopeless,
        "HBB: more than one wrong bit in the nine bytes at 0x24",
    );
    assert!(hopeless.extract("HBB", Part::Payload).is_err());
    named(
        &flipped(&image, start(&image, "NVRAM"), 1),
        "NVRAM: NVRAM: the header at 0x0",
    );
    named(&flipped(&image, 0, 1), "table at 0x0: no table");
    named(
        &flipped(&image, 48 + 128 + 20, 1),
        "entry 1 of the table is damaged",
    );
    assert_eq!(
        Image::new(vec![0xff; 4096]).expect_err("none").to_string(),
        "no table of partitions; at 0x0: only ones: erased, or the flash does not answer"
    );
}

/// NVRAM in memory, to which so many writes are possible.
struct Ending(Vec<u8>, usize);

impl Medium for Ending {
    type Error = OutOfRange;

    fn read(&mut self, at: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        self.0.read(at, into)
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), OutOfRange> {
        self.1 = self.1.checked_sub(1).ok_or(OutOfRange)?;
        self.0.write(at, from)
    }
}

#[test]
fn a_write_to_nvram_that_was_cut_off_is_shown_and_no_problem() {
    let image = filled();
    let at = start(&image, "NVRAM");
    let old = image.raw(&image.entry("NVRAM").expect("there")).to_vec();
    let mut new = old.clone();
    nvram::set(&mut new, nvram::FIRMWARE, "nidus,mode", Some(b"papr")).expect("room");
    let blocks = Blocks::new(at as u64, 0x1000, old.len());
    let mut nvram = Ending(old.clone(), 1);
    let spare = journal::spare(&old);
    assert!(journal::change(&mut nvram, &blocks, &spare, 0, &old, &new).is_err());
    let mut bytes = image.bytes.clone();
    bytes[at..at + old.len()].copy_from_slice(&nvram.0);
    let image = Image::new(bytes).expect("has a table");
    assert_eq!(problems(&image), [""; 0]);
    let text = Report::of(&image).text();
    assert!(
        text.contains("1 settings of firmware") && text.contains("a write to it was cut off"),
        "{text}"
    );
}

#[test]
fn bytes_that_are_no_stream_end_with_a_clear_line() {
    let mut stream = super::build::pack(&firmware()).expect("packs");
    let middle = stream.len() / 2;
    stream[middle] ^= 0xff;
    let image = Image::new(build(&[("PAYLOAD", &stream, Form::default())]).expect("fits"))
        .expect("has a table");
    assert_eq!(problems(&image), ["PAYLOAD: the xz stream is damaged"]);
    assert!(image.extract("PAYLOAD", Part::Payload).is_err());
}

/// How many mutated images a run tries: few, or as many as `NIDUS_CASES` says.
fn cases() -> ProptestConfig {
    let count = std::env::var("NIDUS_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(count.unwrap_or(25))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_mutated_image_is_told_apart_or_still_right(
        changes in prop::collection::vec((0usize..6, any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in prop::option::of(0usize..1 << 20),
    ) {
        // Packing is slower than all that is tried here.
        static FILLED: LazyLock<Image> = LazyLock::new(filled);
        let image = &*FILLED;
        let mut bytes = image.bytes.clone();
        let mut touched = Vec::new();
        for (place, at, value) in changes {
            // Where something is: tables, NVRAM's headers, container and stream, code bytes.
            let (from, size) = match place {
                0 => (0, 0x400),
                1 => (0xff000, 0x400),
                2 => (start(image, "NVRAM"), 0x20),
                3 => (start(image, "PAYLOAD"), 0x1200),
                4 => (start(image, "HBB"), 0x1300),
                _ => (0, 1 << 20),
            };
            let at = from + at.index(size);
            if bytes[at] != value {
                bytes[at] = value;
                touched.push(at);
            }
        }
        if let Some(length) = length {
            bytes.truncate(length.max(0x2000));
        }
        let Ok(mutated) = Image::new(bytes) else { return Ok(()) };
        let report = Report::of(&mutated);
        prop_assert!(!report.text().is_empty());
        let is_table = |at: &usize| *at < 0x1000 || *at >= 0xff000;
        if report.problems().is_empty() && !touched.iter().any(is_table) {
            // Nothing was found: then what has a hash or code bytes is as it was.
            prop_assert_eq!(mutated.extract("PAYLOAD", Part::Payload).ok(), Some(firmware()));
            prop_assert_eq!(mutated.extract("HBB", Part::Payload).ok(), Some(b"base".to_vec()));
            prop_assert!(nvram::check(mutated.raw(&mutated.entry("NVRAM").expect("there"))).is_ok());
        }
        for entry in &mutated.found.table.entries {
            let _ = mutated.extract(entry.name.as_str(), Part::Payload);
        }
        let _ = diff::lines(image, &mutated);
    }
}
