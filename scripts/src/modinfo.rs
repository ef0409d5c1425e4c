//! The `.modinfo` strings of a kernel module.

/// Returns the modules that this one depends on.
///
/// The section is a run of NUL-terminated `key=value` strings; `depends=` occurs once, with names between commas.
pub fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module.get(start + key.len()..).unwrap_or_default();
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_strings() {
        assert_eq!(
            depends(b"ELF\0license=GPL\0depends=kvm,irqbypass\0name=kvm_hv\0"),
            ["kvm", "irqbypass"]
        );
        assert!(depends(b"ELF\0depends=\0x").is_empty());
        assert!(depends(b"nothing").is_empty());
        assert_eq!(depends(b"\0depends=last"), ["last"]);
    }
}
