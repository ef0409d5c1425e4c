//! Cases, and a property: the same interrupts come as from a controller that presents, rejects and presents again.

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use proptest::prelude::*;

use super::{IPI, Trigger, Unknown, Xics};

const EDGE: u32 = 0x1100;
const LEVEL: u32 = 0x1101;

fn xics() -> Xics {
    let sources = [(EDGE, Trigger::Edge), (LEVEL, Trigger::Level)];
    let xics = Xics::new(NonZeroU16::new(2).unwrap(), &sources);
    xics.set_xive(EDGE, 0, 5).unwrap();
    xics.set_xive(LEVEL, 0, 6).unwrap();
    xics.set_cppr(0, 0xff).unwrap();
    xics
}

fn accept(xics: &Xics) -> u32 {
    xics.accept(0).unwrap().xirr
}

#[test]
fn pulses_count_once_until_accepted() {
    let xics = xics();
    assert_eq!(xics.raise(EDGE, 7), Ok(Some(0)));
    assert_eq!(xics.raise(EDGE, 8), Ok(None));
    let got = xics.accept(0).unwrap();
    assert_eq!((got.xirr, got.since), (0xff00_1100, 7));
    assert!(!xics.pending(0));
    assert_eq!(accept(&xics), 0x0500_0000);
    // One more while the first is in service waits for its end.
    assert_eq!(xics.raise(EDGE, 9), Ok(None));
    xics.end(0, got.xirr).unwrap();
    assert!(xics.pending(0));
    assert_eq!(accept(&xics), 0xff00_1100);
}

#[test]
fn a_level_comes_again_after_its_end_and_only_then() {
    let xics = xics();
    xics.raise(LEVEL, 0).unwrap();
    let xirr = accept(&xics);
    assert_eq!(xirr, 0xff00_1101);
    xics.set_cppr(0, 0xff).unwrap();
    assert!(!xics.pending(0), "in service");
    xics.end(0, xirr).unwrap();
    assert!(xics.pending(0));
    assert_eq!(accept(&xics), xirr);
    xics.lower(LEVEL).unwrap();
    xics.end(0, xirr).unwrap();
    assert!(!xics.pending(0));
}

#[test]
fn a_level_that_goes_away_is_spurious_but_a_pulse_stays() {
    let xics = xics();
    xics.raise(LEVEL, 0).unwrap();
    xics.lower(LEVEL).unwrap();
    assert_eq!(accept(&xics), 0xff00_0000);
    xics.raise(EDGE, 0).unwrap();
    xics.lower(EDGE).unwrap();
    assert_eq!(accept(&xics), 0xff00_1100);
}

#[test]
fn the_most_favoured_comes_first_and_interrupts_the_others() {
    let xics = xics();
    xics.raise(LEVEL, 0).unwrap();
    xics.raise(EDGE, 0).unwrap();
    assert_eq!(accept(&xics), 0xff00_1100);
    xics.set_mfrr(0, 4, 0).unwrap();
    assert_eq!(xics.poll(0).unwrap().xirr, 0x0500_0002);
    assert_eq!(accept(&xics), 0x0500_0000 | IPI);
    assert_eq!(accept(&xics), 0x0400_0000);
    xics.set_mfrr(0, 0xff, 0).unwrap();
    xics.end(0, 0x0500_0002).unwrap();
    assert!(!xics.pending(0), "6 is not more favoured than 5");
    xics.end(0, 0xff00_1100).unwrap();
    assert_eq!(accept(&xics), 0xff00_1101);
}

#[test]
fn an_ipi_comes_again_until_its_request_is_taken_back() {
    let xics = xics();
    xics.set_mfrr(0, 4, 0).unwrap();
    for _ in 0..2 {
        assert_eq!(accept(&xics), 0xff00_0002);
        xics.end(0, 0xff00_0002).unwrap();
    }
    xics.set_mfrr(0, 0xff, 0).unwrap();
    assert_eq!(accept(&xics), 0xff00_0000);
}

#[test]
fn masked_sources_wait() {
    let xics = xics();
    xics.mask(EDGE).unwrap();
    xics.mask(EDGE).unwrap();
    assert_eq!(xics.raise(EDGE, 0), Ok(None));
    assert!(!xics.pending(0));
    assert_eq!(xics.unmask(EDGE), Ok(Some(0)));
    xics.set_xive(EDGE, 0, 0xff).unwrap();
    assert!(!xics.pending(0));
    assert_eq!(xics.unmask(EDGE), Ok(None), "0xff is what it was set to");
    assert_eq!(xics.set_xive(EDGE, 0, 5), Ok(Some(0)));
}

#[test]
fn a_source_moves_to_another_server() {
    let xics = xics();
    xics.set_cppr(1, 0xff).unwrap();
    xics.raise(LEVEL, 0).unwrap();
    assert_eq!(xics.set_xive(LEVEL, 1, 6), Ok(Some(1)));
    assert_eq!((xics.pending(0), xics.pending(1)), (false, true));
    xics.set_xive(LEVEL, 0, 6).unwrap();
    let xirr = accept(&xics);
    assert_eq!(xics.set_xive(LEVEL, 1, 6), Ok(None));
    assert_eq!(xics.end(0, xirr), Ok(Some(1)));
}

#[test]
fn a_mistaken_end_still_restores_the_priority() {
    let xics = xics();
    xics.raise(EDGE, 0).unwrap();
    accept(&xics);
    assert_eq!(xics.end(0, 0xff12_3456), Err(Unknown));
    assert_eq!(xics.poll(0).unwrap().xirr, 0xff00_0000);
}

/// The controller as hardware has it: a server holds one presented interrupt; a more favoured one takes its place
/// and it goes back to its source; what was rejected comes again when the server's priority allows it.
struct Presenting {
    cppr: u8,
    mfrr: u8,
    presented: Option<(u32, u8)>,
    sources: Vec<Line>,
}

struct Line {
    number: u32,
    level: bool,
    priority: u8,
    saved: u8,
    /// Edge: rejected or masked pulse. Level: the line.
    raised: bool,
    /// Level: presented or in service.
    sent: bool,
}

impl Presenting {
    fn present(&mut self, number: u32, priority: u8) -> bool {
        let better = self.presented.is_none_or(|(_, held)| priority < held);
        if priority >= self.cppr || !better {
            return false;
        }
        self.reject();
        self.presented = Some((number, priority));
        true
    }

    /// Gives what is presented back to its source.
    fn reject(&mut self) {
        let Some((number, _)) = self.presented.take() else {
            return;
        };
        for line in self.sources.iter_mut().filter(|l| l.number == number) {
            if line.level {
                line.sent = false;
            } else {
                line.raised = true;
            }
        }
    }

    /// Everything that waits tries again.
    fn resend(&mut self) {
        loop {
            let before = self.presented;
            if self.mfrr != 0xff {
                self.present(IPI, self.mfrr);
            }
            for i in 0..self.sources.len() {
                let Line {
                    number,
                    level,
                    priority,
                    raised,
                    sent,
                    ..
                } = self.sources[i];
                if priority == 0xff || !raised || level && sent {
                    continue;
                }
                if self.present(number, priority) {
                    let line = &mut self.sources[i];
                    if level {
                        line.sent = true;
                    } else {
                        line.raised = false;
                    }
                }
            }
            if self.presented == before {
                return;
            }
        }
    }

    /// Takes back what must not be presented any more, and presents what may.
    fn again(&mut self) {
        self.reject();
        self.resend();
    }

    fn accept(&mut self) -> u32 {
        let old = u32::from(self.cppr) << 24;
        let Some((number, priority)) = self.presented.take() else {
            return old;
        };
        self.cppr = priority;
        old | number
    }

    fn line(&mut self, number: u32) -> &mut Line {
        self.sources
            .iter_mut()
            .find(|l| l.number == number)
            .unwrap()
    }
}

#[derive(Clone, Debug)]
enum Event {
    Raise(usize),
    Lower(usize),
    Priority(usize, u8),
    Mask(usize),
    Unmask(usize),
    Mfrr(u8),
    Cppr(u8),
    Accept,
    End,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0usize..6).prop_map(Event::Raise),
        2 => (0usize..6).prop_map(Event::Lower),
        1 => (0usize..6, 0u8..4).prop_map(|(i, p)| Event::Priority(i, p)),
        1 => (0usize..6).prop_map(Event::Mask),
        1 => (0usize..6).prop_map(Event::Unmask),
        2 => prop_oneof![Just(0xff), (0u8..4).prop_map(|p| p * 8 + 7)].prop_map(Event::Mfrr),
        1 => prop_oneof![Just(0xff), any::<u8>()].prop_map(Event::Cppr),
        5 => Just(Event::Accept),
        4 => Just(Event::End),
    ]
}

proptest! {
    #[test]
    fn the_same_interrupts_come_as_from_a_presenting_controller(events in prop::collection::vec(event(), 1..200)) {
        // Even sources are edges. No two priorities are equal: the order of equals is free.
        let number = |i: usize| 0x1000 + u32::try_from(i).unwrap();
        let priority = |i: usize, p: u8| p * 8 + u8::try_from(i).unwrap();
        let trigger = |i: usize| if i.is_multiple_of(2) { Trigger::Edge } else { Trigger::Level };
        let sources: Vec<_> = (0..6).map(|i| (number(i), trigger(i))).collect();
        let xics = Xics::new(NonZeroU16::MIN, &sources);
        let line = |i: usize| Line { number: number(i), level: i % 2 == 1, priority: 0xff, saved: 0xff, raised: false, sent: false };
        let mut model = Presenting { cppr: 0, mfrr: 0xff, presented: None, sources: (0..6).map(line).collect() };
        let mut in_service = vec![];
        for event in events {
            match event {
                Event::Raise(i) => {
                    xics.raise(number(i), 0).unwrap();
                    // A pulse of what is presented already counts once.
                    let held = model.presented.is_some_and(|(n, _)| n == number(i));
                    let line = model.line(number(i));
                    line.raised |= line.level || !held;
                }
                Event::Lower(i) => {
                    xics.lower(number(i)).unwrap();
                    if model.line(number(i)).level {
                        model.reject();
                        model.line(number(i)).raised = false;
                    }
                }
                Event::Priority(i, p) => {
                    xics.set_xive(number(i), 0, priority(i, p).into()).unwrap();
                    model.reject();
                    let line = model.line(number(i));
                    (line.priority, line.saved) = (priority(i, p), priority(i, p));
                }
                Event::Mask(i) => {
                    xics.mask(number(i)).unwrap();
                    model.reject();
                    let line = model.line(number(i));
                    if line.priority != 0xff {
                        line.saved = line.priority;
                    }
                    line.priority = 0xff;
                }
                Event::Unmask(i) => {
                    xics.unmask(number(i)).unwrap();
                    let line = model.line(number(i));
                    line.priority = line.saved;
                }
                Event::Mfrr(mfrr) => {
                    xics.set_mfrr(0, mfrr, 0).unwrap();
                    model.reject();
                    model.mfrr = mfrr;
                }
                Event::Cppr(cppr) => {
                    xics.set_cppr(0, cppr).unwrap();
                    model.reject();
                    model.cppr = cppr;
                }
                Event::Accept => {
                    let xirr = xics.accept(0).unwrap().xirr;
                    prop_assert_eq!(xirr, model.accept());
                    if xirr & 0xff_ffff != 0 {
                        in_service.push(xirr);
                    }
                }
                Event::End => {
                    if let Some(xirr) = in_service.pop() {
                        xics.end(0, xirr).unwrap();
                        model.reject();
                        model.cppr = xirr.to_be_bytes()[0];
                        for line in model.sources.iter_mut().filter(|l| l.number == xirr & 0xff_ffff) {
                            line.sent = false;
                        }
                    }
                }
            }
            model.again();
            prop_assert_eq!(xics.pending(0), model.presented.is_some());
        }
    }
}
