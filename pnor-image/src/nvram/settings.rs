//! `name=value` strings in a partition: each ends with a zero byte, the last one with a second.
//!
//! The surprise: a name may be there twice, because operating systems append; as in skiboot the first one counts.

use alloc::vec::Vec;
use core::fmt;

use super::{Id, Partition, partitions};

/// The partition has no room for the setting, or the setting cannot be written: a name that is empty or holds `=`, or
/// a zero byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the setting does not fit into its partition")
    }
}

impl core::error::Error for NoRoom {}

/// The settings of one partition.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    content: &'a [u8],
}

impl<'a> Settings<'a> {
    /// The settings in the partition `id`; `None` if it is not there, or the partitions before it are damaged.
    pub fn of(nvram: &'a [u8], id: Id) -> Option<Self> {
        let content = find(nvram, id)?.content(nvram)?;
        Some(Self { content })
    }

    /// Goes through names and values; what is no setting is left out.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        strings(self.content).filter_map(|string| {
            let at = string.iter().position(|&byte| byte == b'=')?;
            let (name, value) = string.split_at_checked(at)?;
            Some((name, value.get(1..)?))
        })
    }

    /// The value of `name`.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| *found == name.as_bytes())
            .map(|(_, value)| value)
    }
}

fn find(nvram: &[u8], id: Id) -> Option<Partition> {
    partitions(nvram)
        .ok()?
        .into_iter()
        .find(|partition| partition.id == id)
}

/// The strings of a partition's content, up to the first empty one. One without an end is not complete, so none.
fn strings(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = content;
    core::iter::from_fn(move || {
        let end = rest.iter().position(|&byte| byte == 0)?;
        let (string, after) = rest.split_at_checked(end)?;
        rest = after.get(1..)?;
        (!string.is_empty()).then_some(string)
    })
}

/// Sets `name` to `value`, or takes it away; everything else in the partition stays.
///
/// # Errors
/// [`NoRoom`] if it does not fit, or there is no such partition; then nothing is changed.
pub(super) fn set(
    nvram: &mut [u8],
    id: Id,
    name: &str,
    value: Option<&[u8]>,
) -> Result<(), NoRoom> {
    let bad = |bytes: &[u8]| bytes.contains(&0);
    if name.is_empty() || name.contains('=') || bad(name.as_bytes()) || value.is_some_and(bad) {
        return Err(NoRoom);
    }
    let partition = find(nvram, id).ok_or(NoRoom)?;
    let content = partition.content(nvram).ok_or(NoRoom)?;
    let length = content.len();
    let mut new = Vec::with_capacity(length);
    for string in strings(content) {
        let is_it = string
            .strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"="));
        if !is_it {
            new.extend_from_slice(string);
            new.push(0);
        }
    }
    if let Some(value) = value {
        new.extend_from_slice(name.as_bytes());
        new.push(b'=');
        new.extend_from_slice(value);
        new.push(0);
    }
    // One more zero ends the list.
    if new.len() >= length {
        return Err(NoRoom);
    }
    new.resize(length, 0);
    let at = partition.at.saturating_add(super::HEADER_SIZE);
    if crate::bytes::put(nvram, at, &new) {
        Ok(())
    } else {
        Err(NoRoom)
    }
}
