//! The boots of Linux: what is started and what its console has to show.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::counters;
use crate::image::Image;
use crate::initramfs::{self, With};
use crate::machine::Machine;
use crate::milestone::{self, Milestone, Watch};
use crate::setup::kernel::{KERNELS, Kernel};
use crate::tools::{Tools, repository};

/// What the kernel does on the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A partition (L1) that starts guests of its own (L2)
    Nested,
    /// A partition
    Papr,
    /// In hypervisor state, with the machine to itself
    Opal,
}

impl Mode {
    /// The mode of the firmware.
    fn firmware(self) -> &'static str {
        match self {
            Self::Nested | Self::Papr => "papr",
            Self::Opal => "opal",
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nested => "nested",
            Self::Papr => "papr",
            Self::Opal => "opal",
        }
    }
}

/// Seconds without a timer interrupt after which the kernel speaks of a lockup; its own 10 are too few here. Until it has
/// switched to the time base, its clock counts interrupts of the timer, of which an emulated thread loses some on a busy
/// host: the timer that feeds the watchdog, of 4 such seconds, then comes after more than 10 real ones, on any firmware.
const LOCKUP: &str = "watchdog_thresh=60";

/// A KVM host on QEMU must not mark pages of its guests as unreferenced, which Linux 7.2's DAMON_STAT does with one every few
/// ms. When that page holds tables through which the guest fetches instructions, QEMU (11.1) does not come out of
/// delivering the HDSI; the guest hangs, on any firmware. Partitions have R and C set for them by the firmware.
const NO_ACCESS_SAMPLES: &str = "damon_stat.enabled=N";

/// A statement about the lines of a console.
pub type Check = fn(&[String]) -> Result<(), String>;

/// KiB of tables for each L2 under load. One of 256 MiB would fill 590.
const LOAD_TABLES_KIB: u32 = 320;

/// What can be chosen for a boot.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What the kernel does on the firmware.
    pub mode: Mode,
    /// The `-M` argument.
    pub machine: String,
    /// The `-smp` argument.
    pub smp: String,
    /// The `-m` argument.
    pub memory: String,
    /// A name from set-up or a file.
    pub kernel: String,
    /// In place of our own initramfs; its lines are not known, so there are fewer milestones.
    pub initrd: Option<PathBuf>,
    /// More words for the kernel's command line.
    pub append: String,
    /// L2 guests; a partition that stays alone has none.
    pub l2: u32,
    /// L2 guests that KVM has to refuse.
    pub refused: Vec<u32>,
    /// Messages that have to come, and are shown with the result of the case; they may have a forbidden pattern.
    pub quotes: Vec<&'static str>,
    /// The `-smp` argument of each L2.
    pub l2_smp: String,
    /// MiB of each L2.
    pub l2_memory: u32,
    /// Rounds of L2s, with kvm-hv unloaded and loaded between them.
    pub rounds: u32,
    /// Seconds for which L1 and its L2s work, with too few tables for all of them; 0 for not.
    pub load: u32,
    /// A shell instead of a list of milestones.
    pub shell: bool,
    /// More arguments for QEMU.
    pub extra: Vec<String>,
}

impl Choice {
    /// The defaults of the command line contract.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            machine: "powernv10".to_owned(),
            smp: "1".to_owned(),
            memory: "5G".to_owned(),
            kernel: "7.2".to_owned(),
            initrd: None,
            append: String::new(),
            l2: u32::from(mode == Mode::Nested),
            refused: Vec::new(),
            quotes: Vec::new(),
            l2_smp: "1".to_owned(),
            l2_memory: 256,
            rounds: 1,
            load: 0,
            shell: false,
            extra: Vec::new(),
        }
    }

    /// The same with as many L2s and threads as load is for.
    pub fn under_load(self) -> Self {
        Self {
            smp: "4".to_owned(),
            l2: 3,
            l2_smp: "2".to_owned(),
            ..self
        }
    }

    /// Makes the machine, and the initramfs that it needs.
    pub fn machine(&self, tools: &Tools, image: &Image) -> Result<Machine> {
        let kernel = Kernel::named(tools, &self.kernel)?;
        let initrd = match (&self.initrd, self.mode) {
            (Some(file), _) => file.clone(),
            (None, _) if self.starts_l2s() => {
                let with = With {
                    lscpu: self.tells_levels(),
                    kexec: self.is_followed(),
                };
                initramfs::nested(tools, &kernel, &self.short_kernel(), with)?
            }
            (None, Mode::Opal) if self.starts_second() => {
                initramfs::kexec(tools, &kernel, &self.short_kernel())?
            }
            (None, Mode::Opal) if self.says("nidus_do=devices") || self.says("nidus_do=flash") => {
                initramfs::devices(tools, &self.short_kernel())?
            }
            (None, _) if self.says("nidus_do=mode") => initramfs::nvram(tools)?,
            (None, _) => initramfs::small(tools, self.tells_levels())?,
        };
        initrd
            .metadata()
            .with_context(|| format!("{} cannot be read", initrd.display()))?;
        Ok(Machine {
            smp: self.smp.clone(),
            memory: self.memory.clone(),
            bios: Some(image.lid.clone()),
            kernel: Some(kernel.image),
            initrd: Some(initrd),
            append: self.command_line(),
            extra: self.extra.clone(),
            ..Machine::new(&self.machine)
        })
    }

    /// The payload's command line; the firmware takes its own words out.
    fn command_line(&self) -> String {
        let mut words = vec![
            format!("nidus.mode={}", self.mode.firmware()),
            "console=hvc0".to_owned(),
            LOCKUP.to_owned(),
        ];
        if self.shell {
            words.push("nidus_do=shell".to_owned());
        } else if self.starts_l2s() {
            words.push("nidus_do=nested".to_owned());
        }
        if self.mode == Mode::Opal && self.starts_l2s() {
            words.push(NO_ACCESS_SAMPLES.to_owned());
        }
        if self.starts_l2s() {
            words.push(format!("nidus_l2={} nidus_l2_smp={}", self.l2, self.l2_smp));
            words.push(format!(
                "nidus_l2_mem={} nidus_rounds={}",
                self.l2_memory, self.rounds
            ));
        }
        if self.load > 0 {
            words.push(format!("nidus_load={} nidus_counters=1", self.load));
            // Late is not stuck; and leaves of 4 KiB, of whose tables there are too few.
            words.push("rcupdate.rcu_cpu_stall_timeout=120 transparent_hugepage=never".to_owned());
            words.push(format!("nidus.tables={}", LOAD_TABLES_KIB * self.l2));
        }
        if !self.append.is_empty() {
            words.push(self.append.clone());
        }
        words.join(" ")
    }

    /// Whether the kernel starts guests; without a single one it can still load KVM.
    fn starts_l2s(&self) -> bool {
        match self.mode {
            Mode::Nested => true,
            Mode::Papr => false,
            Mode::Opal => self.l2 > 0,
        }
    }

    /// The milestone of KVM, and how it says which one it is.
    fn kvm_loaded(&self) -> (String, String) {
        let (name, pattern) = match self.mode {
            Mode::Opal => ("kvm-hv", "NIDUS-L1-KVM api=none"),
            Mode::Nested | Mode::Papr => ("kvm-hv, nested v2", "NIDUS-L1-KVM api=v2"),
        };
        (name.to_owned(), pattern.to_owned())
    }

    /// Returns what the console has to show.
    pub fn milestones(&self) -> Vec<Milestone> {
        let processor = if self.machine.starts_with("powernv11") {
            "CPU: Power11 generation"
        } else {
            "CPU: P10 generation"
        };
        let mut steps: Vec<Vec<(String, String)>> = vec![
            vec![("firmware".to_owned(), processor.to_owned())],
            vec![(
                "kernel start".to_owned(),
                "INIT: Starting kernel at 0x".to_owned(),
            )],
            vec![("L1 kernel".to_owned(), "Linux version".to_owned())],
        ];
        let mut step =
            |name: &str, pattern: &str| steps.push(vec![(name.to_owned(), pattern.to_owned())]);
        if self.initrd.is_none() {
            step("L1 userland", "NIDUS-L1-USERLAND");
            if self.starts_second() {
                step("kexec", "NIDUS-L1-KEXEC");
                step("second userland", "NIDUS-L1-USERLAND id=1 ");
            }
            if self.starts_l2s() {
                let (refused, l2s): (Vec<u32>, Vec<u32>) =
                    (1..=self.l2).partition(|id| self.refused.contains(id));
                let each = |name: &str, pattern: &dyn Fn(u32) -> String| -> Vec<(String, String)> {
                    l2s.iter()
                        .map(|&id| (format!("L2 {id} {name}"), pattern(id)))
                        .collect()
                };
                for round in 1..=self.rounds {
                    if round > 1 {
                        steps.push(vec![(
                            "kvm-hv unloaded".to_owned(),
                            "NIDUS-L1-UNLOADED".to_owned(),
                        )]);
                    }
                    steps.push(vec![self.kvm_loaded()]);
                    // The consoles of the L2s go through a pipe, so L1 may say first that they are up.
                    let mut up = each("userland", &|id| format!("NIDUS-L2-USERLAND id={id} "));
                    up.extend(refused.iter().map(|id| {
                        let pattern = format!("NIDUS-L1-REFUSED id={id}");
                        (format!("L2 {id} refused"), pattern)
                    }));
                    let count = format!("NIDUS-L1-L2S-UP count={} ", l2s.len());
                    up.push((format!("all L2s up ({})", l2s.len()), count));
                    steps.push(up);
                    if self.load > 0 {
                        // With " wrong=0 ", so that another sum is a milestone that is missing.
                        let mut load =
                            each("load", &|id| format!("NIDUS-L2-LOAD id={id} wrong=0 "));
                        load.push((
                            "L1 load".to_owned(),
                            "NIDUS-L1-LOAD id=0 wrong=0 ".to_owned(),
                        ));
                        steps.push(load);
                    }
                    if self.is_followed() {
                        steps.extend(self.followed());
                    }
                    if self.says("retain_initrd") {
                        steps.push(each("again", &|id| format!("NIDUS-L2-USERLAND id={id} ")));
                    }
                    if !self.is_followed() || self.says("retain_initrd") {
                        steps.push(each("off", &|id| format!("NIDUS-L1-DONE id={id} status=0")));
                    }
                }
            }
            steps.push(vec![("L1 off".to_owned(), "NIDUS-L1-OFF".to_owned())]);
        }
        let number = |(step, list): (usize, Vec<(String, String)>)| {
            list.into_iter().map(move |(name, pattern)| Milestone {
                name,
                pattern,
                step,
            })
        };
        steps.into_iter().enumerate().flat_map(number).collect()
    }

    /// From the L2s of one kernel to the userland of the next.
    fn followed(&self) -> [Vec<(String, String)>; 3] {
        let gone = format!(
            "nested guests deleted with their kernel: {}; in use: 0 bytes of heap, 0 of tables",
            self.l2
        );
        [
            ("kexec", "NIDUS-L1-KEXEC ".to_owned()),
            ("L2s deleted", gone),
            ("second userland", "NIDUS-L1-USERLAND id=1 ".to_owned()),
        ]
        .map(|(name, pattern)| vec![(name.to_owned(), pattern)])
    }

    /// What the lines of this boot have to say besides the milestones.
    pub fn checks(&self) -> Vec<Check> {
        match self.load {
            0 => vec![],
            _ => vec![counters::come_and_go, counters::too_few_tables],
        }
    }

    /// Returns the milestones together with the forbidden patterns.
    pub fn watch(&self) -> Result<Watch> {
        Ok(Watch::new(self.milestones(), forbidden()?).quoting(&self.quotes))
    }

    /// Generous: several times what an idle machine needs.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(match self.mode {
            _ if self.starts_l2s() => {
                300 + 240 * u64::from(self.l2 * self.rounds) + 4 * u64::from(self.load)
            }
            Mode::Nested | Mode::Papr | Mode::Opal => 300,
        })
    }

    /// Whether the guests say at which level the processor is, for which they need `lscpu`.
    fn tells_levels(&self) -> bool {
        self.says("nidus_cpu=1")
    }

    /// Whether the kernel starts a second one, which has to be in its initramfs.
    fn starts_second(&self) -> bool {
        self.says("nidus_do=kexec")
    }

    /// Whether L1 ends while its L2s run and another kernel follows, by kexec or by its form for a crash. With
    /// `retain_initrd` that one has L2s too.
    fn is_followed(&self) -> bool {
        self.says("nidus_end=kexec") || self.says("nidus_end=crash")
    }

    fn says(&self, wanted: &str) -> bool {
        self.append.split(' ').any(|word| word == wanted)
    }

    fn short_kernel(&self) -> String {
        if KERNELS.iter().any(|spec| spec.name == self.kernel) {
            self.kernel.clone()
        } else {
            "own".to_owned()
        }
    }
}

/// The patterns that no console may show.
pub fn forbidden() -> Result<Vec<String>> {
    let path = repository().join("tests/forbidden.txt");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(milestone::patterns(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_boot_has_the_milestones_of_each_l2_in_one_step() {
        let choice = Choice {
            l2: 2,
            ..Choice::new(Mode::Nested)
        };
        let list = choice.milestones();
        let userland: Vec<_> = list
            .iter()
            .filter(|m| m.pattern.contains("L2-USERLAND"))
            .collect();
        assert_eq!(userland.len(), 2);
        assert_eq!(userland[0].step, userland[1].step);
        assert_eq!(userland[1].pattern, "NIDUS-L2-USERLAND id=2 ");
        assert_eq!(list.last().map(|m| m.name.as_str()), Some("L1 off"));
    }

    #[test]
    fn a_kernel_in_hypervisor_state_starts_l2s_when_told() {
        let alone = Choice::new(Mode::Opal);
        assert_eq!(
            alone.milestones().len(),
            Choice::new(Mode::Papr).milestones().len()
        );
        let host = Choice {
            l2: 1,
            l2_smp: "2,threads=2".to_owned(),
            ..alone
        };
        let line = host.command_line();
        for word in [
            "nidus_l2_smp=2,threads=2",
            "nidus_do=nested",
            "damon_stat.enabled=N",
        ] {
            assert!(line.split(' ').any(|had| had == word), "{line}");
        }
        let list = host.milestones();
        let has = |pattern: &str| list.iter().any(|m| m.pattern.starts_with(pattern));
        assert!(has("NIDUS-L1-KVM api=none") && has("NIDUS-L2-USERLAND id=1 "));
        assert!(!Choice::new(Mode::Nested).command_line().contains("damon"));
    }

    #[test]
    fn a_refused_l2_has_a_milestone_of_its_own() {
        let choice = Choice {
            l2: 2,
            refused: vec![1],
            ..Choice::new(Mode::Nested)
        };
        let list = choice.milestones();
        let has = |pattern: &str| list.iter().any(|m| m.pattern.starts_with(pattern));
        assert!(has("NIDUS-L1-REFUSED id=1") && has("NIDUS-L1-L2S-UP count=1 "));
        assert!(has("NIDUS-L2-USERLAND id=2 ") && has("NIDUS-L1-DONE id=2 status=0"));
        assert!(!has("NIDUS-L2-USERLAND id=1 ") && !has("NIDUS-L1-DONE id=1 "));
    }

    #[test]
    fn a_kernel_that_follows_another_finds_its_l2s_gone() {
        for append in ["nidus_end=crash", "a nidus_end=kexec"] {
            let choice = Choice {
                append: append.to_owned(),
                ..Choice::new(Mode::Nested)
            };
            let list = choice.milestones().into_iter();
            let names: Vec<String> = list.map(|milestone| milestone.name).collect();
            let tail = ["kexec", "L2s deleted", "second userland", "L1 off"];
            assert_eq!(names[names.len() - 4..], tail);
            assert!(!names.iter().any(|name| name == "L2 1 off"));
        }
        let choice = Choice {
            append: "nidus_end=kexec retain_initrd".to_owned(),
            ..Choice::new(Mode::Nested)
        };
        let list = choice.milestones().into_iter();
        let names: Vec<String> = list.map(|milestone| milestone.name).collect();
        let tail = ["second userland", "L2 1 again", "L2 1 off", "L1 off"];
        assert_eq!(names[names.len() - 4..], tail);
    }

    #[test]
    fn load_is_between_userland_and_off() {
        let choice = Choice {
            l2: 3,
            load: 20,
            ..Choice::new(Mode::Nested)
        };
        let line = choice.command_line();
        assert!(line.contains(" nidus_load=20 ") && line.contains(" nidus.tables=960"));
        let list = choice.milestones();
        let load = |m: &&Milestone| m.pattern.contains("-LOAD id=");
        assert_eq!(list.iter().filter(load).count(), 4);
        assert_eq!(choice.checks().len(), 2);
        assert!(Choice::new(Mode::Nested).checks().is_empty());
    }

    #[test]
    fn reload_is_between_the_rounds() {
        let names: Vec<_> = Choice {
            rounds: 2,
            ..Choice::new(Mode::Nested)
        }
        .milestones()
        .into_iter()
        .map(|milestone| milestone.name)
        .collect();
        let place = |name: &str| names.iter().position(|n| n == name).expect("there");
        assert!(place("L2 1 off") < place("kvm-hv unloaded"));
        assert_eq!(
            names.iter().filter(|name| *name == "L2 1 userland").count(),
            2
        );
    }

    #[test]
    fn mode_and_machine_decide_the_command_line_and_the_processor() {
        let choice = Choice {
            machine: "powernv11".to_owned(),
            append: "a=b".to_owned(),
            ..Choice::new(Mode::Papr)
        };
        assert_eq!(
            choice.command_line(),
            format!("nidus.mode=papr console=hvc0 {LOCKUP} a=b")
        );
        assert_eq!(choice.milestones()[0].pattern, "CPU: Power11 generation");
        let shell = Choice {
            shell: true,
            ..Choice::new(Mode::Opal)
        };
        assert_eq!(
            shell.command_line(),
            format!("nidus.mode=opal console=hvc0 {LOCKUP} nidus_do=shell")
        );
    }

    #[test]
    fn an_initramfs_of_a_persons_own_has_no_lines_of_ours() {
        let choice = Choice {
            initrd: Some("rd".into()),
            ..Choice::new(Mode::Nested)
        };
        assert_eq!(
            choice.milestones().last().map(|m| m.pattern.as_str()),
            Some("Linux version")
        );
    }

    #[test]
    fn the_shared_file_of_forbidden_patterns_is_there() {
        assert!(
            forbidden()
                .expect("readable")
                .iter()
                .any(|pattern| pattern == "panicked")
        );
    }
}
