//! The interrupt controller of a partition in software: PAPR's XICS (LoPAR 14.5.4.7 and 7.3.10), four hcalls and
//! four RTAS calls over a list of sources and one record per server.
//!
//! A *server* is a vCPU's interrupt presentation: CPPR is the priority it works at (lower is more favoured, 0 lets
//! nothing in), MFRR the priority of an inter-processor interrupt asked for (0xff: none). A *source* is a device's
//! interrupt with its server and priority (0xff: masked).
//!
//! The surprising fact: no interrupt is ever "presented" and taken back. What a server gets is computed when it
//! asks, as the most favoured of what waits for it, so there is nothing to reject and nothing to resend.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, Ordering};

use isa::lock::{Mutex, rank};

use crate::error::HCode;
use crate::xive::Exploitation;

/// Source number of inter-processor interrupts.
pub const IPI: u32 = 2;

/// The least favoured priority: masked, or no request.
const LEAST: u8 = 0xff;

/// How a source signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Each pulse is one interrupt; pulses before it is accepted count once.
    Edge,
    /// Interrupts as long as its line is up, not again before the end of the interrupt.
    Level,
}

/// A device's interrupt.
#[derive(Clone, Copy, Debug)]
struct Source {
    number: u32,
    trigger: Trigger,
    server: u32,
    priority: u8,
    /// What `int-on` restores.
    saved: u8,
    /// Edge: a pulse came and was not accepted. Level: the line is up.
    raised: bool,
    /// Level: accepted, its end is not yet signalled.
    in_service: bool,
    /// Time base when it was raised.
    since: u64,
}

/// A vCPU's presentation.
#[derive(Clone, Copy, Debug)]
struct Server {
    cppr: u8,
    mfrr: u8,
    /// Time base when the IPI was asked for.
    since: u64,
}

struct State {
    servers: Box<[Server]>,
    sources: Vec<Source>,
}

/// What a server would get.
struct Best {
    number: u32,
    priority: u8,
    since: u64,
}

/// What H_XIRR and H_IPOLL see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xirr {
    /// CPPR in the top byte, source number below; 0 is none.
    pub xirr: u32,
    /// MFRR of the server.
    pub mfrr: u8,
    /// Time base when the interrupt was raised; 0 for none.
    pub since: u64,
}

/// A source or server that does not exist, or a priority that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl From<Unknown> for HCode {
    fn from(_: Unknown) -> Self {
        Self::H_PARAMETER
    }
}

/// The server whose interrupt line rose, if one did: its vCPU may have to be woken.
pub type Risen = Option<u32>;

impl State {
    fn server(&mut self, number: u32) -> Result<&mut Server, Unknown> {
        let index = usize::try_from(number).map_err(|_| Unknown)?;
        self.servers.get_mut(index).ok_or(Unknown)
    }

    fn source(&mut self, number: u32) -> Result<&mut Source, Unknown> {
        self.sources
            .iter_mut()
            .find(|source| source.number == number)
            .ok_or(Unknown)
    }

    /// The most favoured interrupt that waits for `number` and is more favoured than its CPPR. Between equals, the
    /// inter-processor interrupt, then the order of the sources.
    fn best(&self, number: u32) -> Option<Best> {
        let server = self.servers.get(usize::try_from(number).ok()?)?;
        let ipi = Best {
            number: IPI,
            priority: server.mfrr,
            since: server.since,
        };
        let waiting = self
            .sources
            .iter()
            .filter(|s| s.server == number && s.raised && !s.in_service)
            .map(|s| Best {
                number: s.number,
                priority: s.priority,
                since: s.since,
            });
        core::iter::once(ipi)
            .chain(waiting)
            .min_by_key(|best| best.priority)
            .filter(|best| best.priority < server.cppr)
    }
}

/// How a partition gets its interrupts. It has one of the two for as long as it lives.
pub enum Controller {
    /// By hypercalls.
    Xics(Xics),
    /// By the controllers themselves.
    Xive(Exploitation),
}

impl Controller {
    /// The controller behind the XICS calls.
    ///
    /// # Errors
    /// H_FUNCTION in exploitation mode.
    pub fn xics(&self) -> Result<&Xics, HCode> {
        match self {
            Self::Xics(xics) => Ok(xics),
            Self::Xive(_) => Err(HCode::H_FUNCTION),
        }
    }

    /// The controller behind the H_INT_* calls.
    ///
    /// # Errors
    /// H_FUNCTION outside exploitation mode.
    pub fn xive(&self) -> Result<&Exploitation, HCode> {
        match self {
            Self::Xics(_) => Err(HCode::H_FUNCTION),
            Self::Xive(xive) => Ok(xive),
        }
    }

    /// Whether an interrupt waits for `server` that the firmware has to deliver. In exploitation mode none does.
    #[must_use]
    pub fn pending(&self, server: u32) -> bool {
        self.xics().is_ok_and(|xics| xics.pending(server))
    }
}

/// A partition's interrupt controller.
pub struct Xics {
    state: Mutex<State, rank::Interrupts>,
    /// Per server: whether its external interrupt line is up. Written under the lock, read without.
    lines: Box<[AtomicBool]>,
}

impl Xics {
    /// A controller as after reset: every source masked, every server at the most favoured priority.
    #[must_use]
    pub fn new(servers: NonZeroU16, sources: &[(u32, Trigger)]) -> Self {
        let server = Server {
            cppr: 0,
            mfrr: LEAST,
            since: 0,
        };
        let source = |&(number, trigger): &(u32, Trigger)| Source {
            number,
            trigger,
            server: 0,
            priority: LEAST,
            saved: LEAST,
            raised: false,
            in_service: false,
            since: 0,
        };
        Self {
            state: Mutex::new(State {
                servers: (0..servers.get()).map(|_| server).collect(),
                sources: sources.iter().map(source).collect(),
            }),
            lines: (0..servers.get()).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Whether the external interrupt line of a server is up.
    #[must_use]
    pub fn pending(&self, server: u32) -> bool {
        self.line(server)
            .is_some_and(|line| line.load(Ordering::Acquire))
    }

    fn line(&self, server: u32) -> Option<&AtomicBool> {
        self.lines.get(usize::try_from(server).ok()?)
    }

    /// Makes a server's line follow the state.
    fn settle(&self, state: &State, server: u32) -> Risen {
        let up = state.best(server).is_some();
        let was = self.line(server)?.swap(up, Ordering::AcqRel);
        (up && !was).then_some(server)
    }

    /// H_CPPR.
    ///
    /// # Errors
    /// No such server.
    pub fn set_cppr(&self, server: u32, cppr: u8) -> Result<(), Unknown> {
        let mut state = self.state.lock();
        state.server(server)?.cppr = cppr;
        self.settle(&state, server);
        Ok(())
    }

    /// H_IPI: sets a server's MFRR.
    ///
    /// # Errors
    /// No such server.
    pub fn set_mfrr(&self, server: u32, mfrr: u8, now: u64) -> Result<Risen, Unknown> {
        let mut state = self.state.lock();
        let target = state.server(server)?;
        target.mfrr = mfrr;
        target.since = now;
        Ok(self.settle(&state, server))
    }

    /// H_IPOLL: looks without accepting.
    ///
    /// # Errors
    /// No such server.
    pub fn poll(&self, server: u32) -> Result<Xirr, Unknown> {
        let mut state = self.state.lock();
        let Server { cppr, mfrr, .. } = *state.server(server)?;
        Ok(Xirr::new(cppr, mfrr, state.best(server)))
    }

    /// H_XIRR: accepts. The server works at the interrupt's priority until its end is signalled.
    ///
    /// # Errors
    /// No such server.
    pub fn accept(&self, server: u32) -> Result<Xirr, Unknown> {
        let mut state = self.state.lock();
        let Server { cppr, mfrr, .. } = *state.server(server)?;
        let best = state.best(server);
        if let Some(Best {
            number, priority, ..
        }) = best
        {
            state.server(server)?.cppr = priority;
            if let Ok(source) = state.source(number) {
                match source.trigger {
                    Trigger::Edge => source.raised = false,
                    Trigger::Level => source.in_service = true,
                }
            }
        }
        self.settle(&state, server);
        Ok(Xirr::new(cppr, mfrr, best))
    }

    /// H_EOI: the priority that H_XIRR answered comes back, and a level source may interrupt again. The priority is
    /// restored for an unknown source too, so that a kernel's mistake does not leave it deaf.
    ///
    /// # Errors
    /// No such server or source.
    pub fn end(&self, server: u32, xirr: u32) -> Result<Risen, Unknown> {
        let [cppr, ..] = xirr.to_be_bytes();
        let number = xirr & 0x00ff_ffff;
        let mut state = self.state.lock();
        state.server(server)?.cppr = cppr;
        let ended = match number {
            // A spurious interrupt has no end, an inter-processor interrupt no source.
            0 | IPI => Ok(server),
            _ => state.source(number).map(|source| {
                source.in_service = false;
                source.server
            }),
        };
        self.settle(&state, server);
        // A level source that moved to another server while it was in service interrupts there.
        let target = ended?;
        Ok(if target == server {
            None
        } else {
            self.settle(&state, target)
        })
    }

    /// A pulse of an edge source, or the line of a level source goes up.
    ///
    /// # Errors
    /// No such source.
    pub fn raise(&self, number: u32, now: u64) -> Result<Risen, Unknown> {
        let mut state = self.state.lock();
        let source = state.source(number)?;
        if !source.raised {
            source.since = now;
        }
        source.raised = true;
        let server = source.server;
        Ok(self.settle(&state, server))
    }

    /// The line of a level source goes down: what was not accepted is withdrawn. Means nothing to an edge source.
    ///
    /// # Errors
    /// No such source.
    pub fn lower(&self, number: u32) -> Result<(), Unknown> {
        let mut state = self.state.lock();
        let source = state.source(number)?;
        if source.trigger == Trigger::Level {
            source.raised = false;
        }
        let server = source.server;
        self.settle(&state, server);
        Ok(())
    }

    /// `ibm,set-xive`: server and priority of a source.
    ///
    /// # Errors
    /// No such source, server or priority.
    pub fn set_xive(&self, number: u32, server: u32, priority: u32) -> Result<Risen, Unknown> {
        let priority = u8::try_from(priority).map_err(|_| Unknown)?;
        let mut state = self.state.lock();
        state.server(server)?;
        let source = state.source(number)?;
        let old = source.server;
        (source.server, source.priority, source.saved) = (server, priority, priority);
        if old != server {
            self.settle(&state, old);
        }
        Ok(self.settle(&state, server))
    }

    /// `ibm,get-xive`: server and priority of a source.
    ///
    /// # Errors
    /// No such source.
    pub fn xive(&self, number: u32) -> Result<(u32, u8), Unknown> {
        let mut state = self.state.lock();
        let source = state.source(number)?;
        Ok((source.server, source.priority))
    }

    /// `ibm,int-off`: masks a source and remembers its priority. What it signals meanwhile waits.
    ///
    /// # Errors
    /// No such source.
    pub fn mask(&self, number: u32) -> Result<(), Unknown> {
        let mut state = self.state.lock();
        let source = state.source(number)?;
        if source.priority != LEAST {
            source.saved = source.priority;
        }
        source.priority = LEAST;
        let server = source.server;
        self.settle(&state, server);
        Ok(())
    }

    /// `ibm,int-on`: the remembered priority comes back.
    ///
    /// # Errors
    /// No such source.
    pub fn unmask(&self, number: u32) -> Result<Risen, Unknown> {
        let mut state = self.state.lock();
        let source = state.source(number)?;
        source.priority = source.saved;
        let server = source.server;
        Ok(self.settle(&state, server))
    }
}

impl Xirr {
    fn new(cppr: u8, mfrr: u8, best: Option<Best>) -> Self {
        let (number, since) = best.map_or((0, 0), |best| (best.number, best.since));
        Self {
            xirr: u32::from(cppr) << 24 | number,
            mfrr,
            since,
        }
    }
}

#[cfg(test)]
mod tests;
