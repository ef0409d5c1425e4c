//! The TOD's driver against a model of two chips and one core. Surprising fact: the model, like the processor, moves on only when
//! TFMR is read.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use super::*;

const PATIENCE: Patience = Patience { scom: 10, tfmr: 10 };
const CONTROL: u64 = control(3_900_000_000);
const ALL: [ChipIndex; 2] = [ChipIndex(0), ChipIndex(1)];
/// Core 6 of chip 1.
const PLACE: Place = Place {
    chip: ChipIndex(1),
    core: 6,
    thread: 0,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tod {
    Error,
    NotSet,
    Running,
}

/// States of a core's time base.
const RESET: u64 = 0;
const NOT_SET: u64 = 2;
const SYNC_WAIT: u64 = 6;
const GET_TOD: u64 = 7;
const TB_RUNNING: u64 = 8;

struct Machine {
    tod: [Tod; 2],
    master: Vec<u8>,
    loaded: u64,
    state: u64,
    bits: u64,
    sent: bool,
    ready: bool,
    target: u64,
    writes: Vec<(u8, u32)>,
    /// What does not work.
    absent: Option<u32>,
    deaf: bool,
    stuck: u64,
}

#[derive(Clone)]
struct Model(Rc<RefCell<Machine>>);

impl Model {
    fn new() -> Self {
        Self(Rc::new(RefCell::new(Machine {
            tod: [Tod::Error; 2],
            master: [0].into(),
            loaded: 0,
            state: RESET,
            bits: 0,
            sent: false,
            ready: false,
            target: 0,
            writes: Vec::new(),
            absent: None,
            deaf: false,
            stuck: 0,
        })))
    }

    fn running() -> Self {
        let model = Self::new();
        model.0.borrow_mut().tod = [Tod::Running; 2];
        model
    }

    fn change(self, change: impl FnOnce(&mut Machine)) -> Self {
        change(&mut self.0.borrow_mut());
        self
    }

    fn set(&self) -> Result<(), TodError> {
        let (mut scom, mut tfmr) = (self.clone(), self.clone());
        move_to_time_base(&mut scom, &mut tfmr, PLACE, CONTROL, PATIENCE)
    }

    fn start(&self, time: u64) -> Result<(), TodError> {
        start(&mut self.clone(), ALL[0], ALL, time, PATIENCE)
    }
}

impl Scom for Model {
    fn read(&mut self, chip: ChipIndex, address: ScomAddr) -> Result<u64, ScomError> {
        let machine = self.0.borrow();
        if machine.absent == Some(address.0) {
            return Err(ScomError::Address);
        }
        Ok(match address {
            STATUS if machine.master.contains(&chip.0) => ACTIVE_MASTER,
            STATUS => 0,
            STATE if machine.tod[usize::from(chip.0)] == Tod::Running => RUNNING,
            STATE => 0,
            _ => return Err(ScomError::Address),
        })
    }

    fn write(&mut self, chip: ChipIndex, at: ScomAddr, value: u64) -> Result<(), ScomError> {
        let mut machine = self.0.borrow_mut();
        machine.writes.push((chip.0, at.0));
        let here = usize::from(chip.0);
        match at {
            LOAD_MODE => machine.tod[here] = Tod::NotSet,
            INVALIDATE_OTHERS => machine.tod[1 - here] = Tod::NotSet,
            LOAD => {
                assert_eq!(machine.tod[here], Tod::NotSet);
                machine.tod[here] = Tod::Running;
                machine.loaded = value;
            }
            SEND_TO_ALL if !machine.deaf => {
                assert_eq!(machine.tod, [Tod::Running, Tod::NotSet]);
                machine.tod[1] = Tod::Running;
            }
            TARGET => machine.target = value,
            MOVE_TO_TIME_BASE => {
                assert!(machine.ready, "sent before the core was ready");
                machine.sent = machine.target == (0x2102_24a3 << 32 | BY_ADDRESS);
            }
            ERRORS | ENABLE_STEP_CHECKERS | SEND_TO_ALL => {}
            _ => return Err(ScomError::Address),
        }
        Ok(())
    }
}

impl TimeFacility for Model {
    fn read(&mut self) -> u64 {
        let mut machine = self.0.borrow_mut();
        let stuck = machine.stuck;
        let can = |bit: u64| stuck & bit == 0;
        if machine.bits & LOAD_TOD_MODE != 0 && can(LOAD_TOD_MODE) {
            machine.bits &= !LOAD_TOD_MODE;
            machine.state = NOT_SET;
        } else if machine.bits & MOVE != 0 && machine.state == SYNC_WAIT {
            machine.state = GET_TOD;
        } else if machine.bits & MOVE != 0 && machine.sent && can(MOVE) {
            machine.bits &= !MOVE;
            machine.state = TB_RUNNING;
        }
        let valid = if machine.state == TB_RUNNING && can(VALID) {
            VALID
        } else {
            0
        };
        machine.bits | machine.state << STATE_SHIFT | valid | stuck & (CORRUPT | TOD_INTERRUPT)
    }

    fn write(&mut self, value: u64) {
        let mut machine = self.0.borrow_mut();
        assert_eq!(value & CONTROL, CONTROL, "control bits stay");
        machine.bits &= !(value & (MISSED | STUCK_ERRORS | THREAD_ERRORS));
        if value & CLEAR_ERRORS != 0 {
            machine.bits &= STUCK_ERRORS;
            machine.state = RESET;
            machine.bits |= machine.stuck & CLEAR_ERRORS;
        } else if value & LOAD_TOD_MODE != 0 {
            machine.bits |= LOAD_TOD_MODE;
        } else if value & MOVE != 0 {
            assert_eq!(machine.state, NOT_SET);
            machine.bits |= MOVE;
            machine.state = SYNC_WAIT;
            machine.ready = true;
        }
    }
}

#[test]
fn the_control_bits_follow_the_clock() {
    // 3.9 GHz: 121.9 clocks a step.
    assert_eq!(CONTROL >> 56, 73);
    assert_eq!(CONTROL << 8 >> 8, 0x0012_0000_0000_0000);
    assert_eq!(control(u64::MAX) >> 56, 0xff, "no clock runs over");
}

#[test]
fn a_machine_has_one_master() {
    let find = |masters: &[u8]| {
        let mut model = Model::new().change(|machine| machine.master = masters.into());
        master(&mut model, ALL)
    };
    assert_eq!(find(&[1]), Ok(ALL[1]));
    assert_eq!(find(&[]), Err(TodError::Masters(0)));
    assert_eq!(find(&[0, 1]), Err(TodError::Masters(2)));
    let mut none = Model::new().change(|machine| machine.absent = Some(STATUS.0));
    let absent = Err(TodError::Scom(ScomError::Address));
    assert_eq!(master(&mut none, ALL), absent);
}

#[test]
fn the_master_starts_all_chips_near_the_time() {
    let model = Model::new();
    assert_eq!(model.start(0x1234_5678), Ok(()));
    let machine = model.0.borrow();
    assert_eq!(machine.tod, [Tod::Running; 2]);
    assert_eq!(machine.loaded, 0x1234_5ff0);
    assert!(machine.writes.iter().all(|(chip, _)| *chip == 0));
}

#[test]
fn a_chip_that_does_not_follow_is_named() {
    let model = Model::new().change(|machine| machine.deaf = true);
    assert_eq!(model.start(0), Err(TodError::NotRunning(ALL[1])));
}

#[test]
fn a_core_gets_the_time() {
    let model = Model::running();
    assert!(!is_good(model.clone().0.borrow().bits));
    assert_eq!(model.set(), Ok(()));
    assert!(is_good(TimeFacility::read(&mut model.clone())));
    assert_eq!(model.set(), Ok(()), "and again");
}

#[test]
fn errors_are_cleared_on_the_way() {
    let errors = MISSED | STUCK_ERRORS | ppc_bit(59);
    let model = Model::running().change(|machine| {
        machine.bits = errors;
        machine.state = STATE_ERROR;
    });
    assert!(!is_good(TimeFacility::read(&mut model.clone())));
    assert_eq!(model.set(), Ok(()));
}

#[test]
fn a_time_of_day_that_stands_still_moves_nothing() {
    let model = Model::new();
    assert_eq!(model.set(), Err(TodError::NotRunning(PLACE.chip)));
    assert!(model.0.borrow().writes.is_empty(), "nothing was touched");
}

#[test]
fn every_step_that_does_not_end_is_named() {
    for (bit, step) in [
        (CLEAR_ERRORS, Step::Clear),
        (LOAD_TOD_MODE, Step::Unset),
        (TOD_INTERRUPT, Step::Quiet),
        (MOVE, Step::Move),
    ] {
        let model = Model::running().change(|machine| machine.stuck = bit);
        let failed = model.set();
        let is_named =
            matches!(failed, Err(TodError::Timeout(at, tfmr)) if at == step && tfmr & bit != 0);
        assert!(is_named, "{failed:?}");
    }
    let model = Model::running().change(|machine| machine.stuck = VALID);
    assert!(matches!(model.set(), Err(TodError::Broken(Step::Check, _))));
    let model = Model::running().change(|machine| machine.stuck = CORRUPT);
    assert!(matches!(model.set(), Err(TodError::Broken(Step::Clear, _))));
}

#[test]
fn only_a_valid_time_base_without_errors_is_good() {
    assert!(is_good(VALID | ppc_bit(42) | ppc_bit(59)));
    for error in [25, 27, 43, 44, 45, 46, 60] {
        assert!(!is_good(VALID | ppc_bit(error)), "bit {error}");
    }
    assert!(!is_good(0));
}
