//! ELF files around a few instructions: for tests that need a file of some kind, or a program without a compiler for it.
//!
//! The surprise: where code lies in the file and in memory agree modulo 64 KiB, so that Linux can map the same file that a
//! firmware executes in place.

/// What kind of ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Big64,
    Little64,
    Big32,
}

/// Makes an ELF file with this code, which is entered at its first byte or, with `descriptor`, through a function
/// descriptor. `code` is not changed: which byte order its words have is up to whoever runs them.
pub(crate) fn file(class: Class, code: &[u8], descriptor: bool) -> Vec<u8> {
    const AT: u64 = 0x1000_0200;
    const OFFSET: u64 = 0x200;
    const LOAD: u64 = 1;
    const EXECUTABLE: u64 = 7;
    const WRITABLE: u64 = 6;
    const PPC: u64 = 20;
    const PPC64: u64 = 21;
    let size = code.len() as u64;
    let descriptor_at = AT + size;
    let wide = class != Class::Big32;
    let mut file = Fields {
        bytes: Vec::new(),
        little: class == Class::Little64,
    };
    file.bytes.extend(b"\x7fELF");
    file.bytes
        .extend([1 + u8::from(wide), 2 - u8::from(file.little), 1]);
    file.bytes.resize(16, 0);
    let word = if wide { 8 } else { 4 };
    let (header, program_header) = if wide { (64, 56) } else { (52, 32) };
    let entry = if descriptor { descriptor_at } else { AT };
    let machine = if wide { PPC64 } else { PPC };
    file.put(&[(2, 2), (2, machine), (4, 1)]);
    file.put(&[(word, entry), (word, header), (word, 0)]);
    // Little-endian files follow the ABI without descriptors.
    let flags = if file.little { 2 } else { 0 };
    let count = 1 + u64::from(descriptor);
    file.put(&[(4, flags), (2, header), (2, program_header), (2, count)]);
    file.put(&[(2, 0), (2, 0), (2, 0)]);
    // Code, and then data that may not be executed: the descriptor.
    let segments = [
        (EXECUTABLE, OFFSET, AT, size),
        (WRITABLE, OFFSET + size, descriptor_at, 24),
    ];
    for (flags, offset, at, size) in segments.into_iter().take(1 + usize::from(descriptor)) {
        file.put(&[(4, LOAD)]);
        if wide {
            file.put(&[(4, flags)]);
        }
        file.put(&[(word, offset), (word, at), (word, at)]);
        file.put(&[(word, size), (word, size)]);
        if !wide {
            file.put(&[(4, flags)]);
        }
        file.put(&[(word, 8)]);
    }
    file.bytes
        .resize(usize::try_from(OFFSET).unwrap_or_default(), 0);
    file.bytes.extend(code);
    if descriptor {
        file.put(&[(8, AT), (8, 0), (8, 0)]);
    }
    file.bytes
}

/// A file in the making.
struct Fields {
    bytes: Vec<u8>,
    little: bool,
}

impl Fields {
    /// Appends numbers of so many bytes.
    fn put(&mut self, fields: &[(usize, u64)]) {
        for &(size, value) in fields {
            let bytes = value.to_be_bytes();
            let part = bytes.get(8 - size..).unwrap_or_default();
            if self.little {
                self.bytes.extend(part.iter().rev());
            } else {
                self.bytes.extend(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use elf::ElfBytes;
    use elf::endian::AnyEndian;

    #[test]
    fn files_are_what_they_say() {
        for (class, descriptor) in [
            (Class::Big64, false),
            (Class::Big64, true),
            (Class::Little64, false),
            (Class::Big32, false),
        ] {
            let bytes = file(class, b"some code", descriptor);
            let file = ElfBytes::<AnyEndian>::minimal_parse(&bytes).expect("an ELF file");
            let segments: Vec<_> = file.segments().expect("segments").iter().collect();
            assert_eq!(segments.len(), 1 + usize::from(descriptor));
            for segment in &segments {
                assert_eq!(segment.p_offset % 0x1_0000, segment.p_vaddr % 0x1_0000);
            }
            let code = file.segment_data(&segments[0]).expect("code");
            assert_eq!(code, b"some code");
            let entered = segments.last().expect("one");
            assert_eq!(file.ehdr.e_entry, entered.p_vaddr);
            if descriptor {
                let data = file.segment_data(entered).expect("data");
                assert_eq!(data[..8], segments[0].p_vaddr.to_be_bytes());
            }
        }
    }
}
