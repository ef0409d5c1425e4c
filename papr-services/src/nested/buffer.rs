//! Guest state buffers: copy once, parse, apply in two phases, emit (kvm-nested.rst; reference "nested", 2.1, 2.2).
//!
//! A buffer is a count (u32) and that many elements: id (u16), length (u16), value; all big-endian and unaligned.
//! The surprising fact: duplicates are normal. Linux sends LPCR twice in its first run; the last one wins.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use arrayvec::ArrayVec;
use isa::addr::Gra;

use super::element::{self, Access, Element, Limits, OUTPUT_BYTES, Rule, Scope, Words};
use super::vcpu::{Area, Vcpu};
use crate::error::{HCode, Refusal};
use crate::guest_ram::GuestRam;

/// Sizes that a buffer can have.
pub const SIZES: RangeInclusive<u64> = 4..=64 << 10;

/// What a buffer is for: it decides which elements it may have and how errors are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// H_GUEST_GET_STATE in a scope.
    Get(Scope),
    /// H_GUEST_SET_STATE in a scope.
    Set(Scope),
    /// Input of H_GUEST_RUN_VCPU: registers only, no buffers and no VPA.
    RunInput,
}

/// An element that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Why.
    pub code: HCode,
    /// Its place in the list.
    pub index: u64,
    /// Its first byte in the buffer.
    pub offset: u64,
}

impl Bad {
    /// As GET_STATE and SET_STATE report it: r4 is the index.
    #[must_use]
    pub fn by_index(self) -> Refusal {
        Refusal::with(self.code, [self.index])
    }

    /// As RUN_VCPU reports it: r4 is the offset.
    #[must_use]
    pub fn by_offset(self) -> Refusal {
        Refusal::with(self.code, [self.offset])
    }
}

/// An element in a copied buffer. Its id, length, scope and access were checked, its value was not.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    /// What it is.
    pub element: &'static Element,
    /// Number in a family of registers.
    pub number: u16,
    /// Its bytes.
    pub value: &'a [u8],
    /// Where they lie in the buffer.
    pub value_offset: u64,
    index: u64,
    offset: u64,
}

impl Item<'_> {
    /// The value that will be stored.
    ///
    /// # Errors
    /// The value rule forbids it.
    pub fn accepted(&self, limits: &Limits<'_>) -> Result<Words, Bad> {
        let words = self.element.words(self.value);
        // What nearly all have goes without a detour.
        if self.element.rule == Rule::Any {
            return Ok(words);
        }
        limits
            .accept(self.element.rule, words)
            .ok_or_else(|| self.refuse(HCode::H_INVALID_ELEMENT_VALUE))
    }

    /// This element is the reason why the call fails.
    #[must_use]
    pub fn refuse(&self, code: HCode) -> Bad {
        Bad {
            code,
            index: self.index,
            offset: self.offset,
        }
    }
}

/// The elements of a copied buffer, no-operation ids left out. It ends after the first error, after the count, or
/// with the bytes.
pub struct Items<'a> {
    bytes: &'a [u8],
    at: usize,
    index: u64,
    count: u64,
    purpose: Purpose,
}

impl<'a> Items<'a> {
    /// The elements of `bytes`, whose first four are the count.
    #[must_use]
    pub fn new(bytes: &'a [u8], purpose: Purpose) -> Self {
        let count = bytes.first_chunk().map_or(0, |c| u32::from_be_bytes(*c));
        Self {
            bytes,
            at: 4,
            index: 0,
            count: count.into(),
            purpose,
        }
    }

    fn check(&self, id: u16, len: usize) -> Result<(&'static Element, u16), HCode> {
        let (element, number) = element::find(id).ok_or(HCode::H_INVALID_ELEMENT_ID)?;
        let (scope, writes) = match self.purpose {
            Purpose::Get(scope) => (scope, false),
            Purpose::Set(scope) => (scope, true),
            Purpose::RunInput => (Scope::Thread, true),
        };
        let buffers = matches!(
            element.place,
            element::Place::RunInput | element::Place::RunOutput | element::Place::Vpa
        );
        let allowed = element.scope == scope
            && (!writes || element.access == Access::RW)
            && !(buffers && self.purpose == Purpose::RunInput);
        if !allowed {
            Err(HCode::H_INVALID_ELEMENT_ID)
        } else if usize::from(element.len) != len {
            Err(HCode::H_INVALID_ELEMENT_SIZE)
        } else {
            Ok((element, number))
        }
    }

    fn bad(&mut self, code: HCode, offset: usize) -> Bad {
        let index = self.index;
        self.index = self.count;
        Bad {
            code,
            index,
            offset: offset as u64,
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.index < self.count {
            let offset = self.at;
            let Some((id, value, next)) = split_element(self.bytes, offset) else {
                let code = match self.purpose {
                    Purpose::RunInput => HCode::H_INPUT_BUFFER_TOO_SMALL,
                    Purpose::Get(_) | Purpose::Set(_) => HCode::H_INVALID_ELEMENT_SIZE,
                };
                return Some(Err(self.bad(code, offset)));
            };
            if id != element::NOP {
                let (element, number) = match self.check(id, value.len()) {
                    Ok(found) => found,
                    Err(code) => return Some(Err(self.bad(code, offset))),
                };
                let item = Item {
                    element,
                    number,
                    value,
                    value_offset: next.saturating_sub(value.len()) as u64,
                    index: self.index,
                    offset: offset as u64,
                };
                self.advance(next);
                return Some(Ok(item));
            }
            self.advance(next);
        }
        None
    }
}

impl Items<'_> {
    fn advance(&mut self, next: usize) {
        self.at = next;
        self.index = self.index.saturating_add(1);
    }
}

/// Bytes of an element's header.
const HEADER: usize = 4;

/// The element at `offset`: id, value, and where the next one begins. `None` when the bytes end first.
fn split_element(bytes: &[u8], offset: usize) -> Option<(u16, &[u8], usize)> {
    let rest = bytes.get(offset..)?;
    let (id, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes(*len));
    let value = rest.get(..len)?;
    let next = offset.checked_add(HEADER)?.checked_add(len)?;
    Some((u16::from_be_bytes(*id), value, next))
}

/// Checks that a buffer of GET_STATE or SET_STATE is well placed, and copies it.
///
/// # Errors
/// H_P4 for a bad address, H_P5 for a bad size, H_NOT_ENOUGH_RESOURCES when there is no memory for the copy.
pub fn copy(ram: &GuestRam, buffer: Gra, size: u64) -> Result<Vec<u8>, HCode> {
    if !SIZES.contains(&size) {
        return Err(HCode::H_P5);
    }
    if !ram.contains(buffer, size) {
        return Err(HCode::H_P4);
    }
    let mut bytes = Vec::new();
    let size = usize::try_from(size).map_err(|_| HCode::H_P5)?;
    grow(&mut bytes, size)?;
    ram.read(buffer, &mut bytes).map_err(|_| HCode::H_P4)?;
    Ok(bytes)
}

/// Lengthens with zeros, without a panic when memory is short.
fn grow(bytes: &mut Vec<u8>, len: usize) -> Result<(), HCode> {
    let more = len.saturating_sub(bytes.len());
    bytes
        .try_reserve_exact(more)
        .map_err(|_| HCode::H_NOT_ENOUGH_RESOURCES)?;
    bytes.resize(len, 0);
    Ok(())
}

/// Bytes that the copy of a run input begins with: the steady state of Linux needs about 28. Then it doubles, so that
/// a long list of short elements is not moved once per element.
const STEP: usize = 64;

/// Copies the used part of a run input: as far as counts and lengths reach, but not beyond `area`. Every byte of the
/// partition's memory is read once.
///
/// # Errors
/// H_INPUT_BUFFER_NOT_DEFINED when it is no longer memory, H_NOT_ENOUGH_RESOURCES when there is none for the copy.
pub fn copy_used(ram: &GuestRam, area: Area, bytes: &mut Vec<u8>) -> Result<(), HCode> {
    bytes.clear();
    let size = usize::try_from(area.len).unwrap_or(usize::MAX);
    let copy_up_to = |bytes: &mut Vec<u8>, wanted: usize| -> Result<bool, HCode> {
        let have = bytes.len();
        if wanted > have {
            let len = wanted.max(have.saturating_mul(2)).max(STEP).min(size);
            grow(bytes, len)?;
            let from = area.gra.checked_add(have as u64);
            let tail = bytes.get_mut(have..);
            from.zip(tail)
                .and_then(|(from, tail)| ram.read(from, tail).ok())
                .ok_or(HCode::H_INPUT_BUFFER_NOT_DEFINED)?;
        }
        Ok(wanted <= bytes.len())
    };
    copy_up_to(bytes, HEADER)?;
    let count = bytes.first_chunk().map_or(0, |c| u32::from_be_bytes(*c));
    let mut at = HEADER;
    for _ in 0..count {
        let header_end = at.saturating_add(HEADER);
        if !copy_up_to(bytes, header_end)? {
            break;
        }
        let len = bytes
            .get(at.saturating_add(2)..)
            .and_then(<[u8]>::first_chunk);
        at = header_end.saturating_add(len.map_or(0, |l| u16::from_be_bytes(*l).into()));
        if !copy_up_to(bytes, at)? {
            break;
        }
    }
    Ok(())
}

/// Elements that are remembered between the two phases: all general purpose registers and what goes with them.
const FEW: usize = 40;

/// Sets thread-scope elements: all of them or, when one is refused, none.
///
/// # Errors
/// The first element that is refused.
pub fn set_vcpu(
    vcpu: &mut Vcpu,
    bytes: &[u8],
    purpose: Purpose,
    limits: &Limits<'_>,
) -> Result<(), Bad> {
    // Few elements are the rule, and are looked at once; a longer list is read again, with the same results.
    let mut few = ArrayVec::<_, FEW>::new();
    let mut more = false;
    for item in Items::new(bytes, purpose) {
        let item = item?;
        let words = item.accepted(limits)?;
        more |= few.try_push((item.element, item.number, words)).is_err();
    }
    if more {
        for item in Items::new(bytes, purpose) {
            let item = item?;
            item.element
                .write(vcpu, item.number, item.accepted(limits)?);
        }
    } else {
        // By reference: to take the list apart would copy all of its room.
        for (element, number, words) in &few {
            element.write(vcpu, *number, *words);
        }
    }
    Ok(())
}

/// Fills in the values of a copied GET buffer in the partition's memory. `bytes` was checked already.
///
/// # Errors
/// The first element that is refused, before anything is written; H_P4 when the memory went away.
pub fn get(
    ram: &GuestRam,
    buffer: Gra,
    bytes: &[u8],
    scope: Scope,
    read: impl Fn(&Item<'_>) -> Words,
) -> Result<(), Refusal> {
    for item in Items::new(bytes, Purpose::Get(scope)) {
        item.map_err(Bad::by_index)?;
    }
    for item in Items::new(bytes, Purpose::Get(scope)) {
        let item = item.map_err(Bad::by_index)?;
        let value = item.element.bytes(read(&item));
        let to = buffer.checked_add(item.value_offset).ok_or(HCode::H_P4)?;
        let value = value.get(..item.value.len()).unwrap_or(&[]);
        ram.write(to, value).map_err(|_| HCode::H_P4)?;
    }
    Ok(())
}

/// A buffer under construction, of at most [`element::RUN_OUTPUT_MIN_SIZE`] bytes.
pub struct Output {
    bytes: ArrayVec<u8, OUTPUT_BYTES>,
    count: u32,
}

impl Output {
    /// Without elements.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = ArrayVec::new();
        bytes.extend([0; HEADER]);
        Self { bytes, count: 0 }
    }

    /// Adds an element of a vCPU; `number` chooses the register in a family. What does not fit is left out, which
    /// the tests show not to happen.
    pub fn put(&mut self, element: &'static Element, number: u16, vcpu: &Vcpu) {
        let [id_high, id_low] = element.id.saturating_add(number).to_be_bytes();
        let [len_high, len_low] = element.len.to_be_bytes();
        let head_bytes = [id_high, id_low, len_high, len_low];
        let words = element.read(vcpu, number);
        // The length that nearly all have goes in one piece.
        let added = if element.len == 8 {
            let [first, ..] = words;
            let mut all = [0; 12];
            let (head, value) = all.split_at_mut(HEADER);
            head.copy_from_slice(&head_bytes);
            value.copy_from_slice(&first.to_be_bytes());
            self.bytes.try_extend_from_slice(&all)
        } else {
            let mut all = [0; HEADER + 24];
            let (head, value) = all.split_at_mut(HEADER);
            head.copy_from_slice(&head_bytes);
            value.copy_from_slice(&element.bytes(words));
            let size = HEADER.saturating_add(element.len.into());
            self.bytes
                .try_extend_from_slice(all.get(..size).unwrap_or(&all))
        };
        if added.is_ok() {
            self.count = self.count.saturating_add(1);
        }
    }

    /// The finished buffer.
    pub fn finish(&mut self) -> &[u8] {
        if let Some(count) = self.bytes.first_chunk_mut() {
            *count = self.count.to_be_bytes();
        }
        &self.bytes
    }
}
