//! A BMC that answers as the input says, sometimes nearly right, to who waits for it and to who comes back.
//!
//! The surprise: nobody can tell a BMC that lies from one that has another flash, so what is asserted is only that the driver
//! ends, stays within what it was told, and never changes its mind about the size.

use nest::hiomap::{Data, EVENT_COMMAND, FirmwareSpace, Hiomap, HiomapError, Job, Link, Progress};
use nest::ipmi::{Event, IpmiError, Request, Response, Transport};
use nest::lpc::FwError;

use crate::Bytes;

const BLOCK_SHIFT: u8 = 12;
const BLOCKS: u16 = 64;

struct Bmc<'a> {
    input: Bytes<'a>,
    version: u8,
    requests: usize,
    /// What was asked by who comes back.
    pending: Option<Vec<u8>>,
}

impl Bmc<'_> {
    /// What a good BMC would say.
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let mut answer = request.get(..2).unwrap_or_default().to_vec();
        match request.first() {
            Some(2) => answer.extend([self.version, BLOCK_SHIFT, 5, 0]),
            Some(3) => {
                answer.extend(BLOCKS.to_le_bytes());
                answer.extend([1, 0]);
            }
            Some(4 | 6) => {
                // All of it in one window.
                answer.extend(0x8000_u16.to_le_bytes());
                answer.extend(BLOCKS.to_le_bytes());
                answer.extend([0, 0]);
            }
            _ => {}
        }
        answer
    }
}

impl Transport for Bmc<'_> {
    fn transact(&mut self, request: &Request<'_>) -> Result<Response, IpmiError> {
        self.requests += 1;
        let mut answer = self.answer(request.data);
        let mut completion = 0;
        match self.input.byte() {
            0x80..=0x9f => {
                for byte in &mut answer {
                    *byte ^= self.input.byte();
                }
            }
            0xa0..=0xbf => {
                let at = self.input.below(8);
                let value = self.input.byte();
                if let Some(byte) = answer.get_mut(at) {
                    *byte = value;
                }
            }
            0xc0..=0xcf => answer.resize(self.input.below(12), 0xaa),
            0xd0..=0xdf => completion = self.input.byte(),
            0xe0..=0xef => return Err(IpmiError::Timeout),
            0xf0..=0xff => return Err(IpmiError::Busy),
            _ => {}
        }
        Ok(Response::new(completion, &answer).expect("short"))
    }

    fn wants_attention(&mut self) -> bool {
        false
    }
}

impl Link for Bmc<'_> {
    const ATTEMPTS: u32 = 2;

    fn begin(&mut self, request: &Request<'_>) -> Result<(), IpmiError> {
        if self.input.byte() >= 0xe0 {
            return Err(IpmiError::Busy);
        }
        self.pending = Some(request.data.to_vec());
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<Response, IpmiError>> {
        if self.input.byte() >= 0xa0 {
            return None;
        }
        let data = self.pending.take()?;
        let request = Request {
            netfn: 0x3a,
            lun: 0,
            command: 0x5a,
            data: &data,
        };
        Some(self.transact(&request))
    }

    fn event(&mut self) -> Result<Option<Event>, IpmiError> {
        Ok(match self.input.byte() {
            0xf0.. => Some(Event::Oem {
                command: EVENT_COMMAND,
                data: self.input.take(),
            }),
            0xe8..=0xef => Some(Event::Other),
            _ => None,
        })
    }
}

/// Works on a job until it is done, or until somebody else needs the flash. The input ends, so does the waiting.
fn come_back(
    flash: &mut Hiomap,
    bmc: &mut Bmc<'_>,
    (what, at): (u8, u64),
    buffer: &mut [u8],
) -> Option<Result<(), HiomapError>> {
    let mut job = Job::new(at, buffer.len() as u64);
    for times in 0.. {
        let mut data = match what % 4 {
            0 => Data::Read(&Space, &mut *buffer),
            1 => Data::Write(&Space, &*buffer),
            _ => Data::Erase,
        };
        match flash.advance(&mut job, bmc, &mut data) {
            Ok(Progress::Done) => return Some(Ok(())),
            Ok(Progress::Waiting) if times == what >> 3 => return None,
            Ok(Progress::Waiting) => {}
            Err(error) => return Some(Err(error)),
        }
    }
    None
}

/// Firmware space of which every address can be accessed.
struct Space;

impl Space {
    fn check(address: u32, length: usize) -> Result<(), FwError> {
        assert!(
            u64::from(address) + length as u64 <= 1 << 32,
            "beyond the space"
        );
        Ok(())
    }
}

impl FirmwareSpace for Space {
    fn read(&self, address: u32, into: &mut [u8]) -> Result<(), FwError> {
        into.fill(0);
        Self::check(address, into.len())
    }

    fn write(&self, address: u32, from: &[u8]) -> Result<(), FwError> {
        Self::check(address, from.len())
    }
}

/// Reads, writes, erasures and events, with answers in between.
pub(super) fn hiomap(data: &[u8]) {
    let mut input = Bytes(data);
    let version = 2 + (input.byte() & 1);
    // Two halves: what is done, and what the BMC makes of it.
    let (work, answers) = input.0.split_at(input.0.len() / 2);
    let mut work = Bytes(work);
    let mut bmc = Bmc {
        input: Bytes(answers),
        version,
        requests: 0,
        pending: None,
    };
    let Ok(mut flash) = Hiomap::start(&mut bmc) else {
        return;
    };
    let size = flash.size();
    assert!(flash.erase_size() > 0 && size.is_multiple_of(flash.erase_size()));
    for _ in 0..16 {
        if work.is_empty() {
            break;
        }
        let what = work.byte();
        let at = u64::from(u32::from_le_bytes(work.take())) % (size + 0x2000);
        let length = work.below(0x6000);
        let mut buffer = vec![0; length];
        let before = bmc.requests;
        let comes_back = what & 4 != 0 && what % 4 != 3;
        let done = match what % 4 {
            _ if comes_back => match come_back(&mut flash, &mut bmc, (what, at), &mut buffer) {
                Some(done) => done,
                None => continue,
            },
            0 => flash.read(&mut bmc, &Space, at, &mut buffer),
            1 => flash.write(&mut bmc, &Space, at, &buffer),
            2 => flash.erase(&mut bmc, at, length as u64),
            _ => {
                flash.note(what);
                continue;
            }
        };
        assert!(at + length as u64 <= size || done.is_err(), "outside");
        assert_eq!(flash.size(), size, "callers rely on it");
        // At the worst every block needs windows of its own, each tried again with a negotiation before it.
        assert!(bmc.requests - before <= 1000, "it goes on and on");
    }
}
