//! The targets under libFuzzer; `NIDUS_FUZZ` names one of them. `scripts/test host` builds and runs it.
//!
//! Surprising fact: it has no `main`, which is libFuzzer's.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fuzz::Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("NIDUS_FUZZ").unwrap_or_default();
        let Some(target) = fuzz::target(&name) else {
            panic!("NIDUS_FUZZ={name:?} names none of the targets");
        };
        TARGET.get_or_init(|| target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
