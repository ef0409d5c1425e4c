//! Initramfs archives: the `newc` format of cpio, as the kernel unpacks it (Documentation/driver-api/early-userspace
//! of Linux, "initramfs buffer format").
//!
//! The surprise: the archive needs `/dev/console` as a device node, else the first process has no output at all.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// The kernel takes the end of the archive from this name.
const TRAILER: &str = "TRAILER!!!";

/// A writer of one archive. Directories must be added before what they hold.
#[derive(Debug)]
pub struct Archive<W: Write> {
    out: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            inode: 0,
        }
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, (0, 0), &[])
    }

    /// Adds a file with the permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | mode, (0, 0), content)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.entry(path, LINK, (0, 0), to.as_bytes())
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[])
    }

    /// Ends the archive and returns what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let too_large = |_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path} is too large for cpio"),
            )
        };
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_size = u32::try_from(path.len() + 1).map_err(too_large)?;
        self.inode += 1;
        let (major, minor) = device;
        // Magic, then thirteen fields of eight digits: inode, mode, user, group, links, time, size, device of the
        // archive, device of the node, length of the name, checksum (unused).
        let mut header = String::from("070701");
        for field in [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0,
        ] {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Names and contents end at a multiple of four bytes from the start of the archive.
    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(4) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: path, mode, minor device number, content.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |i: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * i..14 + 8 * i]).expect("ASCII");
                u32::from_str_radix(text, 16).expect("hexadecimal")
            };
            let (mode, size, minor, name_size) =
                (field(1), field(6) as usize, field(10), field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).expect("UTF-8");
            assert_eq!(bytes[110 + name_size - 1], 0);
            let start = (110 + name_size).next_multiple_of(4);
            if name == TRAILER {
                assert_eq!(bytes.len(), start);
                return entries;
            }
            entries.push((name, mode, minor, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn an_archive_reads_back() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev").expect("written");
        archive
            .character_device("dev/console", 5, 1)
            .expect("written");
        archive
            .file("init", 0o755, b"#!/bin/sh\n")
            .expect("written");
        archive.link("bin", "usr/bin").expect("written");
        let entries = read(&archive.finish().expect("written"));
        let expected = [
            ("dev", 0o040_755, 0, &b""[..]),
            ("dev/console", 0o020_600, 1, b""),
            ("init", 0o100_755, 0, b"#!/bin/sh\n"),
            ("bin", 0o120_777, 0, b"usr/bin"),
        ];
        assert_eq!(entries.len(), expected.len());
        for (entry, (path, mode, minor, content)) in entries.iter().zip(expected) {
            assert_eq!(
                (entry.0.as_str(), entry.1, entry.2, entry.3.as_slice()),
                (path, mode, minor, content)
            );
        }
    }

    #[test]
    fn names_of_every_length_keep_the_alignment() {
        for length in 1..9 {
            let mut archive = Archive::new(Vec::new());
            let name = "n".repeat(length);
            archive
                .file(&name, 0o644, &vec![b'c'; length])
                .expect("written");
            let bytes = archive.finish().expect("written");
            assert_eq!(read(&bytes)[0].0, name);
        }
    }
}
