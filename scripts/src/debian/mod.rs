//! Debian as a source of tools and payloads: versions, package indexes, dependency closures, and a private apt.
//!
//! Owns nothing of the machine's own package state: everything happens in a root of our own, and packages are
//! unpacked, never installed. The surprise: apt resolves nothing here. A suite that is in the middle of a mirror
//! sync has dependencies which cannot be met, and a resolver that takes what it can get (and lets the program that
//! is started afterwards be the judge) still works there.

pub mod apt;
pub mod index;
pub mod resolve;
pub mod version;
