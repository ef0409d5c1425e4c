//! Prints the five host-wide counters of nested guests: `heap=N heap_max=N pgtable=N pgtable_max=N reclaim=N`.
//!
//! A Linux program for L1 that is built like the firmware, for the bare target, so that no cross compiler or C
//! library is needed: it makes its own system calls. The kernel (kvm-hv-pmu) gives the counters only through
//! `perf_event_open`, which the shell does not have. The surprise: on the host it is an empty program.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "system calls and the entry of a program without a library"
    )
)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod linux {
    use core::arch::{asm, global_asm};

    // The kernel enters with the stack pointer in r1 and nothing else of use.
    global_asm!(
        ".globl _start",
        "_start:",
        "  clrrdi 1, 1, 4",
        "  li 0, 0",
        "  stdu 0, -64(1)",
        "  bl {main}@notoc",
        "  trap",
        main = sym program,
    );

    const READ: u64 = 3;
    const WRITE: u64 = 4;
    const OPEN: u64 = 5;
    const EXIT: u64 = 1;
    const PERF_EVENT_OPEN: u64 = 319;
    const NAMES: [&str; 5] = [
        "heap=",
        " heap_max=",
        " pgtable=",
        " pgtable_max=",
        " reclaim=",
    ];
    /// The type number of the unit, which the kernel chooses when it registers.
    const TYPE: &[u8] = b"/sys/bus/event_source/devices/kvm-hv/type\0";

    /// `struct perf_event_attr` of the first version (`PERF_ATTR_SIZE_VER0`).
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        kind: u32,
        size: u32,
        config: u64,
        unused: [u64; 6],
    }

    /// Makes a system call; an error is the negative of its number.
    fn call(number: u64, arguments: [u64; 5]) -> i64 {
        let mut result = arguments[0];
        let error: u64;
        // SAFETY: all calls of this program read or write only buffers that the callers lend for the call's time.
        unsafe {
            asm!(
                "sc",
                "mfcr {error}",
                error = lateout(reg) error,
                inout("r0") number => _,
                inout("r3") result,
                inout("r4") arguments[1] => _,
                inout("r5") arguments[2] => _,
                inout("r6") arguments[3] => _,
                inout("r7") arguments[4] => _,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
                out("cr0") _, out("ctr") _, out("xer") _,
            );
        }
        // CR0[SO] tells a failure.
        let result = result.cast_signed();
        if error & 0x1000_0000 == 0 {
            result
        } else {
            -result
        }
    }

    fn print(text: &[u8]) {
        call(WRITE, [1, text.as_ptr() as u64, text.len() as u64, 0, 0]);
    }

    fn print_number(mut value: u64) {
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            if let (Some(digit), Ok(low)) = (digits.get_mut(start), u8::try_from(value % 10)) {
                *digit = b'0' + low;
            }
            value /= 10;
            if value == 0 || start == 0 {
                break;
            }
        }
        print(digits.get(start..).unwrap_or_default());
    }

    /// Ends the program with a message, and the error number if there is one.
    fn fail(text: &[u8], error: i64) -> ! {
        print(text);
        print_number(error.unsigned_abs());
        print(b"\n");
        exit(1)
    }

    fn exit(status: u64) -> ! {
        loop {
            call(EXIT, [status, 0, 0, 0, 0]);
        }
    }

    fn type_of_unit() -> u32 {
        let file = call(OPEN, [TYPE.as_ptr() as u64, 0, 0, 0, 0]);
        if file < 0 {
            fail(b"absent: the kernel has no unit kvm-hv, error ", file);
        }
        let mut text = [0_u8; 16];
        let length = call(
            READ,
            [
                file.cast_unsigned(),
                text.as_mut_ptr() as u64,
                text.len() as u64,
                0,
                0,
            ],
        );
        let length = usize::try_from(length).unwrap_or(0);
        let digits = text
            .get(..length)
            .unwrap_or_default()
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |value: u32, byte| {
            value.wrapping_mul(10).wrapping_add(u32::from(byte - b'0'))
        })
    }

    fn counter(kind: u32, event: u64) -> u64 {
        let attributes = Attributes {
            kind,
            size: 64,
            config: event,
            ..Attributes::default()
        };
        // Of all processes (-1), on processor 0, in no group.
        let file = call(
            PERF_EVENT_OPEN,
            [&raw const attributes as u64, u64::MAX, 0, u64::MAX, 0],
        );
        if file < 0 {
            fail(b"failed: perf_event_open, error ", file);
        }
        let mut value = 0_u64;
        let length = call(READ, [file.cast_unsigned(), &raw mut value as u64, 8, 0, 0]);
        if length != 8 {
            fail(b"failed: read, error ", length);
        }
        value
    }

    extern "C" fn program() -> ! {
        let kind = type_of_unit();
        for (event, name) in (0..).zip(NAMES) {
            let value = counter(kind, event);
            print(name.as_bytes());
            print_number(value);
        }
        print(b"\n");
        exit(0)
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        fail(b"failed: panic ", 0)
    }
}
