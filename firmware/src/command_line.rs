//! The payload's command line: the words that are meant for the firmware, and the line without them.
//!
//! `nidus.mode=opal|papr` chooses the mode, `nidus.compat=power9|power10|power11` the partition's level, `nidus.xive=on|off`
//! how it gets its interrupts, `nidus.fast-reboot=keep` whether kernel and initrd are kept for a fast reboot,
//! `nidus.tables=KIB` what its nested guests may fill with tables. Surprising fact: an unknown or
//! wrong `nidus.` word is never fatal; it is reported and taken out, so that a kernel does not see it either.
#![forbid(unsafe_code)]

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use papr_services::level::Level;

/// How the payload runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In hypervisor state, with OPAL calls.
    #[default]
    Opal,
    /// As a partition.
    Papr,
}

/// The line, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// What the payload gets: every word that is not the firmware's, as it stood.
    pub payload: String,
    /// `nidus.mode=`; the last one counts. `None` when it was not there.
    pub mode: Option<Mode>,
    /// `nidus.compat=`; the last one counts. `None` when it was not there.
    pub compat: Option<Level>,
    /// `nidus.xive=`; the last one counts. `None` when it was not there.
    pub xive: Option<bool>,
    /// `nidus.fast-reboot=keep` was there, not `=off` after it. `None` when neither was.
    pub keep: Option<bool>,
    /// Whether NVRAM has replaced the payload's words.
    replaced: bool,
    /// Secure mode whatever the machine says: NVRAM has `force-secure-mode=always`.
    pub secure: bool,
    /// `nidus.tables=`, in bytes; the last one counts. `None` when it was not there: no limit but the pool.
    pub tables: Option<u64>,
    /// Words after `nidus.` that mean nothing, to be reported.
    pub unknown: Vec<String>,
}

impl CommandLine {
    /// Takes the firmware's words out of `line`.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let mut parsed = Self::default();
        for word in words(line) {
            let Some(option) = word.strip_prefix("nidus.") else {
                if !parsed.payload.is_empty() {
                    parsed.payload.push(' ');
                }
                parsed.payload.push_str(word);
                continue;
            };
            match option.split_once('=') {
                Some(("mode", "opal")) => parsed.mode = Some(Mode::Opal),
                Some(("mode", "papr")) => parsed.mode = Some(Mode::Papr),
                Some(("compat", word)) if Level::from_word(word).is_some() => {
                    parsed.compat = Level::from_word(word);
                }
                Some(("xive", "on")) => parsed.xive = Some(true),
                Some(("xive", "off")) => parsed.xive = Some(false),
                Some(("tables", kib)) if kib.parse::<u32>().is_ok() => {
                    parsed.tables = kib.parse::<u32>().ok().map(|kib| u64::from(kib) << 10);
                }
                Some(("fast-reboot", "keep")) => parsed.keep = Some(true),
                Some(("fast-reboot", "off")) => parsed.keep = Some(false),
                _ => parsed.unknown.push(word.to_string()),
            }
        }
        parsed
    }

    /// Takes a setting of NVRAM (`nidus,mode` and so on, with the values of the words), which counts only
    /// for what the line does not say. Whether it means something.
    ///
    /// The names that skiboot knows: `bootargs` takes the place of the payload's words on the line (its words for the
    /// firmware count as settings), `force-secure-mode=always` turns secure mode on.
    pub fn setting(&mut self, name: &str, value: &str) -> bool {
        match (name, value) {
            ("bootargs", line) => {
                let line = Self::parse(line);
                if !core::mem::replace(&mut self.replaced, true) {
                    self.merge(&line);
                    self.payload = line.payload;
                    self.unknown.extend(line.unknown);
                }
                return true;
            }
            ("force-secure-mode", "always") => {
                self.secure = true;
                return true;
            }
            _ => {}
        }
        let Some(option) = name.strip_prefix("nidus,") else {
            return false;
        };
        let word = Self::parse(&alloc::format!("nidus.{option}={value}"));
        // With anything else in it nothing of it counts: so it is reported.
        let is_one = !value.contains(char::is_whitespace) && word.unknown.is_empty();
        if is_one {
            self.merge(&word);
        }
        is_one
    }

    /// Takes what was not said yet: of settings that are there twice the first counts, and it came first.
    fn merge(&mut self, other: &Self) {
        self.mode = self.mode.or(other.mode);
        self.compat = self.compat.or(other.compat);
        self.xive = self.xive.or(other.xive);
        self.tables = self.tables.or(other.tables);
        self.keep = self.keep.or(other.keep);
    }

    /// Whether a partition gets XIVE exploitation mode. Nobody negotiates, so the kernel's own word for it counts as well:
    /// with `xive=off` it would not take what the tree offers.
    #[must_use]
    pub fn exploitation(&self) -> bool {
        let refused = words(&self.payload).any(|word| word == "xive=off");
        self.xive.unwrap_or(EXPLOITATION) && !refused
    }
}

/// Whether a partition gets XIVE exploitation mode when nobody says.
const EXPLOITATION: bool = true;

/// Splits at white space outside double quotes, as Linux does.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c: char| {
        quoted ^= c == '"';
        !quoted && c.is_ascii_whitespace()
    })
    .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_firmwares_words_are_taken_out() {
        let line = CommandLine::parse("console=hvc0 nidus.mode=papr  quiet nidus.compat=power10");
        assert_eq!(line.payload, "console=hvc0 quiet");
        assert_eq!(line.mode, Some(Mode::Papr));
        assert_eq!(line.compat, Some(Level::Power10));
        assert!(line.unknown.is_empty());
    }

    #[test]
    fn settings_of_nvram_count_for_what_the_line_does_not_say() {
        let mut line = CommandLine::parse("quiet nidus.mode=opal");
        assert!(line.setting("nidus,mode", "papr"));
        assert!(line.setting("nidus,compat", "power9"));
        assert!(
            line.setting("nidus,compat", "power10"),
            "the first one counts"
        );
        assert_eq!(line.mode, Some(Mode::Opal));
        assert_eq!(line.compat, Some(Level::Power9));
        for (name, value) in [
            ("fast-reset", "1"),
            ("nidus,mode", "fast"),
            ("nidus,speed", "11"),
            ("nidus,mode", "papr console=hvc0"),
            ("nidus.mode", "papr"),
        ] {
            assert!(!line.setting(name, value), "{name}={value}");
        }
        assert_eq!(line.payload, "quiet");
        let mut line = CommandLine::default();
        for value in ["papr console=hvc0", "papr nidus.xive=off", " papr"] {
            assert!(!line.setting("nidus,mode", value), "{value}");
        }
        assert_eq!(
            line,
            CommandLine::default(),
            "what is reported has no effect"
        );
    }

    #[test]
    fn bootargs_of_nvram_take_the_place_of_the_line() {
        let mut line = CommandLine::parse("quiet nidus.compat=power9");
        assert!(line.setting(
            "bootargs",
            "console=hvc0 nidus.mode=papr nidus.compat=power10 nidus.x"
        ));
        assert!(line.setting("bootargs", "another"));
        assert!(line.setting("nidus,mode", "opal"), "too late");
        assert_eq!(line.payload, "console=hvc0");
        assert_eq!(line.mode, Some(Mode::Papr));
        assert_eq!(line.compat, Some(Level::Power9));
        assert_eq!(line.unknown, ["nidus.x"]);
    }

    #[test]
    fn secure_mode_can_be_forced() {
        let mut line = CommandLine::parse("");
        assert!(!line.setting("force-secure-mode", "never") && !line.secure);
        assert!(line.setting("force-secure-mode", "always") && line.secure);
    }

    #[test]
    fn unknown_words_are_reported_and_taken_out() {
        let line = CommandLine::parse(
            "a nidus.mode=fast nidus.x b nidus. anidus.mode=papr nidus.compat=POWER10",
        );
        assert_eq!(line.payload, "a b anidus.mode=papr");
        assert_eq!(
            line.unknown,
            [
                "nidus.mode=fast",
                "nidus.x",
                "nidus.",
                "nidus.compat=POWER10"
            ]
        );
        assert_eq!(line.compat, None);
        assert_eq!(line.mode, None);
    }

    #[test]
    fn the_kernels_own_word_turns_exploitation_off() {
        let wants = |line| CommandLine::parse(line).exploitation();
        assert_eq!(wants("quiet"), EXPLOITATION);
        assert!(wants("nidus.xive=off nidus.xive=on quiet"));
        assert!(!wants("nidus.xive=off"));
        assert!(!wants("nidus.xive=on xive=off"));
        assert!(wants("nidus.xive=on xxive=off \"a xive=off\""));
        assert!(!CommandLine::parse("nidus.xive=2").unknown.is_empty());
    }

    #[test]
    fn the_limit_of_tables_is_in_kib() {
        let tables = |line| CommandLine::parse(line).tables;
        assert_eq!(tables("nidus.tables=1024"), Some(1 << 20));
        assert_eq!(tables("nidus.tables=4294967295"), Some(0xffff_ffff << 10));
        for wrong in [
            "nidus.tables=1M",
            "nidus.tables=",
            "nidus.tables=4294967296",
        ] {
            assert_eq!(tables(wrong), None);
            assert_eq!(CommandLine::parse(wrong).unknown, [wrong]);
        }
    }

    #[test]
    fn the_line_goes_before_nvram_about_what_is_kept() {
        let mut line = CommandLine::parse("quiet");
        assert_eq!(line.keep, None);
        assert!(line.setting("nidus,fast-reboot", "keep"));
        assert_eq!(line.keep, Some(true));
        let mut line = CommandLine::parse("nidus.fast-reboot=keep nidus.fast-reboot=off");
        assert!(line.setting("nidus,fast-reboot", "keep"));
        assert_eq!(line.keep, Some(false));
        assert!(!line.setting("nidus,fast-reboot", "yes"));
    }

    #[test]
    fn quoted_text_is_one_word() {
        let line = CommandLine::parse("x=\"a nidus.mode=papr b\" nidus.mode=opal");
        assert_eq!(line.payload, "x=\"a nidus.mode=papr b\"");
        assert_eq!(line.mode, Some(Mode::Opal));
    }

    proptest! {
        #[test]
        fn nothing_of_ours_reaches_the_payload(line in "[ a-z.=\"]{0,40}( nidus.mode=papr)?[ a-z.]{0,20}") {
            let parsed = CommandLine::parse(&line);
            prop_assert!(words(&parsed.payload).all(|word| !word.starts_with("nidus.")));
            prop_assert_eq!(CommandLine::parse(&parsed.payload).payload, parsed.payload);
        }
    }
}
