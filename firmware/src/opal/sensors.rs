//! Sensors for the kernel: what the on-chip controllers measure, as nodes of the tree and for the calls.
//!
//! Surprising fact: the node above them is there although no sensor is; without it kernels complain, as if sensors were missing.
//! QEMU's machines have none: what they say of theirs lies outside of its own memory.
#![forbid(unsafe_code)]

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::vec::Vec;

use nest::core_control::Place;
use nest::occ_sensors::{self, Kind, Location, Sensor, SensorError};
use nest::scom::ChipIndex;
use opal_calls::error::OpalError;
use opal_calls::sensors::{Attribute, MAX_BLOCKS, Sensors, Value};
use papr_services::tree::Node;

/// The sensors of the machine, a block for each chip.
#[derive(Debug)]
pub struct Blocks(Vec<(ChipIndex, occ_sensors::Sensors<'static>)>);

impl Blocks {
    /// These; not more than handles can name.
    #[must_use]
    pub fn new(
        blocks: impl IntoIterator<Item = (ChipIndex, occ_sensors::Sensors<'static>)>,
    ) -> Self {
        Self(blocks.into_iter().take(MAX_BLOCKS).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `/ibm,opal/sensors` with what can be read.
    pub fn describe(&self, root: &mut Node, is_fused: bool) {
        let cores = cores(root, is_fused);
        root.node("ibm,opal", |opal| {
            opal.node("sensors", |node| {
                node.set("compatible", "ibm,opal-sensor")
                    .set("#address-cells", 1_u32)
                    .set("#size-cells", 0_u32);
                for (block, (chip, sensors)) in (0..).zip(&self.0) {
                    for sensor in sensors.each() {
                        describe_one(node, block, *chip, &sensor, &cores);
                    }
                }
            });
        });
    }
}

impl Sensors for Blocks {
    fn read(&self, value: Value) -> Result<u64, OpalError> {
        let attribute = match value.attribute {
            Attribute::Sample => occ_sensors::Attribute::Sample,
            Attribute::Min => occ_sensors::Attribute::Min,
            Attribute::Max => occ_sensors::Attribute::Max,
            Attribute::ClearedMin => occ_sensors::Attribute::ClearedMin,
            Attribute::ClearedMax => occ_sensors::Attribute::ClearedMax,
            Attribute::Accumulator => occ_sensors::Attribute::Accumulator,
        };
        let block = self.0.get(usize::from(value.block));
        let (_, sensors) = block.ok_or(OpalError::OPAL_PARAMETER)?;
        sensors
            .read(value.id, attribute)
            .map_err(|error| match error {
                SensorError::Absent => OpalError::OPAL_PARAMETER,
                SensorError::NoReading => OpalError::OPAL_HARDWARE,
            })
    }
}

/// Place and PIR of the first thread of each core.
fn cores(root: &Node, is_fused: bool) -> Vec<(Place, u32)> {
    let cpus = root.child("cpus").map_or(&[][..], Node::children);
    cpus.iter()
        .filter_map(|cpu| {
            let pir = cpu.cell("ibm,pir")?;
            Some((Place::of_pir(pir, is_fused)?, pir))
        })
        .collect()
}

fn describe_one(
    node: &mut Node,
    block: u8,
    chip: ChipIndex,
    sensor: &Sensor,
    cores: &[(Place, u32)],
) {
    let pir = cores.iter().find_map(|(place, pir)| {
        let is_it = place.chip == chip && Some(u32::from(place.core)) == sensor.number();
        is_it.then_some(*pir)
    });
    if sensor.location == Location::Core && pir.is_none() {
        return;
    }
    let place = match sensor.location {
        Location::System => "sys",
        Location::Processor => "proc",
        Location::Memory => "mem",
        Location::Regulator => "vrm",
        Location::Core => "core",
        Location::Quad => "quad",
        Location::Other => "other",
    };
    let (kind, sum) = match sensor.kind {
        Kind::Current => ("curr", None),
        Kind::Voltage => ("in", None),
        Kind::Temperature => ("temp", None),
        Kind::Power => ("power", Some("energy")),
    };
    let label = match sensor.location {
        Location::System => sensor.name().to_owned(),
        _ => format!("Chip {} {}", chip.0, sensor.name()),
    };
    let handle = |attribute| {
        let id = sensor.id;
        let value = Value {
            block,
            id,
            attribute,
        };
        value.handle()
    };
    let values = [
        Some((kind, Attribute::Sample)),
        sum.map(|kind| (kind, Attribute::Accumulator)),
    ];
    for (kind, attribute) in values.into_iter().flatten() {
        let data = handle(attribute);
        let name = format!("{place}-{kind}");
        node.at(&name, data.into(), 0, |node| {
            node.set("compatible", "ibm,opal-sensor")
                .set("sensor-type", kind)
                .set("sensor-data", data)
                .set("occ_label", sensor.name())
                .set("label", &label);
            if attribute == Attribute::Sample {
                node.set("sensor-data-max", handle(Attribute::ClearedMax))
                    .set("sensor-data-min", handle(Attribute::ClearedMin));
            }
            if let (Location::Core, Some(pir)) = (sensor.location, pir) {
                node.set("ibm,pir", pir);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    /// A block with the power of the machine and the temperature of two cores, of which the chip has one.
    fn block() -> occ_sensors::Sensors<'static> {
        let bytes: Vec<AtomicU8> = (0..occ_sensors::SIZE).map(|_| AtomicU8::new(0)).collect();
        let bytes: &[AtomicU8] = bytes.leak();
        let set = |at: usize, values: &[u8]| {
            for (byte, value) in bytes[at..].iter().zip(values) {
                byte.store(*value, Ordering::Relaxed);
            }
        };
        let header = [
            1, 1, 0, 3, 1, 0, 0, 0, 0, 0, 4, 0, 1, 48, 0, 0, 0, 0, 0xdc, 0, 0, 1, 0x80, 0,
        ];
        set(0, &header);
        for (n, (name, kind, place)) in [
            ("PWRSYS", 0x80, 1),
            ("TEMPPROCTHRMC1", 8, 0x40),
            ("TEMPPROCTHRMC2", 8, 0x40),
        ]
        .into_iter()
        .enumerate()
        {
            let at = 0x400 + 48 * n;
            set(at, name.as_bytes());
            set(
                at + 22,
                &[0, 0, 1, 0, 0, 0, 1, 0, 0, kind, 0, place, 1, 0, 0, 0, 8],
            );
        }
        set(0xdc00, &[1]);
        set(0xdc00 + 8 + 10, &[1, 0]);
        occ_sensors::Sensors::new(bytes).expect("a block")
    }

    fn tree() -> Node {
        let mut root = Node::default();
        root.node("cpus", |cpus| {
            cpus.node("cpu@4", |cpu| {
                cpu.set("ibm,pir", 4_u32);
            });
        });
        root
    }

    #[test]
    fn each_value_is_a_node() {
        let blocks = Blocks::new([(ChipIndex(0), block())]);
        let mut root = tree();
        blocks.describe(&mut root, false);
        let sensors = root
            .child("ibm,opal")
            .and_then(|opal| opal.child("sensors"));
        let nodes = sensors.expect("there").children();
        let data: Vec<_> = nodes.iter().map(|node| node.cell("sensor-data")).collect();
        let [power, energy, core] = [0x00c0_0000, 0x05c0_0000, 0x00c0_0001];
        assert_eq!(data, [Some(power), Some(energy), Some(core)]);
        assert_eq!(nodes[2].cell("ibm,pir"), Some(4));
        assert_eq!(nodes[2].cell("sensor-data-max"), Some(0x04c0_0001));
        let text = |name| nodes[2].property(name);
        assert_eq!(text("sensor-type"), Some(&b"temp\0"[..]));
        assert_eq!(text("label"), Some(&b"Chip 0 TEMPPROCTHRMC1\0"[..]));
        let read = |block, attribute| {
            blocks.read(Value {
                block,
                id: 0,
                attribute,
            })
        };
        assert_eq!(read(0, Attribute::Sample), Ok(256));
        assert_eq!(read(1, Attribute::Sample), Err(OpalError::OPAL_PARAMETER));
    }

    #[test]
    fn the_node_is_there_without_sensors() {
        let mut root = tree();
        Blocks::new([]).describe(&mut root, false);
        let sensors = root
            .child("ibm,opal")
            .and_then(|opal| opal.child("sensors"));
        assert!(sensors.is_some_and(|node| node.children().is_empty()));
    }
}
