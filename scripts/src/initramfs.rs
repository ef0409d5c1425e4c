//! The initramfs images of the guests, made from what set-up unpacked and the scripts in `tests/linux`.
//!
//! Not compressed: under emulation, unpacking costs a guest more than copying (127 MB: userland of L1 after 1.28 s of
//! guest time, with gzip 3.66 s, with zstd 2.92 s). The surprise: an L1 image holds a whole QEMU with its libraries,
//! and the kernel and the image of the L2s, which is almost the 128 MiB that QEMU's `powernv` machines take.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command;
use crate::cpio::Archive;
use crate::image;
use crate::needed;
use crate::setup::kernel::{self, Kernel};
use crate::setup::{self, qemu};
use crate::tiny_elf::{self, Class};
use crate::tools::{self, Tools, repository, target};

/// What QEMU's `powernv` machines load at most (`INITRD_MAX_SIZE` in hw/ppc/pnv.c).
const LARGEST: usize = 128 << 20;
/// Applets of busybox that the scripts and a person at the shell use.
const APPLETS: [&str; 57] = [
    "awk",
    "base64",
    "cat",
    "chmod",
    "cmp",
    "cp",
    "cpio",
    "cttyhack",
    "cut",
    "dd",
    "df",
    "dmesg",
    "du",
    "echo",
    "env",
    "find",
    "free",
    "grep",
    "gzip",
    "head",
    "hexdump",
    "insmod",
    "kill",
    "ln",
    "ls",
    "lsmod",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mount",
    "mv",
    "nproc",
    "poweroff",
    "printf",
    "ps",
    "reboot",
    "rm",
    "rmmod",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sha512sum",
    "sleep",
    "stty",
    "tac",
    "tail",
    "taskset",
    "tee",
    "top",
    "tr",
    "true",
    "umount",
    "uname",
    "vi",
    "wc",
];

/// Makes the small image: busybox and the first process. Bare-metal kernels, L1s that stay alone and L2s boot it. With
/// `lscpu` only when asked, because its C library is twice as large as all the rest.
pub fn small(tools: &Tools, lscpu: bool) -> Result<PathBuf> {
    let path = target().join(format!("initrd/small{}.cpio", suffix(lscpu)));
    image::replace(&path, &small_bytes(tools, lscpu)?)?;
    Ok(path)
}

fn small_bytes(tools: &Tools, lscpu: bool) -> Result<Vec<u8>> {
    let mut archive = base(tools)?;
    if lscpu {
        let mut libraries = add_library_directory(&mut archive)?;
        add_lscpu(&mut archive, tools, &mut libraries)?;
    }
    Ok(archive.finish()?)
}

fn suffix(lscpu: bool) -> &'static str {
    if lscpu { "-lscpu" } else { "" }
}

/// Makes the image of an L1 that starts L2s which run the same kernel.
pub fn nested(tools: &Tools, kernel: &Kernel, name: &str, with: With) -> Result<PathBuf> {
    let With { lscpu, kexec } = with;
    let more = if kexec { "-kexec" } else { "" };
    let path = target().join(format!("initrd/l1-{name}{}{more}.cpio", suffix(lscpu)));
    let mut archive = base(tools)?;
    for script in ["nested", "peer", "end"] {
        let text = read(&repository().join("tests/linux").join(script))?;
        archive.file(script, 0o644, &text)?;
    }
    add_modules(&mut archive, &kernel.modules)?;
    let mut libraries = add_qemu(&mut archive, &tools.path(qemu::GUEST))?;
    if lscpu {
        add_lscpu(&mut archive, tools, &mut libraries)?;
    }
    add_counters(&mut archive)?;
    if kexec {
        add_kexec(&mut archive, tools, &mut libraries)?;
        archive.directory("second")?;
        archive.file("second/initrd", 0o644, &after_bytes(tools, kernel)?)?;
    }
    archive.directory("l2")?;
    archive.file("l2/vmlinux", 0o644, &read(&kernel.image)?)?;
    archive.file("l2/initrd", 0o644, &small_bytes(tools, lscpu)?)?;
    let bytes = archive.finish()?;
    store(path, &bytes, LARGEST)
}

/// What the image of an L1 has besides what all have.
#[derive(Clone, Copy, Debug, Default)]
pub struct With {
    /// `lscpu`, in the L2s too.
    pub lscpu: bool,
    /// `kexec`, and the image of a kernel that looks at what its predecessor left.
    pub kexec: bool,
}

/// The image of a kernel that looks at what its predecessor left.
fn after_bytes(tools: &Tools, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = base(tools)?;
    add_modules(&mut archive, &kernel.modules)?;
    add_counters(&mut archive)?;
    Ok(archive.finish()?)
}

/// Makes the image of a bare-metal kernel that looks at the devices that the firmware serves.
pub fn devices(tools: &Tools, name: &str) -> Result<PathBuf> {
    let path = target().join(format!("initrd/devices-{name}.cpio"));
    let mut archive = base(tools)?;
    add_modules(&mut archive, &kernel::drivers(tools, name)?)?;
    archive.file("bin/flash-erase", 0o755, &flash_erase())?;
    image::replace(&path, &archive.finish()?)?;
    Ok(path)
}

/// Makes the image of a bare-metal kernel that starts a second one, the same again, with kexec.
pub fn kexec(tools: &Tools, kernel: &Kernel, name: &str) -> Result<PathBuf> {
    let path = target().join(format!("initrd/kexec-{name}.cpio"));
    let mut archive = base(tools)?;
    let mut libraries = add_library_directory(&mut archive)?;
    add_kexec(&mut archive, tools, &mut libraries)?;
    archive.directory("second")?;
    archive.file("second/vmlinux", 0o644, &read(&kernel.image)?)?;
    archive.file("second/initrd", 0o644, &small_bytes(tools, false)?)?;
    store(path, &archive.finish()?, LARGEST)
}

/// Makes the image of a kernel that changes NVRAM with Debian's `nvram`.
pub fn nvram(tools: &Tools) -> Result<PathBuf> {
    let path = target().join("initrd/nvram.cpio");
    let mut archive = base(tools)?;
    let mut libraries = add_library_directory(&mut archive)?;
    let roots = [tools.path(setup::NVRAM), tools.path(qemu::GUEST)];
    add_program(
        &mut archive,
        &[&roots[0], &roots[1]],
        "nvram",
        &mut libraries,
    )?;
    image::replace(&path, &archive.finish()?)?;
    Ok(path)
}

/// Makes the image of a kernel that is the hypervisor itself, and starts `payload` as its guest.
pub fn peer(tools: &Tools, kernel: &Kernel, payload: &Path) -> Result<PathBuf> {
    let mut archive = base(tools)?;
    let script = repository().join("tests/linux/peer");
    archive.file("peer", 0o644, &read(&script)?)?;
    add_modules(&mut archive, &kernel.modules)?;
    add_qemu(&mut archive, &tools.path(qemu::GUEST))?;
    archive.file("l1-payload", 0o755, &read(payload)?)?;
    store(
        target().join("initrd/peer.cpio"),
        &archive.finish()?,
        LARGEST,
    )
}

/// Writes an image, compressed only if it would be larger than `largest`: slower for the guest, but it fits.
fn store(path: PathBuf, bytes: &[u8], largest: usize) -> Result<PathBuf> {
    image::replace(&path, bytes)?;
    if bytes.len() <= largest {
        return Ok(path);
    }
    let packed = command::output(Command::new("gzip").args(["-1", "--stdout"]).arg(&path))?;
    if packed.len() > largest {
        bail!(
            "the image has {} bytes even when compressed, but QEMU loads {largest} at most",
            packed.len()
        );
    }
    let path = path.with_extension("cpio.gz");
    image::replace(&path, &packed)?;
    Ok(path)
}

fn base(tools: &Tools) -> Result<Archive<Vec<u8>>> {
    let busybox = tools::find_file(&tools.path(setup::BUSYBOX), &|name| name == "busybox")
        .context("busybox is not set up: run scripts/setup")?;
    let mut archive = Archive::new(Vec::new());
    for directory in ["bin", "dev", "proc", "sys"] {
        archive.directory(directory)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.file(
        "init",
        0o755,
        &read(&repository().join("tests/linux/init"))?,
    )?;
    for script in ["work", "load"] {
        let text = read(&repository().join("tests/linux").join(script))?;
        archive.file(script, 0o644, &text)?;
    }
    let sum = command::output(Command::new("sha256sum").arg(&busybox))?;
    archive.file("load.sum", 0o644, &sum)?;
    archive.file("bin/busybox", 0o755, &read(&busybox)?)?;
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    archive.file("bin/restart", 0o755, &restart())?;
    Ok(archive)
}

/// A program that erases a part of the flash, for which busybox has nothing: it is open as file 3, and start and length come
/// in, 32 bits each.
fn flash_erase() -> Vec<u8> {
    const CODE: [u32; 13] = [
        0x3800_0003, // li   r0, 3           read
        0x3860_0000, // li   r3, 0
        0x3881_ffc0, // addi r4, r1, -64     where nothing is in use
        0x38a0_0008, // li   r5, 8
        0x4400_0002, // sc
        0x3860_0003, // li   r3, 3
        0x3c80_8008, // lis  r4, 0x8008
        0x6084_4d02, // ori  r4, r4, 0x4d02  MEMERASE
        0x38a1_ffc0, // addi r5, r1, -64
        0x3800_0036, // li   r0, 54          ioctl
        0x4400_0002, // sc
        0x3800_0001, // li   r0, 1           exit, with the error's number
        0x4400_0002, // sc
    ];
    let code: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
    tiny_elf::file(Class::Little64, &code, false)
}

/// A program that restarts the machine with the word that it is given, which busybox's `reboot` cannot: on bare metal
/// the kernel makes one of the kinds of OPAL_CEC_REBOOT2 of it.
fn restart() -> Vec<u8> {
    const CODE: [u32; 11] = [
        0xe8c1_0010, // ld   r6, 16(r1)      the first argument
        0x3c60_fee1, // lis  r3, 0xfee1
        0x6063_dead, // ori  r3, r3, 0xdead
        0x3c80_2812, // lis  r4, 0x2812
        0x6084_1969, // ori  r4, r4, 0x1969
        0x3ca0_a1b2, // lis  r5, 0xa1b2      LINUX_REBOOT_CMD_RESTART2
        0x60a5_c3d4, // ori  r5, r5, 0xc3d4
        0x3800_0058, // li   r0, 88          reboot
        0x4400_0002, // sc
        0x3800_0001, // li   r0, 1           exit, with the error's number
        0x4400_0002, // sc
    ];
    let code: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
    tiny_elf::file(Class::Little64, &code, false)
}

fn add_modules(archive: &mut Archive<Vec<u8>>, modules: &[PathBuf]) -> Result<()> {
    archive.directory("modules")?;
    let mut order = String::new();
    for module in modules {
        let name = file_name(module);
        archive.file(&format!("modules/{name}"), 0o644, &read(module)?)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes())?;
    Ok(())
}

/// Makes the directory of libraries, with none in it.
fn add_library_directory(archive: &mut Archive<Vec<u8>>) -> Result<BTreeSet<String>> {
    archive.directory("lib64")?;
    // The loader is named with lib64, but Debian's looks for libraries in lib.
    archive.link("lib", "lib64")?;
    Ok(BTreeSet::new())
}

/// Adds a program and those libraries that it needs, from the trees of `roots`, and that are not there yet.
fn add_program(
    archive: &mut Archive<Vec<u8>>,
    roots: &[&Path],
    name: &str,
    there: &mut BTreeSet<String>,
) -> Result<()> {
    let program = tools::find_file(roots.first().context("no tree")?, &|file| file == name)
        .with_context(|| format!("{name} is not set up: run scripts/setup"))?;
    let libraries = "lib/powerpc64le-linux-gnu";
    let directories: Vec<_> = roots
        .iter()
        .flat_map(|root| [root.join("usr").join(libraries), root.join(libraries)])
        .collect();
    archive.file(&format!("bin/{name}"), 0o755, &read(&program)?)?;
    for (name, file) in needed::libraries(&program, &directories)? {
        if there.insert(name.clone()) {
            archive.file(&format!("lib64/{name}"), 0o755, &read(&file)?)?;
        }
    }
    Ok(())
}

fn add_counters(archive: &mut Archive<Vec<u8>>) -> Result<()> {
    let counters = image::build("host-counters", "host-counters")?;
    archive.file("bin/host-counters", 0o755, &read(&counters)?)?;
    Ok(())
}

fn add_kexec(
    archive: &mut Archive<Vec<u8>>,
    tools: &Tools,
    there: &mut BTreeSet<String>,
) -> Result<()> {
    let roots = [tools.path(setup::KEXEC), tools.path(qemu::GUEST)];
    add_program(archive, &[&roots[0], &roots[1]], "kexec", there)
}

fn add_lscpu(
    archive: &mut Archive<Vec<u8>>,
    tools: &Tools,
    there: &mut BTreeSet<String>,
) -> Result<()> {
    let roots = [tools.path(setup::LSCPU), tools.path(qemu::GUEST)];
    add_program(archive, &[&roots[0], &roots[1]], "lscpu", there)
}

/// Adds QEMU, the libraries that it needs and the two files of data that `-M pseries,x-vof=on` reads.
fn add_qemu(archive: &mut Archive<Vec<u8>>, root: &Path) -> Result<BTreeSet<String>> {
    let mut there = add_library_directory(archive)?;
    add_program(archive, &[root], "qemu-system-ppc64", &mut there)?;
    archive.directory("qemu")?;
    let firmware = tools::find_file(root, &|name| name == "vof.bin")
        .context("the QEMU for L1 has no vof.bin")?;
    archive.file("qemu/vof.bin", 0o644, &read(&firmware)?)?;
    Ok(there)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_image_that_does_not_fit_is_compressed() {
        let place =
            std::env::temp_dir().join(format!("nidus-initramfs-{}.cpio", std::process::id()));
        let bytes = [7; 1000];
        assert_eq!(store(place.clone(), &bytes, 1000).expect("fits"), place);
        let packed = store(place.clone(), &bytes, 999).expect("fits");
        assert_eq!(packed, place.with_extension("cpio.gz"));
        assert_eq!(
            fs::read(&packed).expect("there").get(..2),
            Some(&[0x1f, 0x8b][..])
        );
        assert!(store(place.clone(), &bytes, 10).is_err());
        fs::remove_file(place).expect("removed");
        fs::remove_file(packed).expect("removed");
    }
}
