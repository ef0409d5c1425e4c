//! Finding the table of a flash: the one at its beginning, or a copy when that one is damaged.
//!
//! Copies are where the damaged table says, at the places where hostboot's layouts put them, or, at last, at any block
//! that looks like a table. The surprise: a copy that was found by looking around may be stale, so it is only taken when
//! its own entry says that it lies where it was found.

use alloc::vec;
use alloc::vec::Vec;

use super::{
    BACKUP_NAME, HEADER_SIZE, Header, HeaderError, OTHER_SIDE_NAME, OWN_NAME, Problem, Table,
};
use crate::flash::Flash;

/// What hostboot's layouts use for a block and for a table.
const USUAL_BLOCK: u64 = 0x1000;
const USUAL_TABLE: u64 = 0x8000;

/// Where a table was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The beginning of the flash.
    First,
    /// A copy, at this place.
    Copy(u64),
    /// The other side's table, at this place.
    OtherSide(u64),
}

/// What was wrong with the tables that were looked at, and at which place each is.
pub type Notes = Vec<(u64, Result<Vec<Problem>, HeaderError>)>;

/// The table to work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The table.
    pub table: Table,
    /// Where it was.
    pub origin: Origin,
    /// What is wrong with it; an entry named here is not in the table.
    pub problems: Vec<Problem>,
    /// What was wrong with the tables before it.
    pub notes: Notes,
}

/// How far to look for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Where a table belongs, and where a damaged one says: a few reads.
    Usual,
    /// At last at every block, which takes time behind a slow bus.
    Everywhere,
}

/// Looks for the table of a flash.
///
/// The first one without any problem is taken; if all have some, the first that could be read.
///
/// # Errors
/// The medium's, or with `Ok(Err)` what was wrong everywhere.
pub fn find<F: Flash>(flash: &mut F, how: Search) -> Result<Result<Found, Notes>, F::Error> {
    let mut search = Looked {
        places: Vec::new(),
        notes: Vec::new(),
        second_best: None,
    };
    if let Some(found) = search.look(flash, Origin::First)? {
        return Ok(Ok(found));
    }
    let size = flash.size();
    let mut places = Vec::new();
    if let Some(best) = &search.second_best {
        for (name, origin) in [
            (BACKUP_NAME, Origin::Copy as fn(u64) -> Origin),
            (OTHER_SIDE_NAME, Origin::OtherSide),
        ] {
            if let Some(entry) = best.table.get(name) {
                places.push(origin(best.table.extent(entry).0));
            }
        }
    }
    places.push(Origin::Copy(size.saturating_sub(USUAL_TABLE)));
    places.push(Origin::Copy(USUAL_TABLE));
    search.places.push(0);
    for origin in places {
        if let Some(found) = search.look(flash, origin)? {
            return Ok(Ok(found));
        }
        search.places.push(place(origin));
    }
    if search.second_best.is_none() && how == Search::Everywhere {
        let mut at = size;
        while at >= USUAL_BLOCK && search.second_best.is_none() {
            at = at.saturating_sub(USUAL_BLOCK);
            if let Some(found) = search.look(flash, Origin::Copy(at))? {
                return Ok(Ok(found));
            }
        }
    }
    let Looked {
        mut notes,
        second_best,
        ..
    } = search;
    Ok(match second_best {
        None => Err(notes),
        Some(best) => {
            let at = place(best.origin);
            notes.retain(|(other, _)| *other != at);
            Ok(Found { notes, ..best })
        }
    })
}

/// The table of the other side of the flash, if `table` names one and it can be read.
///
/// # Errors
/// The medium's.
pub fn other_side<F: Flash>(flash: &mut F, table: &Table) -> Result<Option<Table>, F::Error> {
    let Some(entry) = table.get(OTHER_SIDE_NAME) else {
        return Ok(None);
    };
    let at = table.extent(entry).0;
    let other = load(flash, at)?.ok();
    Ok(other
        .map(|(other, _)| other)
        .filter(|other| is_at(other, at)))
}

const fn place(origin: Origin) -> u64 {
    match origin {
        Origin::First => 0,
        Origin::Copy(at) | Origin::OtherSide(at) => at,
    }
}

struct Looked {
    /// Where it was looked already, but for the search of everything.
    places: Vec<u64>,
    notes: Notes,
    second_best: Option<Found>,
}

impl Looked {
    /// Looks at one place; returns a table only if nothing is wrong with it.
    fn look<F: Flash>(&mut self, flash: &mut F, origin: Origin) -> Result<Option<Found>, F::Error> {
        let at = place(origin);
        let is_outside = origin != Origin::First && at >= flash.size();
        if is_outside || self.places.contains(&at) {
            return Ok(None);
        }
        match load(flash, at)? {
            Ok((table, problems)) => {
                if origin != Origin::First && !is_at(&table, at) {
                    return Ok(None);
                }
                let found = Found {
                    table,
                    origin,
                    problems,
                    notes: Vec::new(),
                };
                if found.problems.is_empty() {
                    let notes = core::mem::take(&mut self.notes);
                    return Ok(Some(Found { notes, ..found }));
                }
                self.notes.push((at, Ok(found.problems.clone())));
                self.second_best.get_or_insert(found);
            }
            // Most blocks are no table: only what begins like one, or was expected to be one, is worth a note.
            Err(HeaderError::NoMagic | HeaderError::Erased) if origin != Origin::First => {}
            Err(error) => self.notes.push((at, Err(error))),
        }
        Ok(None)
    }
}

/// Says whether the table has an entry for itself, and that says the table is here.
fn is_at(table: &Table, at: u64) -> bool {
    table
        .get(OWN_NAME)
        .is_some_and(|own| table.extent(own).0 == at)
}

/// A table with what is wrong with it, or why there is none.
type Parsed = Result<(Table, Vec<Problem>), HeaderError>;

/// Reads the table at one place.
fn load<F: Flash>(flash: &mut F, at: u64) -> Result<Parsed, F::Error> {
    let size = flash.size();
    if at.saturating_add(HEADER_SIZE as u64) > size {
        return Ok(Err(HeaderError::Truncated));
    }
    let mut start = [0; HEADER_SIZE];
    flash.read(at, &mut start)?;
    let header = match Header::parse(&start, size) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error)),
    };
    let length = header.used_size();
    let (true, Ok(length)) = (at.saturating_add(length) <= size, usize::try_from(length)) else {
        return Ok(Err(HeaderError::Truncated));
    };
    // At most LARGEST_TABLE: the header was checked.
    let mut bytes = vec![0; length];
    flash.read(at, &mut bytes)?;
    Ok(Table::parse(&bytes, size))
}
