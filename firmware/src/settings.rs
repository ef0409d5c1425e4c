//! The settings in NVRAM's partition `ibm,skiboot`: our own, those of skiboot that count here too, and one line for each
//! other one.
//!
//! `nidus,mode` and so on stand for the words of the command line, and `bootargs` for what the payload gets of it
//! ([`CommandLine::setting`]); `log-level-driver` and `log-level-memory` are what they are for skiboot. Surprising fact: a
//! partition can hold thousands of settings, so after some lines they are only counted.
#![forbid(unsafe_code)]

use alloc::format;
use alloc::string::String;

use log::LevelFilter;

use crate::command_line::CommandLine;

/// The longest command line that Linux takes.
const LONGEST_LINE: usize = 2048;
/// More lines than this are only counted: the partition can hold thousands.
const SHOWN: usize = 16;

/// Settings of skiboot without effect here, and why.
const SKIBOOTS: [(&str, &str); 16] = [
    ("fast-reset", FAST),
    ("force-fast-reset", FAST),
    ("flat-trace-buf", "traces have one form"),
    ("force-secure-mode", "only \"always\" has one"),
    ("force-trusted-mode", "nothing is measured"),
    ("opal-stop-state-disable-mask", "idle states are the chip's"),
    ("opal-sw-xstop", "platform errors end as they do"),
    ("opencapi-link-training", "there is no OpenCAPI"),
    ("pci-eeh-mmio", NO_PCI),
    ("pci-eeh-verbose", NO_PCI),
    ("pci-retry-all", NO_PCI),
    ("pci-tracing", NO_PCI),
    ("pcie-max-link-speed", NO_PCI),
    ("phb-rx-err-max", NO_PCI),
    ("uart-con-policy", "the console is where it is"),
    ("vas-user-space", "there is no VAS"),
];
const FAST: &str = "a kernel asks for fast reboots itself, see nidus,fast-reboot";
const NO_PCI: &str = "PCI has no settings";

/// What the settings say that is not on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Least important level that reaches the UART.
    pub uart: Option<LevelFilter>,
    /// Least important level that the memory console keeps.
    pub memory: Option<LevelFilter>,
}

/// Takes the settings, in their order, into the command line; `report` gets a line for each one that has no effect. Of
/// those that are there twice the first counts.
pub fn take<'a>(
    settings: impl Iterator<Item = (&'a str, &'a str)>,
    line: &mut CommandLine,
    mut report: impl FnMut(String),
) -> Levels {
    let mut levels = Levels::default();
    let mut more = 0_usize;
    let mut count = 0_usize;
    let mut tell = |text: String| {
        count = count.saturating_add(1);
        if count <= SHOWN {
            report(text);
        } else {
            more = more.saturating_add(1);
        }
    };
    for (name, value) in settings {
        let is_taken = match name {
            "bootargs" if value.len() > LONGEST_LINE => false,
            "log-level-driver" => keep(&mut levels.uart, value),
            "log-level-memory" => keep(&mut levels.memory, value),
            _ => line.setting(name, value),
        };
        if is_taken {
            continue;
        }
        match SKIBOOTS.iter().find(|(known, _)| *known == name) {
            Some((_, why)) => tell(format!(
                "\"{name}={value}\" in NVRAM is a setting of skiboot without effect: {why}"
            )),
            None => tell(format!(
                "\"{name}={value}\" in NVRAM means nothing to the firmware"
            )),
        }
    }
    if more > 0 {
        report(format!("{more} more settings in NVRAM have no effect"));
    }
    levels
}

/// Keeps the first level; whether it is one.
fn keep(level: &mut Option<LevelFilter>, value: &str) -> bool {
    let found = level_of(value);
    *level = level.or(found);
    found.is_some()
}

/// A level as skiboot calls it, by name or number. Errors are always shown.
fn level_of(value: &str) -> Option<LevelFilter> {
    Some(match value {
        "emerg" | "alert" | "crit" | "err" | "0" | "1" | "2" | "3" => LevelFilter::Error,
        "warning" | "4" => LevelFilter::Warn,
        "notice" | "printf" | "info" | "5" | "6" => LevelFilter::Info,
        "debug" | "7" => LevelFilter::Debug,
        "trace" | "insane" | "8" | "9" => LevelFilter::Trace,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::Mode;

    fn taken(settings: &[(&str, &str)], line: &str) -> (CommandLine, Levels, Vec<String>) {
        let mut line = CommandLine::parse(line);
        let mut told = Vec::new();
        let levels = take(settings.iter().copied(), &mut line, |text| told.push(text));
        (line, levels, told)
    }

    #[test]
    fn bootargs_replace_what_the_payload_gets() {
        let settings = [
            ("bootargs", "root=/dev/sda nidus.mode=papr nidus.xive=off"),
            ("bootargs", "second"),
        ];
        let (line, _, told) = taken(&settings, "console=hvc0 nidus.mode=opal");
        assert_eq!(line.payload, "root=/dev/sda");
        assert_eq!((line.mode, line.xive), (Some(Mode::Opal), Some(false)));
        assert!(told.is_empty(), "{told:?}");
        let long = "x".repeat(LONGEST_LINE + 1);
        let (line, _, told) = taken(&[("bootargs", &long)], "quiet");
        assert_eq!((line.payload.as_str(), told.len()), ("quiet", 1));
    }

    #[test]
    fn levels_have_skiboots_names_and_numbers() {
        let settings = [
            ("log-level-driver", "debug"),
            ("log-level-driver", "0"),
            ("log-level-memory", "4"),
        ];
        let (_, levels, told) = taken(&settings, "");
        let expected = Levels {
            uart: Some(LevelFilter::Debug),
            memory: Some(LevelFilter::Warn),
        };
        assert_eq!(levels, expected);
        assert!(told.is_empty());
        let (_, levels, told) = taken(&[("log-level-driver", "loud")], "");
        assert_eq!((levels, told.len()), (Levels::default(), 1));
    }

    /// Every key that skiboot 7.1 asks NVRAM for.
    #[test]
    fn every_setting_of_skiboot_is_taken_or_reported() {
        let all = [
            ("bootargs", "quiet"),
            ("fast-reset", "1"),
            ("flat-trace-buf", "1"),
            ("force-fast-reset", "1"),
            ("force-secure-mode", "always"),
            ("force-trusted-mode", "true"),
            ("log-level-driver", "7"),
            ("log-level-memory", "info"),
            ("opal-stop-state-disable-mask", "0xFFFFFFFF"),
            ("opal-sw-xstop", "disable"),
            ("opencapi-link-training", "none"),
            ("pci-eeh-mmio", "disabled"),
            ("pci-eeh-verbose", "true"),
            ("pci-retry-all", "true"),
            ("pci-tracing", "true"),
            ("pcie-max-link-speed", "3"),
            ("phb-rx-err-max", "4"),
            ("uart-con-policy", "vuart"),
            ("vas-user-space", "enable"),
        ];
        for (name, value) in all {
            let (line, levels, told) = taken(&[(name, value)], "");
            let has_effect = line != CommandLine::default() || levels != Levels::default();
            assert_eq!(told.len(), usize::from(!has_effect), "{name}");
            if let [text] = told.as_slice() {
                assert!(text.contains("skiboot") && text.contains(name), "{text}");
            }
        }
        let (_, _, told) = taken(&[("nidus,mode", "fast"), ("own", "1")], "");
        assert_eq!(
            told,
            [
                "\"nidus,mode=fast\" in NVRAM means nothing to the firmware",
                "\"own=1\" in NVRAM means nothing to the firmware"
            ]
        );
    }

    #[test]
    fn thousands_of_settings_do_not_take_thousands_of_lines() {
        let settings = vec![("a", "b"); 5000];
        let (_, _, told) = taken(&settings, "");
        assert_eq!(told.len(), SHOWN + 1);
        assert_eq!(told[SHOWN], "4984 more settings in NVRAM have no effect");
    }
}
