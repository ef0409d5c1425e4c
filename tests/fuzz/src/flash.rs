//! What lies in flash: the table of partitions, containers, packed streams.
//!
//! The surprise: the first byte of an input says whether check sums and hashes are made right before it is parsed.

use pnor_image::container;
use pnor_image::ffs::{ENTRY_SIZE, Entry, HEADER_SIZE, Kind, MAGIC, Search, Table, find};
use pnor_image::flash::Flash;
use pnor_image::xz::{self, Decoder, Limits, Progress};

/// A flash with an input at its start, and erased behind it.
struct Image<'a> {
    bytes: &'a [u8],
    size: u64,
    reads: usize,
}

impl Flash for Image<'_> {
    type Error = ();

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ()> {
        let end = at.checked_add(buffer.len() as u64).expect("no overflow");
        assert!(end <= self.size, "read beyond the flash");
        self.reads += 1;
        for (place, byte) in (at..).zip(buffer) {
            let place = usize::try_from(place).expect("64 bits");
            *byte = self.bytes.get(place).copied().unwrap_or(0xff);
        }
        Ok(())
    }
}

/// Makes the last four bytes of a header or entry the check sum of the others.
fn seal(part: &mut [u8]) {
    let Some((words, sum)) = part.split_last_chunk_mut::<4>() else {
        return;
    };
    *sum = [0; 4];
    for word in words.chunks(4) {
        for (sum, byte) in sum.iter_mut().zip(word) {
            *sum ^= byte;
        }
    }
}

/// A table at the start of a flash of 1, 32 or 64 MiB.
pub(super) fn ffs(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if how & 1 != 0 && bytes.len() >= HEADER_SIZE {
        let (header, entries) = bytes.split_at_mut(HEADER_SIZE);
        header[..4].copy_from_slice(&MAGIC);
        seal(header);
        for entry in entries.chunks_mut(ENTRY_SIZE) {
            seal(entry);
        }
    }
    // A search everywhere reads all of it, so that one is small.
    let is_everywhere = how & 8 != 0;
    let size = match how >> 1 & 3 {
        1 if !is_everywhere => 32 << 20,
        2 if !is_everywhere => 64 << 20,
        _ => 1 << 18,
    };
    let _ = Table::parse(&bytes, size).map(|(table, _)| check(&table, size));
    let mut flash = Image {
        bytes: &bytes,
        size,
        reads: 0,
    };
    let how = if is_everywhere {
        Search::Everywhere
    } else {
        Search::Usual
    };
    if let Ok(found) = find(&mut flash, how).expect("this flash can be read") {
        check(&found.table, size);
    }
    let most = usize::try_from(size >> 12).expect("small");
    assert!(flash.reads <= 64 + 4 * most, "{} reads", flash.reads);
}

/// What those who use a table rely on.
fn check(table: &Table, size: u64) {
    assert!(table.flash_size() <= size);
    // Frames overlap by nature.
    let has_place = |entry: &&Entry| entry.kind != Kind::Logical && entry.size > 0;
    let mut extents: Vec<(u64, u64)> = Vec::new();
    for entry in &table.entries {
        let (at, length) = table.extent(entry);
        assert!(at + length <= size, "{} is outside", entry.name.as_str());
        assert!(u64::from(entry.actual) <= length);
        extents.extend(has_place(&entry).then_some((at, at + length)));
    }
    extents.sort_unstable();
    let is_apart = |pair: &[(u64, u64)]| pair[0].1 <= pair[1].0;
    assert!(extents.windows(2).all(is_apart), "overlap: {extents:x?}");
    if let Ok(bytes) = table.to_bytes() {
        let (again, problems) = Table::parse(&bytes, size).expect("own tables can be read");
        assert_eq!((&again, problems.len()), (table, 0));
    }
}

/// A container, and what is behind its header.
pub(super) fn container(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(container::HEADER_SIZE + 8), 0);
    if how & 1 != 0 {
        bytes[..4].copy_from_slice(&container::MAGIC);
    }
    let Ok(header) = container::Header::parse(&bytes) else {
        return;
    };
    if let Ok(payload) = header.payload(&bytes) {
        assert!(payload.len() as u64 <= header.payload_size());
        assert!(payload.len() <= bytes.len() - container::HEADER_SIZE);
        let is_good = header.verify_payload(&bytes).is_ok();
        assert_eq!(
            is_good,
            container::hash(payload) == *header.payload_hash(),
            "the hash decides"
        );
        // In pieces, as flash is read.
        let mut check = header.payload_check();
        for piece in payload.chunks(777) {
            check.update(piece);
        }
        assert_eq!(check.finish().is_ok(), is_good);
    }
    let own = header.hardware_key_hash();
    if header.verify_keys(Some(&own)).is_ok() {
        let mut other = own;
        other[0] ^= 1;
        assert!(header.verify_keys(Some(&other)).is_err());
    }
    let _ = (header.label(), header.is_signed(), header.container_size());
}

/// A stream, as a whole and in pieces.
pub(super) fn xz(data: &[u8]) {
    const LIMITS: Limits = Limits {
        output: 1 << 20,
        dictionary: 1 << 20,
    };
    let whole = xz::decompress(data, LIMITS);
    if let Ok(output) = &whole {
        assert!(output.len() as u64 <= LIMITS.output, "more than is allowed");
    }
    let piece = 1 + data.first().map_or(0, |first| usize::from(*first));
    let mut decoder = Decoder::new(LIMITS);
    let mut output = Vec::new();
    let mut is_done = false;
    for input in data.chunks(piece) {
        match decoder.feed(input, |bytes| output.extend_from_slice(bytes)) {
            Ok(Progress::End(_)) => {
                is_done = true;
                break;
            }
            Ok(Progress::More) => {}
            Err(_) => break,
        }
        assert!(output.len() as u64 <= LIMITS.output, "more than is allowed");
    }
    if let Ok(whole) = whole {
        assert!(is_done && output == whole, "pieces give something else");
    }
}
