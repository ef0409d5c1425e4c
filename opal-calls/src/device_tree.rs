//! OPAL_GET_DEVICE_TREE: a part of the device tree as it is now, flattened for the kernel.
//!
//! The tree itself is the firmware's ([`Subtrees`]). The surprising fact: the node that is asked for is the root of what
//! comes, with an empty name, so that its children keep theirs.

use alloc::vec::Vec;

use crate::args::{OsAddr, Phandle};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::os_memory::OsMemory;

/// The device tree.
pub trait Subtrees {
    /// The node with this phandle and all below it, flattened. `None`: no node has it.
    ///
    /// # Errors
    /// OPAL_INTERNAL_ERROR: the tree cannot be flattened.
    fn flatten(&self, node: Phandle) -> Option<Result<Vec<u8>, OpalError>>;
}

/// Stores the tree below `node` at `buf`, `len` bytes at most; without a buffer it answers the bytes that it takes.
///
/// # Errors
/// OPAL_PARAMETER: no such node, or a buffer that is not the kernel's or has no length. OPAL_NO_MEM: the buffer is too
/// small; nothing is written.
pub fn get(
    tree: &impl Subtrees,
    os: &impl OsMemory,
    node: Phandle,
    buf: OsAddr,
    len: u64,
) -> Answer {
    const LONGEST: u64 = 1 << 31;
    if buf.0 != 0 {
        if len == 0 {
            return Err(OpalError::OPAL_PARAMETER);
        }
        os.check(buf, 1)?;
    }
    let bytes = tree.flatten(node).ok_or(OpalError::OPAL_PARAMETER)??;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if buf.0 == 0 {
        return u32::try_from(size)
            .ok()
            .filter(|_| size < LONGEST)
            .ok_or(OpalError::OPAL_INTERNAL_ERROR);
    }
    if size > len {
        return Err(OpalError::OPAL_NO_MEM);
    }
    os.write(buf, &bytes)?;
    SUCCESS
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::{Subtrees, get};
    use crate::args::{OsAddr, Phandle};
    use crate::error::{OpalError, SUCCESS};
    use crate::os_memory::fake::Memory;

    /// Node 7 is 100 bytes, node 8 cannot be flattened.
    struct Tree;

    impl Subtrees for Tree {
        fn flatten(&self, node: Phandle) -> Option<Result<Vec<u8>, OpalError>> {
            match node.0 {
                7 => Some(Ok(vec![0x5a; 100])),
                8 => Some(Err(OpalError::OPAL_INTERNAL_ERROR)),
                _ => None,
            }
        }
    }

    const BUF: OsAddr = OsAddr(0x1000);

    #[test]
    fn a_subtree_is_stored_and_its_size_told() {
        let os = Memory::new(0x2000);
        assert_eq!(get(&Tree, &os, Phandle(7), OsAddr(0), 0), Ok(100));
        assert_eq!(get(&Tree, &os, Phandle(7), OsAddr(0), 50), Ok(100));
        assert_eq!(get(&Tree, &os, Phandle(7), BUF, 100), SUCCESS);
        assert_eq!(os.bytes(BUF, 101)[99..], [0x5a, 0]);
    }

    #[test]
    fn bad_arguments_change_nothing() {
        let os = Memory::new(0x2000);
        let ask = |node, buf, len| get(&Tree, &os, Phandle(node), OsAddr(buf), len);
        for node in [0, 9, u32::MAX] {
            assert_eq!(ask(node, BUF.0, 100), Err(OpalError::OPAL_PARAMETER));
            assert_eq!(ask(node, 0, 0), Err(OpalError::OPAL_PARAMETER));
        }
        assert_eq!(ask(8, BUF.0, 100), Err(OpalError::OPAL_INTERNAL_ERROR));
        assert_eq!(ask(7, BUF.0, 99), Err(OpalError::OPAL_NO_MEM));
        for (buf, len) in [
            (BUF.0, 0),
            (0x2000, 100),
            (0x1fff, 100),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(ask(7, buf, len), Err(OpalError::OPAL_PARAMETER), "{buf:#x}");
        }
        assert_eq!(os.bytes(BUF, 100), [0; 100]);
    }
}
