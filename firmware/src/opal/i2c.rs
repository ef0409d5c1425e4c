//! The chips' I2C masters for the kernel: found in the given tree, told in the kernel's, driven for it.
//!
//! Surprising fact: on boards the on-chip controller uses some of these engines too; nothing here asks it to stay away.
#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;

use arrayvec::ArrayVec;
use nest::i2c::{I2cError, Master, Transfer};
use nest::lock::{Mutex, rank};
use nest::scom::Scom;
use opal_calls::args::I2cBus;
use opal_calls::error::OpalError;
use opal_calls::i2c::{Buses, MAX_DATA, Request, What};
use papr_services::tree::{Bytes, Node};

use super::units::{self, Unit};

/// The `compatible` string of a master, and what its buses are called for the kernel's driver.
const MASTER: &str = "ibm,power9-i2cm";
const SERVED: &[u8] = b"ibm,opal-i2c\0";

/// A bus: a port of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bus {
    engine: usize,
    port: u8,
}

/// All buses of the machine. The number of a bus is its place, counted from 1.
#[derive(Debug, Default)]
pub struct I2cBuses {
    engines: Vec<Mutex<Master, rank::Operated>>,
    buses: Vec<Bus>,
}

/// The buses below a master: name and port, by port.
fn ports(master: &Node) -> Vec<(String, u8)> {
    let port = |bus: &Node| {
        u8::try_from(bus.cell("reg")?)
            .ok()
            .filter(|port| *port < 64)
    };
    let buses = master.children().iter();
    let mut ports: Vec<(String, u8)> = buses
        .filter(|bus| bus.name().starts_with("i2c-bus@"))
        .filter_map(|bus| Some((bus.name().into(), port(bus)?)))
        .collect();
    ports.sort_by_key(|(_, port)| *port);
    ports
}

impl I2cBuses {
    /// Finds the masters and gives each of their buses a number, `ibm,opal-id`, and the name that the kernel's driver looks
    /// for.
    pub fn find(root: &mut Node) -> Self {
        const SPEED: u32 = 400_000;
        let mut all = Self::default();
        let mut number = 0_u32;
        let mut masters: Vec<(Unit, String)> = units::find(root, MASTER)
            .into_iter()
            .map(|(unit, node)| (unit, node.name().into()))
            .collect();
        masters.sort_by_key(|(unit, _)| (unit.chip, unit.base));
        for (unit, name) in masters {
            let chip = units::chip_mut(root, unit.chip);
            let Some(master) = chip.and_then(|chip| chip.child_mut(&name)) else {
                continue;
            };
            let clock = master.cell("clock-frequency").unwrap_or(0);
            let speed = |bus: &Node| bus.cell("bus-frequency");
            let speed = master.children().iter().find_map(speed).unwrap_or(SPEED);
            let engine = all.engines.len();
            let driver = Master::new(unit.chip, unit.base, clock, speed);
            all.engines.push(Mutex::new(driver));
            for (name, port) in ports(master) {
                number = number.saturating_add(1);
                all.buses.push(Bus { engine, port });
                master.node(&name, |bus| tell(bus, number));
            }
        }
        all
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.buses.is_empty()
    }

    fn bus(&self, number: I2cBus) -> Option<Bus> {
        let place = usize::try_from(number.0).ok()?.checked_sub(1)?;
        self.buses.get(place).copied()
    }
}

fn tell(bus: &mut Node, number: u32) {
    let mut compatible = SERVED.to_vec();
    compatible.extend_from_slice(bus.property("compatible").unwrap_or(&[]));
    bus.set("compatible", Bytes(&compatible))
        .set("ibm,opal-id", number);
}

const fn code(error: I2cError) -> OpalError {
    match error {
        I2cError::Busy => OpalError::OPAL_BUSY,
        I2cError::TooLong => OpalError::OPAL_PARAMETER,
        I2cError::Timeout => OpalError::OPAL_I2C_TIMEOUT,
        I2cError::NoAnswer => OpalError::OPAL_I2C_NACK_RCVD,
        I2cError::ArbitrationLost => OpalError::OPAL_I2C_ARBT_LOST,
        I2cError::Stop => OpalError::OPAL_I2C_STOP_ERR,
        I2cError::Scom(_) | I2cError::Engine(_) => OpalError::OPAL_HARDWARE,
    }
}

/// The buses with the way to their registers.
pub struct Driven<'a, S>(pub &'a I2cBuses, pub &'a Mutex<S>);

impl<S: Scom> Buses for Driven<'_, S> {
    fn engine(&self, bus: I2cBus) -> Option<usize> {
        self.0.bus(bus).map(|bus| bus.engine)
    }

    fn begin(&self, bus: I2cBus, request: &Request) -> Result<(), OpalError> {
        let bus = self.0.bus(bus).ok_or(OpalError::OPAL_PARAMETER)?;
        let engine = self.0.engines.get(bus.engine);
        let transfer = Transfer {
            port: bus.port,
            address: request.address,
            offset: &request.offset,
            what: match &request.what {
                What::Read(length) => nest::i2c::What::Read(*length),
                What::Write(data) => nest::i2c::What::Write(data),
            },
        };
        let engine = engine.ok_or(OpalError::OPAL_INTERNAL_ERROR)?;
        engine
            .lock()
            .begin(&mut *self.1.lock(), &transfer)
            .map_err(code)
    }

    fn poll(&self, engine: usize) -> Option<Result<ArrayVec<u8, MAX_DATA>, OpalError>> {
        let mut engine = self.0.engines.get(engine)?.lock();
        let end = engine.step(&mut *self.1.lock())?;
        let taken =
            |(data, length): ([u8; MAX_DATA], usize)| data.into_iter().take(length).collect();
        Some(end.map(taken).map_err(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buses_are_numbered_from_one_and_told() {
        let mut root = Node::default();
        root.node("xscom@1", |chip| {
            chip.set("compatible", "ibm,xscom")
                .set("ibm,chip-id", 0_u32);
            for (name, base) in [("i2cm@a1000", 0xa_1000_u32), ("i2cm@a0000", 0xa_0000)] {
                chip.node(name, |master| {
                    master
                        .set("compatible", ["ibm,power8-i2cm", MASTER])
                        .set("reg", [base, 0x1000])
                        .set("clock-frequency", 116_625_000_u32);
                    for port in [1_u32, 0, 64] {
                        master.node(&alloc::format!("i2c-bus@{port:x}"), |bus| {
                            bus.set("compatible", "ibm,power9-i2c-port")
                                .set("reg", port);
                        });
                    }
                });
            }
        });
        let buses = I2cBuses::find(&mut root);
        assert_eq!(buses.engines.len(), 2);
        let bus = |number| buses.bus(I2cBus(number)).map(|bus| (bus.engine, bus.port));
        let all = [0, 1, 2, 3, 4, 5].map(bus);
        assert_eq!(
            all,
            [
                None,
                Some((0, 0)),
                Some((0, 1)),
                Some((1, 0)),
                Some((1, 1)),
                None
            ]
        );
        let chip = root.child("xscom@1").unwrap();
        let node = chip.child("i2cm@a1000").and_then(|m| m.child("i2c-bus@0"));
        let node = node.unwrap();
        assert_eq!(node.cell("ibm,opal-id"), Some(3));
        assert_eq!(
            node.property("compatible"),
            Some(&b"ibm,opal-i2c\0ibm,power9-i2c-port\0"[..])
        );
    }
}
