//! The command line of QEMU for one boot.

use std::path::PathBuf;

/// How the console of the machine is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Output comes out of QEMU's standard output, nothing goes in.
    Captured,
    /// Nothing but QEMU's monitor is at standard input and output; the console is connected by more arguments.
    Monitored,
    /// A person's terminal: every key goes to the guest, Ctrl-C too; Ctrl-A x ends QEMU.
    Interactive,
}

/// Which clock the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The time of day.
    Wall,
    /// One nanosecond per instruction, idle time skipped: the same in every run.
    Instructions,
}

/// One machine, ready to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The `-M` argument.
    pub kind: String,
    /// The `-cpu` argument, where it is not the machine's own.
    pub cpu: Option<String>,
    /// The `-smp` argument.
    pub smp: String,
    /// The `-m` argument.
    pub memory: String,
    /// The firmware; none means the one that QEMU brings.
    pub bios: Option<PathBuf>,
    /// The payload.
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: String,
    /// Which clock the guest sees.
    pub clock: Clock,
    /// More arguments, as they are.
    pub extra: Vec<String>,
}

impl Machine {
    /// A machine of this kind with one thread, and nothing to run on it.
    pub fn new(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            cpu: None,
            smp: "1".to_owned(),
            memory: "5G".to_owned(),
            bios: None,
            kernel: None,
            initrd: None,
            append: String::new(),
            clock: Clock::Wall,
            extra: Vec::new(),
        }
    }

    /// Returns the arguments for QEMU.
    pub fn arguments(&self, console: Console) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add =
            |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&[
            "-M",
            &self.kind,
            "-smp",
            &self.smp,
            "-m",
            &self.memory,
            "-nic",
            "none",
            "-display",
            "none",
        ]);
        match console {
            Console::Captured => add(&["-serial", "stdio", "-monitor", "none"]),
            Console::Monitored => add(&["-monitor", "stdio"]),
            // `signal=off` gives Ctrl-C to the guest.
            Console::Interactive => add(&[
                "-chardev",
                "stdio,id=console,mux=on,signal=off",
                "-serial",
                "chardev:console",
                "-mon",
                "chardev=console",
            ]),
        }
        if let Some(cpu) = &self.cpu {
            add(&["-cpu", cpu]);
        }
        for (option, file) in [
            ("-bios", &self.bios),
            ("-kernel", &self.kernel),
            ("-initrd", &self.initrd),
        ] {
            if let Some(file) = file {
                add(&[option, &file.to_string_lossy()]);
            }
        }
        if !self.append.is_empty() {
            add(&["-append", &self.append]);
        }
        if self.clock == Clock::Instructions {
            add(&["-icount", "shift=0,sleep=off"]);
            // Nor may the day and what `darn` returns be another one in the next run.
            add(&["-rtc", "base=2026-01-01,clock=vm", "-seed", "1"]);
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_parts_leave_no_argument() {
        let arguments = Machine::new("powernv10")
            .arguments(Console::Captured)
            .join(" ");
        assert_eq!(
            arguments,
            "-M powernv10 -smp 1 -m 5G -nic none -display none -serial stdio -monitor none"
        );
    }

    #[test]
    fn all_parts_are_passed_on_and_the_extra_ones_come_last() {
        let machine = Machine {
            cpu: Some("power11".to_owned()),
            bios: Some("a.lid".into()),
            kernel: Some("vmlinux".into()),
            initrd: Some("rd".into()),
            append: "console=hvc0 quiet".to_owned(),
            clock: Clock::Instructions,
            extra: vec!["-nodefaults".to_owned()],
            ..Machine::new("powernv11")
        };
        let arguments = machine.arguments(Console::Interactive);
        let text = arguments.join("|");
        assert!(
            text.contains("|-bios|a.lid|-kernel|vmlinux|-initrd|rd|-append|console=hvc0 quiet|"),
            "{text}"
        );
        assert!(
            text.contains("|-icount|shift=0,sleep=off|") && text.contains("signal=off"),
            "{text}"
        );
        assert_eq!(arguments.last().map(String::as_str), Some("-nodefaults"));
    }
}
