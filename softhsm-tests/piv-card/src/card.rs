//! The card: a PIV application (NIST SP 800-73-4), and around it what a YubiKey adds: version and
//! serial number, policies of PIN and touch, metadata, attestation, and objects of its own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use heapless::Vec as Buffer;
use iso7816::command::CommandView;

use crate::apdu::{Answer, Apdu, Chaining, Status, find, object};
use crate::attest::Attester;
use crate::platform::Application;
use crate::state::{Key, Management, Memory, Secret, State};
use crate::trouble::{Reaction, Trouble};
use crate::vpcd;

const PIV: &[u8] = b"\xa0\x00\x00\x03\x08\x00\x00\x10\x00";
/// How long a touch counts for keys whose touch is cached.
const CACHED: Duration = Duration::from_secs(15);
/// How often it is looked whether the user touches.
const LOOK: Duration = Duration::from_millis(5);
const PIN: u8 = 0x80;
const PUK: u8 = 0x81;
const MANAGEMENT: u8 = 0x9b;
const SIGNATURE: u8 = 0x9c;
const CARD_AUTHENTICATION: u8 = 0x9e;
const ATTESTATION: u8 = 0xf9;

/// What a card is beside its keys.
pub struct Settings {
    pub firmware: [u8; 3],
    pub serial: u32,
    /// It exists while the user touches.
    pub touch: PathBuf,
    /// How long the card waits for a touch.
    pub patience: Duration,
    /// It exists while the card misbehaves, and says how.
    pub trouble: PathBuf,
}

/// What a loss of power ends.
#[derive(Default)]
struct Session {
    selected: bool,
    /// The PIN, as it was verified.
    pin: Option<Vec<u8>>,
    /// It was verified by the command before this one.
    fresh: bool,
    management: bool,
    touched: Option<Instant>,
}

pub struct Card<'a> {
    settings: Settings,
    application: Application<'a>,
    memory: Memory,
    attester: Attester,
    session: Session,
    chaining: Chaining,
}

impl vpcd::Card for Card<'_> {
    fn reset(&mut self) {
        self.session = Session::default();
        self.chaining = Chaining::default();
        self.log_out();
    }

    fn transmit(&mut self, command: &[u8]) -> Option<Vec<u8>> {
        let trouble = Trouble::now(&self.settings.trouble);
        match trouble.and_then(|trouble| trouble.reaction(*command.get(1)?)) {
            Some(Reaction::Silence) => return None,
            Some(Reaction::Part(part)) => return Some(part),
            Some(Reaction::Answer(data)) => return Some(self.chaining.answer(Ok(data))),
            Some(Reaction::Forget) => self.forget(),
            Some(Reaction::ForgetOnce) => {
                self.forget();
                std::fs::remove_file(&self.settings.trouble).expect("the trouble is over");
            }
            None => {}
        }
        Some(match self.chaining.whole(command) {
            Ok(apdu) => {
                let answer = self.command(&apdu);
                self.chaining.answer(answer)
            }
            Err(answer) => answer,
        })
    }
}

impl<'a> Card<'a> {
    pub fn new(settings: Settings, application: Application<'a>, memory: Memory, attester: Attester) -> Self {
        let (session, chaining) = (Session::default(), Chaining::default());
        Self { settings, application, memory, attester, session, chaining }
    }

    /// Gives a new card PIN and PUK of its own, as its holder does.
    pub fn personalise(&mut self, pin: &str, puk: &str) {
        let select = Apdu { instruction: 0xa4, p1: 4, data: PIV.to_vec(), ..Apdu::default() };
        self.command(&select).expect("PIV");
        for (which, new) in [(PIN, pin), (PUK, puk)] {
            let mut data = factory(which).to_vec();
            data.extend(new.bytes().chain(std::iter::repeat(0xff)).take(8));
            let change = Apdu { instruction: 0x24, p2: which, data, ..Apdu::default() };
            self.command(&change).expect("a PIN of 6 to 8 digits, a PUK of 8");
        }
        self.session = Session::default();
        self.log_out();
    }

    fn command(&mut self, apdu: &Apdu) -> Answer {
        let fresh = std::mem::take(&mut self.session.fresh);
        match (apdu.instruction, self.session.selected) {
            (0xa4, _) => self.select(apdu),
            (_, false) => Err(Status::INSTRUCTION),
            (0xfd, _) => Ok(self.settings.firmware.to_vec()),
            (0xf8, _) => Ok(self.settings.serial.to_be_bytes().to_vec()),
            (0x20, _) => self.verify(apdu),
            (0x24, _) => self.change(apdu),
            (0x2c, _) => self.unblock(apdu),
            (0x47, _) => self.generate(apdu),
            (0x87, _) => self.authenticate(apdu, fresh),
            (0xcb, _) => self.get(apdu),
            (0xdb, _) => self.put(apdu),
            (0xf7, _) => self.metadata(apdu.p2),
            (0xf9, _) => self.attest(apdu.p1),
            (0xfb, _) => self.factory(apdu),
            (0xff, _) => self.set_management_key(apdu),
            // Importing keys and other numbers of tries: the application cannot.
            _ => Err(Status::INSTRUCTION),
        }
    }

    /// Has the application answer.
    fn forward(&mut self, apdu: &Apdu) -> Answer {
        let bytes = apdu.to_bytes();
        let view = CommandView::try_from(bytes.as_slice()).map_err(|_| Status::LENGTH)?;
        let mut reply = Buffer::<u8, 8192>::new();
        let answered = self.application.respond(view, &mut reply);
        answered.map(|()| reply.to_vec()).map_err(|status| Status(status.into()))
    }

    /// Forgets that the PIN was verified.
    fn forget(&mut self) {
        (self.session.pin, self.session.fresh) = (None, false);
        self.log_out();
    }

    /// The application keeps the PIN verified, whatever happens.
    fn log_out(&mut self) {
        let out = Apdu { instruction: 0x20, p1: 0xff, p2: PIN, ..Apdu::default() };
        // It does not fail; and when it did, the next command would.
        self.forward(&out).ok();
    }

    fn select(&mut self, apdu: &Apdu) -> Answer {
        self.session = Session::default();
        self.log_out();
        // The application wants more of its identifier than clients send.
        let piv = apdu.data.len() >= 5 && (PIV.starts_with(&apdu.data) || apdu.data.starts_with(PIV));
        if !piv {
            return Err(Status::NOT_FOUND);
        }
        let answer = self.forward(&Apdu { data: PIV.to_vec(), ..apdu.clone() })?;
        self.session.selected = true;
        Ok(answer)
    }

    fn verify(&mut self, apdu: &Apdu) -> Answer {
        if apdu.p1 == 0 && apdu.p2 == PIN && apdu.data.is_empty() && self.memory.state.pin.left == 0 {
            return Err(Status::BLOCKED);
        }
        let answer = self.forward(apdu);
        if apdu.p1 == 0xff {
            self.session.pin = None;
        }
        if apdu.p1 != 0 || apdu.data.is_empty() {
            return answer;
        }
        self.tried(PIN, &answer);
        self.session.pin = answer.is_ok().then(|| apdu.data.clone());
        self.session.fresh = answer.is_ok();
        answer.map_err(|status| self.tries(PIN, status))
    }

    /// Counts a try of PIN or PUK, if what the application answers shows that it was one.
    fn tried(&mut self, which: u8, answer: &Answer) {
        let tries = if which == PIN { Secret::PIN_TRIES } else { Secret::PUK_TRIES };
        let left = match answer {
            Ok(_) => tries,
            Err(Status(0x6300 | 0x63c0..=0x63cf | 0x6983)) => {
                secret(&mut self.memory.state, which).left.saturating_sub(1)
            }
            Err(_) => return,
        };
        self.memory.change(|state| secret(state, which).left = left);
    }

    /// What a wrong try is answered with: the application does not always count.
    fn tries(&mut self, which: u8, status: Status) -> Status {
        let left = secret(&mut self.memory.state, which).left;
        match status {
            Status(0x6300 | 0x63c0..=0x63cf | 0x6983) if left == 0 => Status::BLOCKED,
            Status(0x6300 | 0x63c0..=0x63cf) => Status::tries(left),
            other => other,
        }
    }

    fn change(&mut self, apdu: &Apdu) -> Answer {
        let which = apdu.p2;
        if which != PIN && which != PUK {
            return Err(Status::REFERENCE);
        }
        if secret(&mut self.memory.state, which).left == 0 {
            return Err(Status::BLOCKED);
        }
        let answer = self.forward(apdu);
        self.tried(which, &answer);
        if answer.is_ok() {
            let new = apdu.data.get(8..).unwrap_or_default().to_vec();
            self.memory.change(|state| secret(state, which).default = new == factory(which));
            if which == PIN {
                self.session.pin = Some(new);
            }
        }
        answer.map_err(|status| self.tries(which, status))
    }

    /// A new PIN by the PUK.
    fn unblock(&mut self, apdu: &Apdu) -> Answer {
        if self.memory.state.puk.left == 0 {
            return Err(Status::BLOCKED);
        }
        let answer = self.forward(apdu);
        self.tried(PUK, &answer);
        if answer.is_ok() {
            let new = apdu.data.get(8..).unwrap_or_default();
            let default = new == factory(PIN);
            self.memory.change(|state| state.pin = Secret { left: Secret::PIN_TRIES, default });
        }
        answer.map_err(|status| self.tries(PUK, status))
    }

    fn generate(&mut self, apdu: &Apdu) -> Answer {
        self.require_management()?;
        let wanted = find(&apdu.data, 0xac).ok_or(Status::DATA)?;
        let one = |tag| match find(wanted, tag) {
            Some([value]) => Ok(Some(*value)),
            Some(_) => Err(Status::DATA),
            None => Ok(None),
        };
        let algorithm = one(0x80)?.ok_or(Status::DATA)?;
        let usual = match apdu.p2 {
            SIGNATURE => 3,
            CARD_AUTHENTICATION => 1,
            _ => 2,
        };
        let (pin, touch) = (one(0xaa)?.unwrap_or(usual), one(0xab)?.unwrap_or(1));
        // The application encrypts all other keys under the PIN.
        if !(1..=3).contains(&touch) || (pin == 1) != (apdu.p2 == CARD_AUTHENTICATION) || pin > 3 {
            return Err(Status::DATA);
        }
        let data = object(&[0xac], &object(&[0x80], &[algorithm]));
        let answer = self.forward(&Apdu { data, ..apdu.clone() })?;
        // 7F 49, and the objects of the public key in it.
        let public = hex::encode(find(answer.get(1..).ok_or(Status::DATA)?, 0x49).ok_or(Status::DATA)?);
        self.memory.change(|state| state.keys.insert(apdu.p2, Key { algorithm, pin, touch, public }));
        Ok(answer)
    }

    /// GENERAL AUTHENTICATE: the management key, or the use of a key in a slot.
    fn authenticate(&mut self, apdu: &Apdu, fresh: bool) -> Answer {
        if apdu.p2 == MANAGEMENT {
            let step = find(&apdu.data, 0x7c).ok_or(Status::DATA)?;
            let answer = self.forward(apdu)?;
            // The first step asks for a witness or a challenge, and proves nothing.
            self.session.management |= !matches!(step, [0x80 | 0x81, 0]);
            return Ok(answer);
        }
        let key = self.memory.state.keys.get(&apdu.p2).cloned().ok_or(Status::REFERENCE)?;
        match (key.pin, &self.session.pin) {
            (1, _) => {}
            (2, Some(pin)) => {
                // The application always wants it for the key that signs, whatever its policy.
                let verify = Apdu { instruction: 0x20, p2: PIN, data: pin.clone(), ..Apdu::default() };
                self.forward(&verify)?;
            }
            (3, Some(_)) if fresh => {}
            _ => return Err(Status::SECURITY),
        }
        self.wait_for_touch(key.touch)?;
        self.forward(apdu)
    }

    fn wait_for_touch(&mut self, policy: u8) -> Result<(), Status> {
        let cached = self.session.touched.is_some_and(|touched| touched.elapsed() < CACHED);
        if policy == 1 || policy == 3 && cached {
            return Ok(());
        }
        let begun = Instant::now();
        // Whoever waits for this moment sees it.
        let blinks = self.settings.touch.with_file_name("blinks");
        std::fs::write(&blinks, "").ok();
        while !self.settings.touch.exists() {
            if begun.elapsed() >= self.settings.patience {
                return Err(Status::SECURITY);
            }
            std::thread::sleep(LOOK);
        }
        self.session.touched = Some(Instant::now());
        Ok(())
    }

    fn get(&mut self, apdu: &Apdu) -> Answer {
        let Some([0x5f, 0xff, number]) = find(&apdu.data, 0x5c) else { return self.forward(apdu) };
        if *number == 1 {
            let certificate = object(&[0x70], &self.attester.certificate);
            return Ok(object(&[0x53], &[&certificate[..], &[0x71, 1, 0, 0xfe, 0]].concat()));
        }
        let stored = self.memory.state.objects.get(number).ok_or(Status::NOT_FOUND)?;
        Ok(object(&[0x53], &hex::decode(stored).map_err(|_| Status::NOT_FOUND)?))
    }

    fn put(&mut self, apdu: &Apdu) -> Answer {
        self.require_management()?;
        let Some([0x5f, 0xff, number]) = find(&apdu.data, 0x5c) else { return self.forward(apdu) };
        let value = hex::encode(find(&apdu.data, 0x53).ok_or(Status::DATA)?);
        self.memory.change(|state| match value.is_empty() {
            true => state.objects.remove(number),
            false => state.objects.insert(*number, value),
        });
        Ok(Vec::new())
    }

    fn metadata(&mut self, which: u8) -> Answer {
        let state = &mut self.memory.state;
        let objects = match which {
            PIN | PUK => {
                let tries = if which == PIN { Secret::PIN_TRIES } else { Secret::PUK_TRIES };
                let Secret { left, default } = *secret(state, which);
                [object(&[1], &[0xff]), object(&[5], &[default.into()]), object(&[6], &[tries, left])]
                    .concat()
            }
            MANAGEMENT => {
                let key = &state.management;
                let policy = object(&[2], &[0, key.touch]);
                [object(&[1], &[key.algorithm]), policy, object(&[5], &[key.default.into()])].concat()
            }
            _ => {
                let key = state.keys.get(&which).ok_or(Status::REFERENCE)?;
                let public = hex::decode(&key.public).map_err(|_| Status::DATA)?;
                let policy = object(&[2], &[key.pin, key.touch]);
                // 1: it was made in the card.
                [object(&[1], &[key.algorithm]), policy, object(&[3], &[1]), object(&[4], &public)].concat()
            }
        };
        Ok(objects)
    }

    fn attest(&self, slot: u8) -> Answer {
        if slot == ATTESTATION {
            return Err(Status::PARAMETERS);
        }
        let key = self.memory.state.keys.get(&slot).ok_or(Status::REFERENCE)?;
        let attested = self.attester.attest(slot, key, self.settings.firmware, self.settings.serial);
        attested.map_err(|_| Status::DATA)
    }

    /// As it left the factory: only when PIN and PUK are blocked.
    fn factory(&mut self, apdu: &Apdu) -> Answer {
        if self.memory.state.pin.left > 0 || self.memory.state.puk.left > 0 {
            return Err(Status::CONDITIONS);
        }
        let answer = self.forward(apdu)?;
        self.memory.change(|state| *state = State::default());
        self.session = Session { selected: true, ..Session::default() };
        Ok(answer)
    }

    fn set_management_key(&mut self, apdu: &Apdu) -> Answer {
        self.require_management()?;
        let answer = self.forward(apdu)?;
        let [algorithm, _, _, key @ ..] = &apdu.data[..] else { return Err(Status::DATA) };
        let default = key == [1, 2, 3, 4, 5, 6, 7, 8].repeat(3);
        let touch = if apdu.p2 == 0xfe { 2 } else { 1 };
        self.memory.change(|state| state.management = Management { algorithm: *algorithm, touch, default });
        Ok(answer)
    }

    fn require_management(&self) -> Result<(), Status> {
        if self.session.management { Ok(()) } else { Err(Status::SECURITY) }
    }
}

fn secret(state: &mut State, which: u8) -> &mut Secret {
    if which == PIN { &mut state.pin } else { &mut state.puk }
}

/// PIN and PUK of a new card, filled up to eight bytes.
fn factory(which: u8) -> &'static [u8] {
    if which == PIN { b"123456\xff\xff" } else { b"12345678" }
}
