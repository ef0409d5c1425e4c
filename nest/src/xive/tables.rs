//! The entries of the virtual structure tables, as the chip reads them from memory (reference/hardware.md 5.4).
//!
//! Owns the field layouts; nothing here touches memory. A field belongs to one kind of entry, so that one of an event
//! descriptor cannot be used on a virtual processor. The surprising fact: an escalation's own assignment is words 4 and
//! 5 of the event descriptor that escalates, in the format of [`Eas`].

use core::fmt;
use core::marker::PhantomData;

use isa::addr::Ra;
use isa::ppc_bit;

/// Event assignment: where the events of a source go.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Eas(pub u64);

const EAS_VALID: u64 = ppc_bit(0);
const EAS_BLOCK_SHIFT: u32 = 63 - 7;
const EAS_INDEX_SHIFT: u32 = 63 - 31;
const EAS_MASKED: u64 = ppc_bit(32);
const EAS_DATA: u64 = 0x7fff_ffff;

impl Eas {
    /// In use, but no event gets through; `data` is what the queue would get.
    #[must_use]
    pub fn masked(data: u32) -> Self {
        Self(EAS_VALID | EAS_MASKED | u64::from(data) & EAS_DATA)
    }

    /// Whether the source is in use.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.0 & EAS_VALID != 0
    }

    /// Whether events are dropped.
    #[must_use]
    pub fn is_masked(self) -> bool {
        self.0 & EAS_MASKED != 0
    }

    /// The event descriptor.
    #[must_use]
    pub fn end(self) -> Index {
        Index {
            block: low8(self.0 >> EAS_BLOCK_SHIFT) & 0xf,
            index: low32(self.0 >> EAS_INDEX_SHIFT) & 0xff_ffff,
        }
    }

    /// What the queue gets.
    #[must_use]
    pub fn data(self) -> u32 {
        low32(self.0 & EAS_DATA)
    }

    /// The same with another descriptor.
    #[must_use]
    pub fn with_end(self, end: Index) -> Self {
        let cleared = self.0 & !(0xf << EAS_BLOCK_SHIFT | 0xff_ffff << EAS_INDEX_SHIFT);
        Self(
            cleared
                | u64::from(end.block) << EAS_BLOCK_SHIFT
                | u64::from(end.index) << EAS_INDEX_SHIFT,
        )
    }

    /// The same with other data.
    #[must_use]
    pub fn with_data(self, data: u32) -> Self {
        Self(self.0 & !EAS_DATA | u64::from(data) & EAS_DATA)
    }

    /// The same, masked or not.
    #[must_use]
    pub fn with_masked(self, masked: bool) -> Self {
        Self(self.0 & !EAS_MASKED | if masked { EAS_MASKED } else { 0 })
    }
}

/// A place in the tables of a block: a descriptor or a virtual processor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Index {
    /// Block: the number of a chip's controller.
    pub block: u8,
    /// Entry of the block's table, 24 bits.
    pub index: u32,
}

impl Index {
    /// The entry `n` further.
    #[must_use]
    pub fn plus(self, n: u8) -> Self {
        Self {
            block: self.block,
            index: self.index + u32::from(n),
        }
    }
}

/// A field of an entry of kind `K`: the word it is in, and its bits there.
pub struct Field<K> {
    word: usize,
    first: u32,
    last: u32,
    kind: PhantomData<fn() -> K>,
}

impl<K> Field<K> {
    /// Bits `first` to `last` of word `word`, in the manuals' numbering.
    const fn new(word: usize, first: u32, last: u32) -> Self {
        assert!(word < 8 && first <= last && last < 32);
        Self {
            word,
            first,
            last,
            kind: PhantomData,
        }
    }

    const fn bit(word: usize, bit: u32) -> Self {
        Self::new(word, bit, bit)
    }

    const fn mask(&self) -> u32 {
        u32::MAX >> (31 - (self.last - self.first))
    }

    const fn shift(&self) -> u32 {
        31 - self.last
    }
}

/// An entry of 32 bytes.
pub struct Entry<K> {
    /// Its words as numbers.
    pub words: [u32; 8],
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Entry<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Entry<K> {}
impl<K> PartialEq for Entry<K> {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}
impl<K> Eq for Entry<K> {}
impl<K> Default for Entry<K> {
    fn default() -> Self {
        Self::from_words([0; 8])
    }
}
impl<K> fmt::Debug for Entry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, word) in self.words.iter().enumerate() {
            write!(f, "{}{word:08x}", if n == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl<K> Entry<K> {
    /// The entry with these words.
    #[must_use]
    pub const fn from_words(words: [u32; 8]) -> Self {
        Self {
            words,
            kind: PhantomData,
        }
    }

    /// The entry of four doublewords.
    #[must_use]
    pub fn from_doublewords(doublewords: [u64; 4]) -> Self {
        let mut words = [0; 8];
        for (pair, doubleword) in words.chunks_exact_mut(2).zip(doublewords) {
            pair[0] = low32(doubleword >> 32);
            pair[1] = low32(doubleword);
        }
        Self::from_words(words)
    }

    /// As doublewords.
    #[must_use]
    pub fn doublewords(&self) -> [u64; 4] {
        core::array::from_fn(|n| {
            u64::from(self.words[2 * n]) << 32 | u64::from(self.words[2 * n + 1])
        })
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &Field<K>) -> u32 {
        self.words[field.word] >> field.shift() & field.mask()
    }

    /// Whether a flag is set, or a field is not zero.
    #[must_use]
    pub fn has(&self, field: &Field<K>) -> bool {
        self.get(field) != 0
    }

    /// The same with another value of a field; what does not fit is cut.
    #[must_use]
    pub fn with(mut self, field: &Field<K>, value: u32) -> Self {
        let word = &mut self.words[field.word];
        *word = *word & !(field.mask() << field.shift()) | (value & field.mask()) << field.shift();
        self
    }
}

/// Kind of [`End`].
#[derive(Debug)]
pub enum EndKind {}
/// Kind of [`Nvp`].
#[derive(Debug)]
pub enum NvpKind {}

/// Event notification descriptor: a queue, whom to notify, and what to do when nobody is there.
pub type End = Entry<EndKind>;
/// Notification virtual processor: pending interrupts of a processor that is not running.
pub type Nvp = Entry<NvpKind>;

/// Fields of [`End`].
pub mod end {
    use super::{EndKind, Field};

    /// In use.
    pub const VALID: Field<EndKind> = Field::bit(0, 0);
    /// Has a queue.
    pub const ENQUEUE: Field<EndKind> = Field::bit(0, 5);
    /// Notify for each event.
    pub const ALWAYS_NOTIFY: Field<EndKind> = Field::bit(0, 6);
    /// Escalate without looking for the processor: the queue that gathers escalations.
    pub const SILENT: Field<EndKind> = Field::bit(0, 7);
    /// Record what is pending in the virtual processor when it does not run.
    pub const BACKLOG: Field<EndKind> = Field::bit(0, 8);
    /// Escalate whatever the escalation buffer says.
    pub const UNCONDITIONAL: Field<EndKind> = Field::bit(0, 10);
    /// Escalate.
    pub const ESCALATE: Field<EndKind> = Field::bit(0, 11);
    /// Escalate to another descriptor, not to a source.
    pub const ESCALATE_TO_END: Field<EndKind> = Field::bit(0, 13);
    /// State of the notification buffer.
    pub const ESN: Field<EndKind> = Field::new(1, 0, 1);
    /// State of the escalation buffer.
    pub const ESE: Field<EndKind> = Field::new(1, 2, 3);
    /// Both.
    pub const ES: Field<EndKind> = Field::new(1, 0, 3);
    /// What the next entry's top bit will be.
    pub const GENERATION: Field<EndKind> = Field::bit(1, 9);
    /// The next entry.
    pub const OFFSET: Field<EndKind> = Field::new(1, 10, 31);
    /// Address of the queue, upper part.
    pub const QUEUE_HIGH: Field<EndKind> = Field::new(2, 8, 31);
    /// Address of the queue, lower part in units of 128 bytes.
    pub const QUEUE_LOW: Field<EndKind> = Field::new(3, 0, 24);
    /// Log2 of the queue's bytes, less 12.
    pub const QUEUE_SIZE: Field<EndKind> = Field::new(3, 28, 31);
    /// Block of the descriptor to escalate to.
    pub const TO_BLOCK: Field<EndKind> = Field::new(4, 4, 7);
    /// Index of the descriptor to escalate to.
    pub const TO_INDEX: Field<EndKind> = Field::new(4, 8, 31);
    /// Block of the virtual processor.
    pub const VP_BLOCK: Field<EndKind> = Field::new(6, 4, 7);
    /// Index of the virtual processor.
    pub const VP_INDEX: Field<EndKind> = Field::new(6, 8, 31);
    /// Priority of the notification.
    pub const PRIORITY: Field<EndKind> = Field::new(7, 8, 15);
}

/// Fields of [`Nvp`].
pub mod nvp {
    use super::{Field, NvpKind};

    /// In use.
    pub const VALID: Field<NvpKind> = Field::bit(0, 0);
    /// The chip saves and restores the context.
    pub const HARDWARE: Field<NvpKind> = Field::bit(0, 7);
    /// 0: operating system, 1: pool.
    pub const PRIVILEGE: Field<NvpKind> = Field::new(0, 14, 15);
    /// Running now.
    pub const CHECKED_OUT: Field<NvpKind> = Field::bit(1, 13);
    /// Priority from which on interrupts are held back.
    pub const CPPR: Field<NvpKind> = Field::new(2, 0, 7);
    /// Pending priorities.
    pub const IPB: Field<NvpKind> = Field::new(2, 8, 15);
    /// Least favoured priority with a group's backlog.
    pub const LSMFB: Field<NvpKind> = Field::new(2, 16, 23);
    /// Block of its eight event descriptors.
    pub const END_BLOCK: Field<NvpKind> = Field::new(5, 4, 7);
    /// Index of the first of them. 0: none, the virtual processor is not allocated.
    pub const END_INDEX: Field<NvpKind> = Field::new(5, 8, 31);
    /// Address of the report lines, upper part.
    pub const REPORT_HIGH: Field<NvpKind> = Field::new(6, 4, 31);
    /// Address of the report lines, lower part in units of 256 bytes.
    pub const REPORT_LOW: Field<NvpKind> = Field::new(7, 0, 23);
}

impl End {
    /// Bits of a queue's address that a descriptor holds.
    pub const QUEUE_MASK: u64 = 0x00ff_ffff_ffff_ff80;

    /// A descriptor that does nothing: both buffers off.
    #[must_use]
    pub fn off() -> Self {
        Self::default().with(&end::ES, 0b0101)
    }

    /// The queue's address and log2 of its bytes, if it has one.
    #[must_use]
    pub fn queue(&self) -> Option<(Ra, u32)> {
        self.has(&end::ENQUEUE).then(|| {
            let high = u64::from(self.get(&end::QUEUE_HIGH)) << 32;
            let low = u64::from(self.get(&end::QUEUE_LOW)) << 7;
            (Ra(high | low), self.get(&end::QUEUE_SIZE) + 12)
        })
    }

    /// The same with a queue of 2^`log2` bytes, or without.
    #[must_use]
    pub fn with_queue(self, queue: Option<(Ra, u32)>) -> Self {
        let (address, size) = queue.map_or((0, 0), |(ra, log2)| (ra.0, log2 - 12));
        self.with(&end::ENQUEUE, u32::from(queue.is_some()))
            .with(&end::QUEUE_HIGH, low32(address >> 32))
            .with(&end::QUEUE_LOW, low32(address >> 7))
            .with(&end::QUEUE_SIZE, size)
    }

    /// Whom it notifies.
    #[must_use]
    pub fn vp(&self) -> Index {
        Index {
            block: low8(u64::from(self.get(&end::VP_BLOCK))),
            index: self.get(&end::VP_INDEX),
        }
    }

    /// Where the escalation goes.
    #[must_use]
    pub fn escalation(&self) -> Eas {
        Eas(self.doublewords()[2])
    }
}

impl Nvp {
    /// The first of its event descriptors, if it is allocated.
    #[must_use]
    pub fn ends(&self) -> Option<Index> {
        let index = self.get(&nvp::END_INDEX);
        (index != 0).then(|| Index {
            block: low8(u64::from(self.get(&nvp::END_BLOCK))),
            index,
        })
    }

    /// The same with these event descriptors.
    #[must_use]
    pub fn with_ends(self, ends: Index) -> Self {
        self.with(&nvp::END_BLOCK, ends.block.into())
            .with(&nvp::END_INDEX, ends.index)
    }

    /// Address of the report lines, 0 for none.
    #[must_use]
    pub fn report(&self) -> Ra {
        let high = u64::from(self.get(&nvp::REPORT_HIGH)) << 32;
        Ra(high | u64::from(self.get(&nvp::REPORT_LOW)) << 8)
    }

    /// The same with report lines there.
    #[must_use]
    pub fn with_report(self, ra: Ra) -> Self {
        self.with(&nvp::REPORT_HIGH, low32(ra.0 >> 32))
            .with(&nvp::REPORT_LOW, low32(ra.0 >> 8))
    }
}

/// The tables, with the numbers that descriptors and registers use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Table {
    /// State of sources.
    Esb = 0,
    /// Assignments.
    Eas = 1,
    /// Event descriptors.
    End = 2,
    /// Virtual processors.
    Nvp = 3,
    /// Windows of the chips' controllers, by topology index.
    Ic = 6,
    /// Sync reports, by topology index.
    Sync = 7,
    /// Overflow of the VC's queues, by queue.
    Erq = 8,
}

impl Table {
    /// Whether only the VC uses it.
    #[must_use]
    pub const fn is_vc_only(self) -> bool {
        matches!(self, Self::Eas | Self::Ic | Self::Erq)
    }
}

/// Virtual structure descriptor: where a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vsd(pub u64);

const VSD_EXCLUSIVE: u64 = 2 << 62;
const VSD_FORWARD: u64 = 3 << 62;
/// Ours: the page belongs to the firmware.
const VSD_FIRMWARE: u64 = ppc_bit(2);
const VSD_ADDRESS: u64 = 0x00ff_ffff_ffff_f000;
const VSD_INDIRECT: u64 = ppc_bit(56);

impl Vsd {
    /// No table.
    pub const NONE: Self = Self(0);

    /// A table in memory of `bytes`, a power of two from 4 KiB on, to whose size `at` is aligned.
    #[must_use]
    pub const fn memory(at: Ra, bytes: u64) -> Self {
        Self(VSD_EXCLUSIVE | at.0 & VSD_ADDRESS | size(bytes))
    }

    /// An array of descriptors, each of a page of the table.
    #[must_use]
    pub const fn indirect(at: Ra, bytes: u64) -> Self {
        Self(Self::memory(at, bytes).0 | VSD_INDIRECT)
    }

    /// The window of another chip where its table can be reached.
    #[must_use]
    pub const fn forward(at: Ra, bytes: u64) -> Self {
        Self(VSD_FORWARD | at.0 & VSD_ADDRESS | size(bytes))
    }

    /// The same, for a page that survives a reset.
    #[must_use]
    pub const fn firmware(self) -> Self {
        Self(self.0 | VSD_FIRMWARE)
    }

    /// Whether the page survives a reset.
    #[must_use]
    pub const fn is_firmware(self) -> bool {
        self.0 & VSD_FIRMWARE != 0
    }

    /// Where, if anywhere.
    #[must_use]
    pub fn address(self) -> Option<Ra> {
        let address = self.0 & VSD_ADDRESS;
        (address != 0).then_some(Ra(address))
    }
}

const fn size(bytes: u64) -> u64 {
    (bytes.trailing_zeros() - 12) as u64
}

/// The low 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub(crate) const fn low32(value: u64) -> u32 {
    value as u32
}

/// The low 8 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub(crate) const fn low8(value: u64) -> u8 {
    value as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of reference/hardware.md 5.9, which were tried.
    #[test]
    fn entries_are_as_the_chip_reads_them() {
        let end_index = Index {
            block: 0,
            index: 0x80,
        };
        let eas = Eas::masked(0x55).with_masked(false).with_end(end_index);
        assert_eq!(eas.0, 0x8000_0080_0000_0055);
        assert_eq!((eas.end(), eas.data()), (end_index, 0x55));
        let end = End::off()
            .with(&end::VALID, 1)
            .with(&end::ALWAYS_NOTIFY, 1)
            .with(&end::BACKLOG, 1)
            .with(&end::GENERATION, 1)
            .with_queue(Some((Ra(0x12_3456_0000), 16)))
            .with(&end::VP_INDEX, 0x80)
            .with(&end::PRIORITY, 6);
        assert_eq!(end.words[0], 0x8680_0000);
        assert_eq!(end.words[1], 0x5040_0000);
        assert_eq!(end.words[2..4], [0x12, 0x3456_0004]);
        assert_eq!(end.words[6..8], [0x80, 0x0006_0000]);
        assert_eq!(end.queue(), Some((Ra(0x12_3456_0000), 16)));
        assert_eq!(End::from_doublewords(end.doublewords()), end);
        assert_eq!(end.with_queue(None).queue(), None);
    }

    #[test]
    fn fields_do_not_touch_their_neighbours() {
        let full = Eas(u64::MAX);
        let changed = full
            .with_end(Index { block: 0, index: 0 })
            .with_data(0)
            .with_masked(false);
        assert_eq!(changed.0, 0xf000_0000_0000_0000);
        let nvp = Nvp::from_words([u32::MAX; 8])
            .with(&nvp::CPPR, 0)
            .with_report(Ra(0));
        assert_eq!(nvp.words[2], 0x00ff_ffff);
        assert_eq!(nvp.words[6..8], [0xf000_0000, 0xff]);
        let report = Ra(0x0123_4567_89ab_cd00);
        assert_eq!(nvp.with_report(report).report(), report);
    }

    #[test]
    fn descriptors_of_tables() {
        assert_eq!(
            Vsd::memory(Ra(0x3400_0000), 256 << 10).0,
            0x8000_0000_3400_0006
        );
        assert_eq!(
            Vsd::indirect(Ra(0x3401_0000), 64 << 10).0,
            0x8000_0000_3401_0084
        );
        assert_eq!(
            Vsd::forward(Ra(0x6_0600_0000_0000), 1 << 40).0,
            0xc006_0600_0000_001c
        );
        assert!(Vsd::memory(Ra(0x1_0000), 65536).firmware().is_firmware());
        assert_eq!(Vsd::NONE.address(), None);
    }
}
