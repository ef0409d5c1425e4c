//! Serves OPAL calls: what every call goes through, and one arm per call that is served.
//!
//! Surprising fact: a nested call (one that interrupted another of the same thread) must not wait for a lock that the
//! first one may hold, and logging takes one; so nested calls are silent.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use isa::timebase::{self, Deadline, Ticks};
use nest::core_control::{self, ControlError, Place};
use nest::hiomap::Job;
use nest::lock::{Mutex, MutexGuard, lock_within};
use nest::lpc::CiLpc;
use nest::xscom::{CiXscom, Xscom};
use opal_calls::args::{OsAddr, Server, ServerOrOthers};
use opal_calls::calls::{self, Call};
use opal_calls::console::Console;
use opal_calls::entry::{Depth, PROMPT, Pace, check_nesting, pace};
use opal_calls::error::{Answer, OpalError, SUCCESS, to_r3};
use opal_calls::events::Events;
use opal_calls::flash::{Flash, What};
use opal_calls::host_sync::HostSync;
use opal_calls::i2c::I2c;
use opal_calls::ipmi::Ipmi;
use opal_calls::messages::Messages;
use opal_calls::os_memory::OsMemory as _;
use opal_calls::power::Power;
use opal_calls::quiesce::Quiesce;
use opal_calls::table::{Facilities, Row};
use opal_calls::xive::Xive;
use opal_calls::{device_tree, hmi, nest_mmu, sensors};

use super::buses::{NestMmuUnits, scom_code};
use super::clock;
use super::console::UartPort;
use super::entry::{Request, give_up_stack};
use super::flash::FlashDevice;
use super::i2c::{Driven, I2cBuses};
use super::ipmi::BmcPort;
use super::maintenance::Registers;
use super::occ::Occs;
use super::reboot::Again;
use super::sensors::Blocks;
use super::subtrees::KeptTree;
use super::threads::{AllThreads, OpalThread};
use super::tree::CONSOLE_BUFFER;
use super::units::Unit;
use super::xive::Chips;
use crate::entry::ram::OsRam;
use crate::machine::{Machine, PATIENCE, PowerAction};
use crate::nvram::Nvram;
use crate::{stop, time_base};

/// The way to the chips' registers.
pub(super) type SharedScom = Mutex<Xscom<CiXscom>>;

/// All that the calls work on.
pub(super) struct Opal {
    pub(super) machine: &'static Machine,
    pub(super) have: Facilities,
    pub(super) os: OsRam,
    pub(super) threads: AllThreads,
    pub(super) quiesce: Quiesce,
    pub(super) events: Events,
    pub(super) messages: Messages,
    pub(super) host_sync: HostSync,
    pub(super) console: Console<UartPort, { CONSOLE_BUFFER as usize }, 1024>,
    pub(super) ipmi: Option<(Ipmi, BmcPort)>,
    pub(super) flash: Option<(Flash<Job>, FlashDevice<CiLpc>)>,
    pub(super) nvram: Mutex<Nvram>,
    pub(super) xscom: SharedScom,
    pub(super) nest_mmus: Vec<Unit>,
    pub(super) i2c: I2c,
    pub(super) i2c_buses: I2cBuses,
    pub(super) occs: Occs,
    pub(super) sensors: Blocks,
    pub(super) power: Power,
    pub(super) tree: KeptTree,
    pub(super) again: Again,
    /// Cores have eight threads, on two small cores.
    pub(super) is_fused: bool,
    pub(super) xive: &'static Xive<Chips>,
}

/// The one there is, from just before the kernel starts.
pub(super) static OPAL: spin::Once<Opal> = spin::Once::new();

/// Answers a call that entry.S let in.
pub(super) fn call(request: &Request, thread: &'static OpalThread) -> u64 {
    let Some(opal) = OPAL.get() else {
        return to_r3(Err(OpalError::OPAL_INTERNAL_ERROR));
    };
    let depth = thread.entry.arrived();
    let began = timebase::now();
    let mark = thread
        .trace
        .enter(began, depth.get(), request.token, &request.regs);
    let visit = thread.entry.begin(request.token, began);
    let answer = opal.answer(request, thread, depth);
    let ended = timebase::now();
    let length = thread.entry.end(&visit, ended);
    let r3 = to_r3(answer);
    thread.trace.leave(&mark, ended, r3);
    if length > PROMPT
        && !depth.is_nested()
        && let Some(row) = calls::row(request.token)
    {
        report_pace(row, length);
    }
    r3
}

fn report_pace(row: &Row, length: Ticks) {
    match pace(row, length) {
        Pace::Fine => {}
        Pace::Long => log::debug!("{} took {} us", row.name, length.to_us()),
        Pace::TooLong => log::warn!("{} took {} us", row.name, length.to_us()),
    }
}

impl Opal {
    fn answer(&self, request: &Request, thread: &'static OpalThread, depth: Depth) -> Answer {
        let me = Server(u64::from(thread.pir));
        if depth.is_nested()
            && let Some(row) = calls::row(request.token)
        {
            check_nesting(row, depth, self.quiesce.waives_nesting(me))?;
        }
        let call = calls::admit(request.token, request.regs, self.have)?;
        self.dispatch(call, thread, me, depth)
    }

    /// NVRAM, for which others may be waiting for the BMC. Not for ever: a kernel writes there when it crashes, and may have
    /// stopped a processor that has it. OPAL_BUSY would make it come back without an end.
    fn nvram(&self) -> Result<MutexGuard<'_, Nvram>, OpalError> {
        lock_within(&self.nvram, PATIENCE).ok_or(OpalError::OPAL_HARDWARE)
    }

    fn dispatch(
        &self,
        call: Call,
        thread: &'static OpalThread,
        me: Server,
        depth: Depth,
    ) -> Answer {
        match call {
            Call::OPAL_TEST { .. } => Ok(0xfeed_f00d),
            Call::OPAL_CHECK_TOKEN { token, .. } => {
                Ok(u32::from(calls::is_served(token, self.have)))
            }
            Call::OPAL_CONSOLE_WRITE { term, len, buf, .. } => {
                self.console.write(me, &self.os, term, len, buf)
            }
            Call::OPAL_CONSOLE_READ { term, len, buf, .. } => {
                // Who reads needs no interrupt to look again.
                self.console
                    .read(me, &self.os, &self.events, term, len, buf)
                    .and(SUCCESS)
            }
            Call::OPAL_CONSOLE_WRITE_BUFFER_SPACE { term, len, .. } => {
                self.console.space(me, &self.os, term, len)
            }
            Call::OPAL_CONSOLE_FLUSH { term, .. } => self.console.flush(me, term),
            Call::OPAL_POLL_EVENTS { events, .. } => self.poll(me, depth, events),
            Call::OPAL_HANDLE_INTERRUPT { isn, events, .. } => {
                self.serve_interrupt(isn)?;
                self.poll(me, depth, events)
            }
            Call::OPAL_GET_MSG { buf, size, .. } => {
                self.messages.get_msg(&self.events, &self.os, buf, size)
            }
            Call::OPAL_CHECK_ASYNC_COMPLETION {
                buf, size, token, ..
            } => self
                .messages
                .check_completion(&self.events, &self.os, buf, size, token),
            Call::OPAL_RTC_READ { ymd, hmsm, .. } => self.read_clock(ymd, hmsm),
            Call::OPAL_RTC_WRITE { ymd, hmsm, .. } => self.set_clock(ymd, hmsm),
            Call::OPAL_READ_NVRAM {
                buf, size, offset, ..
            } => self.nvram()?.serve_read(&self.os, buf, size, offset),
            Call::OPAL_WRITE_NVRAM {
                buf, size, offset, ..
            } => self.nvram()?.serve_write(&self.os, buf, size, offset),
            Call::OPAL_CEC_POWER_DOWN { request, .. } => match request {
                0 | 1 => stop::power(self.machine, PowerAction::Off),
                _ => Err(OpalError::OPAL_PARAMETER),
            },
            Call::OPAL_CEC_REBOOT { .. } => stop::power(self.machine, PowerAction::Reset),
            Call::OPAL_CEC_REBOOT2 { kind, reason, .. } => self.reboot(kind, reason, thread, depth),
            Call::OPAL_START_CPU { server, addr, .. } => {
                let at = self.os.real_address(addr, 4)?;
                self.threads.start(server, at.0)
            }
            Call::OPAL_QUERY_CPU_STATUS { server, status, .. } => {
                self.os.check(status, 1)?;
                self.os.write_u8(status, self.threads.status(server)?)?;
                SUCCESS
            }
            Call::OPAL_RETURN_CPU { .. } => give_up_stack(thread),
            Call::OPAL_REINIT_CPUS { flags, .. } => self.threads.reinit(thread.pir, flags),
            // No stop level that is offered stops the time base, so it is most likely valid.
            Call::OPAL_RESYNC_TIMEBASE { .. } => match time_base::resync(&self.xscom) {
                Ok(_) => SUCCESS,
                Err(time_base::NotSet) => Err(OpalError::OPAL_HARDWARE),
            },
            Call::OPAL_QUIESCE { kind, target, .. } => {
                self.quiesce.serve(kind, target, me, &self.threads)
            }
            Call::OPAL_SIGNAL_SYSTEM_RESET { target, .. } => self.signal_reset(target, me),
            Call::OPAL_SYNC_HOST_REBOOT { .. } => {
                self.stop_flash_reads();
                self.host_sync.serve(
                    &self.messages,
                    self.ipmi.as_ref().map(|(ipmi, _)| ipmi),
                    &self.events,
                )
            }
            Call::OPAL_XSCOM_READ {
                chip,
                pcb_addr,
                value,
                ..
            } => self.xscom_read(chip, pcb_addr, value),
            Call::OPAL_XSCOM_WRITE {
                chip,
                pcb_addr,
                value,
                ..
            } => self.xscom_write(chip, pcb_addr, value),
            Call::OPAL_LPC_READ {
                chip,
                space,
                addr,
                data,
                size,
                ..
            } => {
                self.os.check(data, 4)?;
                let value = self.lpc_read(chip, space, addr, size)?;
                self.os.write(data, &value.to_be_bytes())?;
                SUCCESS
            }
            Call::OPAL_LPC_WRITE {
                chip,
                space,
                addr,
                data,
                size,
                ..
            } => self.lpc_write(chip, space, addr, data, size),
            Call::OPAL_IPMI_SEND {
                interface,
                msg,
                len,
                ..
            } => {
                let (ipmi, bmc) = self.ipmi.as_ref().ok_or(OpalError::OPAL_UNSUPPORTED)?;
                // The BMC's interrupt tells of the answer.
                let _ = ipmi.send(bmc, &self.events, &self.os, interface, msg, len)?;
                SUCCESS
            }
            Call::OPAL_IPMI_RECV {
                interface,
                msg,
                len,
                ..
            } => {
                let (ipmi, bmc) = self.ipmi.as_ref().ok_or(OpalError::OPAL_UNSUPPORTED)?;
                ipmi.recv(bmc, &self.events, &self.os, interface, msg, len)
            }
            Call::OPAL_GET_POWERCAP { handle, limit, .. } => {
                Power::get_cap(&self.occs, &self.os, handle, limit)
            }
            Call::OPAL_SET_POWERCAP {
                handle,
                token,
                limit,
                ..
            } => self
                .power
                .set_cap(&self.occs, &self.messages, handle, token, limit),
            Call::OPAL_GET_POWER_SHIFT_RATIO { handle, ratio, .. } => {
                Power::get_ratio(&self.occs, &self.os, handle, ratio)
            }
            Call::OPAL_SET_POWER_SHIFT_RATIO {
                handle,
                token,
                ratio,
                ..
            } => self
                .power
                .set_ratio(&self.occs, &self.messages, handle, token, ratio),
            Call::OPAL_SENSOR_READ { sensor, data, .. } => {
                sensors::read(&self.sensors, &self.os, sensor, data)
            }
            Call::OPAL_SENSOR_READ_U64 { sensor, data, .. } => {
                sensors::read_u64(&self.sensors, &self.os, sensor, data)
            }
            Call::OPAL_I2C_REQUEST {
                token,
                bus,
                request,
                ..
            } => {
                let buses = Driven(&self.i2c_buses, &self.xscom);
                let answer =
                    (self.i2c).request(&buses, &self.messages, &self.os, token, bus, request);
                self.poll_i2c();
                answer
            }
            Call::OPAL_FLASH_READ {
                id,
                offset,
                buf,
                size,
                token,
                ..
            } => self.ask_flash(token, id, (offset, size), What::Read(buf)),
            Call::OPAL_FLASH_WRITE {
                id,
                offset,
                buf,
                size,
                token,
                ..
            } => self.ask_flash(token, id, (offset, size), What::Write(buf)),
            Call::OPAL_FLASH_ERASE {
                id,
                offset,
                size,
                token,
                ..
            } => self.ask_flash(token, id, (offset, size), What::Erase),
            Call::OPAL_HANDLE_HMI { .. } => {
                let _ = hmi::handle(&self.registers(thread), &self.messages, &self.events);
                SUCCESS
            }
            Call::OPAL_HANDLE_HMI2 { flags, .. } => {
                let registers = self.registers(thread);
                hmi::handle_and_tell(&registers, &self.messages, &self.events, &self.os, flags)
            }
            Call::OPAL_GET_DEVICE_TREE { node, buf, len, .. } => {
                device_tree::get(&self.tree, &self.os, node, buf, len)
            }
            Call::OPAL_NMMU_SET_PTCR { chip, ptcr, .. } => {
                let units = NestMmuUnits(&self.nest_mmus, &self.xscom);
                nest_mmu::set_ptcr(&units, chip, ptcr)
            }
            Call::OPAL_XIVE_RESET { mode, .. } => self.xive.reset(mode),
            Call::OPAL_XIVE_GET_IRQ_INFO {
                girq,
                flags,
                eoi_page,
                trigger_page,
                esb_shift,
                chip,
                ..
            } => self.xive.get_irq_info(
                &self.os,
                girq,
                flags,
                eoi_page,
                trigger_page,
                esb_shift,
                chip,
            ),
            Call::OPAL_XIVE_GET_IRQ_CONFIG {
                girq,
                vp,
                priority,
                lirq,
                ..
            } => self.xive.get_irq_config(&self.os, girq, vp, priority, lirq),
            Call::OPAL_XIVE_SET_IRQ_CONFIG {
                girq,
                vp,
                priority,
                lirq,
                ..
            } => self.xive.set_irq_config(girq, vp, priority, lirq),
            Call::OPAL_XIVE_GET_QUEUE_INFO {
                vp,
                priority,
                page,
                size,
                eoi_page,
                escalation,
                flags,
                ..
            } => self.xive.get_queue_info(
                &self.os, vp, priority, page, size, eoi_page, escalation, flags,
            ),
            Call::OPAL_XIVE_SET_QUEUE_INFO {
                vp,
                priority,
                page,
                size,
                flags,
                ..
            } => self
                .xive
                .set_queue_info(&self.os, vp, priority, page, size, flags),
            Call::OPAL_XIVE_DONATE_PAGE { chip, page, .. } => {
                self.xive.donate_page(&self.os, chip, page)
            }
            Call::OPAL_XIVE_ALLOCATE_VP_BLOCK { order, .. } => self.xive.allocate_vp_block(order),
            Call::OPAL_XIVE_FREE_VP_BLOCK { vp, .. } => self.xive.free_vp_block(vp),
            Call::OPAL_XIVE_GET_VP_INFO {
                vp,
                flags,
                cam,
                report,
                chip,
                ..
            } => self
                .xive
                .get_vp_info(&self.os, vp, flags, cam, report, chip),
            Call::OPAL_XIVE_SET_VP_INFO {
                vp, flags, report, ..
            } => self.xive.set_vp_info(&self.os, vp, flags, report),
            Call::OPAL_XIVE_ALLOCATE_IRQ { chip, .. } => self.xive.allocate_irq(chip),
            Call::OPAL_XIVE_FREE_IRQ { girq, .. } => self.xive.free_irq(girq),
            Call::OPAL_XIVE_SYNC { kind, id, .. } => self.xive.sync(kind, id),
            Call::OPAL_XIVE_DUMP { kind, id, .. } => self.xive.dump(kind, id),
            Call::OPAL_XIVE_GET_QUEUE_STATE {
                vp,
                priority,
                toggle,
                index,
                ..
            } => self
                .xive
                .get_queue_state(&self.os, vp, priority, toggle, index),
            Call::OPAL_XIVE_SET_QUEUE_STATE {
                vp,
                priority,
                toggle,
                index,
                ..
            } => self.xive.set_queue_state(vp, priority, toggle, index),
            Call::OPAL_XIVE_GET_VP_STATE { vp, state, .. } => {
                self.xive.get_vp_state(&self.os, vp, state)
            }
        }
    }

    /// The registers of the thread that asks.
    const fn registers(&self, thread: &OpalThread) -> Registers<'_> {
        Registers {
            pir: thread.pir,
            is_fused: self.is_fused,
            scom: &self.xscom,
            threads: &self.threads,
        }
    }

    fn read_clock(&self, ymd: OsAddr, hmsm: OsAddr) -> Answer {
        self.os.check(ymd, 4)?;
        self.os.check(hmsm, 8)?;
        let time = self.machine.read_clock();
        let (date, clock) = clock::to_bcd(&time.map_err(|_| OpalError::OPAL_HARDWARE)?);
        self.os.write_be32(ymd, date)?;
        self.os.write_be64(hmsm, clock)?;
        SUCCESS
    }

    fn set_clock(&self, ymd: u32, hmsm: u64) -> Answer {
        let time = clock::from_bcd(ymd, hmsm).ok_or(OpalError::OPAL_PARAMETER)?;
        let set = self.machine.set_clock(time);
        set.map_err(|_| OpalError::OPAL_HARDWARE).and(SUCCESS)
    }

    fn signal_reset(&self, target: ServerOrOthers, me: Server) -> Answer {
        // Threads are reset one by one: what a kernel needs before it resets all others differs for each.
        let server = target.server().ok_or(OpalError::OPAL_CONSTRAINED)?;
        let thread = self.threads.find(server).filter(|_| server != me);
        let pir = thread.ok_or(OpalError::OPAL_PARAMETER)?.pir;
        let place = Place::of_pir(pir, self.is_fused).ok_or(OpalError::OPAL_PARAMETER)?;
        // The call that this one interrupted may have the lock, so it is not waited for without an end.
        let mut scom = Deadline::after_ms(10)
            .wait_for(|| self.xscom.try_lock())
            .ok_or(OpalError::OPAL_BUSY)?;
        core_control::system_reset(&mut *scom, place).map_err(|error| match error {
            ControlError::Scom(error) => scom_code(error),
            ControlError::Asleep | ControlError::Gated => OpalError::OPAL_HARDWARE,
        })?;
        SUCCESS
    }
}
