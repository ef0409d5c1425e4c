//! What the bare test programs share: how cases are reported, and a reader of the device tree. No device, no call: a
//! program says how it writes text.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod report;
pub mod tree;

/// One line.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {{
        let mut line = $crate::report::Line::new();
        let _ = core::fmt::Write::write_fmt(&mut line, format_args!($($arg)*));
        line.flush();
    }};
}
