//! Nested guests (L2): what a partition runs through the nested API.
//!
//! This tree owns everything of a nested guest: its state, its shadow tables, and the calls about them. The
//! partition sees none of the tables here; it keeps a tree of its own in its memory, which is composed with ours.

pub mod pool;
