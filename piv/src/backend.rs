//! Cards in readers.

use std::ffi::CString;
use std::thread::sleep;
use std::time::{Duration, Instant};

use keyward::id::token::{TokenInfo, TokenSelector};
use keyward::secret::Pin;
use keyward::token::backend::Backend;
use keyward::token::error::{PinTrouble, TokenError};
use keyward::token::wire::{PinState, PukSets, Secret, TokenReport};
use pcsc::{Disposition, PNP_NOTIFICATION, ReaderState, Scope, State};
use yubikey::piv::{ManagementSlotId, SlotId};
use yubikey::reader::Context;
use yubikey::{Error, YubiKey, piv};

use crate::card::Card;
use crate::slots;
use crate::trouble::{failed, pcsc, state, wrong_pin, wrong_puk};

/// How long another program may have a card for itself before that is an error.
const BUSY: Duration = Duration::from_secs(5);
/// When to look again for a card that did not answer yet.
const SOON: Duration = Duration::from_secs(1);
/// The first pause before it is tried again; the next ones are longer.
const PAUSE: Duration = Duration::from_millis(50);
/// PINs and PUKs of PIV cards have so many bytes (NIST SP 800-73-4, part 2, section 2.4.3).
const PIN_BYTES: std::ops::RangeInclusive<usize> = 6..=8;

/// The service of readers.
pub(crate) struct Piv {
    service: pcsc::Context,
    /// The readers as they were when the cards were listed.
    seen: Vec<ReaderState>,
    /// Whether a card was there that did not answer yet.
    unready: bool,
}

/// What the readers have.
struct Present {
    cards: Vec<YubiKey>,
    /// Why others were not opened: what another program holds, or what the service does not permit.
    closed: Option<TokenError>,
    /// Whether a card was there that did not answer yet.
    unready: bool,
}

/// Lets go of cards as they are: other programs may have proved their PIN to them, which a reset would undo.
fn leave(cards: impl IntoIterator<Item = YubiKey>) {
    for card in cards {
        // One that was pulled out cannot be let go.
        card.disconnect(Disposition::LeaveCard).map_err(|(card, _)| drop(card)).ok();
    }
}

impl Piv {
    pub(crate) fn new() -> Result<Self, TokenError> {
        let service = pcsc::Context::establish(Scope::User).map_err(|error| pcsc("be reached", error))?;
        Ok(Self { service, seen: Vec::new(), unready: false })
    }

    /// Takes note of how the readers are now.
    fn look(&mut self) -> Result<(), TokenError> {
        let readers = self.service.list_readers_owned().map_err(|error| pcsc("be looked for", error))?;
        let names = readers.into_iter().chain([CString::from(PNP_NOTIFICATION())]);
        self.seen = names.map(|name| ReaderState::new(name, State::UNAWARE)).collect();
        match self.service.get_status_change(Duration::ZERO, &mut self.seen) {
            Ok(()) | Err(pcsc::Error::Timeout) => {}
            Err(error) => return Err(pcsc("be looked for", error)),
        }
        self.seen.iter_mut().for_each(ReaderState::sync_current_state);
        Ok(())
    }

    /// The PIV cards, open. A reader without one is passed over, and so is a card of another kind. What another
    /// program holds is waited for, unless `enough` is there already.
    fn present(enough: impl Fn(&[YubiKey]) -> bool) -> Result<Present, TokenError> {
        let (until, mut pause) = (Instant::now() + BUSY, PAUSE);
        let mut context = Context::open().map_err(|error| failed("be looked for", error))?;
        let readers: Vec<_> = context.iter().map_err(|error| failed("be looked for", error))?.collect();
        let mut left: Vec<_> = readers.iter().collect();
        let mut found = Present { cards: Vec::new(), closed: None, unready: false };
        loop {
            let mut busy = Vec::new();
            for reader in left {
                match reader.open() {
                    Ok(card) => found.cards.push(card),
                    Err(Error::PcscError { inner: Some(pcsc::Error::SharingViolation) }) => busy.push(reader),
                    Err(error) => found.note(&error),
                }
            }
            if busy.is_empty() || enough(&found.cards) {
                return Ok(found);
            }
            if Instant::now() >= until {
                found.closed = Some(pcsc("be opened", pcsc::Error::SharingViolation));
                return Ok(found);
            }
            left = busy;
            sleep(pause);
            pause *= 2;
        }
    }

    /// The one card that is asked for.
    fn find(wanted: &TokenSelector) -> Result<YubiKey, TokenError> {
        let Present { cards, closed, .. } =
            Self::present(|cards| cards.iter().any(|card| wanted.matches(&info(card))))?;
        let present: Vec<String> = cards.iter().map(|card| format!("serial {}", card.serial())).collect();
        let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
        let (mut fitting, others): (Vec<_>, Vec<_>) =
            cards.into_iter().partition(|card| wanted.matches(&info(card)));
        leave(others);
        match (fitting.pop(), fitting.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(closed.unwrap_or_else(|| {
                TokenError::NoToken(format!("no PIV card has {wanted}; present: {present}"))
            })),
            (Some(last), _) => {
                leave(fitting.into_iter().chain([last]));
                Err(TokenError::NoToken(format!("several PIV cards fit: say which; present: {present}")))
            }
        }
    }
}

impl Present {
    /// Notes why a reader was not opened, where that is worth a word.
    fn note(&mut self, error: &Error) {
        let Error::PcscError { inner: Some(inner) } = error else { return };
        match inner {
            pcsc::Error::SecurityViolation => self.closed = Some(pcsc("be opened", *inner)),
            // It was plugged in a moment ago.
            pcsc::Error::UnresponsiveCard | pcsc::Error::UnpoweredCard | pcsc::Error::ResetCard => {
                self.unready = true;
            }
            _ => {}
        }
    }
}

/// What a card calls itself.
pub(crate) fn info(card: &YubiKey) -> TokenInfo {
    TokenInfo {
        label: format!("PIV {}", card.serial()),
        serial: card.serial().to_string(),
        manufacturer: "Yubico".to_owned(),
        model: format!("firmware {}", card.version()),
    }
}

/// How many tries of the PIN are left, of how many where the card tells.
fn tries(card: &mut YubiKey) -> Result<(u8, Option<u8>), TokenError> {
    let metadata = piv::metadata(card, SlotId::Management(ManagementSlotId::Pin)).ok();
    if let Some(retries) = metadata.and_then(|metadata| metadata.retries) {
        return Ok((retries.remaining_count, Some(retries.retry_count)));
    }
    card.get_pin_retries()
        .map(|left| (left, None))
        .map_err(|error| failed("say how many tries are left", error))
}

/// The secrets that are those of the factory, as far as the card tells.
fn factory(card: &mut YubiKey) -> Vec<Secret> {
    let secrets = [
        (ManagementSlotId::Pin, Secret::Pin),
        (ManagementSlotId::Puk, Secret::Puk),
        (ManagementSlotId::Management, Secret::ManagementKey),
    ];
    let is_default = |(slot, _): &(ManagementSlotId, Secret)| {
        piv::metadata(card, SlotId::Management(*slot)).is_ok_and(|metadata| metadata.default == Some(true))
    };
    secrets.into_iter().filter(is_default).map(|(_, secret)| secret).collect()
}

fn report(card: &mut YubiKey) -> Result<TokenReport, TokenError> {
    let (left, all) = tries(card)?;
    Ok(TokenReport {
        puk: puk_state(card),
        token: info(card),
        pin: state(left, all),
        keys: slots::keys(card)?.into_iter().map(|found| found.key).collect(),
        tries: Some(left),
        factory: factory(card),
    })
}

/// The state of the PUK, where the card tells: from firmware 5.3 on.
fn puk_state(card: &mut YubiKey) -> PinState {
    let metadata = piv::metadata(card, SlotId::Management(ManagementSlotId::Puk)).ok();
    let retries = metadata.and_then(|metadata| metadata.retries);
    retries.map_or(PinState::Fine, |retries| state(retries.remaining_count, Some(retries.retry_count)))
}

/// Nothing that a card would count as a try without being able to take it.
fn fits(pin: &Pin) -> Result<&[u8], TokenError> {
    let bytes = pin.expose().as_bytes();
    match PIN_BYTES.contains(&bytes.len()) {
        true => Ok(bytes),
        false => Err(TokenError::Pin(PinTrouble::Malformed)),
    }
}

impl Backend for Piv {
    type Open = Card;

    fn list(&mut self) -> Result<Vec<TokenReport>, TokenError> {
        self.look()?;
        let Present { mut cards, closed, unready } = Self::present(|_| false)?;
        self.unready = unready;
        let (mut reports, mut failed) = (Vec::new(), closed);
        for reported in cards.iter_mut().map(report) {
            match reported {
                Ok(report) => reports.push(report),
                // One that was pulled out, or is broken, keeps no other from being used.
                Err(error) => failed = Some(error),
            }
        }
        leave(cards);
        match failed {
            Some(failed) if reports.is_empty() => Err(failed),
            _ => Ok(reports),
        }
    }

    fn wait(&mut self) -> Result<(), TokenError> {
        let longest = self.unready.then_some(SOON);
        match self.service.get_status_change(longest, &mut self.seen) {
            Ok(()) | Err(pcsc::Error::Timeout) => Ok(()),
            Err(error) => Err(pcsc("be waited for", error)),
        }
    }

    fn open(&mut self, token: &TokenSelector, pin: &Pin, last_try: bool) -> Result<Card, TokenError> {
        let bytes = fits(pin)?;
        let mut card = Self::find(token)?;
        let (left, all) = tries(&mut card)?;
        state(left, all).may_try(last_try).map_err(TokenError::Pin)?;
        card.verify_pin(bytes).map_err(|error| wrong_pin("take the PIN", error))?;
        Ok(Card::new(card, pin.duplicate()))
    }

    fn change_pin(
        &mut self,
        token: &TokenSelector,
        pin: &Pin,
        new: &Pin,
        last_try: bool,
    ) -> Result<(), TokenError> {
        let (old, new) = (fits(pin)?, fits(new)?);
        let mut card = Self::find(token)?;
        let (left, all) = tries(&mut card)?;
        state(left, all).may_try(last_try).map_err(TokenError::Pin)?;
        card.change_pin(old, new).map_err(|error| wrong_pin("change its PIN", error))
    }

    fn use_puk(
        &mut self,
        token: &TokenSelector,
        puk: &Pin,
        sets: PukSets,
        new: &Pin,
        last_try: bool,
    ) -> Result<(), TokenError> {
        let (old, new) = (fits(puk)?, fits(new)?);
        let mut card = Self::find(token)?;
        puk_state(&mut card).may_try_puk(last_try).map_err(TokenError::Pin)?;
        match sets {
            PukSets::Pin => card.unblock_pin(old, new).map_err(|error| wrong_puk("set a new PIN", error)),
            PukSets::Puk => card.change_puk(old, new).map_err(|error| wrong_puk("change its PUK", error)),
        }
    }
}
