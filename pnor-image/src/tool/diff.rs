//! What two images have in common and what not, partition by partition.
//!
//! The surprise: contents are compared without code bytes, so a corrected bit is no difference.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::image::Image;

/// The differences, one line each; none means that both hold the same.
pub fn lines(first: &Image, second: &Image) -> Vec<String> {
    let mut lines = Vec::new();
    let (old, new) = (&first.found.table, &second.found.table);
    if old.flash_size() != new.flash_size() || old.block_size != new.block_size {
        lines.push(format!(
            "flash: {:#x} bytes in blocks of {:#x}, then {:#x} in blocks of {:#x}",
            old.flash_size(),
            old.block_size,
            new.flash_size(),
            new.block_size
        ));
    }
    for before in &old.entries {
        let name = before.name;
        let Some(after) = new.get(name.as_str()) else {
            lines.push(format!("{name}: only in the first"));
            continue;
        };
        let mut changes = Vec::new();
        if old.extent(before) != new.extent(after) {
            let ((at, size), (now_at, now_size)) = (old.extent(before), new.extent(after));
            changes.push(format!(
                "place {at:#x}+{size:#x}, then {now_at:#x}+{now_size:#x}"
            ));
        }
        if before.actual != after.actual {
            changes.push(format!(
                "actual size {:#x}, then {:#x}",
                before.actual, after.actual
            ));
        }
        if before.user != after.user {
            let letters =
                |user: crate::ffs::User| String::from_utf8_lossy(&user.letters()).to_string();
            changes.push(format!(
                "flags {}, then {}",
                letters(before.user),
                letters(after.user)
            ));
        }
        let is_table =
            before.name == *crate::ffs::OWN_NAME || before.name == *crate::ffs::BACKUP_NAME;
        let (was, is) = (first.content(before).data, second.content(after).data);
        if !is_table && was != is {
            let at = was.iter().zip(&is).position(|(old, new)| old != new);
            changes.push(match at {
                Some(at) => format!("content from {at:#x} on"),
                None => "length of the content".to_string(),
            });
        }
        if !changes.is_empty() {
            lines.push(format!("{name}: {}", changes.join("; ")));
        }
    }
    for after in &new.entries {
        if old.get(after.name.as_str()).is_none() {
            lines.push(format!("{}: only in the second", after.name));
        }
    }
    lines
}
