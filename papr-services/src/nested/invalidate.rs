//! H_RPT_INVALIDATE: a partition or a nested guest drops translations of its own processes, and a partition drops
//! those of a nested guest.
//!
//! The surprising fact: Linux answers a failure with one more try at flushing everything, and then with BUG(). So a
//! request that makes sense never fails, a guest that does not exist (any more, or yet) included; codes are for
//! arguments that mean nothing.
//!
//! The argument bits are those of Linux's `asm/hvcall.h` (`H_RPTI_*`); meanings are in nested.md 4.5.

use bitflags::bitflags;
use isa::addr::Nra;
use isa::pte::PageSize;

use super::shadow::{PAGES_PER_FLUSH, Shadow};
use super::{Env, Nested};
use crate::error::{Answer, HCode, Outputs};
use crate::host::{Flush, Host, ProcessFlush};

bitflags! {
    /// Who shall forget.
    #[derive(Clone, Copy)]
    struct Target: u64 {
        /// All threads of the partition.
        const ALL = 1;
        /// The calling one.
        const LOCAL = 2;
        /// The nest MMU.
        const NEST_MMU = 4;
    }

    /// What shall be forgotten.
    #[derive(Clone, Copy)]
    struct Kind: u64 {
        /// Of a nested guest, partition-scoped, rather than of the caller's process.
        const NESTED = 1;
        /// Translations.
        const TLB = 2;
        /// Walk cache.
        const PWC = 4;
        /// Process-table entries; with NESTED partition-table entries.
        const TABLE = 8;
    }
}

/// Page-size bits that mean something; all ones mean all of them.
const PAGE_SIZES: u64 = 0xf;

/// Arguments of H_RPT_INVALIDATE, r4 to r9, as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RptArgs {
    /// Process id, or the id of a nested guest.
    pub id: u64,
    /// Who shall forget.
    pub target: u64,
    /// What: named `type` in PAPR.
    pub kind: u64,
    /// Page sizes.
    pub page_sizes: u64,
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

impl RptArgs {
    /// The arguments in registers, r4 first.
    #[must_use]
    pub const fn from_regs([id, target, kind, page_sizes, start, end]: [u64; 6]) -> Self {
        Self {
            id,
            target,
            kind,
            page_sizes,
            start,
            end,
        }
    }

    /// Whether it is about a nested guest: then [`Scope::Nested`] is to be given. From a nested guest such a call
    /// goes to its partition.
    #[must_use]
    pub const fn is_nested(&self) -> bool {
        self.kind & Kind::NESTED.bits() != 0
    }
}

/// Whose translations.
pub enum Scope<'a> {
    /// Those of the caller, a partition or a nested guest with this LPID.
    Process {
        /// Hardware LPID of the caller.
        lpid: u32,
    },
    /// Those of a nested guest of the caller; `None` when it has no such guest.
    Nested(Option<&'a Shadow>),
}

/// Serves H_RPT_INVALIDATE.
///
/// # Errors
/// H_PARAMETER: no process id. H_P2: no such target, or for a nested guest other than all threads. H_P3: no such
/// type, or nothing to forget. H_P4: no such page size. H_P5: the end is before the start. H_FUNCTION: the scope is
/// not that of the arguments.
pub fn rpt_invalidate<H: Host>(args: &RptArgs, scope: &Scope<'_>, host: &H) -> Answer {
    match *scope {
        Scope::Process { lpid } if !args.is_nested() => {
            let pid = u32::try_from(args.id).map_err(|_| HCode::H_PARAMETER)?;
            let target = Target::from_bits(args.target).filter(|target| !target.is_empty());
            target.ok_or(HCode::H_P2)?;
            Request::new(args)?.run_for_process(lpid, pid, host);
        }
        Scope::Nested(guest) if args.is_nested() => {
            if args.target != Target::ALL.bits() {
                return Err(HCode::H_P2.into());
            }
            let request = Request::new(args)?;
            if let Some(shadow) = guest {
                request.run_for_guest(shadow, host);
            }
        }
        Scope::Process { .. } | Scope::Nested(_) => return Err(HCode::H_FUNCTION.into()),
    }
    Ok(Outputs::NONE)
}

impl Nested {
    /// H_RPT_INVALIDATE of the partition: about its own processes, or one of its guests.
    ///
    /// # Errors
    /// See [`rpt_invalidate`].
    pub fn rpt_invalidate<H: Host>(&self, env: &Env<'_, H>, args: &RptArgs) -> Answer {
        if args.is_nested() {
            let guest = self.guest(args.id);
            let shadow = guest.as_ref().map(|guest| guest.shadow());
            rpt_invalidate(args, &Scope::Nested(shadow), env.host)
        } else {
            rpt_invalidate(args, &Scope::Process { lpid: env.lpid }, env.host)
        }
    }
}

/// The part of the arguments that both scopes share, checked.
struct Request {
    kind: Kind,
    page_sizes: u64,
    start: u64,
    end: u64,
}

impl Request {
    fn new(args: &RptArgs) -> Result<Self, HCode> {
        let kind = Kind::from_bits(args.kind).ok_or(HCode::H_P3)?;
        if !kind.intersects(Kind::TLB | Kind::PWC | Kind::TABLE) {
            return Err(HCode::H_P3);
        }
        let page_sizes = match args.page_sizes {
            u64::MAX => PAGE_SIZES,
            // Only translations have a size.
            0 if kind.contains(Kind::TLB) => return Err(HCode::H_P4),
            some if some & !PAGE_SIZES == 0 => some,
            _ => return Err(HCode::H_P4),
        };
        if args.end < args.start {
            return Err(HCode::H_P5);
        }
        Ok(Self {
            kind,
            page_sizes,
            start: args.start,
            end: args.end,
        })
    }

    /// Whether the range is everything there is.
    const fn is_whole(&self) -> bool {
        self.start == 0 && self.end == u64::MAX
    }

    /// Page sizes, small to large.
    fn sizes(&self) -> impl Iterator<Item = PageSize> + use<> {
        let bits = self.page_sizes;
        PageSize::ALL
            .into_iter()
            .filter(move |size| bits & size.rpt_bit() != 0)
    }

    /// The range, as whole pages.
    const fn rounded(&self, size: PageSize) -> (u64, u64) {
        let offset = size.bytes().wrapping_sub(1);
        (
            self.start & !offset,
            self.end.saturating_add(offset) & !offset,
        )
    }

    fn run_for_process<H: Host>(&self, lpid: u32, pid: u32, host: &H) {
        let flush = |what| host.flush(Flush::Process { lpid, pid, what });
        let (tlb, pwc) = (self.kind.contains(Kind::TLB), self.kind.contains(Kind::PWC));
        if self.kind.contains(Kind::TABLE) || tlb && pwc && self.is_whole() {
            return flush(ProcessFlush::All);
        }
        if pwc {
            flush(ProcessFlush::WalkCache);
        }
        if !tlb || self.start == self.end {
            return;
        }
        let pages = self.sizes().fold(0_u64, |sum, size| {
            let (start, end) = self.rounded(size);
            sum.saturating_add(end.saturating_sub(start).wrapping_shr(size.shift()))
        });
        if self.is_whole() || pages > PAGES_PER_FLUSH {
            return flush(ProcessFlush::Tlb);
        }
        for size in self.sizes() {
            let (start, end) = self.rounded(size);
            host.flush(Flush::ProcessRange {
                lpid,
                pid,
                start,
                end,
                size,
            });
        }
    }

    fn run_for_guest<H: Host>(&self, shadow: &Shadow, host: &H) {
        // Linux names a wrong address when it drops the pages below a table that a large page replaces, and then
        // the whole walk cache: so that one drops all pages, too.
        let everything = self.is_whole() && self.kind.intersects(Kind::TLB | Kind::PWC);
        if everything || self.kind.contains(Kind::TABLE) {
            shadow.invalidate_all(host);
            return;
        }
        // We keep nothing of the partition's directories. What the walk cache stands for is that no walk is under
        // way when the call returns; every invalidation sees to that, one of nothing as well.
        let (start, end) = match self.sizes().last() {
            Some(size) if self.kind.contains(Kind::TLB) && self.start < self.end => {
                self.rounded(size)
            }
            _ => (0, 0),
        };
        shadow.invalidate(Nra(start), Nra(end), host);
    }
}

#[cfg(test)]
mod tests;
