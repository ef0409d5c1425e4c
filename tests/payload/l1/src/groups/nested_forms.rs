//! Instructions of L2 in their other forms: big-endian, and prefixed. What L1 is told must fit them.

use isa::lpcr::Lpcr;
use isa::msr::Msr;

use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::guest::{Guest, L2_MSR, program};
use crate::report::case;
use crate::start::Machine;

const GPR3: u16 = id::GPR0 + 3;
const GPR5: u16 = id::GPR0 + 5;
const HOLE: u64 = 0x4000_0000;
const PREFIXED: u64 = 0x2000_0000;

pub(super) fn run(_: &Machine) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("nested-forms") else {
        return;
    };
    big_endian(&g);
    prefixed(&g);
    case("nested-forms/delete", g.end(), 0);
}

fn exit(g: &Guest, name: &str, nia: u64, elements: &[(u16, u64)], want: i64) -> bool {
    case(
        format_args!("nested-forms/{name}"),
        g.start(nia, elements),
        want,
    )
}

fn big_endian(g: &Guest) {
    let msr = L2_MSR.difference(Msr::LE).bits();
    let big = [(id::MSR, msr), (id::LPCR, Lpcr::LD.bits()), (GPR3, 0x777)];
    if exit(g, "big-sc", program::BIG_SC, &big, 0xc00) {
        case("nested-forms/big-sc-r3", g.gpr(3), 0x777);
        case("nested-forms/big-sc-msr", g.element(id::MSR) & 1, 0);
        case(
            "nested-forms/big-sc-nia",
            g.element(id::NIA),
            program::BIG_SC + 4,
        );
    }
    // The instruction as a number, whatever the byte order it was fetched in.
    if exit(g, "big-illegal", program::BIG_ILLEGAL, &big, 0xe40) {
        case(
            "nested-forms/big-illegal-heir",
            g.element(id::HEIR),
            0x0001_0204,
        );
    }
    if exit(g, "little-illegal", program::LITTLE_ILLEGAL, &[], 0xe40) {
        case(
            "nested-forms/little-illegal-heir",
            g.element(id::HEIR),
            0x0001_0204,
        );
    }
}

fn prefixed(g: &Guest) {
    for (name, nia, store) in [
        ("pld", program::PREFIXED_LOAD, 0),
        ("pstd", program::PREFIXED_STORE, 0x0200_0000),
    ] {
        if exit(g, name, nia, &[(GPR5, HOLE)], 0xe00) {
            case(
                format_args!("nested-forms/{name}-prefixed"),
                g.element(id::MSR) & PREFIXED,
                PREFIXED,
            );
            case(
                format_args!("nested-forms/{name}-nia"),
                g.element(id::NIA),
                nia,
            );
            case(
                format_args!("nested-forms/{name}-hdar"),
                g.element(id::HDAR),
                HOLE,
            );
            let cause = g.element(id::HDSISR);
            case(
                format_args!("nested-forms/{name}-hdsisr"),
                cause,
                0x4000_0000 | store,
            );
        }
        // Resolved below L1 (the page is mapped), it goes on behind both words.
        let elements = [(GPR5, 0x7000), (GPR3, 0x123)];
        if exit(g, name, nia, &elements, 0xc00) {
            case(
                format_args!("nested-forms/{name}-goes-on"),
                g.element(id::NIA),
                nia + 12,
            );
        }
    }
    if exit(g, "ld", program::LOAD, &[(GPR5, HOLE)], 0xe00) {
        case(
            "nested-forms/ld-not-prefixed",
            g.element(id::MSR) & PREFIXED,
            0,
        );
    }
}
