//! Guest state buffers from the caller's side: a writer that can lie, and a reader.

use crate::elements;
use crate::mem;

/// Builds a buffer at an L1 address.
pub(crate) struct Writer {
    at: u64,
    used: u64,
    count: u32,
}

impl Writer {
    /// An empty buffer; on its own it clears one.
    pub(crate) fn new(at: u64) -> Self {
        mem::write32(at, 0);
        Self {
            at,
            used: 4,
            count: 0,
        }
    }

    /// Appends an element with any length.
    pub(crate) fn bytes(&mut self, id: u16, value: &[u8]) -> &mut Self {
        self.header(id, value.len() as u16);
        for byte in value {
            mem::write8(self.at + self.used, *byte);
            self.used += 1;
        }
        self
    }

    /// Appends an element header only.
    pub(crate) fn header(&mut self, id: u16, len: u16) -> &mut Self {
        mem::write16(self.at + self.used, id.to_be());
        mem::write16(self.at + self.used + 2, len.to_be());
        self.used += 4;
        self.count += 1;
        mem::write32(self.at, self.count.to_be());
        self
    }

    /// Appends a doubleword.
    pub(crate) fn u64(&mut self, id: u16, value: u64) -> &mut Self {
        self.bytes(id, &value.to_be_bytes())
    }

    /// Appends a word.
    pub(crate) fn u32(&mut self, id: u16, value: u32) -> &mut Self {
        self.bytes(id, &value.to_be_bytes())
    }

    /// Appends doublewords.
    pub(crate) fn words(&mut self, id: u16, values: &[u64]) -> &mut Self {
        self.header(id, 8 * values.len() as u16);
        for value in values {
            mem::write64(self.at + self.used, value.to_be());
            self.used += 8;
        }
        self
    }

    /// Appends an element of the table; a quadword gets the value and its complement.
    pub(crate) fn element(&mut self, id: u16, value: u64) -> &mut Self {
        match elements::lookup(id).map(|e| e.len) {
            Some(4) => self.u32(id, value as u32),
            Some(16) => self.words(id, &[value, !value]),
            _ => self.u64(id, value),
        }
    }

    /// Appends an element to be filled by GET: its value bytes are junk.
    pub(crate) fn ask(&mut self, id: u16) -> &mut Self {
        let len = elements::lookup(id).map_or(8, |e| e.len);
        self.header(id, len);
        mem::fill(self.at + self.used, u64::from(len), 0x5a);
        self.used += u64::from(len);
        self
    }

    /// Writes another element count than the true one.
    pub(crate) fn lie(&mut self, count: u32) -> &mut Self {
        mem::write32(self.at, count.to_be());
        self
    }

    /// Bytes used.
    #[must_use]
    pub(crate) fn size(&self) -> u64 {
        self.used
    }

    /// Elements so far.
    #[must_use]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

/// Element of a buffer: id, length, address of the value.
pub(crate) fn iterate(at: u64, capacity: u64) -> impl Iterator<Item = (u16, u16, u64)> {
    let count = u32::from_be(mem::read32(at));
    let mut next = at + 4;
    (0..count).map_while(move |_| {
        if next + 4 > at + capacity {
            return None;
        }
        let id = u16::from_be(mem::read16(next));
        let len = u16::from_be(mem::read16(next + 2));
        let value = next + 4;
        next = value + u64::from(len);
        (next <= at + capacity).then_some((id, len, value))
    })
}

/// Whether the buffer parses: as many elements as it says, inside the capacity, each with its table's length.
#[must_use]
pub(crate) fn parses(at: u64, capacity: u64) -> bool {
    let count = u32::from_be(mem::read32(at)) as usize;
    let good = iterate(at, capacity)
        .filter(|(id, len, _)| elements::lookup(*id).is_some_and(|e| e.len == *len))
        .count();
    good == count
}

/// Value of an element in a buffer: its first 8 (or 4) bytes.
#[must_use]
pub(crate) fn find(at: u64, capacity: u64, id: u16) -> Option<u64> {
    iterate(at, capacity)
        .find(|element| element.0 == id)
        .map(|(_, len, value)| value_at(value, len))
}

/// First 8 (or 4) bytes of a value.
#[must_use]
pub(crate) fn value_at(value: u64, len: u16) -> u64 {
    if len == 4 {
        u64::from(u32::from_be(mem::read32(value)))
    } else {
        u64::from_be(mem::read64(value))
    }
}
