//! Everything bigger than a unit.
