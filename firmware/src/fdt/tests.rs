//! Good trees, trees with one thing wrong, and damaged ones.

use super::build::Blob;
use super::*;
use proptest::prelude::*;

fn sample() -> Vec<u8> {
    let mut blob = Blob::default();
    blob.reserved.push((0x1000, 0x2000));
    blob.begin("")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2]);
    blob.begin("memory@0")
        .text("device_type", "memory")
        .wide("reg", &[0, 0x8000_0000])
        .end();
    blob.begin("a")
        .begin("b@1")
        .cells("x", &[7])
        .end()
        .begin("b@2")
        .prop("compatible", b"one\0two\0")
        .end()
        .end();
    blob.begin("chosen")
        .text("bootargs", "quiet")
        .end()
        .end()
        .finish()
}

#[test]
fn nodes_and_properties_are_found() {
    let blob = sample();
    let tree = Fdt::new(&blob).unwrap();
    assert_eq!(tree.root().cell_counts(), (2, 2));
    assert_eq!(
        tree.root().children().map(|n| n.name).collect::<Vec<_>>(),
        ["memory@0", "a", "chosen"]
    );
    let memory = tree.find("/memory").unwrap();
    assert_eq!(memory.reg(2, 2).collect::<Vec<_>>(), [(0, 0x8000_0000)]);
    assert_eq!(
        tree.find("/a/b@1").unwrap().property("x").unwrap().u32(),
        Some(7)
    );
    assert!(tree.find("/a/b@2").unwrap().is_compatible("two"));
    assert!(!tree.find("/a/b@2").unwrap().is_compatible("tw"));
    assert_eq!(
        tree.find("/chosen")
            .unwrap()
            .property("bootargs")
            .unwrap()
            .str(),
        Some("quiet")
    );
    assert!(tree.find("/nothing").is_none());
    assert_eq!(tree.reservations().collect::<Vec<_>>(), [(0x1000, 0x2000)]);
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(Fdt::new(&[]).unwrap_err(), FdtError::TooShort);
    assert_eq!(Fdt::new(&[0; 64]).unwrap_err(), FdtError::BadMagic(0));
    let mut blob = sample();
    blob[27] = 99;
    assert_eq!(Fdt::new(&blob).unwrap_err(), FdtError::BadVersion(99));
    let blob = sample();
    assert!(matches!(
        Fdt::new(&blob[..blob.len() - 1]),
        Err(FdtError::BadSize(_))
    ));
    let mut open = Blob::default();
    open.begin("").begin("never closed").end();
    assert!(matches!(
        Fdt::new(&open.finish()),
        Err(FdtError::BadStructure(_))
    ));
    let mut two = Blob::default();
    two.begin("").end().begin("second root").end();
    assert!(matches!(
        Fdt::new(&two.finish()),
        Err(FdtError::BadStructure(_))
    ));
    let mut late = Blob::default();
    late.begin("")
        .begin("c")
        .end()
        .cells("after a child", &[1])
        .end();
    assert!(matches!(
        Fdt::new(&late.finish()),
        Err(FdtError::BadStructure(_))
    ));
    let mut deep = Blob::default();
    for _ in 0..=MAX_DEPTH {
        deep.begin("d");
    }
    assert!(matches!(
        Fdt::new(&deep.finish()),
        Err(FdtError::TooDeep(_))
    ));
}

fn read_everything(node: Node<'_>, budget: &mut usize) {
    let (address_cells, size_cells) = node.cell_counts();
    for property in node.properties() {
        let _ = (
            property.u32(),
            property.number(),
            property.cells().count(),
            property.strings().count(),
        );
    }
    for child in node.children() {
        *budget += 1;
        let _ = child.reg(address_cells, size_cells).count();
        read_everything(child, budget);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(tree) = Fdt::new(&bytes) {
            read_everything(tree.root(), &mut 0);
        }
    }

    #[test]
    fn a_damaged_tree_never_panics(at in 0usize..500, value: u8, at2 in 0usize..500, value2: u8) {
        let mut blob = sample();
        let length = blob.len();
        blob[at % length] = value;
        blob[at2 % length] ^= value2;
        if let Ok(tree) = Fdt::new(&blob) {
            let mut nodes = 0;
            read_everything(tree.root(), &mut nodes);
            prop_assert!(nodes < blob.len());
            let _ = tree.reservations().count();
        }
    }

    #[test]
    fn a_truncated_tree_is_refused(keep in 0usize..100) {
        let blob = sample();
        prop_assume!(keep < blob.len());
        prop_assert!(Fdt::new(&blob[..keep]).is_err());
    }
}
