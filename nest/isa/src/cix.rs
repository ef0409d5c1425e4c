//! Cache-inhibited loads and stores in hypervisor real mode: `lbzcix` to `stdcix` (Power ISA 3.1, book III, 5.4.1).
//!
//! Every access is preceded by `sync`, so that it is ordered after what this thread did to memory and to other devices,
//! and a load has completed (`twi; isync`) before anything that follows. Registers of this chip are big-endian: the
//! functions take and return plain numbers. The surprising fact: QEMU accepts ordinary loads and stores to devices, so
//! only real machines show that one of these forms was forgotten (reference/hardware.md 13.32).
//!
//! On the host they reach a byte-addressed memory of the test thread ([`fake`]).
#![expect(unsafe_code, reason = "owns the cache-inhibited access instructions")]

#[cfg(target_arch = "powerpc64")]
macro_rules! access {
    ($type:ty, $load:ident $load_text:literal, $store:ident $store_text:literal) => {
        #[doc = concat!("Loads ", stringify!($type), " from a device: `", $load_text, "`.")]
        ///
        /// # Safety
        /// `ra` must be a register of a device that answers this width there, this thread must be in hypervisor real
        /// mode, and the load's side effects must be wanted.
        #[inline(always)]
        #[must_use]
        pub unsafe fn $load(ra: u64) -> $type {
            let raw: $type;
            // SAFETY: the caller vouches for the register and the mode.
            unsafe {
                core::arch::asm!(
                    "sync", concat!($load_text, " {v}, 0, {a}"), "twi 0, {v}, 0", "isync",
                    v = out(reg) raw, a = in(reg) ra, options(nostack, preserves_flags)
                );
            }
            <$type>::from_be(raw)
        }

        #[doc = concat!("Stores ", stringify!($type), " to a device: `", $store_text, "`.")]
        ///
        /// # Safety
        /// `ra` must be a register of a device that takes this width there, this thread must be in hypervisor real
        /// mode, and what the device does with the value must keep memory as running code expects it.
        #[inline(always)]
        pub unsafe fn $store(ra: u64, value: $type) {
            // SAFETY: the caller vouches for the register, the mode and the value.
            unsafe {
                core::arch::asm!(
                    "sync", concat!($store_text, " {v}, 0, {a}"),
                    v = in(reg) value.to_be(), a = in(reg) ra, options(nostack, preserves_flags)
                );
            }
        }
    };
}

#[cfg(not(target_arch = "powerpc64"))]
macro_rules! access {
    ($type:ty, $load:ident $load_text:literal, $store:ident $store_text:literal) => {
        #[doc = concat!("Loads ", stringify!($type), " from the test thread's devices.")]
        ///
        /// # Safety
        /// None on the host; on the machine as `ldcix`.
        #[must_use]
        pub unsafe fn $load(ra: u64) -> $type {
            <$type>::from_be_bytes(fake::load(ra))
        }

        #[doc = concat!("Stores ", stringify!($type), " to the test thread's devices.")]
        ///
        /// # Safety
        /// None on the host; on the machine as `stdcix`.
        pub unsafe fn $store(ra: u64, value: $type) {
            fake::store(ra, value.to_be_bytes());
        }
    };
}

access!(u8, load8 "lbzcix", store8 "stbcix");
access!(u16, load16 "lhzcix", store16 "sthcix");
access!(u32, load32 "lwzcix", store32 "stwcix");
access!(u64, load64 "ldcix", store64 "stdcix");

/// Device space of the current test thread: bytes at real addresses, 0xff where nothing was stored.
#[cfg(not(target_arch = "powerpc64"))]
pub mod fake {
    use core::cell::RefCell;
    use std::collections::BTreeMap;

    std::thread_local! {
        static SPACE: RefCell<BTreeMap<u64, u8>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// The bytes at `ra`.
    #[must_use]
    pub fn load<const N: usize>(ra: u64) -> [u8; N] {
        SPACE.with_borrow(|space| {
            core::array::from_fn(|i| {
                space
                    .get(&ra.wrapping_add(i as u64))
                    .copied()
                    .unwrap_or(0xff)
            })
        })
    }

    /// Stores bytes at `ra`.
    pub fn store<const N: usize>(ra: u64, bytes: [u8; N]) {
        SPACE.with_borrow_mut(|space| {
            for (byte, at) in bytes.into_iter().zip(ra..) {
                space.insert(at, byte);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_big_endian() {
        // SAFETY: the host's fake device space.
        unsafe { store32(0x100, 0x1122_3344) };
        assert_eq!(fake::load(0x100), [0x11, 0x22, 0x33, 0x44]);
        // SAFETY: the host's fake device space.
        assert_eq!(unsafe { load16(0x102) }, 0x3344);
        // SAFETY: the host's fake device space.
        assert_eq!(unsafe { load8(0x200) }, 0xff);
    }
}
